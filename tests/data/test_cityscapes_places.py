"""Where Cityscapes' files may lie: archives by any name, links, odd city names; and what would vanish is refused."""

from __future__ import annotations

import os
import shutil
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ffnet_deploy.data.cityscapes import find_split, fingerprint, is_root, load
from ffnet_deploy.errors import DataError
from ffnet_deploy.synthetic.scenes import write_cityscapes

SIZE = (64, 128)
KINDS = ("leftImg8bit", "gtFine")
STEM = "lindenhafen_000000_000019"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("drawn")
    write_cityscapes(root, "val", {"eichenfurt": 1, "lindenhafen": 1}, seed=0, size=SIZE)
    return root


@pytest.fixture
def root(drawn: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    shutil.copytree(drawn, tmp_path / "set")
    return tmp_path / "set"


def zipped(root: Path, archive: Path, *kinds: str) -> None:
    with zipfile.ZipFile(archive, "w") as out:
        for kind in kinds:
            for path in sorted((root / kind).rglob("*.png")):
                out.write(path, path.relative_to(root))
        out.writestr("__MACOSX/leftImg8bit/val/x/._a_leftImg8bit.png", b"")
        out.writestr("README", b"")


def refused(root: Path) -> str:
    with pytest.raises(DataError) as caught:
        find_split(root)
    return str(caught.value)


@pytest.mark.parametrize(
    "archives",
    [
        {"leftImg8bit_trainvaltest (1).zip": ("leftImg8bit",), "gtFine_trainvaltest (2).zip": ("gtFine",)},
        {"both.ZIP": KINDS},
        {"images.zip": ("leftImg8bit",), "gtFine_trainvaltest.zip": ("gtFine",)},
    ],
    ids=["numbered", "one for both", "other names"],
)
def test_archives_are_known_by_what_is_in_them(
    drawn: Path, tmp_path: Path, archives: dict[str, tuple[str, ...]]
) -> None:
    for name, kinds in archives.items():
        zipped(drawn, tmp_path / name, *kinds)
    assert is_root(tmp_path)
    found = find_split(tmp_path)
    assert list(fingerprint(found.samples)) == list(fingerprint(find_split(drawn).samples))


def test_two_archives_of_one_part_are_refused(drawn: Path, tmp_path: Path) -> None:
    for name in ("a.zip", "b.zip"):
        zipped(drawn, tmp_path / name, *KINDS)
    assert "b.zip both hold leftImg8bit/val (one archive was needed). Move the other away." in refused(tmp_path)


def test_an_archive_that_cannot_be_read_is_in_nobodys_way_unless_it_is_the_official_one(
    drawn: Path, tmp_path: Path
) -> None:
    zipped(drawn, tmp_path / "both.zip", *KINDS)
    (tmp_path / "half.zip").write_bytes(b"PK\3\4 and no more")
    assert len(find_split(tmp_path).samples) == 2
    (tmp_path / "half.zip").rename(tmp_path / "gtFine_trainvaltest.zip")
    assert "gtFine_trainvaltest.zip cannot be read as a zip archive" in refused(tmp_path)


def test_links_to_cities_are_followed(drawn: Path, tmp_path: Path) -> None:
    for kind in KINDS:
        (tmp_path / kind / "val").mkdir(parents=True)
        for city in ("eichenfurt", "lindenhafen"):
            (tmp_path / kind / "val" / city).symlink_to(drawn / kind / "val" / city)
    assert len(find_split(tmp_path).samples) == 2
    (tmp_path / "leftImg8bit" / "val" / "lindenhafen").unlink()
    (tmp_path / "leftImg8bit" / "val" / "lindenhafen").symlink_to(tmp_path / "absent")
    assert "lindenhafen is a link that leads nowhere" in refused(tmp_path)


def test_a_city_whose_name_is_no_utf8_is_scored(root: Path) -> None:
    for kind in KINDS:
        folder = (root / kind / "val" / "lindenhafen").rename(root / kind / "val" / os.fsdecode(b"k\xf6ln"))
        for path in list(folder.iterdir()):
            path.rename(folder / path.name.replace("lindenhafen", os.fsdecode(b"k\xf6ln")))
    found = find_split(root)
    assert [sample.name for sample in found.samples] == [
        "eichenfurt/eichenfurt_000000_000019",
        r"k\xf6ln/k\xf6ln_000000_000019",
    ]
    assert len(set(fingerprint(found.samples))) == 2
    assert load(found.samples[1], SIZE).image.shape == (*SIZE, 3)


@pytest.mark.parametrize("where", ["", "lindenhafen/more/"])
def test_images_at_another_depth_are_not_passed_over(root: Path, where: str) -> None:
    for kind, end in zip(KINDS, ("leftImg8bit", "gtFine_labelIds"), strict=True):
        file = root / kind / "val" / "lindenhafen" / f"{STEM}_{end}.png"
        target = root / kind / "val" / where / file.name
        target.parent.mkdir(exist_ok=True)
        file.rename(target)
    assert f"{where}{STEM}_leftImg8bit.png is in no folder of a city" in refused(root)


def test_clutter_is_passed_over_and_jpegs_are_told_of(root: Path) -> None:
    city = root / "leftImg8bit" / "val" / "lindenhafen"
    for name in ("Thumbs.db", "desktop.ini", ".DS_Store", "README.txt", "@eaDir/a.png"):
        (city / name).parent.mkdir(exist_ok=True)
        (city / name).touch()
    assert len(find_split(root).samples) == 2
    picture = city / f"{STEM}_leftImg8bit.png"
    Image.open(picture).save(picture.with_suffix(".jpg"))
    assert "is a JPEG picture (the published PNG was needed: compression changes the pixels). Use the" in refused(root)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_label_ids_of_few_bits_are_the_stored_ones(root: Path, bits: int) -> None:
    found = find_split(root).samples[0]
    path = root / "gtFine" / "val" / "eichenfurt" / "eichenfurt_000000_000019_gtFine_labelIds.png"
    ids = np.arange(SIZE[0] * SIZE[1]).reshape(SIZE) % 2**bits
    packed = Image.fromarray(ids.astype(np.uint8)).convert("P")
    packed.save(path, bits=bits)
    # Pillow writes few bits with a palette alone; the colour type says grey from here on.
    data = grey(path.read_bytes())
    path.write_bytes(data)
    truth = load(found, SIZE).truth
    table = {7: 0, 8: 1, 11: 2, 12: 3, 13: 4}
    assert truth.tolist() == [[table.get(int(i), 255) for i in row] for row in ids]


def grey(data: bytes) -> bytes:
    """A palette PNG as a grey one of the same stored values."""
    kept, at = [data[:8]], 8
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        name, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        at += 12 + length
        if name == b"PLTE":
            continue
        if name == b"IHDR":
            body = body[:9] + b"\0" + body[10:]
        kept.append(struct.pack(">I", length) + name + body + struct.pack(">I", zlib.crc32(name + body)))
    return b"".join(kept)

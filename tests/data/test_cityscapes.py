"""The folder layout is held to completeness, files to the protocol, and ids to the published table."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ffnet_deploy.data.cityscapes import (
    CLASSES,
    LABEL_IDS,
    OFFICIAL_VAL,
    CityscapesSample,
    find_split,
    fingerprint,
    load,
)
from ffnet_deploy.data.stored import File, Stored, ZipMember
from ffnet_deploy.errors import DataError
from ffnet_deploy.synthetic.scenes import write_cityscapes

SIZE = (64, 128)


def files(root: Path, city: str, index: int, split: str = "val") -> tuple[Path, Path]:
    stem = f"{city}_{index:06d}_000019"
    return (
        root / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png",
        root / "gtFine" / split / city / f"{stem}_gtFine_labelIds.png",
    )


def touch(root: Path, city: str, count: int, split: str = "val") -> None:
    """Empty files with the official names: listing a split opens none."""
    for index in range(count):
        for path in files(root, city, index, split):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()


@pytest.fixture
def sample(tmp_path: Path) -> CityscapesSample:
    """A drawn image and its labels."""
    write_cityscapes(tmp_path, "val", {"drawnville": 1}, seed=0, size=SIZE)
    return find_split(tmp_path).samples[0]


def path_of(stored: Stored) -> Path:
    """Where a file of its own is."""
    assert isinstance(stored, File)
    return stored.path


def one_line(error: DataError) -> str:
    assert "\n" not in str(error)
    assert error.exit_code == 3
    return str(error)


# --- layout ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lost", ["leftImg8bit", "gtFine"])
def test_a_missing_folder_is_named(tmp_path: Path, lost: str) -> None:
    touch(tmp_path, "drawnville", 1)
    (tmp_path / lost).rename(tmp_path / "elsewhere")
    with pytest.raises(DataError) as caught:
        find_split(tmp_path)
    message = one_line(caught.value)
    assert message.startswith(f"{tmp_path / lost / 'val'} does not exist")
    assert "--root" in message


def test_a_root_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        find_split(tmp_path / "absent")


def test_another_split_is_looked_for_in_its_own_folder(tmp_path: Path) -> None:
    touch(tmp_path, "drawnville", 2)
    touch(tmp_path, "sketchton", 3, "train")
    assert [len(find_split(tmp_path, split).samples) for split in ("val", "train")] == [2, 3]
    with pytest.raises(DataError, match="test does not exist"):
        find_split(tmp_path, "test")


@pytest.mark.parametrize("emptied", ["leftImg8bit", "gtFine"])
def test_an_empty_folder_is_an_error_and_no_set_of_0_images(tmp_path: Path, emptied: str) -> None:
    touch(tmp_path, "drawnville", 1)
    for path in (tmp_path / emptied).rglob("*.png"):
        path.unlink()
    with pytest.raises(DataError, match=rf"{emptied}/val holds no CITY/\*_.* Unpack the data set there\.$"):
        find_split(tmp_path)


def test_files_with_other_names_do_not_count(tmp_path: Path) -> None:
    touch(tmp_path, "drawnville", 1)
    image, labels = files(tmp_path, "drawnville", 0)
    for name in ("_gtFine_color.png", "_gtFine_instanceIds.png", "_gtFine_polygons.json"):
        labels.with_name(labels.name.replace("_gtFine_labelIds.png", name)).touch()
    assert [s[1:] for s in find_split(tmp_path).samples] == [(File(image), File(labels), "label ids")]


def test_an_image_without_labels_is_an_error(tmp_path: Path) -> None:
    touch(tmp_path, "drawnville", 5)
    for index in (1, 3):
        files(tmp_path, "drawnville", index)[1].unlink()
    with pytest.raises(DataError) as caught:
        find_split(tmp_path)
    message = one_line(caught.value)
    assert message.startswith(f"2 of 5 files below {tmp_path} have no labels")
    assert f"first {files(tmp_path, 'drawnville', 1)[0]} " in message


def test_labels_without_an_image_are_an_error(tmp_path: Path) -> None:
    touch(tmp_path, "drawnville", 5)
    files(tmp_path, "drawnville", 4)[0].unlink()
    with pytest.raises(DataError) as caught:
        find_split(tmp_path)
    message = one_line(caught.value)
    assert message.startswith(f"1 of 5 files below {tmp_path} have no image")
    assert f"first {files(tmp_path, 'drawnville', 4)[1]} " in message


def test_the_same_name_in_another_city_is_another_sample(tmp_path: Path) -> None:
    touch(tmp_path, "drawnville", 1)
    image = files(tmp_path, "drawnville", 0)[0]
    (image.parent.parent / "sketchton").mkdir()
    image.rename(image.parent.parent / "sketchton" / image.name)
    with pytest.raises(DataError, match="have no labels"):
        find_split(tmp_path)


# --- layouts --------------------------------------------------------------------------------------------------------

KINDS = ("leftImg8bit", "gtFine")
CITIES = {"drawnville": 2, "sketchton": 1}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three scenes in plain folders; no test changes them."""
    root = tmp_path_factory.mktemp("drawn")
    write_cityscapes(root, "val", CITIES, seed=0, size=SIZE)
    write_cityscapes(root, "train", {"drawnville": 1}, seed=0, size=SIZE)
    return root


def in_folders(drawn: Path, root: Path, kind: str) -> None:
    shutil.copytree(drawn / kind, root / kind)


def in_wrapper(drawn: Path, root: Path, kind: str) -> None:
    shutil.copytree(drawn / kind, root / f"{kind}_trainvaltest" / kind)


def in_zip(drawn: Path, root: Path, kind: str, below: str = "") -> None:
    """As the official archives are, and with what macOS adds when it packs."""
    with zipfile.ZipFile(root / f"{kind}_trainvaltest.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("README", "Cityscapes")
        archive.writestr(f"{below}{kind}/val/", "")
        archive.writestr(f"{below}{kind}/val/drawnville/.DS_Store", "x")
        for path in sorted((drawn / kind).rglob("*.png"), reverse=True):
            name = path.relative_to(drawn)
            archive.write(path, f"{below}{name}")
            archive.writestr(f"__MACOSX/{below}{name.parent}/{name.name}", "a resource fork")
            archive.writestr(f"{below}{name.parent}/._{name.name}", "a resource fork")


def in_zip_below_a_folder(drawn: Path, root: Path, kind: str) -> None:
    in_zip(drawn, root, kind, f"{kind}_trainvaltest/")


Layout = Callable[[Path, Path, str], None]
LAYOUTS: list[Layout] = [in_folders, in_wrapper, in_zip, in_zip_below_a_folder]


@pytest.mark.parametrize("labels", LAYOUTS)
@pytest.mark.parametrize("images", LAYOUTS)
def test_every_layout_gives_the_same_samples(drawn: Path, tmp_path: Path, images: Layout, labels: Layout) -> None:
    images(drawn, tmp_path, "leftImg8bit")
    labels(drawn, tmp_path, "gtFine")
    plain, found = find_split(drawn), find_split(tmp_path)
    assert [sample.name for sample in found.samples] == [sample.name for sample in plain.samples]
    assert list(fingerprint(found.samples)) == list(fingerprint(plain.samples))
    for mine, its in zip(found.samples, plain.samples, strict=True):
        one, other = load(mine, SIZE), load(its, SIZE)
        assert np.array_equal(one.image, other.image)
        assert np.array_equal(one.truth, other.truth)
    places = list(dict.fromkeys("zip" if "zip" in layout.__name__ else "folders" for layout in (images, labels)))
    assert found.layout == f"{' and '.join(places)}, label ids"
    assert found.title == "custom set, 3 images"
    # Nothing was unpacked: what was there is there, and nothing else.
    assert len(list(tmp_path.iterdir())) == 2
    assert len(find_split(tmp_path, "train").samples) == 1


def test_archives_are_read_in_place(drawn: Path, tmp_path: Path) -> None:
    for kind in KINDS:
        in_zip(drawn, tmp_path, kind)
    sample = find_split(tmp_path).samples[0]
    member = "gtFine/val/drawnville/drawnville_000000_000019_gtFine_labelIds.png"
    assert sample.labels == ZipMember(tmp_path / "gtFine_trainvaltest.zip", member)


def test_plain_folders_come_before_archives(drawn: Path, tmp_path: Path) -> None:
    for layout in (in_folders, in_zip):
        for kind in KINDS:
            layout(drawn, tmp_path, kind)
    assert find_split(tmp_path).layout == "folders, label ids"


def test_an_archive_without_the_split_is_an_error(drawn: Path, tmp_path: Path) -> None:
    for kind in KINDS:
        in_zip(drawn, tmp_path, kind)
    with pytest.raises(DataError, match=r"leftImg8bit/test does not exist \(leftImg8bit/test/CITY"):
        find_split(tmp_path, "test")


def test_an_archive_that_is_none_is_an_error(drawn: Path, tmp_path: Path) -> None:
    in_folders(drawn, tmp_path, "leftImg8bit")
    (tmp_path / "gtFine_trainvaltest.zip").write_bytes(b"<html>Please log in</html>")
    with pytest.raises(DataError, match=r"cannot be read as a zip archive .* Download it again\.$") as caught:
        find_split(tmp_path)
    one_line(caught.value)


def test_what_is_missing_from_an_archive_is_named(drawn: Path, tmp_path: Path) -> None:
    in_zip(drawn, tmp_path, "leftImg8bit")
    in_folders(drawn, tmp_path, "gtFine")
    next((tmp_path / "gtFine").glob("val/sketchton/*")).unlink()
    with pytest.raises(DataError, match=r"1 of 3 files .* have no labels .*trainvaltest\.zip:leftImg8bit/val/sketch"):
        find_split(tmp_path)


def to_train_ids(root: Path) -> None:
    """Label images as mmsegmentation's and cityscapesScripts' tools write them."""
    table = np.full(256, 255, np.uint8)
    table[list(LABEL_IDS)] = range(19)
    for path in sorted(root.rglob("*_labelIds.png")):
        ids = np.asarray(Image.open(path))
        Image.fromarray(table[ids]).save(path.with_name(path.name.replace("labelIds", "labelTrainIds")))
        path.unlink()


@pytest.mark.parametrize("packed", [False, True])
def test_train_ids_give_the_same_truth(drawn: Path, tmp_path: Path, packed: bool) -> None:
    ids = tmp_path / "ids"
    for kind in KINDS:
        in_folders(drawn, ids, kind)
    to_train_ids(ids)
    root = tmp_path / "packed" if packed else ids
    if packed:
        root.mkdir()
        for kind in KINDS:
            in_zip(ids, root, kind)
    found = find_split(root)
    assert found.layout == f"{'zip' if packed else 'folders'}, train ids"
    for mine, its in zip(found.samples, find_split(drawn).samples, strict=True):
        assert np.array_equal(load(mine, SIZE).truth, load(its, SIZE).truth)


def test_label_ids_come_before_train_ids(drawn: Path, tmp_path: Path) -> None:
    for kind in KINDS:
        in_folders(drawn, tmp_path, kind)
    to_train_ids(tmp_path / "gtFine")
    shutil.copytree(drawn / "gtFine", tmp_path / "gtFine", dirs_exist_ok=True)
    assert find_split(tmp_path).layout == "folders, label ids"


@pytest.mark.parametrize("strange", [19, 33, 254])
def test_train_ids_beyond_the_table_are_refused(drawn: Path, tmp_path: Path, strange: int) -> None:
    for kind in KINDS:
        in_folders(drawn, tmp_path, kind)
    to_train_ids(tmp_path)
    sample = find_split(tmp_path).samples[0]
    Image.new("L", SIZE[::-1], strange).save(path_of(sample.labels))
    with pytest.raises(DataError, match=rf"has label ids \[{strange}\] \(0 to 18 were needed\)"):
        load(sample, SIZE)


def test_polygons_alone_say_how_label_images_are_drawn(drawn: Path, tmp_path: Path) -> None:
    for kind in KINDS:
        in_folders(drawn, tmp_path, kind)
    for path in sorted(tmp_path.rglob("*_labelIds.png")):
        path.with_name(path.name.replace("labelIds.png", "polygons.json")).write_text("{}")
        path.unlink()
    with pytest.raises(DataError, match=r"It has polygons alone: draw .* csCreateTrainIdLabelImgs\.$") as caught:
        find_split(tmp_path)
    one_line(caught.value)


def test_a_damaged_member_is_named_when_it_is_read(drawn: Path, tmp_path: Path) -> None:
    for kind in KINDS:
        in_zip(drawn, tmp_path, kind)
    archive = tmp_path / "leftImg8bit_trainvaltest.zip"
    sample = find_split(tmp_path).samples[0]
    assert isinstance(sample.image, ZipMember)
    with zipfile.ZipFile(archive) as opened:
        at = opened.getinfo(sample.image.member).header_offset
    data = bytearray(archive.read_bytes())
    data[at + 400 : at + 410] = bytes(10)
    archive.write_bytes(bytes(data))
    with pytest.raises(DataError, match="cannot be read") as caught:
        load(sample, SIZE)
    assert one_line(caught.value).startswith(f"{archive}:{sample.image.member} ")


# --- official or custom ---------------------------------------------------------------------------------------------


def test_the_whole_val_is_official(tmp_path: Path) -> None:
    assert OFFICIAL_VAL == {"frankfurt": 267, "lindau": 59, "munster": 174}
    for city, count in OFFICIAL_VAL.items():
        touch(tmp_path, city, count)
    split = find_split(tmp_path)
    assert split.official
    assert split.title == "Cityscapes val, 500 images"
    assert [s.name for s in split.samples] == sorted(s.name for s in split.samples)
    assert split.samples[0].name == "frankfurt/frankfurt_000000_000019"
    files(tmp_path, "lindau", 58)[0].unlink()
    files(tmp_path, "lindau", 58)[1].unlink()
    with pytest.raises(DataError, match=r"lindau 58 of 59, munster 174 of 174, 499 images in all \(500 were needed\)"):
        find_split(tmp_path)


@pytest.mark.parametrize(
    "cities", [{"frankfurt": 1}, {"munster": 174}, {"lindau": 2, "drawnville": 3}, {"frankfurt": 268}]
)
def test_a_part_of_the_official_val_is_never_a_smaller_denominator(tmp_path: Path, cities: dict[str, int]) -> None:
    for city, count in cities.items():
        touch(tmp_path, city, count)
    with pytest.raises(DataError, match="is not the whole Cityscapes val") as caught:
        find_split(tmp_path)
    assert f"{sum(cities.values())} images in all (500 were needed)" in one_line(caught.value)


def test_the_official_val_with_another_city_is_refused(tmp_path: Path) -> None:
    for city, count in (*OFFICIAL_VAL.items(), ("drawnville", 1)):
        touch(tmp_path, city, count)
    with pytest.raises(DataError, match="501 images in all"):
        find_split(tmp_path)


def test_any_other_tree_is_a_custom_set(tmp_path: Path) -> None:
    touch(tmp_path, "drawnville", 2)
    touch(tmp_path, "frankfurter_tor", 1)
    split = find_split(tmp_path)
    assert not split.official
    assert split.title == "custom set, 3 images"


def test_cities_of_val_in_train_are_no_official_val(tmp_path: Path) -> None:
    touch(tmp_path, "frankfurt", 2, "train")
    assert not find_split(tmp_path, "train").official


# --- one sample -----------------------------------------------------------------------------------------------------


def test_labels_are_mapped_by_the_published_table(sample: CityscapesSample) -> None:
    # cityscapesScripts, labels.py: id -> trainId; every other id is 255.
    published = {7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12, 26: 13,
                 27: 14, 28: 15, 31: 16, 32: 17, 33: 18}  # fmt: skip
    assert dict(zip(LABEL_IDS, range(19), strict=True)) == published
    assert len(CLASSES) == 19
    ids = np.resize(np.array([*range(34), 255], np.uint8), SIZE)
    Image.fromarray(ids).save(path_of(sample.labels))
    truth = load(sample, SIZE).truth
    assert truth.dtype == np.uint8
    assert truth.tolist() == [[published.get(int(i), 255) for i in row] for row in ids]


def test_a_drawn_sample_loads_as_it_was_drawn(sample: CityscapesSample) -> None:
    loaded = load(sample, SIZE)
    assert np.array_equal(loaded.image, np.asarray(Image.open(path_of(sample.image))))
    assert loaded.image.shape == (*SIZE, 3)
    assert set(np.unique(loaded.truth)) <= {*range(19), 255}
    assert len(np.unique(loaded.truth)) > 3


@pytest.mark.parametrize("strange", [34, 200, 254])
def test_label_ids_beyond_the_table_are_refused(sample: CityscapesSample, strange: int) -> None:
    ids = np.full(SIZE, 7, np.uint8)
    ids[3, 4] = strange
    Image.fromarray(ids).save(path_of(sample.labels))
    with pytest.raises(DataError, match=rf"has label ids \[{strange}\] \(0 to 33 were needed\)") as caught:
        load(sample, SIZE)
    assert str(sample.labels) in one_line(caught.value)


@pytest.mark.parametrize("which", ["image", "labels"])
def test_another_size_is_refused(sample: CityscapesSample, which: str) -> None:
    path = path_of(getattr(sample, which))
    with Image.open(path) as image:
        smaller = image.resize((64, 32))
    smaller.save(path)
    with pytest.raises(DataError, match=r"is 32x64 \(64x128 was needed: the protocol resizes nothing\)") as caught:
        load(sample, SIZE)
    assert one_line(caught.value).startswith(str(path))


def test_the_protocols_size_is_the_default(sample: CityscapesSample) -> None:
    with pytest.raises(DataError, match=r"is 64x128 \(1024x2048 was needed"):
        load(sample)


@pytest.mark.parametrize("which", ["image", "labels"])
def test_a_png_that_is_cut_off_is_refused(sample: CityscapesSample, which: str) -> None:
    path = path_of(getattr(sample, which))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match="cannot be decoded") as caught:
        load(sample, SIZE)
    assert one_line(caught.value).startswith(str(path))


@pytest.mark.parametrize("which", ["image", "labels"])
def test_a_file_that_went_away_is_an_error(sample: CityscapesSample, which: str) -> None:
    path = path_of(getattr(sample, which))
    path.unlink()
    with pytest.raises(DataError, match=r"cannot be read \(No such file or directory\)"):
        load(sample, SIZE)


def test_every_byte_of_a_set_is_in_its_fingerprint(tmp_path: Path) -> None:
    write_cityscapes(tmp_path, "val", {"drawnville": 2}, seed=0, size=SIZE)
    samples = find_split(tmp_path).samples
    before = list(fingerprint(samples))
    assert len(set(before)) == 2
    assert list(fingerprint(samples)) == before
    for path in map(path_of, (samples[1].image, samples[1].labels)):
        data = path.read_bytes()
        path.write_bytes(data + b"\0")
        changed = list(fingerprint(samples))
        assert changed[0] == before[0]
        assert changed[1] != before[1]
        path.write_bytes(data)
    assert list(fingerprint(tuple(reversed(samples)))) == before[::-1]

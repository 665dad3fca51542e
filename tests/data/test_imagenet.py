"""Every layout gives the same truth; whatever is missing, twice or unknown is refused in one line."""

from __future__ import annotations

import io
import json
import re
import sys
import tarfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet as pq
from scipy.io import savemat
from support.golden.imagenet_golden import SIZES, picture

from ffnet_deploy.data.imagenet import OFFICIAL, ImageNetSet, ImageSample, decode_sample, find_set, load
from ffnet_deploy.data.imagenet import parquet as shard_reader
from ffnet_deploy.data.imagenet.truth import wnids
from ffnet_deploy.data.images import resize_and_crop
from ffnet_deploy.data.stored import File, Slice
from ffnet_deploy.errors import DataError, MissingDependencyError

WNIDS = list(wnids())
TRUTH = {1: 0, 2: 970, 3: 230, 4: 809, 5: 0}
"""Labels of five pictures, by number of the validation set: two of one class, none in order."""


def file_name(number: int) -> str:
    return f"ILSVRC2012_val_{number:08d}.JPEG"


def encoded(number: int) -> bytes:
    """Another small picture for each number."""
    out = io.BytesIO()
    Image.fromarray(picture(20 + number, 31)).save(out, "JPEG", quality=90)
    return out.getvalue()


def put(path: Path, data: bytes | str = b"") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def flat(folder: Path) -> None:
    for number in TRUTH:
        put(folder / file_name(number), encoded(number))


def by_class(folder: Path, name: Callable[[int], str]) -> None:
    for number, label in TRUTH.items():
        put(folder / name(label) / file_name(number), encoded(number))


def one_line(error: Exception) -> str:
    text = str(error)
    assert "\n" not in text
    assert re.search(r"\(.*\)|cannot be", text), text
    assert text.rstrip().endswith("."), text
    return text


def refused(root: Path, real_labels: Path | None = None) -> str:
    with pytest.raises(DataError) as caught:
        find_set(root, real_labels=real_labels)
    return one_line(caught.value)


def truth_of(found: ImageNetSet) -> dict[bytes, int]:
    return {sample.source.read(): sample.label for sample in found.samples}


# --- layouts --------------------------------------------------------------------------------------------------------


def val_txt(width: str = "{file} {label}") -> str:
    return "".join(
        width.format(file=file_name(n), stem=Path(file_name(n)).stem, label=label, wnid=WNIDS[label]) + "\n"
        for n, label in TRUTH.items()
    )


def solution_csv() -> str:
    rows = [f"{Path(file_name(n)).stem},{WNIDS[label]} 1 2 30 40 {WNIDS[label]} 5 6 7 8 " for n, label in TRUTH.items()]
    return "\r\n".join(["ImageId,PredictionString", *reversed(rows)])


def devkit() -> dict[str, bytes]:
    """A devkit whose ids are no ranks: they count down, and inner synsets stand between the classes."""
    ids = {label: 1000 - label for label in range(1000)}
    rows: list[tuple[int, str, int]] = [(ids[label], WNIDS[label], 0) for label in range(1000)]
    rows += [(1001, "n00001740", 5), (1002, "n00001930", 9)]
    kinds = [("ILSVRC2012_ID", object), ("WNID", object), ("words", object), ("num_children", object)]
    table = np.empty((len(rows), 1), dtype=kinds)
    for row, (number, wnid, children) in enumerate(rows):
        table[row, 0] = (number, wnid, "a thing, with, commas", children)
    out = io.BytesIO()
    savemat(out, {"synsets": table})
    lines = "".join(f"{ids[TRUTH[number]]}\n" for number in sorted(TRUTH))
    return {"ILSVRC2012_validation_ground_truth.txt": lines.encode(), "meta.mat": out.getvalue()}


DEVKIT = devkit()


def tar_of(path: Path, files: dict[str, bytes], mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def shard(path: Path, numbers: list[int], group: int = 2, labels: list[int] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"bytes": encoded(n), "path": file_name(n)} for n in numbers]
    table = pa.table({"image": rows, "label": labels or [TRUTH[n] for n in numbers]})
    pq.write_table(table, path, row_group_size=group)
    return path


def lay_devkit(root: Path) -> None:
    flat(root / "val")
    for name, data in DEVKIT.items():
        put(root / "ILSVRC2012_devkit_t12" / "data" / name, data)


def lay_devkit_archive(root: Path) -> None:
    flat(root / "val")
    tar_of(
        root / "ILSVRC2012_devkit_t12.tar.gz",
        {f"ILSVRC2012_devkit_t12/data/{n}": d for n, d in DEVKIT.items()},
        "w:gz",
    )


def lay_flat(listing: str, data: str, folder: str = ".") -> Callable[[Path], None]:
    def lay(root: Path) -> None:
        flat(root / folder)
        put(root / listing, data)

    return lay


def lay_tar(root: Path) -> None:
    tar_of(root / "ILSVRC2012_img_val.tar", {file_name(n): encoded(n) for n in TRUTH})
    put(root / "val.txt", val_txt())


def lay_shards(root: Path) -> None:
    shard(root / "data" / "validation-00000-of-00002-0123abcd.parquet", [3, 1, 2])
    shard(root / "data" / "validation-00001-of-00002-4567abcd.parquet", [5, 4])
    put(root / "data" / "train-00000-of-00294.parquet")


def lay_named_by_wnid(root: Path) -> None:
    for number, label in TRUTH.items():
        put(root / "val" / f"ILSVRC2012_val_{number:08d}_{WNIDS[label]}.JPEG", encoded(number))


LAYOUTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "val/wnid": (lambda root: by_class(root / "val", lambda i: WNIDS[i]), "class folders by wnid"),
    "wnid": (lambda root: by_class(root, lambda i: WNIDS[i]), "class folders by wnid"),
    "validation/wnid": (lambda root: by_class(root / "validation", lambda i: WNIDS[i]), "class folders by wnid"),
    "nested": (lambda root: by_class(root / "ILSVRC/Data/CLS-LOC/val", lambda i: WNIDS[i]), "class folders by wnid"),
    "index": (lambda root: by_class(root / "val", str), "class folders by index"),
    "padded index": (lambda root: by_class(root, "{:03d}".format), "class folders by index"),
    "val.txt": (lay_flat("val.txt", val_txt()), "plain files, labels from val.txt"),
    "val.txt above": (lay_flat("val.txt", val_txt("{stem}\t{wnid}"), "val"), "plain files, labels from val.txt"),
    "val.txt with folders": (
        lay_flat("imagenet_val.txt", val_txt("val/{wnid}/{file}  {label}"), "val"),
        "plain files, labels from imagenet_val.txt",
    ),
    "csv": (
        lay_flat("LOC_val_solution.csv", solution_csv(), "ILSVRC/Data/CLS-LOC/val"),
        "plain files, labels from LOC_val_solution.csv",
    ),
    "devkit": (lay_devkit, "plain files, labels from ILSVRC2012_validation_ground_truth.txt"),
    "devkit archive": (lay_devkit_archive, "plain files, labels from ILSVRC2012_devkit_t12.tar.gz"),
    "names": (lay_named_by_wnid, "plain files, labels from their names"),
    "tar": (lay_tar, "tar, labels from val.txt"),
    "parquet": (lay_shards, "parquet shards"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_pictures_and_truth(tmp_path: Path, layout: str) -> None:
    lay, name = LAYOUTS[layout]
    lay(tmp_path)
    for clutter in (".DS_Store", "val/.DS_Store", "val/._n01440764", "ILSVRC/Data/CLS-LOC/val/._x.JPEG"):
        if (tmp_path / clutter).parent.is_dir():
            put(tmp_path / clutter)
    before = sorted(tmp_path.rglob("*"))
    found = find_set(tmp_path)
    assert found.layout == name
    assert truth_of(found) == {encoded(number): label for number, label in TRUTH.items()}
    assert [s.name for s in found.samples] == sorted(s.name for s in found.samples)
    assert found.classes == (0, 230, 809, 970)
    assert found.title == "subset, 4 classes, 5 images"
    assert not found.official
    assert all(sample.real is None for sample in found.samples)
    assert sorted(tmp_path.rglob("*")) == before
    assert find_set(tmp_path) == found
    assert {sample.source.stamp() for sample in found.samples} == {s.source.stamp() for s in find_set(tmp_path).samples}


def test_the_tar_and_a_shard_can_be_named_themselves(tmp_path: Path) -> None:
    lay_tar(tmp_path)
    found = find_set(tmp_path / "ILSVRC2012_img_val.tar")
    assert all(isinstance(sample.source, Slice) for sample in found.samples)
    assert truth_of(found) == truth_of(find_set(tmp_path))
    path = shard(tmp_path / "some.parquet", [2, 1])
    assert truth_of(find_set(path)) == {encoded(2): 970, encoded(1): 0}


def test_index_folders_are_no_ranks_of_their_names(tmp_path: Path) -> None:
    for index in (0, 2, 10, 100):
        put(tmp_path / str(index) / "a.png", encoded(index))
    labels = {s.name: s.label for s in find_set(tmp_path).samples}
    assert labels == {"0/a.png": 0, "2/a.png": 2, "10/a.png": 10, "100/a.png": 100}


@pytest.mark.parametrize("names", [("1", "2"), ("001", "999"), ("n01440764", "7")])
def test_numbers_that_may_be_the_devkits_ids_are_refused(tmp_path: Path, names: tuple[str, str]) -> None:
    for name in names:
        put(tmp_path / name / "a.png", encoded(1))
    assert "and none of class 0. They may be the devkit's ids" in refused(tmp_path)
    put(tmp_path / "1000" / "a.png", encoded(1))
    assert "folders whose names are no class, first 1000 " in refused(tmp_path)


def test_wnids_are_the_thousand() -> None:
    assert len(WNIDS) == 1000
    assert sorted(set(WNIDS)) == WNIDS
    assert (WNIDS[0], WNIDS[292], WNIDS[999]) == ("n01440764", "n02129604", "n15075141")
    assert all(re.fullmatch(r"n\d{8}", wnid) for wnid in WNIDS)


# --- size -----------------------------------------------------------------------------------------------------------


def lay_whole(root: Path, *, without: int | None = None) -> None:
    """The published set's numbers and labels; finding it reads no picture."""
    numbers = [n for n in range(1, OFFICIAL + 1) if n != without]
    rows = [{"bytes": b"", "path": file_name(n)} for n in numbers]
    pq.write_table(pa.table({"image": rows, "label": [(n - 1) // 50 for n in numbers]}), root / "validation.parquet")


def test_the_whole_set_is_official_and_a_copy_that_was_cut_off_is_refused(tmp_path: Path) -> None:
    lay_whole(tmp_path)
    found = find_set(tmp_path)
    assert found.official
    assert found.title == "ImageNet val, 50000 images"
    assert len(found.samples) == OFFICIAL
    assert found.classes == tuple(range(1000))
    lay_whole(tmp_path, without=351)
    assert "49 of the 50 validation pictures of class 7, and 0 more" in refused(tmp_path)


def test_another_set_of_all_classes_is_custom(tmp_path: Path) -> None:
    for wnid in WNIDS:
        put(tmp_path / wnid / "one.jpg")
    found = find_set(tmp_path)
    assert (found.title, found.official) == ("custom set, 1000 images", False)


# --- what is refused ------------------------------------------------------------------------------------------------


def test_nothing_there(tmp_path: Path) -> None:
    assert refused(tmp_path / "absent").startswith(f"{tmp_path / 'absent'} does not exist")
    assert "holds no pictures of ImageNet" in refused(tmp_path)
    (tmp_path / "val").mkdir()
    put(tmp_path / "notes" / "a.txt")
    assert f"{tmp_path / 'val'} and {tmp_path} holds no pictures" in refused(tmp_path)


@pytest.mark.parametrize("name", ["cats", "n99999999", "1000", "n01440764-tench"])
def test_a_folder_that_is_no_class(tmp_path: Path, name: str) -> None:
    by_class(tmp_path / "val", lambda i: WNIDS[i])
    put(tmp_path / "val" / name / "a.jpg")
    assert f"1 of 5 folders whose names are no class, first {name} " in refused(tmp_path)


def test_an_empty_class_and_what_is_no_picture(tmp_path: Path) -> None:
    by_class(tmp_path, lambda i: WNIDS[i])
    put(tmp_path / WNIDS[3] / ".DS_Store")
    assert refused(tmp_path).startswith(f"{tmp_path / WNIDS[3]} holds no picture")
    for name in ("boxes.txt", "Thumbs.db", "desktop.ini", "README.md", "@eaDir/a.jpg", "__MACOSX/a.jpg"):
        put(tmp_path / WNIDS[3] / name)
    assert refused(tmp_path).startswith(f"{tmp_path / WNIDS[3]} holds no picture")
    put(tmp_path / WNIDS[3] / "a.png")
    assert len(find_set(tmp_path).samples) == len(TRUTH) + 1
    put(tmp_path / WNIDS[3] / "more" / "b.png")
    assert "more is a folder" in refused(tmp_path)
    (tmp_path / WNIDS[3] / "more" / "b.png").unlink()
    (tmp_path / WNIDS[3] / "more").rmdir()
    put(tmp_path / WNIDS[3] / "b.gif")
    assert "b.gif is a picture of a kind that is not read" in refused(tmp_path)
    (tmp_path / WNIDS[3] / "b.gif").unlink()
    (tmp_path / WNIDS[4]).symlink_to(tmp_path / "absent")
    assert f"{WNIDS[4]} is a link that leads nowhere" in refused(tmp_path)
    (tmp_path / WNIDS[4]).unlink()
    put(tmp_path / "loose.png")
    assert "1 pictures, first loose.png" in refused(tmp_path)


def test_a_class_or_a_picture_twice(tmp_path: Path) -> None:
    for name in ("0", "00"):
        put(tmp_path / "a" / name / "x.jpg")
    assert "has class 0 twice, as 0 and 00 " in refused(tmp_path / "a")
    for label in (0, 4):
        put(tmp_path / "b" / str(label) / file_name(9))
    assert "has picture 9 of the validation set twice" in refused(tmp_path / "b")
    flat(tmp_path / "c")
    put(tmp_path / "c" / "ILSVRC2012_val_00000002.png")
    put(tmp_path / "c" / "val.txt", val_txt())
    assert "holds ILSVRC2012_val_00000002 twice" in refused(tmp_path / "c")


def test_pictures_without_truth(tmp_path: Path) -> None:
    flat(tmp_path / "val")
    assert "holds 5 pictures without their truth" in refused(tmp_path)


@pytest.mark.parametrize("listing", ["val.txt", "LOC_val_solution.csv", "devkit"])
def test_a_list_and_the_pictures_must_be_the_same(tmp_path: Path, listing: str) -> None:
    if listing == "devkit":
        lay_devkit(tmp_path)
    else:
        lay_flat(listing, val_txt() if listing == "val.txt" else solution_csv(), "val")(tmp_path)
    (tmp_path / "val" / file_name(4)).unlink()
    assert "has 4 of them, without ILSVRC2012_val_00000004 " in refused(tmp_path)
    put(tmp_path / "val" / file_name(4), encoded(4))
    put(tmp_path / "val" / file_name(6), encoded(6))
    assert "has no label for 1 of 6 pictures" in refused(tmp_path)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("a.jpg 1000", "line 6 is 'a.jpg 1000'"),
        ("a.jpg -1", "line 6 is"),
        ("a.jpg n99999999", "line 6 is"),
        ("a.jpg", "line 6 is"),
        ("17", "line 6 is"),
        ("ILSVRC2012_val_00000001.JPEG 66", "names ILSVRC2012_val_00000001 twice"),
    ],
)
def test_a_bad_line_of_a_list(tmp_path: Path, line: str, words: str) -> None:
    lay_flat("val.txt", val_txt() + line)(tmp_path)
    assert words in refused(tmp_path)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\xff\xfe\x00", "is no text in UTF-8"),
        (solution_csv().replace(WNIDS[0], "n00000001").encode(), "names no picture with one known class"),
        (solution_csv().replace(f" {WNIDS[230]} 5", f" {WNIDS[231]} 5").encode(), "line 4 names no picture with one"),
        (b"a,b\n1,2\n", "line 2 names no picture"),
        (b'ImageId,PredictionString\n"a,b\n', "is no CSV file"),
        (solution_csv().encode() + b"\n" + solution_csv().encode().splitlines()[1], "twice"),
    ],
)
def test_a_bad_csv(tmp_path: Path, data: bytes, words: str) -> None:
    flat(tmp_path)
    put(tmp_path / "LOC_val_solution.csv", data)
    assert words in refused(tmp_path)


def test_a_damaged_devkit(tmp_path: Path) -> None:
    lay_devkit(tmp_path)
    kit = tmp_path / "ILSVRC2012_devkit_t12" / "data"
    put(kit / "meta.mat", DEVKIT["meta.mat"][:200])
    assert "meta.mat of" in refused(tmp_path)
    (kit / "meta.mat").unlink()
    assert "meta.mat cannot be read" in refused(tmp_path)
    put(kit / "meta.mat", DEVKIT["meta.mat"])
    put(kit / "ILSVRC2012_validation_ground_truth.txt", "935\n1001\n")
    assert "gives '1001' for picture 2" in refused(tmp_path)


def test_a_damaged_devkit_archive(tmp_path: Path) -> None:
    lay_devkit_archive(tmp_path)
    archive = tmp_path / "ILSVRC2012_devkit_t12.tar.gz"
    archive.write_bytes(archive.read_bytes()[:-3000])
    assert f"{archive} cannot be read" in refused(tmp_path)
    tar_of(archive, {"readme.txt": b"x"}, "w:gz")
    assert "holds no meta.mat" in refused(tmp_path)


def test_absent_packages_become_instructions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lay_devkit(tmp_path / "kit")
    lay_shards(tmp_path / "shards")
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.delitem(sys.modules, shard_reader.__name__)
    monkeypatch.delattr(sys.modules["ffnet_deploy.data.imagenet"], "parquet")
    for name in ("kit", "shards"):
        with pytest.raises(MissingDependencyError, match=r"pip install 'ffnet-deploy\[imagenet\]'$"):
            find_set(tmp_path / name)


def test_a_tar_that_is_none_or_compressed_or_cut_off_or_without_pictures(tmp_path: Path) -> None:
    path = tmp_path / "ILSVRC2012_img_val.tar"
    for data in (b"no tar" * 200, b""):
        put(path, data)
        text = refused(tmp_path)
        assert "uncompressed tar" in text or "holds no pictures" in text
    tar_of(path, {file_name(1): encoded(1)}, "w:gz")
    assert "Decompress it" in refused(tmp_path)
    lay_tar(tmp_path)
    path.write_bytes(path.read_bytes()[:1500])
    assert "cannot be read as an uncompressed tar" in refused(tmp_path)
    tar_of(path, {"._x.JPEG": b"x", "readme.txt": b"x"})
    assert "holds no pictures" in refused(tmp_path)


# --- parquet --------------------------------------------------------------------------------------------------------


def test_shards_are_complete_or_refused(tmp_path: Path) -> None:
    data = tmp_path / "data"
    shard(data / "train-00000-of-00001.parquet", [1])
    assert "no shard of the validation split" in refused(tmp_path)
    shard(data / "validation-00001-of-00002.parquet", [1])
    assert "of a set of 2, without number 0 " in refused(tmp_path)
    shard(data / "validation-00000-of-00002.parquet", [2])
    assert len(find_set(tmp_path).samples) == 2
    shard(data / "validation-extra.parquet", [3])
    assert "3 shards" in refused(tmp_path)


def test_clutter_in_the_tar_is_passed_over_and_pictures_of_other_kinds_are_not(tmp_path: Path) -> None:
    files = {file_name(n): encoded(n) for n in TRUTH}
    tar_of(tmp_path / "ILSVRC2012_img_val.tar", files | {"val/._b.gif": b"x", "__MACOSX/val/x.heic": b"x"})
    put(tmp_path / "val.txt", val_txt())
    assert len(find_set(tmp_path).samples) == len(TRUTH)
    tar_of(tmp_path / "ILSVRC2012_img_val.tar", files | {"val/b.gif": b"x"})
    assert "holds b.gif, a picture of a kind that is not read" in refused(tmp_path)


def test_what_lies_where_the_user_stands_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lay_devkit(tmp_path)
    put(tmp_path / "json.py", "raise SystemExit(3)")
    monkeypatch.chdir(tmp_path)
    assert len(find_set(tmp_path).samples) == len(TRUTH)


def test_strange_shards(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    put(path, b"PAR1 and no more")
    assert "cannot be read as a parquet file" in refused(tmp_path)
    pq.write_table(pa.table({"img": [b"x"], "label": [1]}), path)
    assert "has the columns img (binary), label (int64) (image, with bytes, and label, an integer" in refused(tmp_path)
    shard(path, [1], labels=[-1])
    assert "row 0 has the label -1 " in refused(tmp_path)
    for label in (True, 1.0, "1", b"1"):
        pq.write_table(pa.table({"image": [{"bytes": b"x", "path": None}], "label": [label]}), path)
        assert "and label, an integer, were needed" in refused(tmp_path)
    for image in ("x", {"bytes": "x"}, {"bytes": 1}, [b"x"]):
        pq.write_table(pa.table({"image": [image], "label": [1]}), path)
        assert "(image, with bytes, and label, an integer, were needed)" in refused(tmp_path)
    many = pa.table(
        {"image": pa.nulls(2_100_000, pa.struct([("bytes", pa.binary())])), "label": pa.nulls(2_100_000, pa.int8())}
    )
    pq.write_table(many, path)
    assert path.stat().st_size < 50_000
    assert "has 2,100,000 rows (at most 2,000,000 were needed)" in refused(tmp_path)
    pq.write_table(pa.table({"image": [{"bytes": b"x", "path": None}], "label": [1]})[:0], path)
    assert "hold no rows" in refused(tmp_path)


def test_rows_without_paths_and_without_pictures(tmp_path: Path) -> None:
    image = pa.array([{"bytes": b"x"}, {"bytes": None}], pa.struct([("bytes", pa.binary())]))
    pq.write_table(pa.table({"image": image, "label": [1, 2]}), tmp_path / "x.parquet")
    samples = find_set(tmp_path).samples
    assert [s.name for s in samples] == ["x/000000", "x/000001"]
    assert samples[0].source.read() == b"x"
    with pytest.raises(DataError, match="holds no picture"):
        samples[1].source.read()


def test_rows_in_any_order_from_many_threads_with_few_shards_and_batches_kept(tmp_path: Path) -> None:
    wanted = []
    for part in range(4):
        rows = [bytes([part]) * 10 + index.to_bytes(4, "big") for index in range(700)]
        table = pa.table({"image": [{"bytes": row, "path": None} for row in rows], "label": [part] * 700})
        pq.write_table(table, tmp_path / f"validation-0000{part}-of-00004.parquet", row_group_size=300)
        wanted += rows
    samples = find_set(tmp_path).samples
    order = [*range(len(wanted)), *np.random.default_rng(0).permutation(len(wanted))[:200].tolist()]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: samples[i].source.read(), order))
    assert found == [wanted[i] for i in order]
    assert len(shard_reader._readers) <= 2
    assert all(len(reader._kept) <= 8 for reader in shard_reader._readers.values())


# --- ReaL -----------------------------------------------------------------------------------------------------------


def real_lists() -> list[list[int]]:
    lists: list[list[int]] = [[0]] * OFFICIAL
    lists[:4] = [[], [970, 795], [230, 231], [809]]
    return lists


def test_real_labels_go_by_number(tmp_path: Path) -> None:
    real = put(tmp_path / "real.json", json.dumps(real_lists()))
    for layout in ("val/wnid", "parquet", "tar"):
        LAYOUTS[layout][0](tmp_path / layout)
        found = {s.source.read(): s.real for s in find_set(tmp_path / layout, real_labels=real).samples}
        assert found == dict(zip(map(encoded, TRUTH), [(), (970, 795), (230, 231), (809,), (0,)], strict=True))
    put(tmp_path / "other" / "0" / "mine.jpg")
    assert "mine.jpg has none" in refused(tmp_path / "other", real)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("[[1], ", "is not JSON"),
        ("{}", "holds a dict"),
        ("[[1]]", "holds 1 entries"),
        (json.dumps([[1]] * (OFFICIAL - 1) + [[1000]]), "has [1000] for picture 50000"),
        (json.dumps([True] + [[1]] * (OFFICIAL - 1)), "has True for picture 1"),
        (json.dumps([[True]] + [[1]] * (OFFICIAL - 1)), "has [True] for picture 1"),
    ],
)
def test_bad_real_labels(tmp_path: Path, data: str, words: str) -> None:
    by_class(tmp_path / "set", lambda i: WNIDS[i])
    assert words in refused(tmp_path / "set", put(tmp_path / "real.json", data))


# --- one sample -----------------------------------------------------------------------------------------------------


def test_a_sample_is_decoded_resized_and_cropped(tmp_path: Path) -> None:
    height, width = SIZES[2]
    out = io.BytesIO()
    Image.fromarray(picture(height, width)).save(out, "PNG")
    sample = ImageSample("a", File(put(tmp_path / "a.JPEG", out.getvalue())), 3, None)
    pixels = load(sample)
    assert pixels.shape == (224, 224, 3)
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels, resize_and_crop(Image.fromarray(picture(height, width))))
    assert np.array_equal(pixels, decode_sample(sample, out.getvalue()))


def test_a_damaged_sample_is_named(tmp_path: Path) -> None:
    lay_tar(tmp_path)
    sample = find_set(tmp_path).samples[0]
    with pytest.raises(DataError, match=rf"{file_name(1)} cannot be decoded"):
        decode_sample(sample, encoded(1)[:-200])

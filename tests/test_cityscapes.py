"""The folder layout is held to completeness, files to the protocol, and ids to the published table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ffnet_deploy.data.cityscapes import CLASSES, LABEL_IDS, OFFICIAL_VAL, Sample, find_split, fingerprint, load
from ffnet_deploy.data.scenes import write_cityscapes
from ffnet_deploy.errors import DataError

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
def sample(tmp_path: Path) -> Sample:
    """A drawn image and its labels."""
    write_cityscapes(tmp_path, "val", {"drawnville": 1}, seed=0, size=SIZE)
    return find_split(tmp_path).samples[0]


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
    assert [s[1:] for s in find_split(tmp_path).samples] == [(image, labels)]


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


def test_labels_are_mapped_by_the_published_table(sample: Sample) -> None:
    # cityscapesScripts, labels.py: id -> trainId; every other id is 255.
    published = {7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12, 26: 13,
                 27: 14, 28: 15, 31: 16, 32: 17, 33: 18}  # fmt: skip
    assert dict(zip(LABEL_IDS, range(19), strict=True)) == published
    assert len(CLASSES) == 19
    ids = np.resize(np.array([*range(34), 255], np.uint8), SIZE)
    Image.fromarray(ids).save(sample.labels)
    truth = load(sample, SIZE).truth
    assert truth.dtype == np.uint8
    assert truth.tolist() == [[published.get(int(i), 255) for i in row] for row in ids]


def test_a_drawn_sample_loads_as_it_was_drawn(sample: Sample) -> None:
    loaded = load(sample, SIZE)
    assert np.array_equal(loaded.image, np.asarray(Image.open(sample.image)))
    assert loaded.image.shape == (*SIZE, 3)
    assert set(np.unique(loaded.truth)) <= {*range(19), 255}
    assert len(np.unique(loaded.truth)) > 3


@pytest.mark.parametrize("strange", [34, 200, 254])
def test_label_ids_beyond_the_table_are_refused(sample: Sample, strange: int) -> None:
    ids = np.full(SIZE, 7, np.uint8)
    ids[3, 4] = strange
    Image.fromarray(ids).save(sample.labels)
    with pytest.raises(DataError, match=rf"has label ids \[{strange}\] \(0 to 33 were needed\)") as caught:
        load(sample, SIZE)
    assert str(sample.labels) in one_line(caught.value)


@pytest.mark.parametrize("which", ["image", "labels"])
def test_another_size_is_refused(sample: Sample, which: str) -> None:
    path: Path = getattr(sample, which)
    with Image.open(path) as image:
        smaller = image.resize((64, 32))
    smaller.save(path)
    with pytest.raises(DataError, match=r"is 32x64 \(64x128 was needed: the protocol resizes nothing\)") as caught:
        load(sample, SIZE)
    assert one_line(caught.value).startswith(str(path))


def test_the_protocols_size_is_the_default(sample: Sample) -> None:
    with pytest.raises(DataError, match=r"is 64x128 \(1024x2048 was needed"):
        load(sample)


@pytest.mark.parametrize("which", ["image", "labels"])
def test_a_png_that_is_cut_off_is_refused(sample: Sample, which: str) -> None:
    path: Path = getattr(sample, which)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match="cannot be decoded") as caught:
        load(sample, SIZE)
    assert one_line(caught.value).startswith(str(path))


@pytest.mark.parametrize("which", ["image", "labels"])
def test_a_file_that_went_away_is_an_error(sample: Sample, which: str) -> None:
    path: Path = getattr(sample, which)
    path.unlink()
    with pytest.raises(DataError, match=r"cannot be read \(No such file or directory\)"):
        load(sample, SIZE)


def test_every_byte_of_a_set_is_in_its_fingerprint(tmp_path: Path) -> None:
    write_cityscapes(tmp_path, "val", {"drawnville": 2}, seed=0, size=SIZE)
    samples = find_split(tmp_path).samples
    before = list(fingerprint(samples))
    assert len(set(before)) == 2
    assert list(fingerprint(samples)) == before
    for path in (samples[1].image, samples[1].labels):
        data = path.read_bytes()
        path.write_bytes(data + b"\0")
        changed = list(fingerprint(samples))
        assert changed[0] == before[0]
        assert changed[1] != before[1]
        path.write_bytes(data)
    assert list(fingerprint(tuple(reversed(samples)))) == before[::-1]

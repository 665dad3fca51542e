"""Any folder of photographs: what is taken, how it is brought to size, and what is refused."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ffnet_deploy.data.folders import PICTURES
from ffnet_deploy.data.images import blur_and_halve, normalise
from ffnet_deploy.data.pictures import evenly, find_pictures, load_pictures, resized
from ffnet_deploy.errors import DataError
from ffnet_deploy.synthetic.scenes import draw_scene, write_cityscapes

SIZE = (64, 128)


def photograph(path: Path, height: int = 64, width: int = 128, seed: int = 0) -> np.ndarray:
    """Write a picture; gives the pixels that its file holds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(draw_scene(height, width, seed).image).save(path)
    with Image.open(path) as image:
        return np.asarray(image)


def found_in(folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in find_pictures(folder)]


def test_photographs_are_found_in_all_folders_and_other_files_are_passed_over(tmp_path: Path) -> None:
    for name in ("b.png", "a/one.JPG", "a/two.jpeg"):
        photograph(tmp_path / name)
    (tmp_path / "a" / "notes.txt").write_text("no image")
    assert found_in(tmp_path) == ["a/one.JPG", "a/two.jpeg", "b.png"]


def empty(*files: Path) -> None:
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


def test_every_ending_that_is_read_counts(tmp_path: Path) -> None:
    empty(*(tmp_path / f"a{ending}" for ending in PICTURES), *(tmp_path / f"B{ending.upper()}" for ending in PICTURES))
    assert len(find_pictures(tmp_path)) == 2 * len(PICTURES) == 18


def test_hidden_files_and_what_file_servers_leave_are_passed_over(tmp_path: Path) -> None:
    empty(
        tmp_path / "a.png",
        tmp_path / "._a.png",
        tmp_path / ".cache" / "b.png",
        tmp_path / ".thumbs" / "c.gif",
        tmp_path / "@eaDir" / "d.png",
        tmp_path / "more" / "__MACOSX" / "e.heic",
    )
    assert found_in(tmp_path) == ["a.png"]


@pytest.mark.parametrize("name", ["a.gif", "more/b.HEIC", "c.avif", "d.dng"])
def test_pictures_of_a_kind_that_is_not_read_are_refused(tmp_path: Path, name: str) -> None:
    empty(tmp_path / "z.png", tmp_path / name)
    with pytest.raises(
        DataError, match=r"is a picture of a kind that is not read \(\.png, .*Convert such files"
    ) as caught:
        find_pictures(tmp_path)
    assert str(caught.value).startswith(str(tmp_path / name))
    assert "\n" not in str(caught.value)


def test_links_to_folders_and_files_are_followed_once(tmp_path: Path) -> None:
    empty(tmp_path / "away" / "b.png", tmp_path / "away" / "more" / "c.png", tmp_path / "root" / "a.png")
    (tmp_path / "root" / "link").symlink_to(tmp_path / "away")
    (tmp_path / "root" / "z.png").symlink_to(tmp_path / "away" / "b.png")
    # Back up, in a circle.
    (tmp_path / "away" / "more" / "up").symlink_to(tmp_path / "root")
    assert found_in(tmp_path / "root") == ["a.png", "link/b.png", "link/more/c.png", "z.png"]


@pytest.mark.parametrize("backwards", [False, True])
def test_of_two_ways_to_a_folder_the_first_by_name_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backwards: bool
) -> None:
    empty(tmp_path / "b" / "1.png")
    for name in ("a", "c"):
        (tmp_path / name).symlink_to(tmp_path / "b")
    real = os.walk

    # File systems give the names in any order.
    def walk(top: Path, **options: Any) -> Iterator[tuple[str, list[str], list[str]]]:
        for where, folders, files in real(str(top), **options):
            folders.sort(reverse=backwards)
            yield where, folders, files

    monkeypatch.setattr(os, "walk", walk)
    assert found_in(tmp_path) == ["a/1.png"]


def test_a_limit_spreads_over_the_folder() -> None:
    assert evenly(9, 3) == [0, 3, 6]
    assert evenly(9, 1) == [0]
    assert evenly(3, 9) == evenly(3, 3) == [0, 1, 2]
    assert evenly(5, 2) == [0, 2]


def test_the_label_maps_of_cityscapes_are_no_photographs(tmp_path: Path) -> None:
    write_cityscapes(tmp_path, "val", {"eichenfurt": 2}, seed=0, size=SIZE)
    assert {path.relative_to(tmp_path).parts[0] for path in find_pictures(tmp_path)} == {"leftImg8bit"}
    assert len(find_pictures(tmp_path)) == 2


def test_a_picture_of_the_right_size_is_taken_as_it_is(tmp_path: Path) -> None:
    pixels = photograph(tmp_path / "a.png")
    (found,) = load_pictures([tmp_path / "a.png"], SIZE, halve=True)
    assert np.array_equal(found.image, pixels)
    assert (found.fitted, found.size) == ("as it is", SIZE)
    assert found.sha256 == hashlib.sha256((tmp_path / "a.png").read_bytes()).hexdigest()


def test_a_picture_of_twice_the_size_goes_through_the_blur_where_the_model_has_one(tmp_path: Path) -> None:
    pixels = photograph(tmp_path / "a.png", 128, 256)
    (halved,) = load_pictures([tmp_path / "a.png"], SIZE, halve=True)
    (resized,) = load_pictures([tmp_path / "a.png"], SIZE, halve=False)
    assert (halved.fitted, resized.fitted) == ("halved by the blur", "resized")
    exact = blur_and_halve(normalise(pixels))
    # Half a grey value, in units of the normalised image.
    assert np.abs(normalise(halved.image) - exact).max() < 0.5001 / (255 * 0.224)
    assert np.abs(normalise(resized.image) - exact).max() > 0.5


def test_other_sizes_are_resized(tmp_path: Path) -> None:
    photograph(tmp_path / "a.jpg", 100, 90)
    (found,) = load_pictures([tmp_path / "a.jpg"], SIZE, halve=True)
    assert found.image.shape == (*SIZE, 3)
    assert (found.fitted, found.size) == ("resized", (100, 90))


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(DataError, match=r"holds no images \(\.png, .* are read\)\. Name another folder"):
        find_pictures(tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        find_pictures(tmp_path / "absent")
    with pytest.raises(DataError, match="is a file"):
        find_pictures(tmp_path / "notes.txt")


def test_a_folder_that_cannot_be_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty(tmp_path / "a.png", tmp_path / "locked" / "b.png")
    real = os.scandir

    # Root may read anything, so the kernel's answer is played.
    def scandir(path: Path) -> object:
        if path.name == "locked":
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(DataError, match=r"locked cannot be read \(Permission denied\)\. Check its permissions"):
        find_pictures(tmp_path)


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
@pytest.mark.parametrize("damage", ["text", "empty", "cut", "absent"])
def test_a_file_that_is_no_whole_image_is_refused(tmp_path: Path, name: str, damage: str) -> None:
    path = tmp_path / name
    photograph(path)
    data = path.read_bytes()
    path.write_bytes({"text": b"no image at all", "empty": b"", "cut": data[: len(data) // 2], "absent": b""}[damage])
    if damage == "absent":
        path.unlink()
    with pytest.raises(DataError, match=name) as caught:
        list(load_pictures([path], SIZE, halve=False))
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA"])
def test_other_pictures_of_8_bits_are_converted(tmp_path: Path, mode: str) -> None:
    picture = Image.fromarray(draw_scene(*SIZE, 0).image).convert(mode)
    picture.save(tmp_path / "a.png")
    wanted = np.asarray(picture.convert("RGB"))
    (found,) = load_pictures([tmp_path / "a.png"], SIZE, halve=False)
    assert np.array_equal(found.image, wanted)
    assert np.array_equal(resized(tmp_path / "a.png", SIZE), wanted)
    assert len(np.unique(wanted)) > 1


def test_cmyk_is_converted_too(tmp_path: Path) -> None:
    Image.new("CMYK", (128, 64), (255, 0, 0, 0)).save(tmp_path / "a.jpg", quality=100)
    (found,) = load_pictures([tmp_path / "a.jpg"], SIZE, halve=False)
    assert np.abs(found.image.astype(int) - (0, 255, 255)).max() <= 2


@pytest.mark.parametrize(("mode", "name"), [("I;16", "a.png"), ("I", "a.tif"), ("F", "a.tif")])
def test_pictures_of_more_bits_are_refused(tmp_path: Path, mode: str, name: str) -> None:
    Image.new(mode, (128, 64)).save(tmp_path / name)
    says = rf"of kind {mode} \(8 bits a channel were needed\)\. Convert it to 8 bits, in the range that you mean\.$"
    with pytest.raises(DataError, match=says) as caught:
        list(load_pictures([tmp_path / name], SIZE, halve=False))
    assert str(caught.value).startswith(str(tmp_path / name))
    with pytest.raises(DataError, match=says):
        resized(tmp_path / name, SIZE)

"""Any folder of photographs: what is taken, how it is brought to size, and what is refused."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ffnet_deploy.data.folder import find_pictures, load_pictures
from ffnet_deploy.data.images import blur_and_halve, normalise
from ffnet_deploy.data.scenes import draw_scene, write_cityscapes
from ffnet_deploy.errors import DataError

SIZE = (64, 128)


def photograph(path: Path, height: int = 64, width: int = 128, seed: int = 0) -> np.ndarray:
    """Write a picture; gives the pixels that its file holds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(draw_scene(height, width, seed).image).save(path)
    with Image.open(path) as image:
        return np.asarray(image)


def test_photographs_are_found_in_all_folders_and_other_files_are_passed_over(tmp_path: Path) -> None:
    for name in ("b.png", "a/one.JPG", "a/two.jpeg"):
        photograph(tmp_path / name)
    (tmp_path / "a" / "notes.txt").write_text("no image")
    found = [str(path.relative_to(tmp_path)) for path in find_pictures(tmp_path, 8)]
    assert found == ["a/one.JPG", "a/two.jpeg", "b.png"]


def test_a_limit_spreads_over_the_folder(tmp_path: Path) -> None:
    for i in range(9):
        (tmp_path / f"{i}.png").touch()
    assert [path.stem for path in find_pictures(tmp_path, 3)] == ["0", "3", "6"]
    assert [path.stem for path in find_pictures(tmp_path, 1)] == ["0"]


def test_the_label_maps_of_cityscapes_are_no_photographs(tmp_path: Path) -> None:
    write_cityscapes(tmp_path, "val", {"eichenfurt": 2}, seed=0, size=SIZE)
    assert {path.relative_to(tmp_path).parts[0] for path in find_pictures(tmp_path, 8)} == {"leftImg8bit"}
    with pytest.raises(DataError, match=r"kind L .8-bit RGB was needed"):
        list(load_pictures(find_pictures(tmp_path / "gtFine", 1), SIZE, halve=False))


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
    with pytest.raises(DataError, match="holds no PNG or JPEG image"):
        find_pictures(tmp_path, 8)
    with pytest.raises(DataError, match="does not exist"):
        find_pictures(tmp_path / "absent", 8)
    with pytest.raises(DataError, match="is a file"):
        find_pictures(tmp_path / "notes.txt", 8)


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


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "I;16"])
def test_images_that_are_not_8_bit_rgb_are_refused(tmp_path: Path, mode: str) -> None:
    Image.new(mode, (128, 64)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"was needed\). Name a folder of photographs alone"):
        list(load_pictures([tmp_path / "a.png"], SIZE, halve=False))

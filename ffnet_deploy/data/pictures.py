"""Any folder of pictures: which files count, how they are decoded, and how they are brought to a network's size."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from ffnet_deploy.data.decoding import decode_picture
from ffnet_deploy.data.folders import PICTURES, pictures_below
from ffnet_deploy.data.images import blur_and_halve
from ffnet_deploy.data.stored import File
from ffnet_deploy.errors import DataError

_PHOTOGRAPHS = "leftImg8bit"
"""Below the root of Cityscapes; beside it lie label maps, which are PNG files too."""
Fitted = Literal["as it is", "halved by the blur", "resized"]


@dataclass(frozen=True, slots=True)
class FittedPicture:
    """A picture at a network's size, and how it came to it."""

    path: Path
    image: np.ndarray
    """uint8 (H, W, 3), RGB."""
    sha256: str
    """Of the file."""
    size: tuple[int, int]
    """(H, W) in the file."""
    fitted: Fitted


def find_pictures(folder: Path) -> list[Path]:
    """Every picture below a folder, by path.

    Links to folders are followed. Clutter and files that are no pictures are passed over. In a Cityscapes root only
    the photographs count.

    Raises:
        DataError: no such folder, it cannot be read, it holds no picture, a picture of a kind that is not read, or a
            link that leads nowhere.
    """
    if not folder.is_dir():
        found = "is a file" if folder.exists() else "does not exist"
        raise DataError(f"{folder} {found} (a folder of images was needed). Name another.")
    inside = folder / _PHOTOGRAPHS
    pictures = sorted(pictures_below(inside if inside.is_dir() else folder))
    if not pictures:
        raise DataError(f"{folder} holds no images ({', '.join(PICTURES)} are read). Name another folder.")
    return pictures


def evenly(found: int, count: int) -> list[int]:
    """``count`` of ``found`` things at even distances; all if there are no more."""
    number = min(found, count)
    return [i * found // number for i in range(number)]


def resized(path: Path, size: tuple[int, int]) -> np.ndarray:
    """Decode a picture and resize it, without keeping its shape: uint8 (H, W, 3), RGB.

    Raises:
        DataError: it cannot be read or decoded.
    """
    return _resized(decode_picture(path, File(path).read()), size)


def load_pictures(paths: Sequence[Path], size: tuple[int, int], *, halve: bool) -> Iterator[FittedPicture]:
    """Decode files and bring them to a size, one after the other.

    Args:
        paths: of :func:`find_pictures`.
        size: (H, W) that the network takes.
        halve: take an image of exactly twice that size through the blur and stride of a ``_pre_down`` model, rounded to
            8 bits; every other size is resized bilinearly (antialiased, the aspect is not kept).

    Raises:
        DataError: a file cannot be read, is no picture, or is damaged.
    """
    for path in paths:
        data = File(path).read()
        image = decode_picture(path, data)
        there = (image.height, image.width)
        pixels, fitted = _fit(image, size, halve=halve)
        yield FittedPicture(path, pixels, hashlib.sha256(data).hexdigest(), there, fitted)


def _fit(image: Image.Image, size: tuple[int, int], *, halve: bool) -> tuple[np.ndarray, Fitted]:
    height, width = size
    if (image.height, image.width) == size:
        return np.asarray(image), "as it is"
    if halve and (image.height, image.width) == (2 * height, 2 * width):
        planes = np.asarray(image, np.float32).transpose(2, 0, 1)[None]
        # The blur is a mean and normalisation is affine, so the order of the two only changes the rounding.
        halved = blur_and_halve(planes)[0].transpose(1, 2, 0)
        return np.ascontiguousarray(np.rint(halved).clip(0, 255).astype(np.uint8)), "halved by the blur"
    return _resized(image, size), "resized"


def _resized(image: Image.Image, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(image.resize((size[1], size[0]), Image.Resampling.BILINEAR))

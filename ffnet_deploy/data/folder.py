"""Any folder of photographs, brought to the size that a network takes."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, UnidentifiedImageError

from ffnet_deploy.data.images import blur_and_halve, decode_any
from ffnet_deploy.data.stored import File
from ffnet_deploy.errors import DataError

SUFFIXES = (".png", ".jpg", ".jpeg")
_ANY = (*SUFFIXES, ".bmp", ".webp", ".tif", ".tiff", ".ppm")
_PHOTOGRAPHS = "leftImg8bit"
"""Below the root of Cityscapes; beside it lie label maps, which are PNG files too."""

Fitted = Literal["as it is", "halved by the blur", "resized"]


@dataclass(frozen=True, slots=True)
class Picture:
    """A photograph at a network's size, and how it came to it."""

    path: Path
    image: np.ndarray
    """uint8 (H, W, 3), RGB."""
    sha256: str
    """Of the file."""
    size: tuple[int, int]
    """(H, W) in the file."""
    fitted: Fitted


def find_pictures(folder: Path, limit: int) -> list[Path]:
    """PNG and JPEG files below a folder, at most ``limit`` of them, spread evenly over their sorted paths.

    Other files are passed over; in a Cityscapes root only the photographs are looked at.

    Raises:
        DataError: there is no such folder, it cannot be read, or it holds none.
    """
    assert limit > 0
    if not folder.is_dir():
        found = "is a file" if folder.exists() else "does not exist"
        raise DataError(f"{folder} {found} (a folder of PNG or JPEG images was needed). Name another.")
    inside = folder / _PHOTOGRAPHS
    paths = sorted(_files(inside if inside.is_dir() else folder))
    if not paths:
        raise DataError(f"{folder} holds no PNG or JPEG image (at least one was needed). Name another folder.")
    count = min(limit, len(paths))
    return [paths[i * len(paths) // count] for i in range(count)]


def _files(folder: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise DataError(
            f"{error.filename} cannot be read ({error.strerror}). Check its permissions, or name another folder."
        ) from error

    for where, _, files in os.walk(folder, onerror=refuse):
        yield from (Path(where, name) for name in files if name.lower().endswith(SUFFIXES) and not name.startswith("."))


def find_all(folder: Path) -> list[Path]:
    """Every image below a folder, by path; hidden files do not count.

    Raises:
        DataError: no such folder, or a file that is no image: what it was meant to be cannot be known.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder (a data set or a folder of images was needed). Name one with --data.")
    paths = ((p, p.relative_to(folder).parts) for p in folder.rglob("*") if p.is_file())
    files = sorted(path for path, parts in paths if not any(part.startswith(".") for part in parts))
    strangers = [path for path in files if path.suffix.lower() not in _ANY]
    if strangers:
        raise DataError(
            f"{len(strangers)} of {len(files)} files below {folder} are no images, first {strangers[0]}. "
            "Name a folder that holds nothing else."
        )
    return files


def resized(path: Path, size: tuple[int, int]) -> np.ndarray:
    """Decode an image of any usual kind and resize it, without keeping its shape: uint8 (H, W, 3), RGB.

    Raises:
        DataError: it cannot be read or decoded.
    """
    image = decode_any(str(path), File(path).read())
    return np.asarray(image.resize((size[1], size[0]), Image.Resampling.BILINEAR))


def load_pictures(paths: Sequence[Path], size: tuple[int, int], *, halve: bool) -> Iterator[Picture]:
    """Decode files and bring them to a size, one after the other.

    Args:
        paths: of :func:`find_pictures`.
        size: (H, W) that the network takes.
        halve: take an image of exactly twice that size through the blur and stride of a ``_pre_down`` model, rounded to
            8 bits; every other size is resized bilinearly (antialiased, the aspect is not kept).

    Raises:
        DataError: a file cannot be read, is no image, is damaged, or is not 8-bit RGB.
    """
    for path in paths:
        data = File(path).read()
        image = _decoded(path, data)
        there = (image.height, image.width)
        pixels, fitted = _fit(image, size, halve=halve)
        yield Picture(path, pixels, hashlib.sha256(data).hexdigest(), there, fitted)


def _fit(image: Image.Image, size: tuple[int, int], *, halve: bool) -> tuple[np.ndarray, Fitted]:
    height, width = size
    if (image.height, image.width) == size:
        return np.asarray(image), "as it is"
    if halve and (image.height, image.width) == (2 * height, 2 * width):
        planes = np.asarray(image, np.float32).transpose(2, 0, 1)[None]
        # The blur is a mean and normalising is affine, so blurring before it is the same up to the rounding.
        halved = blur_and_halve(planes)[0].transpose(1, 2, 0)
        return np.ascontiguousarray(np.rint(halved).clip(0, 255).astype(np.uint8)), "halved by the blur"
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR)), "resized"


def _decoded(path: Path, data: bytes) -> Image.Image:
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as image:
            if image.mode != "RGB":
                raise DataError(
                    f"{path} is a {image.format} image of kind {image.mode} (8-bit RGB was needed). "
                    "Name a folder of photographs alone."
                )
            image.load()
            return image
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        why = "it is no PNG or JPEG image" if isinstance(error, UnidentifiedImageError) else error
        raise DataError(f"{path} cannot be decoded ({why}). Copy it again, or move it out of the folder.") from error

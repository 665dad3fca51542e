"""Any folder of images, resized to what a network takes: for calibration, never for scores."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from ffnet_deploy.errors import DataError

_ENDINGS = frozenset((".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm"))


def find_images(folder: Path) -> list[Path]:
    """Every image below a folder, by path; hidden files do not count.

    Raises:
        DataError: no such folder, or a file that is no image.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder (a data set or a folder of images was needed). Name one with --data.")
    files = sorted(p for p in folder.rglob("*") if p.is_file() and not _hidden(p.relative_to(folder)))
    strangers = [p for p in files if p.suffix.lower() not in _ENDINGS]
    if strangers:
        raise DataError(
            f"{len(strangers)} of {len(files)} files below {folder} are no images, first {strangers[0]}. "
            "Name a folder that holds nothing else."
        )
    return files


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def fingerprint(path: Path) -> str:
    """SHA-256 of an image file.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}). Check the disk and its permissions.") from error


def resized(path: Path, size: tuple[int, int]) -> np.ndarray:
    """Decode an image and resize it, without keeping its shape: uint8 (H, W, 3), RGB.

    Raises:
        DataError: it cannot be decoded.
    """
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB").resize((size[1], size[0]), Image.Resampling.BILINEAR))
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        why = "no image that is known" if isinstance(error, UnidentifiedImageError) else error
        raise DataError(f"{path} cannot be decoded ({why}). Remove it, or copy it again.") from error

"""From an image file to what a network takes: decode, normalise, and the blur that halves the size."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError

from ffnet_deploy.errors import DataError
from ffnet_deploy.zoo.specs import BLUR_TAPS

_T = TypeVar("_T")

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""Of RGB/255, from ImageNet: every FFNet was trained with them."""


def decode(path: object, data: bytes, mode: str) -> np.ndarray:
    """Decode an image.

    Args:
        path: where the bytes come from, for messages; a ``Stored`` or a path.
        data: a whole PNG file.
        mode: ``RGB`` gives uint8 (H, W, 3); ``L`` gives the stored values of an 8-bit label image, uint8 (H, W).

    Raises:
        DataError: the bytes are not an image, are cut off, or are not of that kind.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            # Decoding does not compare a PNG's checksums: a flipped bit would be another label.
            image.verify()
        with Image.open(io.BytesIO(data)) as image:
            if image.format != "PNG" or image.mode != mode:
                # Converted, a 16-bit image would be clipped, and a palette's indices are no label ids.
                raise DataError(
                    f"{path} is a {image.format} image of kind {image.mode} (an 8-bit PNG of kind {mode} was needed). "
                    "Use the original files of the data set."
                )
            return np.asarray(image)
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        why = "no image that is known" if isinstance(error, UnidentifiedImageError) else error
        raise DataError(
            f"{path} cannot be decoded ({why}). Copy this file again from the data set, then run the command again."
        ) from error


def filled(items: Sequence[_T], size: int) -> list[_T]:
    """A batch: the items, and the last one again until there are ``size``."""
    return [*items, *[items[-1]] * (size - len(items))]


def normalise(image: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3) RGB to float32 (1, 3, H, W), about -2.1 to 2.6."""
    scale = np.float32(1) / (np.array(STD, np.float32) * 255)
    shift = np.array(MEAN, np.float32) / np.array(STD, np.float32)
    planes = np.empty((1, 3, *image.shape[:2]), np.float32)
    # A plane at a time: six times as fast as the whole image with its channels last.
    for c, plane in enumerate(planes[0]):
        np.multiply(image[:, :, c], scale[c], out=plane, dtype=np.float32)
        plane -= shift[c]
    return planes


def halve(image: np.ndarray, how: str) -> np.ndarray:
    """Half an image for a network that takes 512x1024.

    Args:
        image: uint8 (H, W, 3), H and W even.
        how: ``blur``, what the ``_pre_down`` twin does inside and the weights were trained with; ``area``, the mean of
            2x2 pixels (as OpenCV's INTER_AREA and INTER_LINEAR and PyTorch's bilinear give for a half); ``bilinear``,
            PIL's, which smooths.

    Returns:
        float32 (1, 3, H/2, W/2), normalised.
    """
    if how == "blur":
        return blur_and_halve(normalise(image))
    height, width = image.shape[:2]
    if how == "area":
        pairs = normalise(image)
        rows = pairs[:, :, 0::2] + pairs[:, :, 1::2]
        return np.asarray((rows[..., 0::2] + rows[..., 1::2]) * np.float32(0.25))
    assert how == "bilinear"
    small = Image.fromarray(image).resize((width // 2, height // 2), Image.Resampling.BILINEAR)
    return normalise(np.asarray(small))


def blur_and_halve(image: np.ndarray) -> np.ndarray:
    """What a ``_pre_down`` model does inside, for its twin that takes the half-size image.

    The kernel and the sampling phase (y = 2i+1, x = 2j+2) are the model's; its (H/2 - 1, W/2 - 2) grid is extended by
    one row at the bottom and two columns at the right, reflected, to exactly (H/2, W/2).

    Args:
        image: float32 (N, 3, H, W), H and W even.

    Returns:
        float32 (N, 3, H/2, W/2).

    Source: FFNet @2291ae7 ``ffnet_blocks.py`` (the blur), issue 2 of this project (the two extra columns).
    """
    count, channels, height, width = image.shape
    padded = np.pad(image, ((0, 0), (0, 0), (1, 2), (0, 3)), mode="reflect")
    halved = np.empty((count, channels, height // 2, width // 2), np.float32)
    for plane, out in zip(padded.reshape(-1, *padded.shape[2:]), halved.reshape(-1, *halved.shape[2:]), strict=True):
        for top in range(0, height // 2, _BLUR_ROWS):
            bottom = min(top + _BLUR_ROWS, height // 2)
            rows = _weighted([plane[2 * top + k : 2 * bottom + k : 2] for k in range(len(BLUR_TAPS))])
            out[top:bottom] = _weighted([rows[:, k : k + width : 2] for k in range(len(BLUR_TAPS))])
    return halved


_BLUR_ROWS = 32
"""Output rows at a time: what lies between the two passes then stays in a core's second-level cache."""


def _weighted(shifted: list[np.ndarray]) -> np.ndarray:
    """The sum of the kernel's taps times as many shifted views."""
    taps = np.array(BLUR_TAPS, np.float32)
    total = taps[0] * shifted[0]
    for tap, values in zip(taps[1:], shifted[1:], strict=True):
        total += tap * values
    return np.asarray(total)


_PICTURES = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM")
"""Formats that are opened: Pillow knows others, some of which start programs."""


_CONVERTED = frozenset(("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "La", "CMYK", "YCbCr", "LAB", "HSV"))
"""Pillow's names of kinds that it converts to 8-bit RGB without clipping."""


def decode_any(where: str, data: bytes) -> Image.Image:
    """Decode an 8-bit picture of any usual format to RGB, as torchvision's default loader does.

    Grey, CMYK and palette pictures are converted, transparency is dropped, the EXIF orientation is not applied.

    Args:
        where: what the bytes are, for messages.
        data: a whole JPEG, PNG, WebP, BMP, TIFF or PPM file.

    Raises:
        DataError: the bytes are no such picture, are damaged or cut off, or have more than 8 bits a channel.
    """
    try:
        with Image.open(io.BytesIO(data), formats=_PICTURES) as image:
            if image.format == "PNG":
                image.verify()
        with Image.open(io.BytesIO(data), formats=_PICTURES) as image:
            if image.mode not in _CONVERTED:
                raise DataError(
                    f"{where} is a {image.format} image of kind {image.mode} (8 bits a channel were needed). "
                    "Convert it to 8 bits, in the range that you mean."
                )
            return image.convert("RGB")
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        why = "no picture that is known" if isinstance(error, UnidentifiedImageError) else error
        raise DataError(
            f"{where} cannot be decoded ({why}). Copy this file again from the data set, then run the command again."
        ) from error


def resize_and_crop(picture: Image.Image, short: int = 256, side: int = 224) -> np.ndarray:
    """Bring the short side to ``short`` pixels, bilinear with antialiasing, and cut out the middle.

    Equal to torchvision's ``Resize(short)`` and ``CenterCrop(side)`` on a Pillow image: the long side is rounded
    down, the middle to even. Held to pixels that torchvision made.

    Args:
        picture: RGB; smaller ones are enlarged.
        short: at least ``side``.
        side: of the square that is cut out.

    Returns:
        uint8 (side, side, 3).
    """
    assert side <= short
    width, height = picture.size
    if min(width, height) != short:
        longer = int(short * max(width, height) / min(width, height))
        width, height = (short, longer) if width <= height else (longer, short)
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - side) / 2), round((height - side) / 2)
    return np.asarray(picture.crop((left, top, left + side, top + side)))

"""From a decoded image to what a network takes: normalise, resize, crop, and the blur that halves the size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from PIL import Image

from ffnet_deploy.data.decoding import decode_picture
from ffnet_deploy.errors import DataError
from ffnet_deploy.zoo.specs import BLUR_TAPS

_T = TypeVar("_T")

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""Of RGB/255, from ImageNet: every FFNet was trained with them."""


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


_LONGEST = 65_536
"""Pixels of the long side after the resize: a picture of 1x8000 would become 256x2,048,000."""


def decode_and_crop(where: object, data: bytes) -> np.ndarray:
    """A picture as ImageNet's evaluation takes it: uint8 (224, 224, 3), RGB.

    Args:
        where: the bytes come from, for messages.
        data: a whole file that :func:`ffnet_deploy.data.decoding.decode_picture` reads.

    Raises:
        DataError: it cannot be decoded, or is far too long and narrow.
    """
    picture = decode_picture(where, data)
    width, height = picture.size
    if 256 * max(width, height) > _LONGEST * min(width, height):
        raise DataError(
            f"{where} has {height}x{width} pixels (one side at most {_LONGEST // 256} times the other was needed). "
            "Leave it out, or cut it."
        )
    return resize_and_crop(picture)


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

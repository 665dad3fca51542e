"""Synthetic pictures in ImageNet's class folders: a data set to try classification on, never a benchmark."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from ffnet_deploy.artifacts.sealing import sealed, unsealed
from ffnet_deploy.artifacts.writing import write_bytes, write_json
from ffnet_deploy.errors import DataError
from ffnet_deploy.synthetic.street import Colour

VERSION = 2
"""Of the drawing: sets written by another version are drawn again."""

MARKER = "synthetic-objects.json"
"""File at the root of a written set; real ImageNet has none, so it also tells the two apart."""

Field = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class ObjectKind:
    """How the things of one class look."""

    shape: str
    texture: str
    colour: Colour
    second: Colour
    """Of the texture's lines, spots or fields."""


BLACK, WHITE = (28, 26, 24), (232, 230, 224)
OBJECT_KINDS: dict[str, ObjectKind] = {
    "n02129604": ObjectKind("oval", "stripes", (208, 122, 44), BLACK),  # tiger
    "n02165456": ObjectKind("disc", "spots", (196, 34, 28), BLACK),  # ladybug
    "n02317335": ObjectKind("star", "plain", (204, 84, 52), WHITE),  # starfish
    "n02391049": ObjectKind("oval", "stripes", WHITE, BLACK),  # zebra
    "n02799071": ObjectKind("disc", "seams", WHITE, (182, 40, 40)),  # baseball
    "n02802426": ObjectKind("disc", "seams", (190, 98, 42), BLACK),  # basketball
    "n03134739": ObjectKind("disc", "band", (46, 82, 170), WHITE),  # croquet ball
    "n03223299": ObjectKind("box", "bands", (128, 92, 58), (74, 58, 44)),  # doormat
    "n03530642": ObjectKind("box", "spots", (214, 158, 52), (118, 72, 24)),  # honeycomb
    "n04146614": ObjectKind("box", "windows", (226, 168, 34), (44, 48, 58)),  # school bus
    "n04254680": ObjectKind("disc", "spots", WHITE, BLACK),  # soccer ball
    "n04409515": ObjectKind("disc", "seams", (196, 214, 62), WHITE),  # tennis ball
    "n04548280": ObjectKind("disc", "hands", WHITE, BLACK),  # wall clock
    "n04589890": ObjectKind("box", "mesh", (150, 156, 160), (64, 68, 72)),  # window screen
    "n06785654": ObjectKind("box", "cells", WHITE, BLACK),  # crossword puzzle
    "n06874185": ObjectKind("tall", "lamps", (42, 44, 42), (226, 120, 48)),  # traffic light
    "n07742313": ObjectKind("disc", "plain", (124, 172, 58), WHITE),  # Granny Smith
    "n07747607": ObjectKind("disc", "plain", (232, 138, 34), WHITE),  # orange
    "n07749582": ObjectKind("oval", "plain", (234, 208, 58), WHITE),  # lemon
    "n07753592": ObjectKind("crescent", "plain", (230, 200, 66), WHITE),  # banana
}
"""By wnid."""

_SHAPES: dict[str, Callable[[Field, Field], Mask]] = {
    "disc": lambda u, v: u**2 + v**2 < 1,
    "oval": lambda u, v: u**2 + (v / 0.62) ** 2 < 1,
    "box": lambda u, v: (abs(u) < 0.95) & (abs(v) < 0.68),
    "tall": lambda u, v: (abs(u) < 0.36) & (abs(v) < 1),
    "star": lambda u, v: np.hypot(u, v) < 0.62 + 0.38 * np.cos(5 * np.arctan2(u, -v)),
    "crescent": lambda u, v: (u**2 + v**2 < 1) & (u**2 + (v + 0.55) ** 2 > 0.95),
}
# True where the second colour shows; the last two arguments vary its size (about 1) and place (0 to 1).
_TEXTURES: dict[str, Callable[[Field, Field, float, float], Mask]] = {
    "plain": lambda u, v, _size, place: np.hypot(u + 0.35, v + 0.3 + 0.1 * place) < 0.12,
    "stripes": lambda u, v, size, place: np.sin(13 / size * u + 2 * np.sin(3 * v + 6 * place)) > 0.1,
    "spots": lambda u, v, size, place: (
        np.hypot((u * 3 / size + place) % 1 - 0.5, (v * 3 / size + place) % 1 - 0.5) < 0.3
    ),
    "seams": lambda u, v, size, place: (
        np.minimum(abs(np.hypot(u - 0.9, v) - 0.7 * size), abs(np.hypot(u + 0.9, v + 0.1 * place) - 0.7 * size)) < 0.05
    ),
    "band": lambda _u, v, size, place: abs(v - 0.3 * (place - 0.5)) < 0.2 * size,
    "bands": lambda u, _v, size, place: (u * 3 / size + place) % 1 < 0.35,
    "windows": lambda u, v, size, place: ((u * 3 / size + place) % 1 < 0.7) & (v > -0.5) & (v < -0.05),
    "hands": lambda u, v, size, place: (
        (abs(np.hypot(u, v) - 0.93) < 0.07)
        | ((abs(u) < 0.05 * size) & (v < 0) & (v > -0.75))
        | ((abs(v - 0.5 * (place - 0.5) * u) < 0.06 * size) & (u > 0) & (u < 0.5))
    ),
    "mesh": lambda u, v, size, place: np.minimum((u * 9 / size + place) % 1, (v * 9 / size + place) % 1) < 0.3,
    "cells": lambda u, v, size, place: (
        np.sin(91 * np.floor(u * 4 / size) + 57 * np.floor(v * 4 / size) + 9 * place) > 0.3
    ),
    "lamps": lambda u, v, size, _place: np.hypot(u, (v * 1.5 + 0.5) % 1 - 0.5) < 0.24 * size,
}


def draw_object(kind: ObjectKind, seed: int) -> NDArray[np.uint8]:
    """Draw one thing of a class before a background with other things: uint8 (H, W, 3), the same for the same seed.

    Height and width are odd sizes between 120 and 300.
    """
    rng = np.random.default_rng(seed)
    height = int(rng.integers(120, 240))
    width = int(np.clip(height * rng.uniform(0.7, 1.7), 120, 300))
    picture = _background(rng, height, width)
    for _ in range(int(rng.integers(0, 3))):
        shape, texture = (str(rng.choice(list(table))) for table in (_SHAPES, _TEXTURES))
        colours = rng.integers(20, 236, (2, 3))
        other = ObjectKind(shape, texture, tuple(colours[0].tolist()), tuple(colours[1].tolist()))
        _place(picture, other, rng, rng.uniform(0.1, 0.22), 0.8)
    _place(picture, kind, rng, rng.uniform(0.3, 0.44), 0.15)
    return _photograph(picture, rng)


def _background(rng: np.random.Generator, height: int, width: int) -> Field:
    """A slope between two dull colours with clouds: float32 (H, W, 3)."""
    one, two = rng.uniform(50, 200, (2, 1)) + rng.normal(0, 16, (2, 3))
    coarse = rng.standard_normal((int(rng.integers(3, 12)), int(rng.integers(3, 12)))).astype(np.float32)
    clouds = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC), np.float32)
    slope = np.linspace(0, 1, height, dtype=np.float32)[:, None] + 0.25 * clouds
    picture: Field = (one + slope[..., None] * (two - one)).astype(np.float32)
    return picture


def _place(picture: Field, kind: ObjectKind, rng: np.random.Generator, size: float, spread: float) -> None:
    """Paint a thing: ``size`` is its radius as a share of the short side, ``spread`` how far from the middle."""
    height, width = picture.shape[:2]
    radius = size * min(height, width)
    middle = [length / 2 * (1 + spread * rng.uniform(-1, 1)) for length in (height, width)]
    angle, squeeze = rng.normal(0, 0.35), rng.uniform(0.8, 1.1)
    # Nothing of it lies further than this from its middle, turned and squeezed as it may be.
    reach = 1.25 * radius
    top, left = (max(0, int(centre - reach)) for centre in middle)
    bottom, right = (int(centre + reach) + 1 for centre in middle)
    part = picture[top:bottom, left:right]
    y, x = np.mgrid[top : top + part.shape[0], left : left + part.shape[1]]
    dy, dx = ((y - middle[0]) / radius).astype(np.float32), ((x - middle[1]) / radius).astype(np.float32)
    u = dx * np.cos(angle) + dy * np.sin(angle)
    v = (dy * np.cos(angle) - dx * np.sin(angle)) / squeeze
    mask = _SHAPES[kind.shape](u, v)
    second = _TEXTURES[kind.texture](u, v, rng.uniform(0.8, 1.25), rng.uniform())
    tones = np.array([kind.colour, kind.second], np.float32) * rng.uniform(0.85, 1.12) + rng.normal(0, 8, (2, 3))
    sun = rng.uniform(0, 2 * np.pi)
    light = 0.95 + 0.25 * (u * np.cos(sun) + v * np.sin(sun))
    part[mask] = tones[second[mask].astype(np.intp)] * light[mask][:, None]


def _photograph(picture: Field, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Lens softness, exposure, white balance and sensor noise."""
    sharp = Image.fromarray(picture.clip(0, 255).astype(np.uint8))
    soft = np.asarray(sharp.filter(ImageFilter.GaussianBlur(rng.uniform(0.6, 1.0))), np.float32)
    soft = soft * (rng.uniform(0.88, 1.1) * rng.normal(1, 0.03, 3)).astype(np.float32)
    soft += rng.standard_normal((*soft.shape[:2], 1), np.float32) * np.float32(rng.uniform(1, 3))
    return (soft + 0.5).clip(0, 255).astype(np.uint8)


def write_objects(
    root: Path,
    *,
    train: int,
    val: int,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write ``train/WNID`` and ``val/WNID`` with JPEG pictures of the classes in ``OBJECT_KINDS``.

    Complete files are kept.

    Args:
        root: gets the two splits and the marker file.
        train: pictures of each class.
        val: pictures of each class.
        seed: of the whole set; each split, class and picture has its own, derived from it.
        progress: called with (pictures done, pictures in all).

    Raises:
        DataError: ``root`` holds pictures that no call of this function wrote.
        ArtifactError: a file cannot be written.
    """
    marker = root / MARKER
    if not marker.exists() and any((root / split).exists() for split in ("train", "val")):
        raise DataError(
            f"{root} holds pictures but no {MARKER} (it may be the real ImageNet, which is never added to). "
            "Name a new or empty folder."
        )
    asked = {"version": VERSION, "seed": seed}
    wanted = list(_wanted(root, train, val))
    # Files are written whole or not at all, so every file of a set with the same numbers is complete.
    keep = {path for path, _, _ in wanted} if _read_marker(marker) == asked else set()
    for split in ("train", "val"):
        for path in sorted((root / split).glob("*/*")):
            if path not in keep:
                path.unlink()
    write_json(marker, sealed({"about": "synthetic pictures, not ImageNet", "asked": asked}))
    for done, (path, name, kind) in enumerate(wanted, 1):
        if not path.is_file():
            out = io.BytesIO()
            own = zlib.crc32(f"{seed}/{name}".encode())
            Image.fromarray(draw_object(kind, own)).save(out, format="JPEG", quality=90)
            write_bytes(path, out.getvalue())
        if progress:
            progress(done, len(wanted))


def _wanted(root: Path, train: int, val: int) -> Iterator[tuple[Path, str, ObjectKind]]:
    for split, count in (("train", train), ("val", val)):
        for wnid, kind in OBJECT_KINDS.items():
            for index in range(count):
                name = f"{split}/{wnid}/{wnid}_{index}.JPEG"
                yield root / name, name, kind


def _read_marker(marker: Path) -> Any:  # noqa: ANN401 - whatever the JSON holds; it is compared only
    try:
        return unsealed(marker.read_bytes())["asked"]
    except (OSError, ValueError, KeyError, TypeError):
        # Absent or damaged. Drawing everything again only costs time.
        return None

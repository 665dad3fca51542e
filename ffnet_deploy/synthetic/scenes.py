"""Synthetic street scenes in the exact Cityscapes layout: a data set to try every command on, never a benchmark."""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from ffnet_deploy.artifacts.sealing import sealed, unsealed
from ffnet_deploy.artifacts.writing import replacing, write_json
from ffnet_deploy.errors import DataError
from ffnet_deploy.synthetic.actors import cast
from ffnet_deploy.synthetic.street import Id, Street

VERSION = 2
"""Of the drawing: sets written by another version are drawn again."""

SMALLEST = 64
"""Height and width below which a scene has no room for its objects."""

_MOST_THREADS = 4
"""Each holds about 100 MB while it draws a scene of 1024x2048."""

MARKER = "synthetic-scenes.json"
"""File at the root of a written set; real Cityscapes has none, so it also tells the two apart."""

# Share by which leaf, grain and cloud fields change a class's brightness: much of what tells equal greys apart.
_TEXTURE: dict[int, tuple[float, float, float]] = {
    Id.ROAD: (0.0, 0.035, 0.05), Id.SIDEWALK: (0.02, 0.05, 0.04), Id.BUILDING: (0.0, 0.03, 0.06),
    Id.WALL: (0.05, 0.07, 0.06), Id.FENCE: (0.02, 0.03, 0.0), Id.VEGETATION: (0.3, 0.12, 0.1),
    Id.TERRAIN: (0.1, 0.13, 0.12), Id.SKY: (0.0, 0.0, 0.06), Id.GROUND: (0.06, 0.06, 0.1), Id.RAIL: (0.1, 0.1, 0.0),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Scene:
    """One picture and its truth."""

    image: NDArray[np.uint8]
    """uint8 (H, W, 3), RGB."""
    label_ids: NDArray[np.uint8]
    """uint8 (H, W), Cityscapes label ids (not train ids); besides the 19 classes some that a score ignores."""


def draw_scene(height: int, width: int, seed: int) -> Scene:
    """Draw one street, the same for the same three numbers.

    Args:
        height: pixels, at least ``SMALLEST``.
        width: pixels, at least ``SMALLEST``.
        seed: at least 0; decides layout, colours, light and noise.
    """
    assert min(height, width) >= SMALLEST
    assert seed >= 0
    street = Street(height, width, np.random.default_rng(seed))
    street.lay_ground()
    for side in (-1, 1):
        street.line_side(side)
    for draw, x, z in cast(street):
        draw(street, x, z)
    street.add_camera_car()
    return _develop(street)


def _develop(street: Street) -> Scene:
    """Texture by class, sunlight across the picture, lens softness, white balance and sensor noise."""
    rng, h, w = street.rng, street.h, street.w
    labels = np.asarray(street.truth)
    scale = max(1, h // 256)
    light = 1 + 0.12 * street.sun * np.linspace(-1, 1, w, dtype=np.float32)
    light = light * np.linspace(1.04, 0.94, h, dtype=np.float32)[:, None]
    for column, cell in enumerate((4 * scale, 1 * scale, 48 * scale)):
        amount = np.zeros(256, np.float32)
        for label, shares in _TEXTURE.items():
            amount[label] = shares[column]
        light += amount[labels] * _field(street, cell)
    # Softness before noise: the lens blurs the scene, not the sensor.
    soft = np.asarray(street.picture.filter(ImageFilter.BoxBlur(0.35 * scale)), np.float32)
    tint = (rng.uniform(0.88, 1.1) * rng.normal(1, 0.015, 3)).astype(np.float32)
    out = soft * light[..., None]
    out *= tint
    out += rng.standard_normal((h, w, 1), np.float32) * np.float32(rng.uniform(1.5, 3.0))
    out += 0.5
    return Scene(out.clip(0, 255, out=out).astype(np.uint8), labels.copy())


def _field(street: Street, cell: int) -> NDArray[np.float32]:
    """Smooth noise, float32 (H, W), mean 0, deviation about 1 at the knots, which are ``cell`` pixels apart."""
    coarse = street.rng.standard_normal((street.h // cell + 2, street.w // cell + 2), np.float32)
    return np.asarray(Image.fromarray(coarse).resize((street.w, street.h), Image.Resampling.BILINEAR))


def write_cityscapes(
    root: Path,
    split: str,
    cities: Mapping[str, int],
    *,
    seed: int,
    size: tuple[int, int] = (1024, 2048),
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write scenes below ``root`` with Cityscapes' folders and names; a city that is there as asked is left alone.

    Args:
        root: gets ``leftImg8bit/``, ``gtFine/`` and the marker file.
        split: ``train``, ``val`` or ``test``.
        cities: scenes for each invented city name.
        seed: of the whole set; each split, city and scene has its own, derived from it.
        size: height and width in pixels.
        progress: called with (scenes done, scenes in all).

    Raises:
        DataError: ``root`` holds images that no call of this function wrote.
        ArtifactError: a file cannot be written.
    """
    marker = root / MARKER
    if (root / "leftImg8bit").exists() and not marker.exists():
        raise DataError(
            f"{root} holds images but no {MARKER} (it may be the real Cityscapes, which is never added to). "
            "Name a new or empty folder."
        )
    written = _read_marker(marker)
    write_json(marker, sealed({"about": "synthetic scenes, not Cityscapes", "sets": written}))
    done, total = 0, sum(cities.values())
    for city, count in cities.items():
        asked = {"version": VERSION, "seed": seed, "size": list(size), "scenes": count}
        before = written.get(f"{split}/{city}", {})
        if before != asked or not all(p.is_file() for i in range(count) for p in _files(root, split, city, i)):
            _delete_beyond(root, split, city, count)
            for index in _drawn(root, split, city, count, seed, size):
                if progress:
                    progress(done + index + 1, total)
            written[f"{split}/{city}"] = asked
            # After the files: a city that was interrupted has no entry and is drawn again.
            write_json(marker, sealed({"about": "synthetic scenes, not Cityscapes", "sets": written}))
        done += count
        if progress:
            progress(done, total)


def _drawn(root: Path, split: str, city: str, count: int, seed: int, size: tuple[int, int]) -> Iterator[int]:
    """Draw and write a city's scenes, some at a time; yields their numbers in order as they are done."""

    def draw(index: int) -> int:
        own = zlib.crc32(f"{seed}/{split}/{city}/{index}".encode())
        _write(draw_scene(*size, own), *_files(root, split, city, index))
        return index

    # Most of a scene's time is spent in compressing and filtering, where Python's lock is not held.
    pool = ThreadPoolExecutor(min(_MOST_THREADS, os.cpu_count() or 1))
    try:
        yield from pool.map(draw, range(count))
    finally:
        # Of an interrupted city no further scene is begun.
        pool.shutdown(cancel_futures=True)


def _files(root: Path, split: str, city: str, index: int) -> tuple[Path, Path]:
    # Frame 19 of each 30-frame snippet is the one that Cityscapes annotates.
    stem = f"{city}_{index:06d}_000019"
    return (
        root / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png",
        root / "gtFine" / split / city / f"{stem}_gtFine_labelIds.png",
    )


def _delete_beyond(root: Path, split: str, city: str, count: int) -> None:
    """Delete the scenes of a city from the number ``count`` on, whatever the marker says of them."""
    for first in _files(root, split, city, 0):
        ours = re.compile(re.escape(first.name).replace("_000000_", r"_(\d{6,})_"))
        # Its own listing, so that no name is guessed.
        there = list(first.parent.iterdir()) if first.parent.is_dir() else []
        for path in there:
            found = ours.fullmatch(path.name)
            if found and int(found[1]) >= count:
                path.unlink(missing_ok=True)


def _read_marker(marker: Path) -> dict[str, dict[str, Any]]:
    try:
        sets = unsealed(marker.read_bytes())["sets"]
        return {name: dict(asked) for name, asked in sets.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        # Absent or damaged: what is asked for is drawn again, and what lies beyond it in its cities is deleted.
        return {}


def _write(scene: Scene, image: Path, label_ids: Path) -> None:
    for path, pixels in ((image, scene.image), (label_ids, scene.label_ids)):
        with replacing(path) as part:
            # Noise hardly shrinks: a higher level takes three times as long for a few percent.
            Image.fromarray(pixels).save(part, format="PNG", compress_level=1)

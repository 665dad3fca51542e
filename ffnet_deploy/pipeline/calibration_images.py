"""Which images calibrate: a data set's train split or any folder, a number of them, and what they are hashed to."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ffnet_deploy import artifacts
from ffnet_deploy.errors import DataError, UsageError
from ffnet_deploy.pipeline.current import Graph

if TYPE_CHECKING:
    import numpy as np

DEFAULT = 128
LEAST = 2
_HINT = "Calibrate on train images; --allow-val takes these and marks the result."


@dataclass(frozen=True, slots=True)
class Images:
    """Images of one place in a fixed order."""

    title: str
    """``Cityscapes train``, ``folder of images``."""
    names: tuple[str, ...]
    sha256: str
    """Of names, contents, and how they are made ready."""
    readers: tuple[Callable[[], np.ndarray], ...]
    """Each gives float32 (1, 3, H, W), ready for the network."""
    resized: bool
    """To the network's input, without keeping their shape."""
    val: bool
    """They belong to a val split, which scores are taken on."""


def find_images(graph: Graph, data: Path, count: int | None, *, allow_val: bool) -> Images:
    """Choose images evenly from all there are.

    Args:
        graph: what the images must fit.
        data: a Cityscapes root, or a folder of images.
        count: of images; None is 128, or all there are.
        allow_val: take the val split.

    Raises:
        UsageError: fewer than two images were asked for.
        DataError: too few images, a val split, or something that is no image.
    """
    if count is not None and count < LEAST:
        raise UsageError(f"--images {count} is too few for ranges ({LEAST} or more are needed). Leave it out for all.")
    from ffnet_deploy.data.cityscapes import is_root

    if is_root(data):
        return _cityscapes(graph, data, count, "val" if allow_val else "train")
    return _folder(graph, data, count, allow_val=allow_val)


def _chosen(found: int, count: int | None, where: Path) -> list[int]:
    """Which of the images there are: evenly spaced, so that each city or scene has its part."""
    if found < max(count or 0, LEAST):
        wanted = f"{count} were asked for" if count else f"{LEAST} or more are needed"
        raise DataError(f"{where} holds {found} images ({wanted}). Name another folder, or a smaller --images.")
    number = min(found, count or DEFAULT)
    return [i * found // number for i in range(number)]


def _size(graph: Graph) -> tuple[int, int]:
    """(H, W) of images as evaluation takes them: twice the network's input where the blur halves them before it."""
    _, _, height, width = graph.shape
    return (2 * height, 2 * width) if graph.spec.pre_down_twin else (height, width)


def _ready(graph: Graph, image: np.ndarray) -> np.ndarray:
    from ffnet_deploy.data.images import blur_and_halve, normalise

    ready = normalise(image)
    return blur_and_halve(ready) if graph.spec.pre_down_twin else ready


def _cityscapes(graph: Graph, root: Path, count: int | None, split: str) -> Images:
    from ffnet_deploy.data import cityscapes

    if not cityscapes.has_split(root, split):
        raise DataError(f"{root} has no {split} split (leftImg8bit/{split}/CITY was needed). {_HINT}")
    size = _size(graph)
    samples = cityscapes.find_split(root, split).samples
    picked = tuple(samples[i] for i in _chosen(len(samples), count, root / "leftImg8bit" / split))
    key = artifacts.hash_json([list(cityscapes.fingerprint(picked)), size, graph.shape])

    def read(sample: cityscapes.Sample) -> np.ndarray:
        return _ready(graph, cityscapes.load(sample, size).image)

    names = tuple(sample.name for sample in picked)
    readers = tuple(partial(read, sample) for sample in picked)
    return Images(f"Cityscapes {split}", names, key, readers, resized=False, val=split == "val")


def _folder(graph: Graph, folder: Path, count: int | None, *, allow_val: bool) -> Images:
    from ffnet_deploy.data import folder as images
    from ffnet_deploy.data.stored import File

    files = images.find_all(folder)
    val = [path for path in files if _is_val(path)]
    if val and not allow_val:
        raise DataError(f"{folder} holds images of a val split, first {val[0]}: scores are taken on those. {_HINT}")
    size = _size(graph)
    picked = [files[i] for i in _chosen(len(files), count, folder)]
    names = tuple(str(path.relative_to(folder)) for path in picked)
    key = artifacts.hash_json(
        [names, [hashlib.sha256(File(path).read()).hexdigest() for path in picked], size, graph.shape]
    )

    def read(path: Path) -> np.ndarray:
        return _ready(graph, images.resized(path, size))

    readers = tuple(partial(read, path) for path in picked)
    return Images("folder of images", names, key, readers, resized=True, val=bool(val))


def _is_val(path: Path) -> bool:
    from ffnet_deploy.data.cityscapes import OFFICIAL_VAL

    parts = path.absolute().parts
    in_split = "val" in parts and ("leftImg8bit" in parts or "imagenet" in "".join(parts).lower())
    return in_split or (path.name.partition("_")[0] in OFFICIAL_VAL and path.name.endswith("_leftImg8bit.png"))


def batches(images: Images, size: int, start: int) -> Iterator[tuple[list[str], np.ndarray]]:
    """Inputs of ``size`` images from the image ``start`` on; the last one is filled up by repeating.

    Yields:
        The names of the images that count, and float32 (size, 3, H, W).
    """
    import numpy as np

    for first in range(start, len(images.names), size):
        ready = [read() for read in images.readers[first : first + size]]
        yield list(images.names[first : first + size]), np.concatenate(ready + [ready[-1]] * (size - len(ready)))

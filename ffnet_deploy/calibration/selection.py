"""The images for calibration: some of a data set's train split or of any folder, and the hash of them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ffnet_deploy.artifacts.writing import hash_json
from ffnet_deploy.errors import DataError, UsageError
from ffnet_deploy.foreign import shown
from ffnet_deploy.graph.current import Graph

if TYPE_CHECKING:
    import numpy as np


DEFAULT = 128
LEAST = 2
Split = Literal["train", "val"]
_HINT = "Calibrate on train images; --allow-val takes these and marks the result."


@dataclass(frozen=True, slots=True)
class Images:
    """Images of one place in a fixed order."""

    title: str
    """``Cityscapes train``, ``folder of images``."""
    names: tuple[str, ...]
    sha256: str
    """Of names, contents, and how they are prepared."""
    readers: tuple[Callable[[], np.ndarray], ...]
    """Each gives float32 (1, 3, H, W), ready for the network."""
    resized: bool
    """To the network's input, in another way than evaluation does."""
    val: bool
    """Whether they belong to a val split, on which models are scored."""

    def some(self, count: int) -> Images:
        """A few of them, evenly; all if there are no more."""
        from ffnet_deploy.data.pictures import evenly

        chosen = evenly(len(self.names), count)
        return replace(self, names=tuple(self.names[i] for i in chosen), readers=tuple(self.readers[i] for i in chosen))


def find_images(graph: Graph, data: Path, count: int | None, *, allow_val: bool) -> Images:
    """Choose images evenly from all there are.

    Args:
        graph: what the images must fit.
        data: a root of Cityscapes or ImageNet, or a folder of images.
        count: of images; None is 128, or all there are.
        allow_val: take the val split.

    Raises:
        UsageError: fewer than two images were asked for, or the graph takes another size than ImageNet's protocol.
        DataError: too few images, a val split, or something that is no image.
    """
    if count is not None and count < LEAST:
        raise UsageError(f"--images {count} is too few for ranges ({LEAST} or more are needed). Leave it out for all.")
    from ffnet_deploy.data.cityscapes import is_root
    from ffnet_deploy.data.imagenet.layouts import class_folders

    split: Split = "val" if allow_val else "train"
    if graph.spec.task == "classification":
        if class_folders(data, "train") or class_folders(data, "val"):
            return _imagenet(graph, data, count, split)
    elif is_root(data):
        return _cityscapes(graph, data, count, split)
    return _folder(graph, data, count, allow_val=allow_val)


def _chosen(found: int, count: int | None, where: Path) -> list[int]:
    """Which of the images there are: evenly spaced, so that each city or scene has its part."""
    from ffnet_deploy.data.pictures import evenly

    if found < max(count or 0, LEAST):
        wanted = f"{count} were asked for" if count else f"{LEAST} or more are needed"
        raise DataError(f"{where} holds {found} images ({wanted}). Name another folder, or a smaller --images.")
    return evenly(found, count or DEFAULT)


def _size(graph: Graph) -> tuple[int, int]:
    """(H, W) of images as evaluation takes them: twice the network's input where the blur halves them before it."""
    _, _, height, width = graph.shape
    return (2 * height, 2 * width) if graph.spec.pre_down_twin else (height, width)


def _ready(graph: Graph, image: np.ndarray) -> np.ndarray:
    from ffnet_deploy.data.images import blur_and_halve, normalise

    ready = normalise(image)
    return blur_and_halve(ready) if graph.spec.pre_down_twin else ready


def _cityscapes(graph: Graph, root: Path, count: int | None, split: Split) -> Images:
    from ffnet_deploy.data import cityscapes

    if not cityscapes.has_split(root, split):
        raise DataError(f"{root} has no {split} split (leftImg8bit/{split}/CITY was needed). {_HINT}")
    size = _size(graph)
    samples = cityscapes.find_split(root, split).samples
    picked = tuple(samples[i] for i in _chosen(len(samples), count, root / "leftImg8bit" / split))
    key = hash_json([list(cityscapes.fingerprint(picked)), size, graph.shape])

    def read(sample: cityscapes.CityscapesSample) -> np.ndarray:
        return _ready(graph, cityscapes.load(sample, size).image)

    names = tuple(sample.name for sample in picked)
    readers = tuple(partial(read, sample) for sample in picked)
    return Images(f"Cityscapes {split}", names, key, readers, resized=False, val=split == "val")


def _imagenet(graph: Graph, root: Path, count: int | None, split: Split) -> Images:
    from ffnet_deploy.data.imagenet import ImageSample, find_set, load
    from ffnet_deploy.data.imagenet.layouts import class_folders

    if not _cropped(graph):
        raise UsageError(
            f"{graph.path.name} takes {graph.shape[2]}x{graph.shape[3]}, and ImageNet's images are cropped to 224x224. "
            f"Run: {graph.run('export')}"
        )
    folder = class_folders(root, split)
    if folder is None:
        raise DataError(f"{root} has no {split} split ({split}/WNID was needed). {_HINT}")
    samples = find_set(folder).samples
    picked = [samples[i] for i in _chosen(len(samples), count, folder)]
    names = tuple(sample.name for sample in picked)
    contents = [hashlib.sha256(sample.source.read()).hexdigest() for sample in picked]

    def read(sample: ImageSample) -> np.ndarray:
        return _ready(graph, load(sample))

    readers = tuple(partial(read, sample) for sample in picked)
    key = hash_json([names, contents, "resized and cropped", graph.shape])
    return Images(f"ImageNet {split}", names, key, readers, resized=False, val=split == "val")


def _cropped(graph: Graph) -> bool:
    """Whether the graph takes images as ImageNet's evaluation makes them."""
    return graph.spec.task == "classification" and graph.shape[2:] == graph.spec.input_hw


def _folder(graph: Graph, folder: Path, count: int | None, *, allow_val: bool) -> Images:
    from ffnet_deploy.data.images import decode_and_crop
    from ffnet_deploy.data.pictures import find_pictures, resized
    from ffnet_deploy.data.stored import File

    files = find_pictures(folder)
    val = [path for path in files if _is_val(path)]
    if val and not allow_val:
        raise DataError(f"{folder} holds images of a val split, first {val[0]}: models are scored on those. {_HINT}")
    size, cropped = _size(graph), _cropped(graph)
    picked = [files[i] for i in _chosen(len(files), count, folder)]
    names = tuple(shown(path.relative_to(folder)) for path in picked)
    contents = [hashlib.sha256(File(path).read()).hexdigest() for path in picked]
    key = hash_json([names, contents, "resized and cropped" if cropped else size, graph.shape])

    def read(path: Path) -> np.ndarray:
        if cropped:
            return _ready(graph, decode_and_crop(path, File(path).read()))
        return _ready(graph, resized(path, size))

    readers = tuple(partial(read, path) for path in picked)
    return Images("folder of images", names, key, readers, resized=not cropped, val=bool(val))


def _is_val(path: Path) -> bool:
    """Whether a picture belongs to a val split.

    The name of a folder above it tells, before and after links are followed. The name of a published val image tells
    too, wherever it lies.
    """
    from ffnet_deploy.data.cityscapes import OFFICIAL_VAL
    from ffnet_deploy.data.imagenet.truth import number_of

    folders = {*Path(os.path.abspath(path)).parts[:-1], *path.resolve().parts[:-1]}  # noqa: PTH100 - keeps links
    city = path.name.partition("_")[0] in OFFICIAL_VAL and path.name.endswith("_leftImg8bit.png")
    return bool(folders & {"val", "validation"}) or city or number_of(path.name) is not None


def of_one_colour(image: np.ndarray) -> bool:
    """Whether all pixels of a float32 (1, 3, H, W) are the same."""
    return bool((image == image[:, :, :1, :1]).all())


def batches(images: Images, size: int, start: int) -> Iterator[tuple[list[str], np.ndarray]]:
    """Inputs of ``size`` images from the image ``start`` on; the last one is filled up by repeating.

    Yields:
        The names of the images that count, and float32 (size, 3, H, W).
    """
    import numpy as np

    from ffnet_deploy.data.images import filled

    for first in range(start, len(images.names), size):
        ready = [read() for read in images.readers[first : first + size]]
        for name, image in zip(images.names[first:], ready, strict=False):
            if of_one_colour(image):
                raise DataError(
                    f"{name} is one colour throughout (a picture was needed: it says nothing of ranges). Remove it, "
                    "or name other images."
                )
        yield list(images.names[first : first + size]), np.concatenate(filled(ready, size))

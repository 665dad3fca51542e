"""ImageNet's validation set, wherever its pictures and their truth are, and one sample as the network takes it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ffnet_deploy.data.imagenet.layouts import Found, found_in
from ffnet_deploy.data.imagenet.truth import CLASSES, number_of, real_labels_from
from ffnet_deploy.data.images import decode_and_crop
from ffnet_deploy.data.stored import Stored
from ffnet_deploy.errors import DataError

OFFICIAL = 50_000
_EACH = OFFICIAL // CLASSES


@dataclass(frozen=True, slots=True)
class ImageSample:
    """One picture and its truth."""

    name: str
    """Unique in the set: folder and file, the file alone, or shard and row."""
    source: Stored
    label: int
    """0..999, the rank of the class's wnid."""
    real: tuple[int, ...] | None
    """ReaL labels, any of which is right. Empty if the authors found none: such pictures do not count. None if the set
    is scored without ReaL labels."""


@dataclass(frozen=True, slots=True)
class ImageNetSet:
    """Pictures with their truth, sorted by name.

    Labels stay 0..999 in a subset of the classes too: the arg-max is over all 1000, as for the whole set.
    """

    root: Path
    samples: tuple[ImageSample, ...]
    layout: str
    """Where pictures and truth were found."""
    classes: tuple[int, ...]
    """Labels that occur, ascending."""
    official: bool
    """As large as the published validation set: 1000 classes of 50 pictures."""

    @property
    def title(self) -> str:
        """How results name the set."""
        count = len(self.samples)
        if self.official:
            return f"ImageNet val, {count} images"
        what = "custom set" if len(self.classes) == CLASSES else f"subset, {len(self.classes)} classes"
        return f"{what}, {count} images"


def find_set(root: Path, *, real_labels: Path | None = None) -> ImageNetSet:
    """List a set in any of its layouts, and check that it is complete. No picture is read.

    Args:
        root: the folder, tar or parquet file. Looked for in turn: ``val``, ``validation``, ``ILSVRC/Data/CLS-LOC/val``
            or ``root`` itself with class folders (wnids, or indices 0..999) or with plain files; then
            ``ILSVRC2012_img_val.tar``; then parquet shards. Files without class folders take their truth from
            ``val.txt``, ``imagenet_val.txt``, ``LOC_val_solution.csv`` or the devkit beside or above them.
        real_labels: JSON list of 50,000 lists, by number of the ``ILSVRC2012_val`` file.

    Raises:
        DataError: nothing of the kind there, a class that ImageNet does not have, pictures without truth or the
            reverse, a picture twice, or a part of the published set missing.
        MissingDependencyError: the devkit needs SciPy, parquet shards need PyArrow.
    """
    layout, found = found_in(root)
    _check(root, found)
    real = real_labels_from(real_labels) if real_labels else None
    samples = tuple(
        ImageSample(picture.name, picture.source, label, _real(real, real_labels, picture.file))
        for picture, label in sorted(found, key=lambda item: item.picture.name)
    )
    counts = Counter(sample.label for sample in samples)
    official = len(counts) == CLASSES and set(counts.values()) == {_EACH}
    return ImageNetSet(root, samples, layout, tuple(sorted(counts)), official)


def load(sample: ImageSample) -> np.ndarray:
    """Read and decode a sample: uint8 (224, 224, 3), RGB.

    Raises:
        DataError: it cannot be read, or is damaged.
    """
    return decode_sample(sample, sample.source.read())


def decode_sample(sample: ImageSample, data: bytes) -> np.ndarray:
    """What :func:`load` makes of the sample's bytes, for callers that also hash what they read.

    Raises:
        DataError: the bytes are damaged, or no picture.
    """
    return decode_and_crop(sample.source, data)


def _check(root: Path, found: list[Found]) -> None:
    """Refuse a set that has a picture twice, or that is an interrupted copy of the published set."""
    numbers: dict[int, Found] = {}
    for item in found:
        number = number_of(item.picture.file)
        if number is None:
            continue
        if number in numbers:
            raise DataError(
                f"{root} has picture {number} of the validation set twice: {numbers[number].picture.source} and "
                f"{item.picture.source} (once was needed). Remove one of them."
            )
        numbers[number] = item
    counts = Counter(item.label for item in numbers.values())
    whole = sum(count == _EACH for count in counts.values())
    # A random sample of the set lacks pictures of every class. A copy that was cut off has some whole classes.
    cut = sorted(label for label, count in counts.items() if count < _EACH)
    if whole and cut:
        raise DataError(
            f"{root} has {counts[cut[0]]} of the {_EACH} validation pictures of class {cut[0]}, and {len(cut) - 1} "
            f"more classes are not whole, while {whole} are (all or none was needed). Copy the set again."
        )


def _real(real: list[tuple[int, ...]] | None, path: Path | None, file: str) -> tuple[int, ...] | None:
    if real is None:
        return None
    number = number_of(file)
    if number is None:
        raise DataError(
            f"{path} has labels by number of the validation picture, and {file} has none "
            "(ILSVRC2012_val_NNNNNNNN was needed). Score this set without --real-labels."
        )
    return real[number - 1]

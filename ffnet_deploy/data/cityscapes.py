"""Cityscapes: its classes, its folder layout, and whether a set is complete."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ffnet_deploy.data.images import decode
from ffnet_deploy.errors import DataError

CLASSES = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation", "terrain",
    "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
)  # fmt: skip
"""Names by train id. Source: cityscapesScripts @0bcc4a7 ``helpers/labels.py``, as are the two tables below."""
LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""Label id by train id."""
_HIGHEST_ID = 33
_UNKNOWN = 254
IGNORED = 255

_IMAGE_END = "_leftImg8bit.png"
_LABEL_END = "_gtFine_labelIds.png"
OFFICIAL_VAL = {"frankfurt": 267, "lindau": 59, "munster": 174}
SIZE = (1024, 2048)


def _train_id_table() -> np.ndarray:
    table = np.full(256, _UNKNOWN, np.uint8)
    table[: _HIGHEST_ID + 1] = IGNORED
    table[255] = IGNORED  # -1, license plates
    table[list(LABEL_IDS)] = range(len(LABEL_IDS))
    return table


_TRAIN_IDS = _train_id_table()


class Sample(NamedTuple):
    """One image and its labels, as files."""

    name: str
    """``city/city_000000_000019``."""
    image: Path
    labels: Path


@dataclass(frozen=True, slots=True)
class CityscapesSplit:
    """A complete split: every image has its labels, and the reverse."""

    root: Path
    samples: tuple[Sample, ...]
    official: bool
    """The published val set with its 500 images."""

    @property
    def title(self) -> str:
        """How results name the set."""
        count = len(self.samples)
        return f"Cityscapes val, {count} images" if self.official else f"custom set, {count} images"


def find_split(root: Path, split: str = "val") -> CityscapesSplit:
    """List a split of the official layout and hold it to completeness.

    Raises:
        DataError: no such folders, nothing in them, an image without labels or the reverse, or an official val
            with files missing.
    """
    images = _files(root, root / "leftImg8bit" / split, _IMAGE_END)
    labels = _files(root, root / "gtFine" / split, _LABEL_END)
    for found, other, what in ((images, labels, "labels (gtFine)"), (labels, images, "image (leftImg8bit)")):
        lonely = sorted(found.keys() - other.keys())
        if lonely:
            raise DataError(
                f"{len(lonely)} of {len(found)} files below {root} have no {what}, first {found[lonely[0]]} "
                "(every image needs its labels and the reverse). Copy what is missing from the data set."
            )
    samples = tuple(Sample(name, images[name], labels[name]) for name in sorted(images))
    cities = {city: sum(s.name.startswith(f"{city}/") for s in samples) for city in OFFICIAL_VAL}
    official = split == "val" and any(cities.values())
    if official and (cities != OFFICIAL_VAL or len(samples) != sum(OFFICIAL_VAL.values())):
        have = ", ".join(f"{city} {count} of {OFFICIAL_VAL[city]}" for city, count in cities.items())
        raise DataError(
            f"{root} is not the whole Cityscapes val: {have}, {len(samples)} images in all (500 were needed). "
            "Unpack leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip again; put other images in another folder."
        )
    return CityscapesSplit(root, samples, official)


def _files(root: Path, folder: Path, ending: str) -> dict[str, Path]:
    if not folder.is_dir():
        raise DataError(
            f"{folder} does not exist (the official layout leftImg8bit/val/CITY and gtFine/val/CITY was needed). "
            f"Name the folder that holds leftImg8bit and gtFine with --root, not {root}."
        )
    files = [p for p in folder.glob("*/*") if not p.name.startswith(".")]
    _refuse_strangers(files, ending)
    found = {f"{p.parent.name}/{p.name.removesuffix(ending)}": p for p in files if p.name.endswith(ending)}
    if not found:
        raise DataError(
            f"{folder} holds no CITY/*{ending} (the official names were needed). Unpack the data set there."
        )
    return found


def _refuse_strangers(files: list[Path], ending: str) -> None:
    """Pictures whose names are nearly right would be missing from the set without a word.

    gtFine holds other pictures by right (colours, instances); leftImg8bit holds none.
    """
    for path in sorted(files):
        name = path.name.lower()
        picture = name.endswith((".png", ".jpg", ".jpeg")) if ending == _IMAGE_END else name.endswith(ending.lower())
        if picture and not path.name.endswith(ending):
            raise DataError(f"{path} is not named as Cityscapes names it (…{ending} was needed). Rename or move it.")


class Loaded(NamedTuple):
    """One decoded sample."""

    image: np.ndarray
    """uint8 (H, W, 3), RGB."""
    truth: np.ndarray
    """uint8 (H, W), train ids 0..18; 255 is ignored."""


def load(sample: Sample, size: tuple[int, int] = SIZE) -> Loaded:
    """Decode a sample and map its label ids to train ids.

    Args:
        sample: the two files.
        size: (H, W) that both must have; the protocol resizes neither.

    Raises:
        DataError: a file is damaged or of another size, or the labels have ids beyond the table.
    """
    image = decode(sample.image, _read(sample.image), "RGB")
    ids = decode(sample.labels, _read(sample.labels), "L")
    for path, found in ((sample.image, image.shape[:2]), (sample.labels, ids.shape)):
        if found != size:
            raise DataError(
                f"{path} is {found[0]}x{found[1]} ({size[0]}x{size[1]} was needed: the protocol resizes nothing). "
                "Use the original files of the data set."
            )
    truth = _TRAIN_IDS[ids]
    if (truth == _UNKNOWN).any():
        strange = sorted({int(i) for i in np.unique(ids[truth == _UNKNOWN])})
        raise DataError(
            f"{sample.labels} has label ids {strange[:8]} (0 to {_HIGHEST_ID} were needed). "
            "Use *_gtFine_labelIds.png as published, not resized or coloured ones."
        )
    return Loaded(image, truth)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}). Check the disk and its permissions.") from error


def fingerprint(samples: tuple[Sample, ...]) -> Iterator[str]:
    """SHA-256 of each sample's name, image file and label file, in order."""
    for sample in samples:
        digest = hashlib.sha256(sample.name.encode())
        digest.update(hashlib.sha256(_read(sample.image)).digest())
        digest.update(hashlib.sha256(_read(sample.labels)).digest())
        yield digest.hexdigest()

"""Cityscapes: its classes, its folder layout, and whether a set is complete."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from ffnet_deploy.data.decoding import decode_labels, decode_rgb
from ffnet_deploy.data.folders import entries, is_clutter, is_picture, is_unread_picture
from ffnet_deploy.data.stored import File, Stored, ZipMember, members
from ffnet_deploy.errors import DataError
from ffnet_deploy.foreign import shown

CLASSES = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation", "terrain",
    "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
)  # fmt: skip
"""Names by train id. Source: cityscapesScripts @0bcc4a7 ``helpers/labels.py``, as are the tables below."""
LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""Label id by train id."""
CATEGORIES = {
    "flat": (0, 1), "construction": (2, 3, 4), "object": (5, 6, 7), "nature": (8, 9), "sky": (10,),
    "human": (11, 12), "vehicle": (13, 14, 15, 16, 17, 18),
}  # fmt: skip
"""Train ids by category."""
_HIGHEST_ID = 33
_UNKNOWN = 254
IGNORED = 255

_IMAGE_END = "_leftImg8bit.png"
_LABEL_ENDS = {"label ids": "_gtFine_labelIds.png", "train ids": "_gtFine_labelTrainIds.png"}
_DEEPEST = 4
"""Folders below a city that are still looked into: a loop of links has no end."""
OFFICIAL_VAL = {"frankfurt": 267, "lindau": 59, "munster": 174}
SIZE = (1024, 2048)


def _train_id_table() -> np.ndarray:
    table = np.full(256, _UNKNOWN, np.uint8)
    table[: _HIGHEST_ID + 1] = IGNORED
    table[255] = IGNORED  # -1, license plates
    table[list(LABEL_IDS)] = range(len(LABEL_IDS))
    return table


def _identity_table() -> np.ndarray:
    table = np.full(256, _UNKNOWN, np.uint8)
    table[: len(LABEL_IDS)] = range(len(LABEL_IDS))
    table[255] = IGNORED
    return table


_TABLES = {"label ids": _train_id_table(), "train ids": _identity_table()}


class CityscapesSample(NamedTuple):
    """One image and its labels, wherever their bytes are."""

    name: str
    """``city/city_000000_000019``."""
    image: Stored
    labels: Stored
    values: str = "label ids"
    """What the label image holds: ``label ids`` or ``train ids``."""

    def stamp(self) -> str:
        """Changes when one of the two does, as far as that can be told without reading them."""
        return f"{self.image.stamp()} {self.labels.stamp()}"


@dataclass(frozen=True, slots=True)
class CityscapesSplit:
    """A complete split: every image has its labels, and all labels have their image."""

    root: Path
    samples: tuple[CityscapesSample, ...]
    official: bool
    """The published val set with its 500 images."""
    layout: str = "folders, label ids"
    """Where images and labels were found, and what the labels hold."""

    @property
    def title(self) -> str:
        """How results name the set."""
        count = len(self.samples)
        return f"Cityscapes val, {count} images" if self.official else f"custom set, {count} images"


def find_split(root: Path, split: str = "val") -> CityscapesSplit:
    """List a split and check that it is complete. Nothing is unpacked or copied.

    Images and labels are taken from ``leftImg8bit/SPLIT`` and ``gtFine/SPLIT``, from the same below
    ``leftImg8bit_trainvaltest/`` and ``gtFine_trainvaltest/``, or from the two official zip archives of these names;
    labels are ``*_labelIds.png`` or, where there are none, ``*_labelTrainIds.png``.

    Raises:
        DataError: no such folders, nothing in them, an image without labels or the reverse, or an official val
            with files missing.
    """
    (pictures, here), (truths, there) = (_stored(root, kind, split) for kind in ("leftImg8bit", "gtFine"))
    values = next((v for v, end in _LABEL_ENDS.items() if any(n.endswith(end) for n in truths)), "label ids")
    images = _named(pictures, here, _IMAGE_END)
    labels = _named(truths, there, _LABEL_ENDS[values])
    for found, other, what in ((images, labels, "labels (gtFine)"), (labels, images, "image (leftImg8bit)")):
        lonely = sorted(found.keys() - other.keys())
        if lonely:
            raise DataError(
                f"{len(lonely)} of {len(found)} files below {root} have no {what}, first {found[lonely[0]]} "
                "(every image needs its labels and the reverse). Copy what is missing from the data set."
            )
    samples = tuple(CityscapesSample(name, images[name], labels[name], values) for name in sorted(images))
    cities = {city: sum(s.name.startswith(f"{city}/") for s in samples) for city in OFFICIAL_VAL}
    official = split == "val" and any(cities.values())
    if official and (cities != OFFICIAL_VAL or len(samples) != sum(OFFICIAL_VAL.values())):
        have = ", ".join(f"{city} {count} of {OFFICIAL_VAL[city]}" for city, count in cities.items())
        raise DataError(
            f"{root} is not the whole Cityscapes val: {have}, {len(samples)} images in all (500 were needed). "
            "Unpack leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip again; put other images in another folder."
        )
    where = dict.fromkeys("zip" if place.suffix == ".zip" else "folders" for place in (here, there))
    return CityscapesSplit(root, samples, official, f"{' and '.join(where)}, {values}")


def is_root(folder: Path) -> bool:
    """Whether a folder holds Cityscapes' images, in any layout that :func:`find_split` reads."""
    if not folder.is_dir():
        return False
    inside = ((folder / "leftImg8bit"), folder / "leftImg8bit_trainvaltest")
    return any(path.exists() for path in inside) or any(
        "leftImg8bit" in PurePosixPath(member).parts
        for archive in _archives(folder)
        for member in _members(archive, folder / "leftImg8bit_trainvaltest.zip")
    )


def has_split(root: Path, split: str) -> bool:
    """Whether there are images of a split."""
    place = _place(root, "leftImg8bit", split)
    return place is not None and bool(place.files)


class _Place(NamedTuple):
    files: Mapping[str, Stored]
    """By their names below the split: ``CITY/NAME``, if they lie where they should."""
    where: Path
    """Folder or archive."""


def _stored(root: Path, kind: str, split: str) -> _Place:
    place = _place(root, kind, split)
    if place is None:
        raise DataError(
            f"{root / kind / split} does not exist (leftImg8bit/{split}/CITY and gtFine/{split}/CITY, or the archives "
            "leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip, were needed). "
            f"Name the folder that holds leftImg8bit and gtFine with --root, not {root}."
        )
    return place


def _place(root: Path, kind: str, split: str) -> _Place | None:
    """The files of a split; None if there is neither folder nor archive."""
    for folder in (root / kind / split, root / f"{kind}_trainvaltest" / kind / split):
        if folder.is_dir():
            return _Place(dict(_files(folder)), folder)
    inside = re.compile(rf"(?:^|/){kind}/{split}/(.+)$")
    found = []
    for archive in _archives(root):
        matches = ((inside.search(member), member) for member in _members(archive, root / f"{kind}_trainvaltest.zip"))
        files = {
            shown(match[1]): ZipMember(archive, member)
            for match, member in matches
            if match and not any(map(is_clutter, PurePosixPath(member).parts))
        }
        if files:
            found.append(_Place(files, archive))
    if len(found) > 1:
        raise DataError(
            f"{found[0].where} and {found[1].where} both hold {kind}/{split} (one archive was needed). "
            "Move the other away."
        )
    return found[0] if found else None


def _members(archive: Path, official: Path) -> list[str]:
    """Names in an archive; none if it cannot be read, unless it is the official one: others may lie there too."""
    try:
        return members(archive)
    except DataError:
        if archive == official:
            raise
        return []


def _archives(root: Path) -> list[Path]:
    """The zip archives in a folder, whatever they are called: browsers write ``… (1).zip``."""
    return [path for path in entries(root) if path.suffix.lower() == ".zip"] if root.is_dir() else []


def _files(folder: Path, above: str = "") -> Iterator[tuple[str, Stored]]:
    """Every file of a split, at any depth: what lies at the wrong one is refused, not passed over."""
    for path in entries(folder):
        name = f"{above}{shown(path.name)}"
        if not path.is_dir():
            yield name, File(path)
        elif above.count("/") < _DEEPEST:
            yield from _files(path, f"{name}/")


def _named(files: Mapping[str, Stored], place: Path, ending: str) -> dict[str, Stored]:
    """The files with an ending, by the name before it."""
    _refuse_strangers(files, ending)
    found = {name.removesuffix(ending): stored for name, stored in files.items() if name.endswith(ending)}
    if not found:
        polygons = any(name.endswith("_gtFine_polygons.json") for name in files)
        hint = (
            "It has polygons alone: draw the label images with cityscapesScripts' csCreateTrainIdLabelImgs."
            if polygons
            else "Unpack the data set there."
        )
        raise DataError(f"{place} holds no CITY/*{ending} (the official names were needed). {hint}")
    return found


def _refuse_strangers(files: Mapping[str, Stored], ending: str) -> None:
    """Refuse pictures whose names are nearly right: they would be missing from the set without a word.

    In gtFine other pictures are normal (colours, instances). In leftImg8bit there are none.
    """
    for name in sorted(files):
        lower = name.lower()
        counts = is_picture(name) or is_unread_picture(name) if ending == _IMAGE_END else lower.endswith(ending.lower())
        if counts and lower.endswith((".jpg", ".jpeg")):
            raise DataError(
                f"{files[name]} is a JPEG picture (the published PNG was needed: compression changes the pixels). "
                "Use the original files of the data set."
            )
        if counts and not name.endswith(ending):
            raise DataError(
                f"{files[name]} is not named as Cityscapes names it (…{ending} was needed). Rename or move it."
            )
        if counts and name.count("/") != 1:
            raise DataError(f"{files[name]} is in no folder of a city (SPLIT/CITY/NAME was needed). Move it.")


class LoadedSample(NamedTuple):
    """One decoded sample."""

    image: np.ndarray
    """uint8 (H, W, 3), RGB."""
    truth: np.ndarray
    """uint8 (H, W), train ids 0..18; 255 is ignored."""


def load(sample: CityscapesSample, size: tuple[int, int] = SIZE) -> LoadedSample:
    """Decode a sample and map its label ids to train ids.

    Args:
        sample: the two files.
        size: (H, W) that both must have; the protocol resizes neither.

    Raises:
        DataError: a file is damaged or of another size, or the labels have ids beyond the table.
    """
    return decoded(sample, sample.image.read(), sample.labels.read(), size)


def decoded(
    sample: CityscapesSample, image_bytes: bytes, label_bytes: bytes, size: tuple[int, int] = SIZE
) -> LoadedSample:
    """The same from bytes that were read already."""
    image = decode_rgb(sample.image, image_bytes, size)
    ids = decode_labels(sample.labels, label_bytes, size)
    truth = np.take(_TABLES[sample.values], ids)
    if (truth == _UNKNOWN).any():
        strange = sorted({int(i) for i in np.unique(ids[truth == _UNKNOWN])})
        highest = _HIGHEST_ID if sample.values == "label ids" else len(LABEL_IDS) - 1
        raise DataError(
            f"{sample.labels} has label ids {strange[:8]} (0 to {highest} were needed). "
            f"Use *{_LABEL_ENDS[sample.values]} as published, not resized or coloured ones."
        )
    return LoadedSample(image, truth)


def fingerprint(samples: tuple[CityscapesSample, ...]) -> Iterator[str]:
    """SHA-256 of each sample's name, image file and label file, in order."""
    for sample in samples:
        yield sample_sha256(sample.name, sample.image.read(), sample.labels.read())


def sample_sha256(name: str, image: bytes, labels: bytes) -> str:
    """Hex SHA-256 of a sample's name and the SHA-256 of its two files."""
    digest = hashlib.sha256(name.encode())
    digest.update(hashlib.sha256(image).digest())
    digest.update(hashlib.sha256(labels).digest())
    return digest.hexdigest()

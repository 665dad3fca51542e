"""The truth of ImageNet's validation pictures: wnids, lists, the competition's CSV, the devkit, ReaL labels."""

from __future__ import annotations

import csv
import io
import lzma
import re
import tarfile
import zlib
from collections.abc import Callable, Iterable
from functools import cache, partial
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from ffnet_deploy.data.imagenet.synsets import leaves
from ffnet_deploy.errors import DataError
from ffnet_deploy.foreign import load_json

CLASSES = 1000
_OFFICIAL = 50_000

_LISTS = ("val.txt", "imagenet_val.txt")
_CSV = "LOC_val_solution.csv"
_DEVKIT = "ILSVRC2012_devkit_t12"
_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
_SYNSETS = "meta.mat"
_NUMBERED = re.compile(r"ILSVRC2012_val_(\d{8})(?:_(n\d{8}))?$")


_MOST_BYTES = 1 << 26
"""Of a file with labels; the largest published one has 3 MB."""
_INDEX = re.compile(r"0*[0-9]{1,3}", re.ASCII)
"""0 to 999, also with zeros before it."""


class Named(NamedTuple):
    """Labels that a file beside the pictures gives."""

    path: Path
    labels: dict[str, int]
    """By the picture's file name without ending."""


@cache
def wnids() -> dict[str, int]:
    """Index of each of the 1000 wnids: its rank among them."""
    lines = resources.files("ffnet_deploy.data").joinpath("wnids.txt").read_text("utf-8").split()
    return {wnid: index for index, wnid in enumerate(lines)}


def class_of(text: str) -> int | None:
    """Index of a class that is given by wnid or by index; None if ImageNet has no such class."""
    if _INDEX.fullmatch(text):
        return int(text)
    return wnids().get(text)


def stem_of(file: str) -> str:
    """A picture's name without folders and ending, as lists and files are matched."""
    name = PurePosixPath(file).name
    return name if "." not in name else name.rpartition(".")[0]


def number_of(file: str) -> int | None:
    """1..50000 from ``ILSVRC2012_val_00000001.JPEG``; None for other names."""
    found = _NUMBERED.match(stem_of(file))
    return int(found[1]) if found and 1 <= int(found[1]) <= _OFFICIAL else None


def wnid_in(file: str) -> str | None:
    """The wnid in ``ILSVRC2012_val_00000001_n01751748.JPEG``, as one published archive names its files."""
    found = _NUMBERED.match(stem_of(file))
    return found[2] if found else None


def truth_beside(folders: Iterable[Path]) -> Named | None:
    """The first file with labels in these folders.

    Raises:
        DataError: it cannot be read, names a picture twice, or a class that ImageNet does not have.
        MissingDependencyError: it is the devkit, and SciPy is absent.
    """
    for folder in folders:
        for name in _LISTS:
            if (folder / name).is_file():
                return Named(folder / name, _from_list(folder / name))
        if (folder / _CSV).is_file():
            return Named(folder / _CSV, _from_csv(folder / _CSV))
        for kit in (folder, folder / "data", folder / _DEVKIT / "data"):
            if (kit / _TRUTH).is_file():
                return Named(kit / _TRUTH, _from_devkit(kit / _TRUTH, partial(_file, kit)))
        archive = folder / f"{_DEVKIT}.tar.gz"
        if archive.is_file():
            return Named(archive, _from_devkit(archive, partial(_member, archive)))
    return None


def real_labels_from(path: Path) -> list[tuple[int, ...]]:
    """ReaL labels of the 50,000 pictures, by number less 1.

    Raises:
        DataError: the file is no such list.

    Source: google-research/reassessed-imagenet ``real.json``.
    """
    try:
        lists = load_json(_text(path))
    except ValueError as error:
        raise DataError(f"{path} is not JSON ({error}). Download real.json again.") from error
    if not isinstance(lists, list) or len(lists) != _OFFICIAL:
        found = f"{len(lists)} entries" if isinstance(lists, list) else f"a {type(lists).__name__}"
        raise DataError(f"{path} holds {found} (a list of {_OFFICIAL} lists was needed). Download real.json again.")
    for number, labels in enumerate(lists, 1):
        # A bool is an int to isinstance.
        if not isinstance(labels, list) or not all(type(i) is int and 0 <= i < CLASSES for i in labels):
            raise DataError(
                f"{path} has {str(labels)[:40]} for picture {number} (a list of indices 0 to {CLASSES - 1} was "
                "needed). Download real.json again."
            )
    return [tuple(labels) for labels in lists]


# --- files with labels ----------------------------------------------------------------------------------------------


def _from_list(path: Path) -> dict[str, int]:
    """``NAME INDEX`` or ``NAME WNID`` on each line; folders before the name and its ending do not matter."""
    labels: dict[str, int] = {}
    for number, line in enumerate(_text(path).splitlines(), 1):
        if not line.strip():
            continue
        name, _, given = line.strip().replace("\t", " ").rpartition(" ")
        label = class_of(given)
        if not name or label is None:
            raise DataError(
                f"{path}, line {number} is {line.strip()[:60]!r} (a file's name and its class, an index 0 to "
                f"{CLASSES - 1} or one of the {CLASSES} wnids, were needed). Correct the list."
            )
        _add(path, labels, stem_of(name.strip()), label)
    return labels


def _from_csv(path: Path) -> dict[str, int]:
    """``ImageId,PredictionString``; the string is wnid and box, once or more, of one class."""
    labels: dict[str, int] = {}
    try:
        rows = list(csv.DictReader(io.StringIO(_text(path)), strict=True))
    except csv.Error as error:
        raise DataError(f"{path} is no CSV file ({error}). Download {_CSV} again.") from error
    for number, row in enumerate(rows, 2):
        given = (row.get("PredictionString") or "").split()[::5]
        label = class_of(given[0]) if len(set(given)) == 1 else None
        if not row.get("ImageId") or label is None:
            raise DataError(
                f"{path}, line {number} names no picture with one known class (the columns ImageId and "
                f"PredictionString, a wnid and its boxes, were needed). Download {_CSV} again."
            )
        _add(path, labels, stem_of(row["ImageId"]), label)
    return labels


def _add(path: Path, labels: dict[str, int], name: str, label: int) -> None:
    if name in labels:
        raise DataError(f"{path} names {name} twice (once was needed). Remove one of the lines.")
    labels[name] = label


def _from_devkit(path: Path, read: Callable[[str], bytes]) -> dict[str, int]:
    """Line i has picture i's ILSVRC2012_ID. It is not the rank of a wnid; the synset table gives the wnid."""
    ids = _synsets(path, read(_SYNSETS))
    labels: dict[str, int] = {}
    for number, line in enumerate(read(_TRUTH).decode("utf-8", "replace").split(), 1):
        label = ids.get(int(line)) if re.fullmatch(r"[0-9]{1,4}", line) else None
        if label is None:
            raise DataError(
                f"{path} gives {line[:20]!r} for picture {number} (an ILSVRC2012_ID that {_SYNSETS} maps to one of the "
                f"{CLASSES} wnids was needed). Download {_DEVKIT}.tar.gz again."
            )
        labels[f"ILSVRC2012_val_{number:08d}"] = label
    return labels


def _synsets(path: Path, data: bytes) -> dict[int, int]:
    """Class index by ILSVRC2012_ID."""
    try:
        found = leaves(data)
    except ValueError as error:
        raise DataError(f"{_SYNSETS} of {path} cannot be read ({error}). Download {_DEVKIT}.tar.gz again.") from error
    return {number: wnids()[wnid] for number, wnid in found if wnid in wnids()}


def _file(folder: Path, name: str) -> bytes:
    return _bytes(folder / name)


def _member(archive: Path, name: str) -> bytes:
    try:
        with tarfile.open(archive) as kit:
            # A tar has no directory: what is wanted may be anywhere.
            for info in kit:
                if PurePosixPath(info.name).name == name and info.isfile():
                    member = kit.extractfile(info)
                    if member is not None and info.size <= _MOST_BYTES:
                        return member.read()
    except (tarfile.TarError, OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
        raise DataError(f"{archive} cannot be read ({error}). Download it again.") from error
    raise DataError(f"{archive} holds no {name} (the devkit of task 1 and 2 was needed). Download it again.")


def _bytes(path: Path) -> bytes:
    try:
        if path.exists() and not path.is_file():
            raise DataError(f"{path} is no file (a list of labels was needed). Name another.")
        if path.stat().st_size > _MOST_BYTES:
            raise DataError(f"{path} is larger than any list of labels ({_MOST_BYTES:,} bytes at most). Name another.")
        return path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror}). Copy it again, or check its permissions."
        ) from error


def _text(path: Path) -> str:
    try:
        return _bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no text in UTF-8 ({error.reason}). Download or write it again.") from error

"""Folders that a user named: what lies in them, and one rule for what is passed over and what is refused."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from ffnet_deploy.errors import DataError

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
_NOT_READ = (".gif", ".heic", ".heif", ".avif", ".jp2", ".jxl", ".exr", ".hdr", ".tga", ".dng", ".cr2", ".nef", ".arw")
"""Pictures of kinds that are not read. To pass over them would be to use a part of what was meant."""
_CLUTTER = frozenset(
    ("thumbs.db", "ehthumbs.db", "desktop.ini", "@eadir", "__macosx", "#recycle", "$recycle.bin",
     "system volume information", "lost+found")
)  # fmt: skip
"""What operating systems, file servers and archivers leave, in lower case."""


def is_clutter(name: str) -> bool:
    """Whether an operating system, a file server or an archiver left a file or folder of this name; or it is hidden."""
    return name.startswith(".") or name.lower() in _CLUTTER


def is_picture(name: str) -> bool:
    """Whether a file is a picture by its ending, of a kind that is read."""
    return name.lower().endswith(PICTURES)


def is_unread_picture(name: str) -> bool:
    """Whether a file is a picture by its ending, of a kind that is not read."""
    return name.lower().endswith(_NOT_READ)


class Entry(NamedTuple):
    """What lies in a folder, as listing it told: no further look at each file is needed."""

    path: Path
    is_folder: bool
    is_file: bool


def listed(folder: Path) -> list[Entry]:
    """What lies in a folder, by name; links are followed, clutter is passed over.

    Raises:
        DataError: it cannot be read, or a link in it leads nowhere.
    """
    found = []
    try:
        with os.scandir(folder) as there:
            for entry in there:
                if is_clutter(entry.name):
                    continue
                if entry.is_symlink() and not (folder / entry.name).exists():
                    raise DataError(
                        f"{folder / entry.name} is a link that leads nowhere (a file or folder was needed). "
                        "Restore or remove it."
                    )
                found.append(Entry(folder / entry.name, entry.is_dir(), entry.is_file()))
    except OSError as error:
        raise DataError(
            f"{folder} cannot be read ({error.strerror}). Check its permissions, or name another folder."
        ) from error
    return sorted(found)


def entries(folder: Path) -> list[Path]:
    """The paths of :func:`listed`.

    Raises:
        DataError: as there.
    """
    return [entry.path for entry in listed(folder)]


def pictures_of(there: Iterable[Entry]) -> list[Path]:
    """The pictures among what lies in a folder; other files are passed over.

    Raises:
        DataError: a picture of a kind that is not read.
    """
    return [entry.path for entry in there if _counts(entry)]


def pictures_below(folder: Path) -> Iterator[Path]:
    """The pictures in a folder and in all folders below it; each folder counts once, however many links lead to it.

    Raises:
        DataError: as of :func:`listed` and :func:`pictures_of`.
    """
    seen: set[str] = set()

    def walk(where: Path) -> Iterator[Path]:
        real = os.path.realpath(where)
        if real in seen:
            return
        seen.add(real)
        for entry in listed(where):
            if entry.is_folder:
                yield from walk(entry.path)
            elif _counts(entry):
                yield entry.path

    return walk(folder)


def _counts(entry: Entry) -> bool:
    """Whether something in a folder is a picture.

    Raises:
        DataError: it is one of a kind that is not read, or has a picture's name and is no file.
    """
    if entry.is_folder:
        return False
    if is_unread_picture(entry.path.name):
        raise DataError(
            f"{entry.path} is a picture of a kind that is not read ({', '.join(PICTURES)} are). "
            "Convert such files, or move them out of the folder."
        )
    if not is_picture(entry.path.name):
        return False
    if not entry.is_file:
        # Reading a pipe would wait for ever.
        raise DataError(f"{entry.path} is no file (a picture was needed). Remove it from the folder.")
    return True

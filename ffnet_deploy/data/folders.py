"""Folders that a user named: what lies in them, and one rule for what is passed over and what is refused."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

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


def entries(folder: Path) -> list[Path]:
    """What lies in a folder, by name; links are followed, clutter is passed over.

    Raises:
        DataError: it cannot be read, or a link in it leads nowhere.
    """
    try:
        found = sorted(path for path in folder.iterdir() if not is_clutter(path.name))
    except OSError as error:
        raise DataError(
            f"{folder} cannot be read ({error.strerror}). Check its permissions, or name another folder."
        ) from error
    for path in found:
        if path.is_symlink() and not path.exists():
            raise DataError(f"{path} is a link that leads nowhere (a file or folder was needed). Restore or remove it.")
    return found


def pictures_in(folder: Path) -> list[Path]:
    """The pictures directly in a folder, by name; other files are passed over.

    Raises:
        DataError: as of :func:`entries`, or a picture of a kind that is not read.
    """
    return [path for path in entries(folder) if _counts(path)]


def pictures_below(folder: Path) -> Iterator[Path]:
    """The pictures in a folder and in all folders below it; each folder counts once, however many links lead to it.

    Raises:
        DataError: as of :func:`pictures_in`.
    """
    seen: set[str] = set()

    def walk(where: Path) -> Iterator[Path]:
        real = os.path.realpath(where)
        if real in seen:
            return
        seen.add(real)
        for path in entries(where):
            if path.is_dir():
                yield from walk(path)
            elif _counts(path):
                yield path

    return walk(folder)


def _counts(path: Path) -> bool:
    """Whether a path is a picture.

    Raises:
        DataError: it is one of a kind that is not read, or has a picture's name and is no file.
    """
    if path.is_dir():
        return False
    if is_unread_picture(path.name):
        raise DataError(
            f"{path} is a picture of a kind that is not read ({', '.join(PICTURES)} are). "
            "Convert such files, or move them out of the folder."
        )
    if not is_picture(path.name):
        return False
    if not path.is_file():
        # Reading a pipe would wait for ever.
        raise DataError(f"{path} is no file (a picture was needed). Remove it from the folder.")
    return True

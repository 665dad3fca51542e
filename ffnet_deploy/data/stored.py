"""Where an image's bytes are: a file, a member of a zip or tar that is read in place, or bytes in memory."""

from __future__ import annotations

import lzma
import os
import stat
import struct
import threading
import zipfile
import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

from ffnet_deploy.errors import DataError

MOST_BYTES = 1 << 29
"""Of a picture's file, packed or unpacked: half a gigabyte."""
_DAMAGED = (
    OSError, KeyError, ValueError, EOFError, NotImplementedError, RuntimeError,
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error,
)  # fmt: skip
"""What ``zipfile`` raises on an archive that is damaged, encrypted, or of a kind that it does not know."""


class Stored(Protocol):
    """Some bytes with a name; reading is safe from several threads at once. ``str()`` says where, for messages."""

    def read(self) -> bytes:
        """All the bytes.

        Raises:
            DataError: they cannot be read.
        """
        ...

    def stamp(self) -> str:
        """Changes when the bytes do, as far as that can be told without reading them."""
        ...


@dataclass(frozen=True, slots=True)
class File:
    """A file of its own."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    def read(self) -> bytes:
        try:
            status = self.path.stat()
            if not stat.S_ISREG(status.st_mode):
                # Reading a pipe would wait for ever.
                raise _unreadable(self, OSError("it is no file"))
            _check_size(self, status.st_size)
            return self.path.read_bytes()
        except OSError as error:
            raise _unreadable(self, error) from error

    def stamp(self) -> str:
        return _stamp(self.path)


@dataclass(frozen=True, slots=True)
class ZipMember:
    """A member of a zip archive; each thread keeps the archive open once."""

    archive: Path
    member: str

    def __str__(self) -> str:
        return f"{self.archive}:{self.member}"

    def read(self) -> bytes:
        try:
            archive = _opened(self.archive)
            # What it declares is also the most that zipfile unpacks.
            _check_size(self, archive.getinfo(self.member).file_size)
            return archive.read(self.member)
        except _DAMAGED as error:
            raise _unreadable(self, error) from error

    def stamp(self) -> str:
        try:
            info = _opened(self.archive).getinfo(self.member)
        except _DAMAGED:
            return "absent"
        return f"{info.file_size}:{info.CRC:08x}"


@dataclass(frozen=True, slots=True)
class Slice:
    """A run of bytes inside a file, as a member of an uncompressed tar is."""

    path: Path
    member: str
    offset: int
    size: int

    def __str__(self) -> str:
        return f"{self.path}:{self.member}"

    def read(self) -> bytes:
        _check_size(self, self.size)
        try:
            handle = os.open(self.path, os.O_RDONLY)
            try:
                data = os.pread(handle, self.size, self.offset)
            finally:
                os.close(handle)
        except OSError as error:
            raise _unreadable(self, error) from error
        if len(data) != self.size:
            raise DataError(f"{self} is cut off ({len(data)} of {self.size} bytes are there). Copy the archive again.")
        return data

    def stamp(self) -> str:
        return f"{self.offset}:{self.size}:{_stamp(self.path)}"


def members(archive: Path) -> list[str]:
    """Names of the files in a zip archive.

    Raises:
        DataError: it is no zip archive, or damaged.
    """
    try:
        return list(_listed(archive, _stamp(archive)))
    except _DAMAGED as error:
        raise DataError(f"{archive} cannot be read as a zip archive ({error}). Download it again.") from error


@lru_cache(maxsize=8)
def _listed(archive: Path, _stamp: str) -> tuple[str, ...]:
    """One search asks the same archive several times. It is not kept open: of many few hold what is looked for."""
    with zipfile.ZipFile(archive) as file:
        return tuple(info.filename for info in file.infolist() if not info.is_dir())


_open = threading.local()


def _opened(archive: Path) -> zipfile.ZipFile:
    """This thread's handle of an archive: parsing the directory of thousands of members takes longer than a read."""
    handles: dict[tuple[Path, str], zipfile.ZipFile] = _open.__dict__.setdefault("handles", {})
    key = (archive, _stamp(archive))
    if key not in handles:
        handles[key] = zipfile.ZipFile(archive)
    return handles[key]


def _stamp(path: Path) -> str:
    try:
        status = path.stat()
    except OSError:
        return "absent"
    return f"{status.st_size}:{status.st_mtime_ns}"


def _check_size(what: Stored, size: int) -> None:
    if size > MOST_BYTES:
        raise DataError(f"{what} has {size:,} bytes (a picture of at most {MOST_BYTES:,} was needed). Leave it out.")


def _unreadable(what: Stored, error: Exception) -> DataError:
    why = getattr(error, "strerror", None) or error
    return DataError(f"{what} cannot be read ({why}). Check the disk and its permissions, or copy it again.")

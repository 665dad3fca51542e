"""Zips that are not trusted: their list of members is read only if it is as short as that of weights."""

from __future__ import annotations

import zipfile
from typing import IO, Any, cast

LIST_LIMIT = 1 << 22
"""Bytes of the list of members; the largest published state dict's has a fifth of a megabyte."""


def open_zip(file: IO[bytes]) -> zipfile.ZipFile:
    """A zip in an open file, which is not closed with it.

    Raises:
        ValueError: its list of members is too long.
        BadZipFile: it is none; and whatever else ``zipfile`` raises for damage.
    """
    guarded = _Guarded(file)
    zipped = zipfile.ZipFile(cast("IO[bytes]", guarded))
    guarded.opening = False
    return zipped


class _Guarded:
    """A file of which nothing long is read while a zip is opened: that would be the list, at once and many times."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.opening = True

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever a file has
        return getattr(self._file, name)

    def read(self, size: int = -1) -> bytes:
        if self.opening and size > LIST_LIMIT:
            raise ValueError(f"its list of members has {size} bytes where {LIST_LIMIT} is the limit")
        return self._file.read(size)

"""Pictures inside larger files, read in place: members of the tar, and which parquet shards make a set."""

from __future__ import annotations

import re
import tarfile
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from ffnet_deploy.data.folders import PICTURES, entries, is_clutter, is_picture, is_unread_picture
from ffnet_deploy.data.stored import Slice, Stored
from ffnet_deploy.errors import DataError
from ffnet_deploy.foreign import shown

_SHARD = re.compile(r"(?P<split>.+)-(?P<index>\d+)-of-(?P<count>\d+)(?:-[0-9a-f]+)?$")


class PackedPicture(NamedTuple):
    """One picture, not yet read."""

    name: str
    """Unique in its set."""
    file: str
    """Its own file name, by which lists and numbers name it."""
    source: Stored


def tar_pictures(path: Path) -> list[PackedPicture]:
    """The pictures in an uncompressed tar, as offsets in it; folders in their names are dropped.

    Raises:
        DataError: it is no such tar, is cut off, or holds none.
    """
    try:
        with tarfile.open(path, "r:") as archive:
            members = [(info.name, info.offset_data, info.size) for info in archive if info.isfile()]
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        raise DataError(
            f"{path} cannot be read as an uncompressed tar ({error}). Decompress it, or download it again."
        ) from error
    found = []
    for member, offset, size in members:
        name = shown(PurePosixPath(member).name)
        if any(map(is_clutter, PurePosixPath(member).parts)):
            continue
        if is_unread_picture(name):
            raise DataError(
                f"{path} holds {name}, a picture of a kind that is not read ({', '.join(PICTURES)} are). "
                "Download the archive again."
            )
        if is_picture(name):
            found.append(PackedPicture(name, name, Slice(path, member, offset, size)))
    if not found:
        raise DataError(f"{path} holds no pictures (.JPEG files were needed). Download it again.")
    return found


def shards_in(root: Path) -> list[Path]:
    """The parquet files of the validation split below ``root`` or its ``data``, sorted; empty if there are none.

    Raises:
        DataError: shards of other splits alone, or fewer than their names count.
    """
    for folder in (root, root / "data"):
        files = [path for path in entries(folder) if path.suffix == ".parquet"] if folder.is_dir() else []
        if not files:
            continue
        val = [p for p in files if p.name.startswith("val")]
        if not val and any(p.name.startswith(("train", "test")) for p in files):
            raise DataError(
                f"{folder} holds {files[0].name} and its like, but no shard of the validation split "
                "(validation-*.parquet was needed). Download those, or rename them if they are the validation split."
            )
        _check_count(folder, val or files)
        return val or files
    return []


def _check_count(folder: Path, shards: list[Path]) -> None:
    named = [match for match in (_SHARD.match(p.stem) for p in shards) if match]
    if not named:
        return
    count = int(named[0]["count"])
    have = {int(match["index"]) for match in named}
    if len(named) != len(shards) or {int(m["count"]) for m in named} != {count} or have != set(range(count)):
        lacking = sorted(set(range(count)) - have)
        first = f", without number {lacking[0]}" if lacking else ""
        raise DataError(
            f"{folder} holds {len(shards)} shards like {shards[0].name} of a set of {count}{first} (each number once "
            "was needed). Download what is missing, and move other files away."
        )

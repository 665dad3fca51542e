"""Archives of published weights: unpack their state dicts and nothing else, and keep what is in place."""

from __future__ import annotations

import hashlib
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from ffnet_deploy.artifacts.writing import replacing, sha256_of
from ffnet_deploy.errors import WeightsError
from ffnet_deploy.zoo.checksums import SUMS, record, recorded

MEMBER_LIMIT = 1 << 30
"""Bytes of one state dict; the largest published one has 0.44 GB."""
TOTAL_LIMIT = 8 << 30
"""Bytes of one archive, packed or unpacked."""
ELSEWHERE = "--from URL_OR_FOLDER"
ENDING = "_state_dict_quarts.pth"

CHUNK = 1 << 16
_ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, ValueError, RuntimeError)


@dataclass(frozen=True, slots=True)
class Fetched:
    """What became of one archive."""

    archive: str
    files: tuple[Path, ...]
    """Its state dicts, in place and recorded."""
    origin: str | None
    """URL or path they came from; None when all were in place already."""


def install(archive: str, folder: Path, members: Mapping[str, Iterator[bytes]], origin: str) -> Fetched:
    known = recorded(folder)
    hashes: dict[str, str] = {}
    # All are written and compared before the first is renamed into place.
    with ExitStack() as stack:
        for file, chunks in members.items():
            name = f"{archive}/{file}"
            target = folder / name
            part = stack.enter_context(replacing(target))
            digest = hashlib.sha256()
            with part.open("wb") as out:
                for chunk in chunks:
                    digest.update(chunk)
                    out.write(chunk)
            hashes[name] = digest.hexdigest()
            # A file that nobody recorded may be the user's own. It is not overwritten with other bytes either.
            before = known.get(name) or (sha256_of(target) if target.is_file() else hashes[name])
            if before != hashes[name]:
                raise WeightsError(
                    f"{file} from {origin} has the SHA-256 {hashes[name]} (in place or recorded: {before}). The old "
                    f"file is kept; to take the new one, delete {target} and its line in {folder / SUMS}."
                )
    record(folder, hashes)
    return Fetched(archive, tuple(folder / name for name in sorted(hashes)), origin)


def read_pieces(path: Path) -> Iterator[bytes]:
    # Only errors of the source are caught here. Errors of the disk that is written to are raised by the consumer.
    try:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                yield chunk
    except OSError as error:
        raise WeightsError(f"{path} cannot be read ({error.strerror}). Name another place: {ELSEWHERE}") from error


def is_state_dict(archive: str, name: str) -> bool:
    return re.fullmatch(rf"{archive}_[\w.-]+{re.escape(ENDING)}", name, re.ASCII) is not None


def unpack(archive: str, folder: Path, path: Path, origin: str) -> Fetched:
    try:
        zipped = zipfile.ZipFile(path)
    except _ZIP_ERRORS as error:
        raise _damaged(origin, str(error)) from error
    with zipped:
        chosen: dict[str, zipfile.ZipInfo] = {}
        for info in zipped.infolist():
            _refuse_hostile(info, origin)
            name = info.filename.rpartition("/")[2]
            if is_state_dict(archive, name):
                if name in chosen:
                    raise _damaged(origin, f"{name} is in it twice")
                chosen[name] = info
        if not chosen:
            raise _damaged(origin, f"no member is named {archive}_…{ENDING}")
        if (size := sum(info.file_size for info in chosen.values())) > TOTAL_LIMIT:
            raise _damaged(origin, f"its state dicts declare {size} bytes where {TOTAL_LIMIT} is the limit")
        return install(archive, folder, {name: _inflate(zipped, info, origin) for name, info in chosen.items()}, origin)


def _refuse_hostile(info: zipfile.ZipInfo, origin: str) -> None:
    name = info.orig_filename
    mode = stat.S_IFMT(info.external_attr >> 16)
    reason = None
    if name.startswith("/") or ".." in name.split("/") or re.search(r"[\\:\x00-\x1f\x7f]", name):
        reason = "a path that could lead out of the folder"
    elif mode not in (0, stat.S_IFREG, stat.S_IFDIR):
        reason = "a link or a device"
    elif info.flag_bits & 0x1:
        reason = "encrypted"
    elif info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        # Python unpacks the others in pieces of any size, so a small bomb would fill the memory.
        reason = f"packed by method {info.compress_type}"
    elif info.file_size > MEMBER_LIMIT:
        reason = f"{info.file_size} bytes where {MEMBER_LIMIT} is the limit"
    if reason:
        raise WeightsError(
            f"{origin} holds {name!r}: {reason} (needed: a zip of plain files), so nothing of it was unpacked. "
            f"Do not use it; name another place with {ELSEWHERE}."
        )


def _inflate(zipped: zipfile.ZipFile, info: zipfile.ZipInfo, origin: str) -> Iterator[bytes]:
    size = 0
    try:
        with zipped.open(info) as file:
            while size <= info.file_size and (chunk := file.read(CHUNK)):
                size += len(chunk)
                yield chunk
    except _ZIP_ERRORS as error:
        raise _damaged(origin, f"{info.filename}: {error}") from error
    if size != info.file_size:
        raise _damaged(origin, f"{info.filename} does not unpack to the {info.file_size} bytes it declares")


def _damaged(origin: str, found: str) -> WeightsError:
    return WeightsError(
        f"{origin} cannot be unpacked: {found} (needed: a whole zip archive of state dicts). "
        f"Fetch it again, or name another place with {ELSEWHERE}."
    )

"""Archives of published weights: unpack their state dicts and nothing else, and keep what is in place."""

from __future__ import annotations

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
from ffnet_deploy.zoo.checkpoint import UnusableError
from ffnet_deploy.zoo.checksums import beginning, fetch_again, record, recorded
from ffnet_deploy.zoo.specs import SPECS, ModelSpec, costs
from ffnet_deploy.zoo.weights import read_fitting
from ffnet_deploy.zoo.zips import open_zip

TOTAL_LIMIT = 8 << 30
"""Bytes of one packed archive."""
ELSEWHERE = "--from URL_OR_FOLDER"
ENDING = "_state_dict_quarts.pth"

CHUNK = 1 << 16
_BYTES_OF_A_PARAMETER = 8
_BESIDE_THE_PARAMETERS = 4 << 20
_ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, ValueError, RuntimeError)


@dataclass(frozen=True, slots=True)
class Fetched:
    """What became of one archive."""

    archive: str
    files: tuple[Path, ...]
    """Its state dicts, in place and recorded."""
    origin: str | None
    """URL or path they came from, without credentials; None when all were in place already."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an archive comes from. As text it is the URL or the path, without credentials."""

    shown: str
    place: str | None = None
    """What ``--from`` named, without credentials; None for the published place."""

    def __str__(self) -> str:
        return self.shown

    @property
    def another_way(self) -> str:
        """The next step where what came from here is of no use; a bad download is not kept."""
        if "://" in self.shown:
            return f"Run the same command to download it anew, or name another place with {ELSEWHERE}."
        return f"Name another place with {ELSEWHERE}."


def published(archive: str) -> dict[str, ModelSpec]:
    """The state dicts that belong into an archive, by file name, each with a model that it must fit."""
    owners: dict[str, ModelSpec] = {}
    for spec in SPECS.values():
        # What is there for training takes a part of another model's file.
        if spec.archive == archive and not spec.train:
            owners.setdefault(spec.weights_file.partition("/")[2], spec)
    return owners


def byte_limit(spec: ModelSpec) -> int:
    """Bytes that a file of this model's weights has at most: its values at the widest type, and their names."""
    return costs()[spec.name].parameters * _BYTES_OF_A_PARAMETER + _BESIDE_THE_PARAMETERS


def install(
    archive: str, folder: Path, members: Mapping[str, Iterator[bytes]], origin: Origin, *, again: bool = False
) -> Fetched:
    """Put state dicts into place and record their hashes: all of them, or none.

    Args:
        archive: they belong to.
        folder: ``models/weights/`` of the workspace.
        members: pieces of each file, by name.
        origin: for messages.
        again: replace files that are in place or recorded with other bytes.

    Raises:
        WeightsError: one does not fit its model, or differs from what is in place and ``again`` is not asked for.
        ArtifactError: the folder cannot be written.
    """
    known = recorded(folder)
    hashes: dict[str, str] = {}
    # All are written, checked and compared before the first is renamed into place.
    with ExitStack() as stack:
        for file, chunks in members.items():
            name = f"{archive}/{file}"
            target = folder / name
            part = stack.enter_context(replacing(target))
            _write(part, chunks)
            hashes[name] = _fitting(published(archive)[file], part, file, origin)
            # A file that nobody recorded may be the user's own. It is not overwritten with other bytes either.
            before = known.get(name) or (sha256_of(target) if target.is_file() else hashes[name])
            if before != hashes[name] and not again:
                raise _other_bytes(target, origin, hashes[name], before)
    record(folder, hashes)
    return Fetched(archive, tuple(folder / name for name in sorted(hashes)), str(origin))


def _other_bytes(target: Path, origin: Origin, new: str, before: str) -> WeightsError:
    again = fetch_again(target)
    step = "Add --again to replace it." if again is None else f"Run: {again.option('--from', origin.place)}"
    return WeightsError(
        f"{target.name} from {origin} has the SHA-256 {beginning(new)} (in place or recorded: {beginning(before)}). "
        f"The old file is kept. {step}"
    )


def _write(part: Path, chunks: Iterator[bytes]) -> None:
    with part.open("wb") as out:
        for chunk in chunks:
            out.write(chunk)


def _fitting(spec: ModelSpec, part: Path, file: str, origin: Origin) -> str:
    """The hash of a file that fits its model, of the very bytes that were read."""
    try:
        return read_fitting(spec, part).sha256
    except UnusableError as error:
        raise WeightsError(
            f"{file} from {origin} {error} (needed: the weights of {spec.name}), so nothing of it was installed. "
            f"{origin.another_way}"
        ) from error


def read_pieces(path: Path, limit: int) -> Iterator[bytes]:
    """A file of at most ``limit`` bytes, in pieces.

    Raises:
        WeightsError: it is larger, or cannot be read.
    """
    # Only errors of the source are caught here. Errors of the disk that is written to are raised by the consumer.
    try:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                if file.tell() > limit:
                    raise WeightsError(f"{path} is too large ({limit} bytes at most were needed). Name another place.")
                yield chunk
    except OSError as error:
        raise WeightsError(f"{path} cannot be read ({error.strerror}). Name another place: {ELSEWHERE}") from error


def unpack(archive: str, folder: Path, path: Path, origin: Origin, *, again: bool = False) -> Fetched:
    """Install the state dicts of a zip; nothing else of it is unpacked.

    Raises:
        WeightsError, ArtifactError: as :func:`install`; or the zip is damaged or hostile.
    """
    with ExitStack() as stack:
        try:
            file = stack.enter_context(path.open("rb"))
            zipped = stack.enter_context(open_zip(file))
        except _ZIP_ERRORS as error:
            raise _damaged(origin, str(error)) from error
        chosen = _chosen(zipped, archive, origin)
        members = {name: _inflate(zipped, info, origin) for name, info in chosen.items()}
        return install(archive, folder, members, origin, again=again)


def _chosen(zipped: zipfile.ZipFile, archive: str, origin: Origin) -> dict[str, zipfile.ZipInfo]:
    """The members to unpack, by file name."""
    wanted = published(archive)
    chosen: dict[str, zipfile.ZipInfo] = {}
    for info in zipped.infolist():
        _refuse_hostile(info, origin)
        name = info.filename.rpartition("/")[2]
        if name in wanted:
            if name in chosen:
                raise _damaged(origin, f"{name} is in it twice")
            if info.file_size > (limit := byte_limit(wanted[name])):
                raise _damaged(origin, f"{name} declares {info.file_size} bytes where {limit} is the limit")
            chosen[name] = info
    if not chosen:
        raise _damaged(origin, f"no member is named {archive}_…{ENDING}")
    return chosen


def _refuse_hostile(info: zipfile.ZipInfo, origin: Origin) -> None:
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
    if reason:
        raise WeightsError(
            f"{origin} holds {name!r}: {reason} (needed: a zip of plain files), so nothing of it was unpacked. "
            f"Do not use it; name another place with {ELSEWHERE}."
        )


def _inflate(zipped: zipfile.ZipFile, info: zipfile.ZipInfo, origin: Origin) -> Iterator[bytes]:
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


def _damaged(origin: Origin, found: str) -> WeightsError:
    return WeightsError(
        f"{origin} cannot be unpacked: {found} (needed: a whole zip archive of state dicts). {origin.another_way}"
    )

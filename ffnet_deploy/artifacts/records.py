"""The record beside every file: what made it, from what, and what was found in it."""

from __future__ import annotations

import hashlib
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, TypeVar

from ffnet_deploy.artifacts.reading import parse, schema_of
from ffnet_deploy.artifacts.sealing import parse_sealed, sealed
from ffnet_deploy.artifacts.values import (
    Count,
    EngineFindings,
    EngineOptions,
    GraphFindings,
    GraphOptions,
    NotNegative,
    Precision,
    SourceFile,
    SourceImages,
    SourceRanges,
    SourceWeights,
)
from ffnet_deploy.artifacts.writing import replacing, sha256_of, write_json
from ffnet_deploy.errors import ArtifactError

RECORD_SCHEMA = 3
"""Version of the records' layout; a record of another version is refused with the command that renews it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamp:
    """A file as it was made: when, how fast, by what, and what its bytes are."""

    sha256: str
    """Hex; a file with another hash is damaged or half-made."""
    size: Count
    """Bytes."""
    seconds: NotNegative
    """Time to make it."""
    tools: Mapping[str, str]
    """Versions of what made it."""
    created: str
    """UTC, ISO 8601."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsRecord:
    """Of weights that this tool trained."""

    schema: int = RECORD_SCHEMA
    kind: Literal["weights"] = "weights"
    command: str = "demo"
    model: str
    file: Stamp
    marks: tuple[str, ...] = ()
    """What every table must say of everything made from them: "demo weights"."""
    recipe: str
    """Hash of all that the weights depend on; others are trained again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphRecord:
    """Of an ONNX graph: exported, or made from an exported one."""

    schema: int = RECORD_SCHEMA
    kind: Literal["graph"] = "graph"
    command: str = "export"
    """Name of the command that made it."""
    model: str
    precision: Precision
    file: Stamp
    marks: tuple[str, ...] = ()
    """What every table must say of it: "untrained", "demo weights", "off contract"."""
    options: GraphOptions
    weights: SourceWeights
    """What the exported graph holds."""
    graph: SourceFile | None = None
    """The graph that this one was made from; None if it was exported."""
    ranges: SourceRanges | None = None
    """The calibration of an INT8 graph."""
    images: SourceImages | None = None
    """What was observed for an FP16 or INT8 graph."""
    found: GraphFindings = field(default_factory=GraphFindings)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRecord:
    """Of an engine: what a runtime loads."""

    schema: int = RECORD_SCHEMA
    kind: Literal["engine"] = "engine"
    command: str = "build"
    model: str
    precision: Precision
    runtime: str
    file: Stamp
    marks: tuple[str, ...] = ()
    options: GraphOptions
    """Of the graph that it was built from."""
    engine: EngineOptions
    graph: SourceFile
    """The graph that it was built from."""
    exported: SourceFile
    """The FP32 graph that it goes back to."""
    weights: SourceWeights
    ranges: SourceRanges | None = None
    found: EngineFindings = field(default_factory=EngineFindings)


AnyRecord = WeightsRecord | GraphRecord | EngineRecord
R = TypeVar("R", bound=AnyRecord)


@dataclass(frozen=True, slots=True)
class _Kind:
    """The kind alone. It is read first, so that what is wrong with a record is said of a record of its kind."""

    kind: Literal["weights", "graph", "engine"]


_KINDS: dict[str, type[AnyRecord]] = {"weights": WeightsRecord, "graph": GraphRecord, "engine": EngineRecord}


def derived(parent: GraphRecord, name: str, file: Stamp, **changes: Any) -> GraphRecord:  # noqa: ANN401
    """The record of a graph that was made from another one.

    Args:
        parent: of the graph that it was made from.
        name: file name of that graph.
        file: of the new graph.
        changes: fields of :class:`GraphRecord` that differ; all others are taken over.
    """
    return replace(parent, command="build", graph=SourceFile(name, parent.file.sha256), file=file, **changes)


def tool_versions(*packages: str) -> dict[str, str]:
    """Versions of the named distributions that are installed, and of Python and this package."""
    versions = {"python": platform.python_version()}
    for package in ("ffnet-deploy", *packages):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def now() -> str:
    """This moment in UTC, ISO 8601 with microseconds: records are ordered by it."""
    return datetime.now(UTC).isoformat()


def stamp(sha256: str, size: int, started: float, tools: Sequence[str]) -> Stamp:
    """What a record says of a file that was made just now.

    Args:
        sha256: of its bytes, hex.
        size: of its bytes.
        started: ``time.monotonic()`` when the work began.
        tools: distributions that had a part in it.
    """
    seconds = round(time.monotonic() - started, 3)
    return Stamp(sha256=sha256, size=size, seconds=seconds, tools=tool_versions(*tools), created=now())


def stamp_of(path: Path, started: float, tools: Sequence[str]) -> Stamp:
    """The same for a file that is on the disk."""
    return stamp(sha256_of(path), path.stat().st_size, started, tools)


def record_path(path: Path) -> Path:
    """The record that belongs to a file: the file's name plus ``.json``."""
    return path.with_name(f"{path.name}.json")


def save_record(path: Path, record: AnyRecord) -> None:
    """Write the record of ``path``.

    Call this inside the ``replacing`` block of the file itself. The lock then covers both. A kill between the two
    leaves a record that does not fit its file, and no command accepts that.
    """
    write_json(record_path(path), sealed(asdict(record)))


def keep(path: Path, data: bytes, record: Callable[[str, int], R]) -> R:
    """Write a file and its record together.

    Args:
        path: of the file.
        data: its bytes.
        record: makes the record from the SHA-256 and the size.
    """
    made = record(hashlib.sha256(data).hexdigest(), len(data))
    with replacing(path) as part:
        part.write_bytes(data)
        save_record(path, made)
    return made


def load_record(path: Path, kind: type[R], *, remedy: str, check: bool = True) -> R:
    """Read the record of ``path`` and check the file against it.

    Args:
        path: the artefact.
        kind: of record that is expected.
        remedy: the command that makes the file again, for the message.
        check: hash the file; False only where many records are listed.

    Raises:
        ArtifactError: no such file, no readable record of that kind, or the file is not the one recorded.
    """
    record = read_record(path, remedy=remedy)
    if not isinstance(record, kind):
        wanted = next(name for name, known in _KINDS.items() if known is kind)
        raise ArtifactError(
            f"{record_path(path)} is the record of a file of kind {record.kind} ({wanted} was needed). Run: {remedy}"
        )
    if check:
        check_file(path, record, remedy=remedy)
    return record


def read_record(path: Path, *, remedy: str) -> AnyRecord:
    """The record of ``path``, of any kind; the file itself is not looked at.

    Raises:
        ArtifactError: no such file, or no readable record of this version.
    """
    note = record_path(path)
    if not path.is_file():
        left = f", though its record {note.name} does" if note.exists() else ""
        raise ArtifactError(f"{path} does not exist{left}. Run: {remedy}{', or delete the record' if left else ''}")
    try:
        text = note.read_bytes()
        schema, _ = schema_of(text)
        if schema != RECORD_SCHEMA:
            raise ArtifactError(f"{path} was made by another version of ffnet-deploy. Run: {remedy}")
        return parse_sealed(_KINDS[parse(_Kind, text).kind], text)
    except FileNotFoundError:
        raise ArtifactError(f"{path} has no record beside it, so it may be half-made. Run: {remedy}") from None
    except OSError as error:
        raise ArtifactError(f"{note} cannot be read ({error.strerror}). Run: {remedy}") from error
    except ValueError as error:
        raise ArtifactError(f"{note} is damaged ({error}). Run: {remedy}") from error


def check_file(path: Path, record: AnyRecord, *, remedy: str) -> None:
    """Check a file against its record.

    Raises:
        ArtifactError: it cannot be read, or has other bytes.
    """
    try:
        same = path.stat().st_size == record.file.size and sha256_of(path) == record.file.sha256
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read ({error.strerror}). Check its permissions and the disk.") from error
    if not same:
        raise ArtifactError(f"{path} is not the file that its record describes: damaged or half-written. Run: {remedy}")

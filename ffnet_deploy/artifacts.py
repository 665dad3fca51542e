"""What stages hand over: records beside files, the workspace, atomic writes, and whether a file is still current."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from ffnet_deploy.errors import ArtifactError, FFNetDeployError

SCHEMA = 1
"""Version of the records' layout; a record of another version is stale."""

Kind = Literal["weights", "graph", "engine"]
_CHUNK = 1 << 20


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def hash_json(value: object) -> str:
    """Hex SHA-256 of a JSON value, independent of the order of keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path``; sync it and rename it into place when the block ends well.

    The temporary file is locked while it is written, and what a killed process left of it is written over.

    Raises:
        ArtifactError: the folder cannot be written, the disk is full, or another process writes the same file.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = _locked(part)
    except BlockingIOError as error:
        raise ArtifactError(f"{path} is being written by another process. Wait for it, then run this again.") from error
    except OSError as error:
        raise ArtifactError(_cannot_write(path, error)) from error
    renamed = False
    try:
        yield part
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
        renamed = True
        _sync_folder(path.parent)
    except OSError as error:
        raise ArtifactError(_cannot_write(path, error)) from error
    finally:
        # Once renamed, the temporary name may already be the next writer's.
        if not renamed:
            part.unlink(missing_ok=True)
        os.close(handle)


def _locked(part: Path) -> int:
    """Open and lock a temporary file; the lock goes with the process that holds it, however that ends."""
    while True:
        handle = os.open(part, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Between our two calls its owner may have renamed it: then this is no temporary file any more.
            if part.exists() and os.path.samestat(os.fstat(handle), part.stat()):
                os.ftruncate(handle, 0)
                return handle
        except OSError:
            os.close(handle)
            raise
        os.close(handle)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _cannot_write(path: Path, error: OSError) -> str:
    return (
        f"{path} cannot be written: {error.strerror or error}. "
        "Free or unlock the folder, or name another with --workspace DIR."
    )


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    with replacing(path) as part:
        part.write_bytes(data)


def write_json(path: Path, value: object) -> None:
    """Write a JSON file whole or not at all."""
    write_bytes(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of one file: what made it, from what, and what was found in it."""

    kind: Kind
    model: str
    precision: str
    sha256: str
    """Of the file beside the record; a file with another hash is damaged or half-made."""
    size: int
    """Bytes of the file."""
    sources: Mapping[str, Any]
    """Hashes of what went in: ``weights`` of a graph, ``graph`` of an engine."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """What was asked for."""
    found: Mapping[str, Any] = field(default_factory=dict)
    """What is really there: verification, operators, precision by layer."""
    marks: Sequence[str] = ()
    """What every table must say of it: "untrained", "demo weights", "off contract"."""
    runtime: str | None = None
    seconds: float = 0.0
    """Time to make it."""
    tools: Mapping[str, str] = field(default_factory=dict)
    created: str = ""
    schema: int = SCHEMA

    def to_json(self) -> dict[str, Any]:
        """The record as plain JSON values."""
        return asdict(self)


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


def record_path(path: Path) -> Path:
    """The record that belongs to a file: the file's name plus ``.json``."""
    return path.with_name(f"{path.name}.json")


def save_record(path: Path, record: Record) -> None:
    """Write the record of ``path``; last, since a file without its record does not count."""
    write_json(record_path(path), record.to_json())


def load_record(path: Path, *, remedy: str, check: bool = True) -> Record:
    """Read the record of ``path`` and hold the file to it.

    Args:
        path: the artefact.
        remedy: the command that makes it again, for the message.
        check: hash the file; False only where many records are listed.

    Raises:
        ArtifactError: no such file, no readable record, or the file is not the one recorded.
    """
    if not path.is_file():
        raise ArtifactError(f"{path} does not exist. Run: {remedy}")
    try:
        values = json.loads(record_path(path).read_text("utf-8"))
        if values.get("schema") != SCHEMA:
            raise ArtifactError(
                f"{path} has a record of schema {values.get('schema')} (this version reads {SCHEMA}). Run: {remedy}"
            )
        record = Record(**values)
    except FileNotFoundError:
        raise ArtifactError(f"{path} has no record beside it, so it may be half-made. Run: {remedy}") from None
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ArtifactError(f"{record_path(path)} cannot be read ({error}). Run: {remedy}") from error
    try:
        same = not check or (path.stat().st_size == record.size and sha256_of(path) == record.sha256)
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read ({error.strerror}). Check its permissions and the disk.") from error
    if not same:
        raise ArtifactError(f"{path} is not the file its record describes: damaged or half-written. Run: {remedy}")
    return record


@dataclass(frozen=True, slots=True)
class Variant:
    """What differs from the model's contract, as it stands in file names: ``[.bilinear][@HxW][.bN]``."""

    model: str
    hw: tuple[int, int] | None = None
    """None is the contract's size."""
    batch: int | None = 1
    """None is any batch."""
    upsampling: str | None = None
    """Another than the published one."""

    @property
    def stem(self) -> str:
        """File name without precision and ending."""
        changed = f".{self.upsampling}" if self.upsampling else ""
        size = f"@{self.hw[0]}x{self.hw[1]}" if self.hw else ""
        batch = {None: ".bdynamic", 1: ""}.get(self.batch, f".b{self.batch}")
        return f"{self.model}{changed}{size}{batch}"


@dataclass(frozen=True, slots=True)
class Workspace:
    """The folders that commands write: ``models/``, ``engines/``, ``calibration/`` below one root."""

    root: Path

    @property
    def models(self) -> Path:
        return self.root / "models"

    @property
    def engines(self) -> Path:
        return self.root / "engines"

    @property
    def weights(self) -> Path:
        return self.models / "weights"

    def graph(self, stem: str, precision: str = "fp32") -> Path:
        """``models/STEM.onnx``, or ``models/STEM.PRECISION.onnx``."""
        return self.models / (f"{stem}.onnx" if precision == "fp32" else f"{stem}.{precision}.onnx")

    def engine(self, stem: str, precision: str, runtime: str, target: str = "") -> Path:
        """``engines/STEM.PRECISION.RUNTIME[-TARGET].engine``; ONNX Runtime's end in ``.onnxruntime.onnx``."""
        ending = "onnx" if runtime.startswith("onnxruntime") else "engine"
        return self.engines / f"{stem}.{precision}.{runtime}{target}.{ending}"

    def graphs(self) -> list[tuple[Path, Record]]:
        """Every graph that export made and that has a readable record, the newest first."""
        return [item for item in self._recorded(self.models, "graph", "fp32") if "weights" in item[1].sources]

    def engines_of(self, stem: str) -> list[tuple[Path, Record]]:
        """Every engine that goes back to the FP32 graph ``STEM.onnx``, by file name; the files are not hashed."""
        found = self._recorded(self.engines, "engine")
        mine = (item for item in found if item[1].sources.get("exported", {}).get("file") == f"{stem}.onnx")
        return sorted(mine, key=lambda item: item[0].name)

    def _recorded(self, folder: Path, kind: Kind, precision: str | None = None) -> list[tuple[Path, Record]]:
        items = []
        for note in folder.glob("*.json"):
            try:
                record = load_record(note.with_suffix(""), remedy="", check=False)
            except FFNetDeployError:
                continue
            if record.kind == kind and precision in (None, record.precision):
                items.append((note.with_suffix(""), record))
        return sorted(items, key=lambda item: item[1].created, reverse=True)

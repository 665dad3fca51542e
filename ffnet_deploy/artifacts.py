"""What stages hand over: records beside files, the workspace, atomic writes, and whether a file is still current."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from ffnet_deploy.errors import ArtifactError

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
    """Write the record of ``path``.

    Inside the ``replacing`` block of the file itself: the lock then covers both, and a kill between the two leaves a
    record that its file does not fit, which nothing accepts.
    """
    write_json(record_path(path), record.to_json())


def keep(path: Path, data: bytes, describe: Callable[[str, int], Record]) -> Record:
    """Write a file and its record together.

    Args:
        path: of the file.
        data: its bytes.
        describe: makes the record from the SHA-256 and the size.
    """
    record = describe(hashlib.sha256(data).hexdigest(), len(data))
    with replacing(path) as part:
        part.write_bytes(data)
        save_record(path, record)
    return record


def load_record(path: Path, *, remedy: str, check: bool = True) -> Record:
    """Read the record of ``path`` and hold the file to it.

    Args:
        path: the artefact.
        remedy: the command that makes it again, for the message; the record's own command comes before it.
        check: hash the file; False only where many records are listed.

    Raises:
        ArtifactError: no such file, no readable record, or the file is not the one recorded.
    """
    note = record_path(path)
    if not path.is_file():
        left = f", though its record {note.name} does" if note.exists() else ""
        raise ArtifactError(f"{path} does not exist{left}. Run: {remedy}{', or delete the record' if left else ''}")
    try:
        values = json.loads(note.read_text("utf-8"))
        record = _checked(values)
    except FileNotFoundError:
        raise ArtifactError(f"{path} has no record beside it, so it may be half-made. Run: {remedy}") from None
    except (OSError, ValueError, TypeError, LookupError) as error:
        raise ArtifactError(f"{note} is no record of this version ({error}). Run: {remedy}") from error
    try:
        same = not check or (path.stat().st_size == record.size and sha256_of(path) == record.sha256)
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read ({error.strerror}). Check its permissions and the disk.") from error
    if not same:
        remedy = record.options.get("command", remedy)
        raise ArtifactError(f"{path} is not the file its record describes: damaged or half-written. Run: {remedy}")
    return record


_TYPES: dict[str, type | tuple[type, ...]] = {
    "model": str, "precision": str, "sha256": str, "size": int, "sources": dict, "options": dict, "found": dict,
    "marks": list, "runtime": (str, type(None)), "tools": dict, "created": str,
}  # fmt: skip


def _checked(values: object) -> Record:
    """A record from JSON values, if they are of the kinds that the rest of the code takes for granted.

    Raises:
        ValueError, TypeError: something is missing, too much, or of another type.
    """
    if not isinstance(values, dict) or values.get("schema") != SCHEMA:
        found = values.get("schema") if isinstance(values, dict) else type(values).__name__
        raise ValueError(f"schema {found!r} instead of {SCHEMA}")
    record = Record(**values)
    for name, kind in _TYPES.items():
        if not isinstance(getattr(record, name), kind):
            raise TypeError(f"{name} is {getattr(record, name)!r}")
    if not all(isinstance(mark, str) for mark in record.marks):
        raise TypeError(f"marks are {record.marks!r}")
    needed = {"weights": (), "graph": ("weights", "graph"), "engine": ("exported",)}[record.kind]
    sources = [record.sources[name] for name in needed if name in record.sources]
    if needed and not any(isinstance(source, dict) and {"file", "sha256"} <= source.keys() for source in sources):
        raise ValueError(f"its sources are {dict(record.sources)!r}")
    if record.kind == "engine" and record.runtime is None:
        raise ValueError("an engine without a runtime")
    shape = record.options.get("shape")
    good = isinstance(shape, list) and len(shape) == 4 and all(isinstance(side, int) and side > 0 for side in shape)
    if record.kind != "weights" and not good:
        raise ValueError(f"shape {shape!r}")
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

    def calibration(self, stem: str) -> Path:
        """``calibration/STEM.json``: the ranges of the FP32 graph ``STEM.onnx``."""
        return self.root / "calibration" / f"{stem}.json"

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

    def graphs(self, model: str | None = None) -> list[tuple[Path, Record]]:
        """Every graph that export made, of one model or of all, the newest first.

        Raises:
            ArtifactError: one of them has no readable record: which is the newest cannot be known.
        """
        found = self._recorded(self.models, "export", lambda name: model in (None, model_of(name)))
        exported = [item for item in found if item[1].kind == "graph" and "weights" in item[1].sources]
        return sorted(exported, key=lambda item: item[1].created, reverse=True)

    def engines_of(self, stem: str) -> list[tuple[Path, Record]]:
        """Every engine that goes back to the FP32 graph ``STEM.onnx``, by file name; the files are not hashed.

        Raises:
            ArtifactError: an engine of this model has no readable record, or a record has no engine.
        """
        found = self._recorded(self.engines, "build", lambda name: model_of(name) == model_of(stem))
        engines = (item for item in found if item[1].kind == "engine")
        mine = (item for item in engines if item[1].sources["exported"]["file"] == f"{stem}.onnx")
        return sorted(mine, key=lambda item: item[0].name)

    def _recorded(self, folder: Path, command: str, wanted: Callable[[str], bool]) -> list[tuple[Path, Record]]:
        files = {p for ending in ("onnx", "engine") for p in folder.glob(f"*.{ending}")}
        files |= {p.with_suffix("") for ending in ("onnx", "engine") for p in folder.glob(f"*.{ending}.json")}
        chosen = sorted(p for p in files if not p.name.startswith(".") and wanted(p.name))
        return [(p, load_record(p, remedy=f"ffnet-deploy {command} {model_of(p.name)}", check=False)) for p in chosen]


def model_of(name: str) -> str:
    """The model that a file name begins with; what differs from its contract follows ``@`` or a dot."""
    return name.partition(".")[0].partition("@")[0]

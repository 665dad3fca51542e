"""What a file is: a graph, an engine, a weight file, a calibration; how it was made, and whether it is current."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ffnet_deploy.artifacts.records import (
    RECORD_SCHEMA,
    AnyRecord,
    EngineRecord,
    GraphRecord,
    WeightsRecord,
    check_file,
    now,
    read_record,
    record_path,
)
from ffnet_deploy.artifacts.replay import again
from ffnet_deploy.artifacts.values import SourceFile
from ffnet_deploy.artifacts.workspace import Workspace
from ffnet_deploy.artifacts.writing import sha256_of
from ffnet_deploy.calibration.methods import METHODS, Method
from ffnet_deploy.calibration.record import CalibratedImages, ranges_changed, read_calibration
from ffnet_deploy.errors import ArtifactError, FFNetDeployError

if TYPE_CHECKING:
    from ffnet_deploy.graph.facts import GraphFacts

_UNKNOWN = "as far as can be known: {} is not there"


@dataclass(frozen=True, slots=True)
class WeightsFacts:
    """What is in a weight file."""

    sha256: str
    tensors: int
    values: int
    """Numbers in all tensors together."""
    types: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CalibrationFacts:
    """What is in a calibration, its ranges apart."""

    model: str
    graph: str
    images: CalibratedImages
    method: Method
    percentile: float
    marks: tuple[str, ...]
    ranges: str


@dataclass(frozen=True, slots=True)
class Inspection:
    """What is known of one file."""

    path: Path
    kind: str
    """``graph``, ``engine``, ``weights`` or ``calibration``."""
    size: int
    current: str
    """``yes``, or why not."""
    facts: GraphFacts | WeightsFacts | CalibrationFacts | None
    """What is in the file itself; None for an engine, which only its runtime can read."""
    record: AnyRecord | None
    created: str = field(default_factory=now)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "schema": RECORD_SCHEMA,
            "command": "inspect",
            "created": self.created,
            "file": str(self.path),
            "kind": self.kind,
            "bytes": self.size,
            "current": self.current,
            "facts": asdict(self.facts) if self.facts else None,
            "record": asdict(self.record) if self.record else None,
            "error": None,
        }


def inspect(workspace: Workspace, path: Path) -> Inspection:
    """Look at a file, whether or not it is current.

    Raises:
        ArtifactError: no such file, or nothing that this tool knows.
        WeightsError: a ``.pth`` that is damaged, hostile, or no state dict.
    """
    if not path.is_file():
        found = "is no file" if path.exists() else "does not exist"
        raise ArtifactError(f"{path} {found} (a file was needed). Name a graph, an engine or a weight file.")
    size = path.stat().st_size
    if path.suffix == ".json" and path.parent.name == "calibration":
        return _calibration(workspace, path)
    record, current = _record(workspace, path)
    if path.suffix == ".pth":
        return Inspection(path, "weights", size, current, _weights_facts(path), record)
    if path.suffix == ".onnx":
        kind = record.kind if record else "graph"
        return Inspection(path, kind, size, current, _graph_facts(path), record)
    if isinstance(record, EngineRecord) or record_path(path).exists():
        # A damaged record: what is wrong stands in `current`.
        return Inspection(path, "engine", size, current, None, record)
    raise ArtifactError(
        f"{path} is neither a graph, an engine with its record, nor a weight file. Name one that ffnet-deploy made, "
        "or a .onnx or .pth file."
    )


def _record(workspace: Workspace, path: Path) -> tuple[AnyRecord | None, str]:
    """The record beside a file, and whether both are as they should be."""
    if not record_path(path).exists():
        return None, "not known: it has no record"
    try:
        record = read_record(path, remedy="the command that makes it")
        check_file(path, record, remedy=str(again(workspace, path, record)))
    except FFNetDeployError as error:
        return None, f"no: {error}"
    return record, _staleness(workspace, path, record)


def _staleness(workspace: Workspace, path: Path, record: AnyRecord) -> str:
    if isinstance(record, WeightsRecord):
        return "yes"
    remedy = f"Run: {again(workspace, path, record)}"
    if isinstance(record, GraphRecord) and record.graph is None and record.weights.file:
        file = workspace.root / record.weights.file
        if not file.is_file():
            return _UNKNOWN.format(file)
        if sha256_of(file) != record.weights.sha256:
            return f"no: {file} has changed since. {remedy}"
    for source in _graphs_of(record):
        file = workspace.models / source.file
        if not file.is_file():
            return _UNKNOWN.format(file)
        if sha256_of(file) != source.sha256:
            return f"no: {file} was made again since. {remedy}"
    try:
        changed = ranges_changed(workspace, record)
    except ArtifactError as error:
        return f"as far as can be known: {error}"
    return f"no: {record.model} was calibrated again since. {remedy}" if changed else "yes"


def _graphs_of(record: GraphRecord | EngineRecord) -> list[SourceFile]:
    if isinstance(record, EngineRecord):
        return [record.exported, record.graph]
    return [record.graph] if record.graph else []


def _calibration(workspace: Workspace, path: Path) -> Inspection:
    """Whether a calibration is of the graph that is there, and what it says, ranges counted and not listed."""
    size = path.stat().st_size
    try:
        found = read_calibration(workspace, path)
    except ArtifactError as error:
        return Inspection(path, "calibration", size, f"no: {error}", None, None)
    file = found.file
    graph = workspace.models / file.graph.file
    if not graph.is_file():
        current = _UNKNOWN.format(graph)
    elif sha256_of(graph) != file.graph.sha256:
        current = f"no: {graph} was exported again since. Run: {found.again}"
    else:
        current = "yes"
    facts = CalibrationFacts(
        model=file.model,
        graph=file.graph.file,
        images=file.images,
        method=file.method,
        percentile=file.percentile,
        marks=file.marks,
        ranges=f"{len(file.tensors)} tensors by {', '.join(METHODS)}",
    )
    return Inspection(path, "calibration", size, current, facts, None)


def _weights_facts(path: Path) -> WeightsFacts:
    from ffnet_deploy.zoo.checkpoint import read_state

    state = read_state(path)
    return WeightsFacts(
        sha256=sha256_of(path),
        tensors=len(state),
        values=sum(value.numel() for value in state.values()),
        types=tuple(sorted({str(value.dtype).removeprefix("torch.") for value in state.values()})),
    )


def _graph_facts(path: Path) -> GraphFacts:
    from ffnet_deploy.graph.facts import described, is_standard
    from ffnet_deploy.graph.loading import checked, parsed

    model = parsed(path)
    return described(checked(model, path) if is_standard(model) else model)

"""What a file is: a graph, an engine, a weight file, a calibration; what made it, and whether it is current."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ffnet_deploy import artifacts
from ffnet_deploy.artifacts import Record, Workspace
from ffnet_deploy.errors import ArtifactError, FFNetDeployError
from ffnet_deploy.graph.methods import METHODS
from ffnet_deploy.pipeline.calibrate import ranges_changed, read_calibration


@dataclass(frozen=True, slots=True)
class Inspection:
    """What is known of one file."""

    path: Path
    kind: str
    """``graph``, ``engine``, ``weights`` or ``calibration``."""
    size: int
    current: str
    """``yes``, or why not."""
    facts: dict[str, Any]
    """What is in the file itself."""
    record: Record | None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "schema": artifacts.SCHEMA,
            "command": "inspect",
            "file": str(self.path),
            "kind": self.kind,
            "bytes": self.size,
            "current": self.current,
            "facts": self.facts,
            "record": self.record.to_json() if self.record else None,
            "error": None,
        }


def inspect(workspace: Workspace, path: Path) -> Inspection:
    """Look at a file, whether or not it is current.

    Raises:
        ArtifactError: no such file, or nothing that this tool knows.
        WeightsError: a ``.pth`` that is damaged, hostile, or no state dict.
    """
    if not path.is_file():
        raise ArtifactError(f"{path} does not exist (a file was needed). Name a graph, an engine or a weight file.")
    record, current = _record(workspace, path)
    size = path.stat().st_size
    if path.suffix == ".pth":
        return Inspection(path, "weights", size, current, _weights_facts(path), record)
    if path.suffix == ".json" and path.parent.name == "calibration":
        return Inspection(path, "calibration", size, *_calibration(workspace, path), None)
    if path.suffix == ".onnx":
        kind = record.kind if record else "graph"
        return Inspection(path, kind, size, current, _graph_facts(path), record)
    if record is not None and record.kind == "engine":
        return Inspection(path, "engine", size, current, {}, record)
    if artifacts.record_path(path).exists():
        # Damaged: what is wrong stands in `current`.
        return Inspection(path, "engine", size, current, {}, None)
    raise ArtifactError(
        f"{path} is neither a graph, an engine with its record, nor a weight file. Name one that ffnet-deploy made, "
        "or a .onnx or .pth file."
    )


def _record(workspace: Workspace, path: Path) -> tuple[Record | None, str]:
    """The record beside a file, and whether both are as they should be."""
    if not artifacts.record_path(path).exists():
        return None, "not known: it has no record"
    try:
        record = artifacts.load_record(path, remedy="the command that makes it")
    except FFNetDeployError as error:
        return None, f"no: {error}"
    return record, _staleness(workspace, record)


def _staleness(workspace: Workspace, record: Record) -> str:
    weights = record.sources.get("weights")
    if weights and weights["file"]:
        file = workspace.root / weights["file"]
        if not file.is_file():
            return f"as far as can be known: {file} is not there"
        if artifacts.sha256_of(file) != weights["sha256"]:
            return f"no: {file} has changed since. Run: {record.options.get('command')}"
    for what in ("exported", "graph"):
        source = record.sources.get(what)
        if not source:
            continue
        file = workspace.models / source["file"]
        if not file.is_file():
            return f"as far as can be known: {file} is not there"
        if artifacts.sha256_of(file) != source["sha256"]:
            return f"no: {file} was made again since. Run: {_again(record)}"
    try:
        changed = ranges_changed(workspace, record)
    except ArtifactError as error:
        return f"as far as can be known: {error}"
    return f"no: {record.model} was calibrated again since. Run: {_again(record)}" if changed else "yes"


def _again(record: Record) -> str:
    command = f"ffnet-deploy build {record.model} --{record.precision.removesuffix('-cpu')}"
    return str(record.options.get("command") or command)


def _calibration(workspace: Workspace, path: Path) -> tuple[str, dict[str, Any]]:
    """Whether a calibration is of the graph that is there, and what it says, ranges counted and not listed."""
    try:
        values = read_calibration(path)
    except ArtifactError as error:
        return f"no: {error}", {}
    graph = workspace.models / values["graph"]["file"]
    if not graph.is_file():
        current = f"as far as can be known: {graph} is not there"
    elif artifacts.sha256_of(graph) != values["graph"]["sha256"]:
        current = f"no: {graph} was exported again since. Run: {values['command']}"
    else:
        current = "yes"
    ranges = values.pop("tensors")
    values["images"].pop("names")
    return current, {**values, "ranges": f"{len(ranges)} tensors by {', '.join(METHODS)}"}


def _weights_facts(path: Path) -> dict[str, Any]:
    from ffnet_deploy.zoo.checkpoint import read_state

    state = read_state(path)
    return {
        "sha256": artifacts.sha256_of(path),
        "tensors": len(state),
        "values": sum(value.numel() for value in state.values()),
        "types": sorted({str(value.dtype).removeprefix("torch.") for value in state.values()}),
    }


def _graph_facts(path: Path) -> dict[str, Any]:
    import onnx

    from ffnet_deploy.graph.facts import described

    try:
        model = onnx.load(path)
    except Exception as error:  # protobuf raises errors of its own, and onnx others
        raise ArtifactError(f"{path} is no ONNX graph ({error}). Export it again.") from error
    if not model.graph.node:
        raise ArtifactError(f"{path} is no ONNX graph (it has no nodes). Export it again.")
    return described(model)

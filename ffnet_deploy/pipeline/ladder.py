"""The rungs of a graph: which can run here, which cannot and why."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ffnet_deploy import artifacts, runtimes
from ffnet_deploy.artifacts import Record, Workspace
from ffnet_deploy.errors import ArtifactError, FFNetDeployError, MissingDependencyError, UsageError, WeightsError
from ffnet_deploy.pipeline.calibrate import ranges_changed
from ffnet_deploy.pipeline.current import Graph, reference_weights
from ffnet_deploy.runtimes import Ends, Rung


@dataclass(frozen=True, slots=True)
class Skipped:
    """A rung that was built and cannot run on this machine."""

    rung: Rung
    reason: str

    def __str__(self) -> str:
        return f"{self.rung.name}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Ladder:
    """The rungs of one graph: the reference, those that run here, and those that cannot."""

    reference: Rung
    running: tuple[Rung, ...]
    skipped: tuple[Skipped, ...]
    reference_alone: bool = False
    """Nothing else was asked for."""

    @property
    def marks(self) -> tuple[str, ...]:
        """Of the reference and of every rung that runs, each once: what a result of them must say."""
        return tuple(dict.fromkeys(mark for rung in (self.reference, *self.running) for mark in rung.marks))

    def nothing_ran(self) -> FFNetDeployError | None:
        """The error to end with when no rung besides the reference can run here."""
        if self.running or self.reference_alone:
            return None
        why = "; ".join(map(str, self.skipped)) or "no engine was built"
        return MissingDependencyError(
            f"Nothing besides the PyTorch reference could run here ({why}). "
            f"Run: ffnet-deploy build {self.reference.model} --runtime onnxruntime"
        )


def ladder(workspace: Workspace, graph: Graph, only: Sequence[str] = (), *, emulated: bool = False) -> Ladder:
    """Find the rungs of a graph.

    Args:
        workspace: where the engines are.
        graph: what they were built from.
        only: names of rungs (``onnxruntime fp32``) or runtimes; empty means all.
        emulated: also the FP16 and INT8 graphs, scored by rounding; they cannot be timed.

    Raises:
        UsageError: a name that no built engine has.
        MissingDependencyError: a rung that was asked for by name cannot run here.
        ArtifactError: an engine is damaged or was built from another graph.
    """
    weights = reference_weights(workspace, graph)
    if weights is not None and not weights.is_file():
        raise WeightsError(
            f"{weights} does not exist (the PyTorch reference needs it). "
            f"Restore it, or export again from other weights: {graph.command}"
        )
    size = weights.stat().st_size if weights else None
    marks = tuple(graph.record.marks)
    model, upsampling = graph.record.model, graph.record.options.get("upsampling")
    reference = Rung(runtimes.REFERENCE, "fp32", model, graph.shape, weights, size, marks, upsampling)
    built = [_rung(workspace, graph, path, record) for path, record in workspace.engines_of(graph.stem)]
    if emulated:
        built += [rung for precision in ("fp16", "int8") for rung in _emulated(workspace, graph, precision)]
    wanted = [rung for rung in built if not only or rung.name in only or rung.runtime in only]
    unknown = [name for name in only if not any(name in (r.name, r.runtime) for r in (reference, *built))]
    if unknown:
        have = ", ".join(rung.name for rung in built) or "none"
        raise UsageError(
            f"No engine {unknown[0]!r} of {graph.stem} was built (there are: {have}). "
            f"Run: ffnet-deploy build {graph.record.model}"
        )
    reasons = {r.name: runtimes.reason_not_here(r.runtime) or _other_version(r) for r in wanted}
    skipped = tuple(Skipped(r, reason) for r in wanted if (reason := reasons[r.name]))
    if only and skipped:
        raise MissingDependencyError(f"{skipped[0]}. Run it on the machine that it was built for, or leave it out.")
    running = tuple(r for r in wanted if reasons[r.name] is None)
    alone = bool(only) and set(only) <= {reference.name, reference.runtime}
    return Ladder(reference, running, skipped, alone)


def _rung(workspace: Workspace, graph: Graph, path: Path, record: Record) -> Rung:
    remedy = record.options.get("command") or f"ffnet-deploy build {record.model}"
    record = artifacts.load_record(path, remedy=remedy)
    if record.sources["exported"]["sha256"] != graph.record.sha256:
        raise ArtifactError(f"{path} is stale: {graph.path} was exported again since. Run: {remedy}")
    _check_ranges(workspace, path, record, remedy)
    assert record.runtime is not None
    return Rung(
        record.runtime,
        record.precision,
        record.model,
        graph.shape,
        path,
        record.size,
        tuple(record.marks),
        variant=_variant(path, record),
        built_by=None if record.options.get("version_compatible") else record.tools.get(record.runtime),
        ends=Ends(**{f.name: record.options[f.name] for f in fields(Ends) if f.name in record.options}),
    )


def _check_ranges(workspace: Workspace, path: Path, record: Record, remedy: str) -> None:
    if ranges_changed(workspace, record):
        raise ArtifactError(f"{path} is stale: {record.model} was calibrated again since. Run: {remedy}")


def _other_version(rung: Rung) -> str | None:
    """Why an engine cannot be loaded by the installed version of its runtime; None if it was built by that one."""
    installed = artifacts.tool_versions(rung.runtime).get(rung.runtime)
    if not rung.runtime.startswith("tensorrt") or rung.built_by in (None, installed):
        return None
    return f"built by {rung.runtime} {rung.built_by}, and {installed} is installed; build it again"


def _variant(path: Path, record: Record) -> str:
    """What stands in the engine's name beyond graph, precision and runtime: ends, batches, targets."""
    exported = record.sources["exported"]["file"].removesuffix(".onnx").removesuffix(".bdynamic")
    rest = path.name.removeprefix(exported).rpartition(".")[0]
    rest = rest.replace(f".{record.precision}.{record.runtime}", " ", 1)
    return " ".join(rest.replace(".", " ").replace(" -", " ").split())


def _emulated(workspace: Workspace, graph: Graph, precision: str) -> list[Rung]:
    """The FP16 graph, or TensorRT's INT8 graph, scored through rounding: no CPU computes either as a GPU does."""
    path = workspace.graph(graph.stem, precision)
    if not path.exists():
        return []
    remedy = f"ffnet-deploy build {graph.record.model} --{precision}"
    record = artifacts.load_record(path, remedy=remedy)
    if record.sources.get("graph", {}).get("sha256") != graph.record.sha256:
        raise ArtifactError(f"{path} is stale: {graph.path} was exported again since. Run: {remedy}")
    _check_ranges(workspace, path, record, remedy)
    marks = tuple(record.marks)
    return [Rung(runtimes.EMULATED, precision, record.model, graph.shape, path, record.size, marks, variant="emulated")]


def device_of(rung: Rung, device: int | None) -> int | None:
    """The GPU that a rung runs on, None for the CPU.

    ONNX Runtime stays on the CPU whatever the device; TensorRT has no CPU, and takes GPU 0 unless told otherwise.
    """
    if rung.runtime in ("onnxruntime", runtimes.EMULATED):
        return None
    return device if rung.runtime == runtimes.REFERENCE else device or 0


def device_in_use(rungs: Iterable[Rung], device: int | None) -> int | None:
    """The GPU that is to be watched while ``rungs`` run; None if all are on the CPU."""
    return next((found for rung in rungs if (found := device_of(rung, device)) is not None), None)


def rung_json(rung: Rung, device: int | None) -> dict[str, Any]:
    """A rung as plain JSON values, with where it runs when ``--device`` is ``device``."""
    found = device_of(rung, device)
    return {
        "device": "cpu" if found is None else f"cuda:{found}",
        "rung": rung.name,
        "runtime": rung.runtime,
        "precision": rung.precision,
        "file": rung.path.name if rung.path else None,
        "bytes": rung.size,
    }


def error_json(error: FFNetDeployError | None) -> dict[str, Any] | None:
    """An error as plain JSON values."""
    if error is None:
        return None
    return {"type": type(error).__name__, "message": str(error), "exit_code": error.exit_code}

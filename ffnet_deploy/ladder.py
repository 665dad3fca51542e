"""The rungs of a graph: which can run here, which cannot and why."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ffnet_deploy.artifacts.commandline import CommandLine
from ffnet_deploy.artifacts.filenames import FileName
from ffnet_deploy.artifacts.records import EngineRecord, GraphRecord, check_file, load_record, tool_versions
from ffnet_deploy.artifacts.replay import again
from ffnet_deploy.artifacts.values import Count, Precision, SourceFile
from ffnet_deploy.artifacts.workspace import EngineFile
from ffnet_deploy.calibration.record import ranges_changed
from ffnet_deploy.errors import (
    ArtifactError,
    FFNetDeployError,
    MissingDependencyError,
    UsageError,
    WeightsError,
)
from ffnet_deploy.graph.current import Graph
from ffnet_deploy.runtimes.rung import EMULATED, REFERENCE, Rung, Style, reason_not_here

_EMULATED: tuple[Precision, ...] = ("fp16", "int8")


@dataclass(frozen=True, slots=True)
class Skipped:
    """A rung that was built and cannot run on this machine."""

    rung: Rung
    reason: str

    @property
    def facts(self) -> SkippedRung:
        """What results say of it."""
        return SkippedRung(self.rung.name, self.reason)

    def __str__(self) -> str:
        return f"{self.rung.name}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Ladder:
    """The rungs of one graph: the reference, those that run here, and those that cannot."""

    reference: Rung
    running: tuple[Rung, ...]
    skipped: tuple[Skipped, ...]
    remedy: CommandLine
    """Builds a rung that runs anywhere."""
    reference_alone: bool = False
    """Nothing else was asked for."""

    @property
    def marks(self) -> tuple[str, ...]:
        """Marks of the reference and of every rung that runs, each once; their results carry them."""
        return tuple(dict.fromkeys(mark for rung in (self.reference, *self.running) for mark in rung.marks))

    def nothing_ran(self) -> FFNetDeployError | None:
        """The error to end with when no rung besides the reference can run here."""
        if self.running or self.reference_alone:
            return None
        why = "; ".join(map(str, self.skipped)) or "no engine was built"
        return MissingDependencyError(
            f"Nothing besides the PyTorch reference could run here ({why}). Run: {self.remedy}"
        )


def ladder(graph: Graph, only: Sequence[str] = (), *, emulated: bool = False) -> Ladder:
    """Find the rungs of a graph.

    Args:
        graph: what the engines of its workspace were built from.
        only: names of rungs (``onnxruntime fp32``) or runtimes; empty means all.
        emulated: also the FP16 and INT8 graphs, scored by rounding; they cannot be timed.

    Raises:
        UsageError: a name that no built engine has.
        MissingDependencyError: a rung that was asked for by name cannot run here.
        ArtifactError: an engine is damaged or was built from another graph.
        WeightsError: the reference's weights are gone.
    """
    reference = _reference(graph)
    built = [_rung(graph, engine) for engine in graph.workspace.engines_of(graph.path)]
    if emulated:
        built += [rung for precision in _EMULATED if (rung := _emulated(graph, precision))]
    unknown = [name for name in only if not any(name in (r.name, r.runtime) for r in (reference, *built))]
    if unknown:
        have = ", ".join(rung.name for rung in built) or "none"
        raise UsageError(
            f"No engine {unknown[0]!r} of {graph.path.name} was built (there are: {have}). Run: {graph.run('build')}"
        )
    wanted = [rung for rung in built if not only or rung.name in only or rung.runtime in only]
    reasons = {r.name: reason_not_here(r.runtime) or _other_version(r) for r in wanted}
    skipped = tuple(Skipped(r, reason) for r in wanted if (reason := reasons[r.name]))
    if only and skipped:
        raise MissingDependencyError(f"{skipped[0]}. Run it on the machine that it was built for, or leave it out.")
    running = tuple(r for r in wanted if reasons[r.name] is None)
    alone = bool(only) and set(only) <= {reference.name, reference.runtime}
    return Ladder(reference, running, skipped, graph.run("build", "--runtime", "onnxruntime"), alone)


def _reference(graph: Graph) -> Rung:
    file, record = graph.weights, graph.record
    if file is not None and not file.is_file():
        raise WeightsError(
            f"{file} does not exist (the PyTorch reference needs it). "
            f"Restore it, or export again from other weights: {graph.again}"
        )
    return Rung(
        REFERENCE,
        "fp32",
        record.model,
        graph.shape,
        path=file,
        size=file.stat().st_size if file else None,
        sha256=record.weights.sha256,
        marks=record.marks,
        upsampling=record.options.upsampling,
    )


def _rung(graph: Graph, engine: EngineFile) -> Rung:
    path, record = engine
    remedy = str(again(graph.workspace, path, record))
    check_file(path, record, remedy=remedy)
    _check_current(graph, path, record, record.exported, remedy)
    return Rung(
        record.runtime,
        record.precision,
        record.model,
        graph.shape,
        path=path,
        size=record.file.size,
        sha256=record.file.sha256,
        marks=record.marks,
        variant=FileName.parse(path.name).variant,
        built_by=None if record.engine.version_compatible else record.file.tools.get(record.runtime),
        ends=record.options.ends,
    )


def _check_current(
    graph: Graph, path: Path, record: GraphRecord | EngineRecord, source: SourceFile | None, remedy: str
) -> None:
    if source is None or source.sha256 != graph.record.file.sha256:
        raise ArtifactError(f"{path} is stale: {graph.path} was exported again since. Run: {remedy}")
    if ranges_changed(graph.workspace, record):
        raise ArtifactError(f"{path} is stale: {record.model} was calibrated again since. Run: {remedy}")


def _other_version(rung: Rung) -> str | None:
    """Why an engine cannot be loaded by the installed version of its runtime; None if it was built by that one."""
    installed = tool_versions(rung.runtime).get(rung.runtime)
    if not rung.runtime.startswith("tensorrt") or rung.built_by in (None, installed):
        return None
    return f"built by {rung.runtime} {rung.built_by}, and {installed} is installed; build it again"


def _emulated(graph: Graph, precision: Precision) -> Rung | None:
    """The FP16 graph, or TensorRT's INT8 graph, scored through rounding: no CPU computes either as a GPU does."""
    path = graph.workspace.path_of(replace(graph.name, precision=precision))
    if not path.exists():
        return None
    remedy = str(graph.run("build", f"--{precision}"))
    record = load_record(path, GraphRecord, remedy=remedy)
    _check_current(graph, path, record, record.graph, remedy)
    return _scored(path, record, "emulated")


def exported_rung(graph: Graph) -> Rung:
    """The exported graph itself, run as it stands."""
    return _scored(graph.path, graph.record, "")


def _scored(path: Path, record: GraphRecord, variant: str) -> Rung:
    return Rung(
        EMULATED,
        record.precision,
        record.model,
        record.options.shape,
        path=path,
        size=record.file.size,
        sha256=record.file.sha256,
        marks=record.marks,
        variant=variant,
    )


def device_of(rung: Rung, device: int | None) -> int | None:
    """The GPU that a rung runs on, None for the CPU.

    ONNX Runtime stays on the CPU whatever the device; TensorRT has no CPU, and takes GPU 0 unless told otherwise.
    """
    if rung.runtime in ("onnxruntime", EMULATED):
        return None
    return device if rung.runtime == REFERENCE else device or 0


def device_in_use(rungs: Iterable[Rung], device: int | None) -> int | None:
    """The GPU that is to be watched while ``rungs`` run; None if all are on the CPU."""
    return next((found for rung in rungs if (found := device_of(rung, device)) is not None), None)


@dataclass(frozen=True, slots=True)
class RungFacts:
    """Which rung a figure belongs to, as every result says it."""

    rung: str
    runtime: str
    precision: str
    device: str
    """``cpu`` or ``cuda:0``."""
    file: str | None
    bytes: Count | None
    sha256: str | None
    """Of the file; of the reference's weights."""


def facts_of(rung: Rung, device: int | None) -> RungFacts:
    """What results say of a rung that ran with ``--device``."""
    found = device_of(rung, device)
    return RungFacts(
        rung=rung.name,
        runtime=rung.runtime,
        precision=rung.precision,
        device="cpu" if found is None else f"cuda:{found}",
        file=rung.path.name if rung.path else None,
        bytes=rung.size,
        sha256=rung.sha256,
    )


@dataclass(frozen=True, slots=True)
class SkippedRung:
    """A rung that did not run, as results say it."""

    rung: str
    reason: str


def pytorch_rungs(reference: Rung, device: int | None) -> list[Rung]:
    """The reference, and what PyTorch offers without leaving it: what an engine must beat to be worth building."""
    styles = [("fp32", Style(channels_last=True))]
    if device is not None:
        both = Style(channels_last=True, compiled=True)
        styles += [
            ("fp32", Style(compiled=True)),
            ("fp16", Style()),
            ("fp16", Style(channels_last=True)),
            ("fp16", both),
        ]
    return [reference, *(replace(reference, precision=p, style=style, variant=style.words) for p, style in styles)]

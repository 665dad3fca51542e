"""The story of each command, straight through. The only module that knows all stages; it prints nothing."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ffnet_deploy import artifacts, runtimes
from ffnet_deploy.artifacts import Record, Variant, Workspace
from ffnet_deploy.errors import (
    ArtifactError,
    FFNetDeployError,
    GateError,
    MissingDependencyError,
    UsageError,
    WeightsError,
)
from ffnet_deploy.runtimes import Rung
from ffnet_deploy.zoo import specs
from ffnet_deploy.zoo.specs import ModelSpec

if TYPE_CHECKING:
    import onnx

    from ffnet_deploy.bench import Latency
    from ffnet_deploy.evaluate import Protocol, Score
    from ffnet_deploy.zoo.fetch import Fetched
    from ffnet_deploy.zoo.weights import Loaded

Progress = Callable[[str, int, int | None], None]
"""Told (what is going on, how much is done, out of how much or None)."""

RANDOM = "random"
OFF_CONTRACT = "off contract"
MIN_SIDE = 64
OPSETS = range(18, 24)
_VERIFY_IMAGES = 2
_EXPORT_TOOLS = ("torch", "onnx", "onnxscript", "onnxruntime-gpu", "onnxruntime", "numpy")


def quiet(what: str, done: int, total: int | None) -> None:
    """The progress callback of callers that show none."""


# --- models ---------------------------------------------------------------------------------------------------------


def list_models(workspace: Workspace, text: str = "") -> list[tuple[ModelSpec, specs.Cost, bool]]:
    """Specs whose name contains ``text``, what they cost, and whether their weights are present."""
    return [
        (spec, specs.costs()[name], (workspace.weights / spec.weights_file).is_file())
        for name, spec in specs.SPECS.items()
        if text.lower() in name.lower()
    ]


def fetch_weights(
    workspace: Workspace, names: Sequence[str], *, source: str | None = None, progress: Progress = quiet
) -> list[Fetched]:
    """Download and unpack the archives that hold the weights of ``names``."""
    from ffnet_deploy.zoo.fetch import fetch

    archives = list(dict.fromkeys(specs.find(name).archive for name in names))
    return fetch(
        archives,
        workspace.weights,
        source=source,
        progress=lambda p: progress(f"fetching {p.archive}", p.done, p.total),
    )


# --- export ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """What ``export`` can be asked for."""

    hw: tuple[int, int] | None = None
    """None is the contract's size."""
    allow_size: bool = False
    batch: int = 1
    opset: int = 20
    weights: Path | str | None = None
    """A file, ``random``, or None for the published place."""
    offline: bool = False
    output: Path | None = None


@dataclass(frozen=True, slots=True)
class Exported:
    """A verified graph, and what the user should know of it."""

    path: Path
    record: Record
    notes: tuple[str, ...]


def export(workspace: Workspace, name: str, options: ExportOptions, progress: Progress = quiet) -> Exported:
    """From a name to a verified ONNX graph and its record.

    Raises:
        UnknownModelError, UsageError: no such model, one that is not for deployment, or options that do not fit.
        WeightsError: no weights, or weights that do not fit.
        ExportError, VerificationError: the exporter failed, or its graph computes something else; no file is kept.
        ArtifactError: the workspace cannot be written.
    """
    spec = specs.find(name)
    height, width = _checked_options(spec, options)
    started = time.monotonic()
    path = options.output or workspace.graph(_variant(spec, height, width, options.batch).stem)
    file = _weights_file(workspace, spec, options, progress)

    progress("loading weights", 0, None)
    loaded = _load(workspace, spec, file)
    off = (OFF_CONTRACT,) if (height, width) != spec.input_hw else ()
    marks = (*loaded.marks, *_marks_beside(file), *off)

    progress("exporting", 0, None)
    from ffnet_deploy.graph.export import export as export_graph

    shape = (options.batch, 3, height, width)
    metadata = {"model": name, "weights_sha256": loaded.sha256, "marks": ", ".join(marks)}
    graph = export_graph(loaded.module, spec, shape, opset=options.opset, metadata=metadata)
    data = graph.SerializeToString(deterministic=True)

    progress("verifying against PyTorch", 0, None)
    found = {"verification": _verify(loaded, data, shape), "operators": _operators(graph)}
    artifacts.write_bytes(path, data)
    record = Record(
        kind="graph",
        model=name,
        precision="fp32",
        sha256=artifacts.sha256_of(path),
        size=len(data),
        sources={"weights": {"file": _relative(workspace, file), "sha256": loaded.sha256}},
        options={"shape": list(shape), "opset": options.opset, "contract": list(spec.input_hw)},
        found=found,
        marks=marks,
        seconds=round(time.monotonic() - started, 3),
        tools=artifacts.tool_versions(*_EXPORT_TOOLS),
        created=artifacts.now(),
    )
    artifacts.save_record(path, record)
    return Exported(path, record, loaded.notes)


def _checked_options(spec: ModelSpec, options: ExportOptions) -> tuple[int, int]:
    """The input size to export at."""
    if spec.train:
        trained = f"{spec.name.removesuffix('_train')}"
        near = trained if trained in specs.SPECS else specs.nearest(trained, 1)[0]
        raise UsageError(
            f"{spec.name} is for training: its weight file holds the backbone alone, the head is untrained. "
            f"Export the trained model: ffnet-deploy export {near}"
        )
    if options.batch < 1:
        raise UsageError(f"--batch {options.batch} is no batch (1 or more was needed). Leave it out for 1.")
    if options.opset not in OPSETS:
        raise UsageError(
            f"--opset {options.opset} is not supported ({OPSETS[0]} to {OPSETS[-1]} were needed). Leave it out for 20."
        )
    height, width = options.hw or spec.input_hw
    if (height, width) != spec.input_hw and not options.allow_size:
        raise UsageError(_wrong_size(spec, height, width))
    if min(height, width) < MIN_SIDE:
        raise UsageError(
            f"{height}x{width} is too small (at least {MIN_SIDE}x{MIN_SIDE} was needed). Name a larger size."
        )
    return height, width


def _wrong_size(spec: ModelSpec, height: int, width: int) -> str:
    contract = f"{spec.input_hw[0]}x{spec.input_hw[1]}"
    if spec.pre_down and (height, width) == (512, 1024):
        twin = spec.name.removesuffix("_pre_down")
        return (
            f"{spec.name} takes 1024x2048 and halves it inside, by a blur with stride 2; at 512x1024 the image would "
            "be halved twice, which has cost others about 17 points of mIoU. Leave --height and --width out, "
            f"or export {twin}, which takes 512x1024."
        )
    return (
        f"{spec.name} takes {contract}, not {height}x{width}: its accuracy is known at that size only. "
        "Leave --height and --width out, or add --allow-size to go off contract."
    )


def _variant(spec: ModelSpec, height: int, width: int, batch: int) -> Variant:
    return Variant(spec.name, None if (height, width) == spec.input_hw else (height, width), batch)


def _weights_file(workspace: Workspace, spec: ModelSpec, options: ExportOptions, progress: Progress) -> Path | None:
    """The weight file to load, fetched if need be; None for random weights."""
    if options.weights == RANDOM:
        return None
    if options.weights is not None:
        return Path(options.weights)
    file = workspace.weights / spec.weights_file
    if not file.is_file() and options.offline:
        raise WeightsError(
            f"{file} does not exist and --offline forbids to fetch it. Run: ffnet-deploy weights fetch {spec.name}, "
            "name a file with --weights FILE, or use --weights random for latency work."
        )
    if not file.is_file():
        try:
            fetch_weights(workspace, [spec.name], progress=progress)
        except WeightsError as error:
            raise WeightsError(f"{error} Or, for latency work alone: --weights random") from error
    if not file.is_file():
        raise WeightsError(
            f"The archive {spec.archive}.zip holds no {spec.weights_file}. Name the file yourself with --weights FILE."
        )
    return file


def _load(workspace: Workspace, spec: ModelSpec, file: Path | None) -> Loaded:
    from ffnet_deploy.zoo.checksums import check_recorded
    from ffnet_deploy.zoo.weights import load, load_random

    if file is None:
        return load_random(spec)
    loaded = load(spec, file)
    # After loading: a file that cannot be read is not worth remembering.
    check_recorded(file, workspace.weights)
    return loaded


def _marks_beside(file: Path | None) -> tuple[str, ...]:
    """What the record beside a weight file, where there is one, says that everything made from it must say."""
    if file is None or not artifacts.record_path(file).exists():
        return ()
    return tuple(artifacts.load_record(file, remedy="the command that made these weights").marks)


def _relative(workspace: Workspace, file: Path | None) -> str | None:
    if file is None:
        return None
    absolute = file.resolve()
    root = workspace.root.resolve()
    return str(absolute.relative_to(root)) if absolute.is_relative_to(root) else str(absolute)


def _verify(loaded: Loaded, graph: bytes, shape: tuple[int, int, int, int]) -> dict[str, Any]:
    from ffnet_deploy.runtimes.onnxruntime import OnnxRuntimeRunner
    from ffnet_deploy.runtimes.pytorch import PyTorchRunner
    from ffnet_deploy.verify import Tolerance, verify

    threads = runtimes.default_threads()
    feeds = street_feeds(shape, _VERIFY_IMAGES)
    with (
        PyTorchRunner(loaded.module, shape, threads=threads) as reference,
        OnnxRuntimeRunner(graph, threads=threads, spinning=False) as other,
    ):
        return verify(reference, other, feeds, Tolerance()).to_json()


def street_feeds(shape: tuple[int, int, int, int], count: int) -> list[dict[str, Any]]:
    """Real-looking inputs: synthetic street scenes, normalised, float32 of ``shape``."""
    import numpy as np

    from ffnet_deploy.data.images import normalise
    from ffnet_deploy.data.scenes import draw_scene

    batch, _, height, width = shape
    images = [normalise(draw_scene(height, width, seed).image) for seed in range(count * batch)]
    return [{"image": np.concatenate(images[i * batch : (i + 1) * batch])} for i in range(count)]


def _operators(graph: onnx.ModelProto) -> dict[str, int]:
    from collections import Counter

    return dict(Counter(node.op_type for node in graph.graph.node).most_common())


# --- the current graph ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Graph:
    """An FP32 graph that is current: undamaged, and made from the weights that are there."""

    path: Path
    record: Record

    @property
    def spec(self) -> ModelSpec:
        return specs.find(self.record.model)

    @property
    def stem(self) -> str:
        """File name without ending: the model and what differs from its contract."""
        return self.path.name.removesuffix(".onnx")

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(N, 3, H, W) of the input."""
        n, c, h, w = self.record.options["shape"]
        return n, c, h, w


def current_graph(workspace: Workspace, name: str | None) -> Graph:
    """The graph exported last, of ``name`` or of any model.

    Raises:
        UnknownModelError: no such model.
        ArtifactError: none was exported, or it is damaged or stale; the message names the command that renews it.
    """
    if name is not None:
        specs.find(name)
    found = [path for path, record in workspace.graphs() if name in (None, record.model)]
    if not found:
        plain = workspace.graph(name) if name else None
        if plain is not None and plain.exists():
            artifacts.load_record(plain, remedy=f"ffnet-deploy export {name}")
        what = f"No graph of {name} is" if name else "No graph is"
        raise ArtifactError(
            f"{what} in {workspace.models} (build starts from one). Run: ffnet-deploy export {name or 'NAME'}"
        )
    record = artifacts.load_record(found[0], remedy=f"ffnet-deploy export {name or 'NAME'}")
    graph = Graph(found[0], record)
    _check_weights(workspace, graph)
    return graph


def _check_weights(workspace: Workspace, graph: Graph) -> None:
    file = reference_weights(workspace, graph)
    weights = graph.record.sources["weights"]
    if file is not None and file.is_file() and artifacts.sha256_of(file) != weights["sha256"]:
        remedy = f"ffnet-deploy export {graph.record.model}"
        raise ArtifactError(f"{graph.path} is stale: {file} has changed since it was exported. Run: {remedy}")


def reference_weights(workspace: Workspace, graph: Graph) -> Path | None:
    """The file that a graph was exported from; None for random weights."""
    file = graph.record.sources["weights"]["file"]
    return None if file is None else workspace.root / file


# --- build ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Built:
    """An engine and its record."""

    path: Path
    record: Record


def build(
    workspace: Workspace,
    name: str | None,
    precisions: Sequence[str],
    runtime: str = "auto",
    *,
    progress: Progress = quiet,
) -> list[Built]:
    """Build engines from the current graph.

    Args:
        workspace: where the graph is and the engines go.
        name: of the model; None is the one exported last.
        precisions: of ``fp32`` and ``fp16``; none means FP32.
        runtime: one of ``runtimes.RUNTIMES`` or ``auto``.
        progress: told what is being built.

    Raises:
        ArtifactError: no current graph, or the workspace cannot be written.
        MissingDependencyError: the runtime is absent, or cannot do what was asked.
        PrecisionError, EngineError: the graph cannot be converted, or the runtime refuses it.
    """
    graph = current_graph(workspace, name)
    jobs = plan(precisions or ("fp32",), runtime)
    results = []
    for i, (precision, target) in enumerate(jobs):
        progress(f"building {target} {precision}", i, len(jobs))
        source = graph if precision == "fp32" else _half_graph(workspace, graph)
        results.append(_build_one(workspace, graph, source, precision, target))
    return results


def plan(precisions: Sequence[str], runtime: str) -> list[tuple[str, str]]:
    """(precision, runtime) pairs to build.

    ``auto`` is TensorRT where it and a GPU are, else TensorRT-RTX, and ONNX Runtime's FP32 engine besides: it is the
    rung that runs anywhere.

    Raises:
        MissingDependencyError: ONNX Runtime was asked for an FP16 engine.
    """
    if runtime == "auto":
        installed = runtimes.visible_gpus() and runtimes.reason_not_here("tensorrt") is None
        chosen = "tensorrt" if installed else "tensorrt-rtx"
        return [(precision, chosen) for precision in precisions] + [("fp32", "onnxruntime")]
    if runtime == "onnxruntime" and "fp16" in precisions:
        raise MissingDependencyError(
            "ONNX Runtime has no FP16 engine on a CPU: it computes FP16 graphs in FP32. "
            "Run: ffnet-deploy build --fp16 --runtime tensorrt-rtx"
        )
    return [(precision, runtime) for precision in precisions]


def _half_graph(workspace: Workspace, graph: Graph) -> Graph:
    """The FP16 graph beside the FP32 one, made again."""
    import onnx

    from ffnet_deploy.graph.fp16 import to_fp16

    started = time.monotonic()
    path = workspace.graph(graph.stem, "fp16")
    data = to_fp16(onnx.load(graph.path)).SerializeToString(deterministic=True)
    artifacts.write_bytes(path, data)
    record = Record(
        kind="graph",
        model=graph.record.model,
        precision="fp16",
        sha256=artifacts.sha256_of(path),
        size=len(data),
        sources={"graph": {"file": graph.path.name, "sha256": graph.record.sha256}},
        options={**graph.record.options, "io": "fp32"},
        marks=graph.record.marks,
        seconds=round(time.monotonic() - started, 3),
        tools=artifacts.tool_versions("onnx", "numpy"),
        created=artifacts.now(),
    )
    artifacts.save_record(path, record)
    return Graph(path, record)


def _build_one(workspace: Workspace, graph: Graph, source: Graph, precision: str, runtime: str) -> Built:
    started = time.monotonic()
    path = workspace.engine(graph.stem, precision, runtime)
    with artifacts.replacing(path) as part:
        found = _run_builder(runtime, source.path, part)
    record = Record(
        kind="engine",
        model=graph.record.model,
        precision=precision,
        runtime=runtime,
        sha256=artifacts.sha256_of(path),
        size=path.stat().st_size,
        sources={
            "graph": {"file": source.path.name, "sha256": source.record.sha256},
            "exported": {"file": graph.path.name, "sha256": graph.record.sha256},
        },
        options={"shape": list(graph.shape)},
        found=found,
        marks=graph.record.marks,
        seconds=round(time.monotonic() - started, 3),
        tools=artifacts.tool_versions("tensorrt", "tensorrt-rtx", "polygraphy", "onnxruntime-gpu", "onnxruntime"),
        created=artifacts.now(),
    )
    artifacts.save_record(path, record)
    return Built(path, record)


def _run_builder(runtime: str, graph: Path, engine: Path) -> dict[str, Any]:
    if runtime == "onnxruntime":
        from ffnet_deploy.runtimes import onnxruntime

        return onnxruntime.build(graph, engine)
    from ffnet_deploy.runtimes.base import Worker
    from ffnet_deploy.runtimes.tensorrt import TensorRTBuilder

    with Worker(f"the {runtime} build", TensorRTBuilder, runtime) as worker:
        found: dict[str, Any] = worker.call("build", graph, engine)
        return found


# --- the ladder -----------------------------------------------------------------------------------------------------


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

    def nothing_ran(self) -> FFNetDeployError | None:
        """The error to end with when no rung besides the reference can run here."""
        if self.running:
            return None
        why = "; ".join(map(str, self.skipped)) or "no engine was built"
        return MissingDependencyError(
            f"Nothing besides the PyTorch reference could run here ({why}). "
            f"Run: ffnet-deploy build {self.reference.model} --runtime onnxruntime"
        )


def ladder(workspace: Workspace, graph: Graph, only: Sequence[str] = ()) -> Ladder:
    """Find the rungs of a graph.

    Args:
        workspace: where the engines are.
        graph: what they were built from.
        only: names of rungs (``onnxruntime fp32``) or runtimes; empty means all.

    Raises:
        UsageError: a name that no built engine has.
        MissingDependencyError: a rung that was asked for by name cannot run here.
        ArtifactError: an engine is damaged or was built from another graph.
    """
    weights = reference_weights(workspace, graph)
    if weights is not None and not weights.is_file():
        raise WeightsError(
            f"{weights} does not exist (the PyTorch reference needs it). "
            f"Run: ffnet-deploy weights fetch {graph.record.model}"
        )
    size = weights.stat().st_size if weights else None
    marks = tuple(graph.record.marks)
    reference = Rung(runtimes.REFERENCE, "fp32", graph.record.model, graph.shape, weights, size, marks)
    built = [_rung(graph, path, record) for path, record in workspace.engines_of(graph.stem)]
    wanted = [rung for rung in built if not only or rung.name in only or rung.runtime in only]
    unknown = [name for name in only if not any(name in (r.name, r.runtime) for r in built) and name != reference.name]
    if unknown:
        have = ", ".join(rung.name for rung in built) or "none"
        raise UsageError(
            f"No engine {unknown[0]!r} of {graph.stem} was built (there are: {have}). "
            f"Run: ffnet-deploy build {graph.record.model}"
        )
    skipped = tuple(Skipped(r, reason) for r in wanted if (reason := runtimes.reason_not_here(r.runtime)))
    if only and skipped:
        raise MissingDependencyError(f"{skipped[0]}. Run it on the machine that it was built for, or leave it out.")
    running = tuple(r for r in wanted if runtimes.reason_not_here(r.runtime) is None)
    return Ladder(reference, running, skipped)


def _rung(graph: Graph, path: Path, record: Record) -> Rung:
    remedy = f"ffnet-deploy build {record.model} --{record.precision} --runtime {record.runtime}"
    record = artifacts.load_record(path, remedy=remedy)
    if record.sources["exported"]["sha256"] != graph.record.sha256:
        raise ArtifactError(f"{path} is stale: {graph.path} was exported again since. Run: {remedy}")
    assert record.runtime is not None
    return Rung(record.runtime, record.precision, record.model, graph.shape, path, record.size, tuple(record.marks))


# --- bench ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Benchmark:
    """Latencies of the reference (first) and of every rung that could run."""

    model: str
    batch: int
    iters: int
    threads: int
    latencies: list[Latency]
    skipped: tuple[Skipped, ...]
    marks: tuple[str, ...]
    environment: dict[str, Any]
    failure: FFNetDeployError | None
    """What the command ends with although there is a result."""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        first = self.latencies[0].median
        return {
            "schema": artifacts.SCHEMA,
            "command": "bench",
            "model": self.model,
            "mode": "compute",
            "batch": self.batch,
            "iters": self.iters,
            "threads": self.threads,
            "marks": list(self.marks),
            "rungs": [
                {**item.to_json(), **_rung_json(item.rung), "speed_up": first / item.median} for item in self.latencies
            ],
            "skipped": [{"rung": s.rung.name, "reason": s.reason} for s in self.skipped],
            "environment": self.environment,
            "error": error_json(self.failure),
        }


def bench(
    workspace: Workspace,
    name: str | None,
    *,
    iters: int,
    device: int | None = None,
    threads: int | None = None,
    progress: Progress = quiet,
) -> Benchmark:
    """Time the reference and every rung that can run here, side by side.

    Raises:
        ArtifactError: no current graph, or a damaged or stale engine.
        EngineError, MissingDependencyError, WeightsError: a rung cannot be opened, or its process died.
    """
    from ffnet_deploy.bench import bench as measure

    if iters < 1:
        raise UsageError(f"--iters {iters} measures nothing (1 or more was needed). Leave it out for 200.")
    graph = current_graph(workspace, name)
    rungs = ladder(workspace, graph)
    threads = threads or runtimes.default_threads()
    latencies = measure(
        (rungs.reference, *rungs.running),
        street_feeds(graph.shape, 2),
        iters=iters,
        threads=threads,
        device=device,
        progress=lambda done, total: progress("measuring", done, total),
    )
    return Benchmark(
        model=graph.stem,
        batch=graph.shape[0],
        iters=iters,
        threads=threads,
        latencies=latencies,
        skipped=rungs.skipped,
        marks=tuple(graph.record.marks),
        environment=environment(),
        failure=rungs.nothing_ran(),
    )


def environment() -> dict[str, Any]:
    """What a figure rests on: processor, cores, load, versions."""
    return {
        "processor": _processor(),
        "cores": runtimes.default_threads(),
        "load_average": list(os.getloadavg()),
        "system": platform.platform(),
        "gpus": runtimes.visible_gpus(),
        "tools": artifacts.tool_versions(*_EXPORT_TOOLS, "tensorrt", "tensorrt-rtx", "pycuda"),
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


# --- eval -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Scores of the reference (first) and of every rung that could run, on one set."""

    model: str
    title: str
    protocol: Protocol
    rungs: tuple[Rung, ...]
    scores: list[Score]
    skipped: tuple[Skipped, ...]
    marks: tuple[str, ...]
    images_sha256: str
    reference_reused: bool
    failure: FFNetDeployError | None

    def drop(self, i: int) -> float:
        """Points of mIoU that rung ``i`` is below the reference."""
        return self.scores[0].miou - self.scores[i].miou

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        pairs = enumerate(zip(self.rungs, self.scores, strict=True))
        return {
            "schema": artifacts.SCHEMA,
            "command": "eval cityscapes",
            "model": self.model,
            "set": self.title,
            "images_sha256": self.images_sha256,
            "protocol": asdict(self.protocol),
            "marks": list(self.marks),
            "reference_reused": self.reference_reused,
            "rungs": [{**_rung_json(rung), **score.to_json(), "drop": self.drop(i)} for i, (rung, score) in pairs],
            "skipped": [{"rung": s.rung.name, "reason": s.reason} for s in self.skipped],
            "environment": environment(),
            "error": error_json(self.failure),
        }


@dataclass(frozen=True, slots=True)
class EvalOptions:
    """What ``eval cityscapes`` can be asked for."""

    root: Path
    only: tuple[str, ...] = ()
    device: int | None = None
    align_corners: bool = False
    max_drop: float | None = None


def evaluate_cityscapes(
    workspace: Workspace, name: str | None, options: EvalOptions, progress: Progress = quiet
) -> Evaluation:
    """Score the reference and every rung that can run here by the published protocol.

    Raises:
        UsageError: the model is no segmentation model, or an unknown rung was named.
        DataError: the set is absent, incomplete or damaged.
        ArtifactError: no current graph, or a damaged or stale engine.
        EngineError, MissingDependencyError, WeightsError: a rung cannot be opened.
    """
    from contextlib import ExitStack

    from ffnet_deploy import evaluate as evaluation
    from ffnet_deploy.data.cityscapes import find_split

    graph = current_graph(workspace, name)
    if graph.spec.task != "segmentation":
        raise UsageError(f"{graph.record.model} is a classification model. Name a segmentation model for Cityscapes.")
    split = find_split(options.root)
    rungs = ladder(workspace, graph, options.only)
    protocol = _protocol(graph, options.align_corners)
    threads = runtimes.default_threads()

    progress("hashing the set", 0, None)
    key = evaluation.reference_key(graph.record.sources["weights"]["sha256"], split, protocol)
    reference = evaluation.Reference(
        lambda: runtimes.open_rung(rungs.reference, threads, options.device),
        evaluation.LabelMaps(workspace.models / "reference", key),
        protocol,
    )
    with ExitStack() as stack:
        stack.callback(reference.close)
        # Several runtimes take turns in this process: idle threads that spin would slow the others.
        open_rungs = [
            stack.enter_context(runtimes.open_rung(rung, threads, options.device, spinning=False))
            for rung in rungs.running
        ]
        scores = evaluation.evaluate(
            split,
            protocol,
            reference,
            open_rungs,
            batch=graph.shape[0],
            progress=lambda done, total: progress("evaluating", done, total),
        )
    result = Evaluation(
        model=graph.stem,
        title=split.title,
        protocol=protocol,
        rungs=(rungs.reference, *rungs.running),
        scores=scores,
        skipped=rungs.skipped,
        marks=tuple(graph.record.marks),
        images_sha256=key["images"],
        reference_reused=reference.computed == 0,
        failure=rungs.nothing_ran(),
    )
    return _gated(result, options.max_drop)


def _protocol(graph: Graph, align_corners: bool) -> Protocol:
    from ffnet_deploy.evaluate import Protocol

    _, _, height, width = graph.shape
    if graph.spec.pre_down_twin:
        return Protocol((2 * height, 2 * width), "blur", align_corners)
    return Protocol((height, width), None, align_corners)


def _gated(result: Evaluation, max_drop: float | None) -> Evaluation:
    from dataclasses import replace

    if max_drop is None or result.failure:
        return result
    beyond = [
        f"{rung.name} drops {result.drop(i):.3f}" for i, rung in enumerate(result.rungs) if result.drop(i) > max_drop
    ]
    if not beyond:
        return result
    failure = GateError(
        f"{'; '.join(beyond)} points of mIoU (at most {max_drop:g} was allowed). "
        "Look at the classes above, or allow more with --max-drop."
    )
    return replace(result, failure=failure)


def _rung_json(rung: Rung) -> dict[str, Any]:
    return {
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

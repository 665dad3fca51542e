"""From the current graph to engines: precision, deployment, build, and a look at what was built."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ffnet_deploy import artifacts, runtimes
from ffnet_deploy.artifacts import Record, Workspace
from ffnet_deploy.errors import EngineError, MissingDependencyError, UsageError, require
from ffnet_deploy.pipeline.current import Graph, Progress, current_graph, quiet
from ffnet_deploy.pipeline.precision import Int8Options, check_int8, half_graph, int8_graph
from ffnet_deploy.runtimes import options as engine_options
from ffnet_deploy.runtimes.options import EngineOptions

if TYPE_CHECKING:
    from ffnet_deploy.graph.fp16 import Io

_TOOLS = ("tensorrt", "tensorrt-rtx", "polygraphy", "onnxruntime-gpu", "onnxruntime", "onnx")


_CARRIED = ("kept_fp32", "quantised", "declined")
"""What a graph with other ends has from the one it was made from."""
_INT8_SHARE = 0.98
"""Of the multiply-accumulates that an INT8 engine must have in INT8, unless less was asked for."""
_ROUNDING = 1e-3
"""A plane of zeros in the first filter changes shares a little."""


@dataclass(frozen=True, slots=True)
class Built:
    """An engine and its record."""

    path: Path
    record: Record


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """What ``build`` can be asked for."""

    precisions: tuple[str, ...] = ("fp32",)
    runtime: str = "auto"
    io: Io = "fp32"
    """Type of an FP16 engine's inputs and outputs."""
    keep_fp32: tuple[str, ...] = ()
    """Names or patterns of nodes that stay FP32 in an FP16 engine."""
    int8: Int8Options = field(default_factory=Int8Options)
    """How INT8 graphs are made."""
    image_in: bool = False
    """Take uint8 (N, H, W, 3) instead of normalised floats."""
    labels_out: bool = False
    """Give uint8 (N, H, W) train ids instead of logits."""
    align_corners: bool = False
    """Of the up-sampling in front of the labels."""
    engine: EngineOptions = field(default_factory=EngineOptions)

    @property
    def ends(self) -> str:
        """What file names say of the engine's ends."""
        return f"{'.image' if self.image_in else ''}{'.labels' if self.labels_out else ''}"


def build(
    workspace: Workspace, name: str | None, options: BuildOptions | None = None, progress: Progress = quiet
) -> list[Built]:
    """Build engines from the current graph.

    Args:
        workspace: where the graph is and the engines go.
        name: of the model; None is the one exported last.
        options: what to build.
        progress: told what is being built.

    Raises:
        UsageError: options that do not fit the graph or the runtime.
        ArtifactError: no current graph, or the workspace cannot be written.
        MissingDependencyError: the runtime is absent, or cannot do what was asked.
        PrecisionError, VerificationError: the graph cannot be converted.
        EngineError: the runtime refuses it, or built something else than was asked.
    """
    options = options or BuildOptions()
    graph = current_graph(workspace, name)
    jobs = plan(options.precisions, options.runtime)
    for _, runtime in jobs:
        # ONNX Runtime's engines come along with `auto`: options for a GPU do not concern them.
        if options.runtime != "auto" or runtime != "onnxruntime":
            engine_options.check(options.engine, runtime)
    _check_ends(graph, options)
    # Before any work: an FP16 graph alone takes up to a minute.
    for runtime in dict.fromkeys(runtime for _, runtime in jobs):
        require(runtime.replace("-", "_"))
    if "int8" in options.precisions:
        check_int8(workspace, graph, options.int8)
    # Once for each kind of graph: two runtimes build from the same file.
    sources = {kind: _source(workspace, graph, kind, options, progress) for kind in map(_graph_kind, jobs)}
    ready = {kind: _deployed(workspace, source, options) for kind, source in sources.items()}
    return [_build_one(workspace, graph, ready[_graph_kind(job)], _Job(*job), options, progress) for job in jobs]


def _graph_kind(job: tuple[str, str]) -> str:
    """Which graph an engine is built from; INT8 has one for each dialect."""
    return "int8-cpu" if job == ("int8", "onnxruntime") else job[0]


def _source(workspace: Workspace, graph: Graph, kind: str, options: BuildOptions, progress: Progress) -> Graph:
    if kind == "fp16":
        return half_graph(workspace, graph, options.keep_fp32, options.io, progress)
    if kind == "int8":
        return int8_graph(workspace, graph, "tensorrt", options.int8, progress)
    if kind == "int8-cpu":
        return int8_graph(workspace, graph, "cpu", options.int8, progress)
    return graph


def plan(precisions: Sequence[str], runtime: str) -> list[tuple[str, str]]:
    """(precision, runtime) pairs to build.

    ``auto`` is TensorRT where it and a GPU are, else TensorRT-RTX, and ONNX Runtime's engines last, FP32 and if asked
    for INT8: they are the rungs that run anywhere.

    Raises:
        MissingDependencyError: ONNX Runtime was asked for an FP16 engine.
    """
    if runtime == "auto":
        installed = runtimes.visible_gpus() and runtimes.reason_not_here("tensorrt") is None
        chosen = "tensorrt" if installed else "tensorrt-rtx"
        anywhere = [("fp32", "onnxruntime")] + [("int8", "onnxruntime")] * ("int8" in precisions)
        return [(precision, chosen) for precision in precisions] + anywhere
    if runtime == "onnxruntime" and "fp16" in precisions:
        raise MissingDependencyError(
            "ONNX Runtime has no FP16 engine on a CPU: it computes FP16 graphs in FP32. "
            "Run: ffnet-deploy build --fp16 --runtime tensorrt-rtx"
        )
    return [(precision, runtime) for precision in precisions]


def _check_ends(graph: Graph, options: BuildOptions) -> None:
    if "fp16" not in options.precisions and (options.io == "fp16" or options.keep_fp32):
        flag = "--io fp16" if options.io == "fp16" else "--keep-fp32"
        raise UsageError(f"{flag} is for FP16 engines, and none was asked for. Add --fp16, or leave it out.")
    if "int8" not in options.precisions and options.int8 != Int8Options():
        flag = "--keep-fp16" if options.int8.keep_fp16 else "--method"
        raise UsageError(f"{flag} is for INT8 engines, and none was asked for. Add --int8, or leave it out.")
    if options.labels_out and graph.spec.task != "segmentation":
        raise UsageError(f"{graph.record.model} gives classes, not a label map. Leave --labels-out out.")
    if options.io == "fp16" and (options.image_in or options.labels_out):
        raise UsageError("--io fp16 is for engines with float ends. Leave it out beside --image-in and --labels-out.")
    if options.align_corners and not options.labels_out:
        raise UsageError("--align-corners is of the up-sampling before the labels. Add --labels-out, or leave it out.")
    if graph.dynamic and options.engine.batch is None:
        raise UsageError(
            f"{graph.path.name} takes any batch, and an engine needs to know which: its smallest, usual and largest "
            "batch. Say for example: --batch 1,4,8"
        )
    if options.engine.batch is not None and not graph.dynamic:
        raise UsageError(
            f"{graph.path.name} has the fixed batch {graph.shape[0]}, so --batch means nothing. Leave it out, or run: "
            f"ffnet-deploy export {graph.record.model} --dynamic-batch"
        )


def _deployed(workspace: Workspace, source: Graph, options: BuildOptions) -> Graph:
    """The graph to build from: with the image or labels ends that were asked for, kept beside the others."""
    if not options.ends:
        return source
    import onnx

    from ffnet_deploy.graph.deploy import with_image_in, with_labels_out

    started = time.monotonic()
    model = onnx.load(source.path)
    if options.image_in:
        model = with_image_in(model)
    if options.labels_out:
        model = with_labels_out(model, (source.shape[2], source.shape[3]), align_corners=options.align_corners)
    precision = source.record.precision
    stem = source.path.name.removesuffix(".onnx").removesuffix(f".{precision}")
    path = workspace.graph(f"{stem}{options.ends}", precision)
    data = model.SerializeToString(deterministic=True)
    record = artifacts.keep(
        path,
        data,
        lambda sha256, size: Record(
            kind="graph",
            model=source.record.model,
            precision=precision,
            sha256=sha256,
            size=size,
            sources={"graph": {"file": source.path.name, "sha256": source.record.sha256}, **_ranges(source)},
            options={**source.record.options, **_ends_json(options)},
            found={key: source.record.found[key] for key in _CARRIED if key in source.record.found},
            marks=source.record.marks,
            seconds=round(time.monotonic() - started, 3),
            tools=artifacts.tool_versions("onnx", "numpy"),
            created=artifacts.now(),
        ),
    )
    return Graph(path, record)


def _ranges(source: Graph) -> dict[str, Any]:
    """The calibration that an INT8 graph was made from, for what is made from that graph."""
    return {key: value for key, value in source.record.sources.items() if key == "calibration"}


def _ends_json(options: BuildOptions) -> dict[str, Any]:
    return {"image_in": options.image_in, "labels_out": options.labels_out, "align_corners": options.align_corners}


@dataclass(frozen=True, slots=True)
class _Job:
    precision: str
    runtime: str


def _build_one(
    workspace: Workspace, graph: Graph, source: Graph, job: _Job, options: BuildOptions, progress: Progress
) -> Built:
    progress(f"building {job.runtime} {job.precision}", 0, None)
    if job.precision == "int8":
        _check_share(source, source.record.found["quantised"]["share"])
    started = time.monotonic()
    # ONNX Runtime's engine comes along with `auto`: options for a GPU do not concern it.
    wanted = options.engine if job.runtime != "onnxruntime" else EngineOptions(batch=options.engine.batch)
    batch = f".b{wanted.batch}" if wanted.batch else ""
    stem = f"{graph.stem.removesuffix('.bdynamic')}{batch}{options.ends}"
    path = workspace.engine(stem, job.precision, job.runtime, wanted.suffix)
    with artifacts.replacing(path) as part:
        found = _run_builder(job.runtime, source.path, part, wanted, progress)
        _check_found(source, job, found)
        record = Record(
            kind="engine",
            model=graph.record.model,
            precision=job.precision,
            runtime=job.runtime,
            sha256=artifacts.sha256_of(part),
            size=part.stat().st_size,
            sources={
                "graph": {"file": source.path.name, "sha256": source.record.sha256},
                "exported": {"file": graph.path.name, "sha256": graph.record.sha256},
                **_ranges(source),
            },
            options={
                "command": _command(graph, job, options),
                "shape": list(graph.shape),
                "io": source.record.options.get("io", "fp32"),
                **_ends_json(options),
                **{key: str(value) if key == "batch" else value for key, value in wanted.asked().items()},
            },
            found=found,
            marks=source.record.marks,
            seconds=round(time.monotonic() - started, 3),
            tools=artifacts.tool_versions(*_TOOLS),
            created=artifacts.now(),
        )
        artifacts.save_record(path, record)
    return Built(path, record)


def _command(graph: Graph, job: _Job, options: BuildOptions) -> str:
    """The command line that builds this engine again."""
    parts = [f"ffnet-deploy build {graph.record.model} --{job.precision} --runtime {job.runtime}"]
    parts += [f"--keep-fp32 {pattern!r}" for pattern in options.keep_fp32 if job.precision == "fp16"]
    if job.precision == "int8":
        parts += [f"--method {options.int8.method}"] if options.int8.method else []
        parts += [f"--keep-fp16 {pattern!r}" for pattern in options.int8.keep_fp16]
    parts += ["--io fp16"] if options.io == "fp16" and job.precision == "fp16" else []
    ends = (
        ("--image-in", options.image_in),
        ("--labels-out", options.labels_out),
        ("--align-corners", options.align_corners),
    )
    parts += [flag for flag, asked in ends if asked]
    return " ".join([*parts, *options.engine.flags(job.runtime)])


def _run_builder(runtime: str, graph: Path, engine: Path, options: EngineOptions, progress: Progress) -> dict[str, Any]:
    if runtime == "onnxruntime":
        from ffnet_deploy.runtimes import onnxruntime

        return onnxruntime.build(graph, engine)
    import onnx

    from ffnet_deploy.graph.facts import macs_by_node
    from ffnet_deploy.runtimes.base import Worker
    from ffnet_deploy.runtimes.tensorrt import TensorRTBuilder

    macs = macs_by_node(onnx.load(graph))
    with Worker(f"the {runtime} build", TensorRTBuilder, runtime) as worker:
        worker.on_progress = progress
        found: dict[str, Any] = worker.call("build", graph, engine, macs, options)
        return found


def _check_found(source: Graph, job: _Job, found: dict[str, Any]) -> None:
    """Hold what the builder says it built to what was asked; TensorRT without RTX says nothing here.

    Raises:
        EngineError: a convolution or Gemm computes in another precision.
    """
    if job == _Job("int8", "onnxruntime"):
        found["share"] = _checked_integers(source, found)
    if job.runtime != "tensorrt-rtx":
        return
    if not found:
        raise EngineError(
            f"{job.runtime} did not tell what it built, so its precision is unknown. Install a tested version: see "
            "constraints.txt"
        )
    kept = source.record.found.get("kept_fp32", {})
    fused = [node for node in kept if found["precision"].get(node, "fp32") != "fp32"]
    if fused:
        what = f"{', '.join(fused[:3])} in {found['precision'][fused[0]]}"
        raise EngineError(
            f"{job.runtime} computes {what}: it fuses the Casts around a node that stays FP32 alone. No file was kept. "
            "Keep its neighbours too, with more --keep-fp32 PATTERN."
        )
    quantised = source.record.found.get("quantised", {}).get("nodes", ())
    other = "fp16" if job.precision == "int8" else job.precision
    wrong = [
        f"{node} {precision}"
        for node, precision in found["precision"].items()
        if precision != ("int8" if node in quantised else "fp32" if node in kept else other)
    ]
    if wrong or "unknown" in found["share"]:
        what = ", ".join(wrong[:3]) or f"{100 * found['share']['unknown']:.1f} % of the work in layers that it hides"
        raise EngineError(
            f"{job.precision} was asked for and {job.runtime} built {what}. No file was kept. "
            "Report this with the graph."
        )
    if job.precision == "int8":
        _check_share(source, found["share"].get("int8", 0.0))


def _checked_integers(source: Graph, found: dict[str, Any]) -> dict[str, float]:
    """Hold ONNX Runtime's optimised graph to the convolutions that were quantised, and give their share of the work."""
    quantised = source.record.found["quantised"]
    # The last classifier is a product of matrices there: see graph/integers.py.
    wanted, have = len(quantised["nodes"]), sum(found["nodes"].get(kind, 0) for kind in ("QLinearConv", "QGemm"))
    if have != wanted:
        raise EngineError(
            f"ONNX Runtime computes {have} convolutions in integers ({wanted} were quantised). No file was kept. "
            "Install a tested version: see constraints.txt"
        )
    return {"int8": quantised["share"], "fp32": round(1 - quantised["share"], 6)}


def _check_share(source: Graph, share: float) -> None:
    """Hold an engine to INT8 nearly everywhere; less only where the rules or the user keep that much out."""
    needed = min(_INT8_SHARE, source.record.found["quantised"]["possible"] - _ROUNDING)
    if share < needed and not source.record.options.get("keep_fp16"):
        declined = source.record.found["declined"]
        first = next(iter(declined.items()))
        raise EngineError(
            f"Only {100 * share:.1f} % of the multiply-accumulates are INT8 ({100 * needed:.1f} % were needed; "
            f"{len(declined)} nodes are not, first {first[0]}: {first[1]}). No file was kept. "
            "Calibrate on more images, or name what stays FP16 with --keep-fp16 PATTERN."
        )

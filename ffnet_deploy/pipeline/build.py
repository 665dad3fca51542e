"""From the current graph to engines: precision, inputs and outputs, build, and a look at what was built."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ffnet_deploy.artifacts.records import EngineRecord, derived, keep, save_record, stamp, stamp_of
from ffnet_deploy.artifacts.values import Ends, EngineFindings, EngineOptions, Precision, SourceFile
from ffnet_deploy.artifacts.workspace import EngineFile, Workspace
from ffnet_deploy.artifacts.writing import replacing
from ffnet_deploy.errors import MissingDependencyError, UsageError, require
from ffnet_deploy.graph.current import Graph, current_graph
from ffnet_deploy.machine.devices import visible_gpus
from ffnet_deploy.pipeline.precision import Int8Options, check_int8, half_graph, int8_graph
from ffnet_deploy.progress import Progress, quiet
from ffnet_deploy.runtimes import engine_options
from ffnet_deploy.runtimes.engine_checks import check_share, checked
from ffnet_deploy.runtimes.rung import reason_not_here

if TYPE_CHECKING:
    from ffnet_deploy.artifacts.values import Io

_TOOLS = ("tensorrt", "tensorrt-rtx", "polygraphy", "onnxruntime-gpu", "onnxruntime", "onnx")


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """What ``build`` can be asked for."""

    precisions: tuple[Precision, ...] = ("fp32",)
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
    """How logits are upsampled in front of the labels."""
    engine: EngineOptions = field(default_factory=EngineOptions)

    def ends(self, io: Io) -> Ends:
        """Inputs and outputs of a graph whose floats have the type ``io``."""
        return Ends(self.image_in, self.labels_out, self.align_corners, io)


class _Target(NamedTuple):
    """One engine to build."""

    precision: Precision
    runtime: str

    @property
    def graph(self) -> Precision:
        """The precision of the graph that it is built from; INT8 has a graph for each dialect."""
        return "int8-cpu" if self == ("int8", "onnxruntime") else self.precision


def build(
    workspace: Workspace, name: str | None, options: BuildOptions | None = None, progress: Progress = quiet
) -> list[EngineFile]:
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
    targets = plan(options.precisions, options.runtime)
    for target in targets:
        # ONNX Runtime's engines come along with `auto`: options for a GPU do not concern them.
        if options.runtime != "auto" or target.runtime != "onnxruntime":
            engine_options.check(options.engine, target.runtime)
    _check_options(graph, options)
    # Before any work: an FP16 graph alone takes up to a minute.
    for runtime in dict.fromkeys(target.runtime for target in targets):
        require(runtime.replace("-", "_"))
    if "int8" in options.precisions:
        check_int8(graph, options.int8)
    # Once for each kind of graph: two runtimes build from the same file.
    kinds = dict.fromkeys(target.graph for target in targets)
    ready = {kind: _with_ends(_source(graph, kind, options, progress), options) for kind in kinds}
    return [_build_one(graph, ready[target.graph], target, options, progress) for target in targets]


def plan(precisions: Sequence[Precision], runtime: str) -> list[_Target]:
    """What to build.

    ``auto`` is TensorRT where it and a GPU are, else TensorRT-RTX, and ONNX Runtime's engines last, FP32 and if asked
    for INT8: they are the rungs that run anywhere.

    Raises:
        MissingDependencyError: ONNX Runtime was asked for an FP16 engine.
    """
    if runtime == "auto":
        installed = visible_gpus() and reason_not_here("tensorrt") is None
        chosen = "tensorrt" if installed else "tensorrt-rtx"
        anywhere = [_Target("fp32", "onnxruntime")] + [_Target("int8", "onnxruntime")] * ("int8" in precisions)
        return [_Target(precision, chosen) for precision in precisions] + anywhere
    if runtime == "onnxruntime" and "fp16" in precisions:
        raise MissingDependencyError(
            "ONNX Runtime has no FP16 engine on a CPU: it computes FP16 graphs in FP32. "
            "Add --runtime tensorrt-rtx, or leave --fp16 out."
        )
    return [_Target(precision, runtime) for precision in precisions]


def _check_options(graph: Graph, options: BuildOptions) -> None:
    if "fp16" not in options.precisions and (options.io == "fp16" or options.keep_fp32):
        flag = "--io fp16" if options.io == "fp16" else "--keep-fp32"
        raise UsageError(f"{flag} works only for FP16 engines, and none was asked for. Add --fp16, or leave it out.")
    if "int8" not in options.precisions and options.int8 != Int8Options():
        flag = "--keep-fp16" if options.int8.keep_fp16 else "--method"
        raise UsageError(f"{flag} works only for INT8 engines, and none was asked for. Add --int8, or leave it out.")
    _check_ends(graph, options)
    if graph.dynamic and options.engine.batch is None:
        raise UsageError(
            f"{graph.path.name} takes any batch, and an engine needs to know which: its smallest, usual and largest "
            "batch. Say for example: --batch 1,4,8"
        )
    if options.engine.batch is not None and not graph.dynamic:
        raise UsageError(
            f"{graph.path.name} has the fixed batch {graph.shape[0]}, so --batch means nothing. Leave it out, or run: "
            f"{graph.run('export', '--dynamic-batch')}"
        )


def _check_ends(graph: Graph, options: BuildOptions) -> None:
    if options.labels_out and graph.spec.task != "segmentation":
        raise UsageError(f"{graph.record.model} gives classes, not a label map. Leave --labels-out out.")
    if options.io == "fp16" and (options.image_in or options.labels_out):
        raise UsageError(
            "--io fp16 works only for engines with float inputs and outputs. Leave it out beside --image-in and "
            "--labels-out."
        )
    if options.align_corners and not options.labels_out:
        raise UsageError("--align-corners only affects --labels-out. Add --labels-out, or leave it out.")


def _source(graph: Graph, kind: Precision, options: BuildOptions, progress: Progress) -> Graph:
    if kind == "fp16":
        return half_graph(graph, options.keep_fp32, options.io, progress)
    if kind == "int8":
        return int8_graph(graph, "tensorrt", options.int8, progress)
    if kind == "int8-cpu":
        return int8_graph(graph, "cpu", options.int8, progress)
    return graph


def _with_ends(source: Graph, options: BuildOptions) -> Graph:
    """The graph to build from: with the inputs and outputs that were asked for, kept beside the others."""
    ends = options.ends(source.record.options.ends.io)
    if not (ends.image_in or ends.labels_out):
        return source
    from ffnet_deploy.graph.deploy import with_image_in, with_labels_out

    started = time.monotonic()
    model = source.load()
    if ends.image_in:
        model = with_image_in(model)
    if ends.labels_out:
        model = with_labels_out(model, (source.shape[2], source.shape[3]), align_corners=ends.align_corners)
    path = source.workspace.path_of(source.name.with_ends(ends))
    record = keep(
        path,
        model.SerializeToString(deterministic=True),
        lambda sha256, size: derived(
            source.record,
            source.path.name,
            stamp(sha256, size, started, ("onnx", "numpy")),
            options=replace(source.record.options, ends=ends),
            # What was measured on the graph with other inputs and outputs is not repeated here.
            found=replace(source.record.found, verification=None, emulated=None, operators={}),
        ),
    )
    return Graph(source.workspace, path, record)


def _build_one(graph: Graph, source: Graph, target: _Target, options: BuildOptions, progress: Progress) -> EngineFile:
    progress(f"building {target.runtime} {target.precision}", 0, None)
    if source.record.found.quantised:
        check_share(source.record, source.record.found.quantised.share)
    started = time.monotonic()
    # ONNX Runtime's engine comes along with `auto`: options for a GPU do not concern it.
    asked = options.engine if target.runtime != "onnxruntime" else EngineOptions(batch=options.engine.batch)
    name = source.name.with_profile(asked.batch)
    name = replace(name, precision=target.precision, runtime=target.runtime, target=asked.target)
    path = graph.workspace.path_of(name)
    with replacing(path) as part:
        found = _run_builder(target.runtime, source.path, part, asked, progress)
        record = EngineRecord(
            model=graph.record.model,
            precision=target.precision,
            runtime=target.runtime,
            file=stamp_of(part, started, _TOOLS),
            marks=source.record.marks,
            options=source.record.options,
            engine=asked,
            graph=SourceFile(source.path.name, source.record.file.sha256),
            exported=SourceFile(graph.path.name, graph.record.file.sha256),
            weights=graph.record.weights,
            ranges=source.record.ranges,
            found=checked(source.record, target.precision, target.runtime, found),
        )
        save_record(path, record)
    return EngineFile(path, record)


def _run_builder(runtime: str, graph: Path, engine: Path, options: EngineOptions, progress: Progress) -> EngineFindings:
    if runtime == "onnxruntime":
        from ffnet_deploy.runtimes import onnxruntime

        return onnxruntime.build(graph, engine)
    from ffnet_deploy.graph.facts import macs_by_node
    from ffnet_deploy.graph.loading import load_graph
    from ffnet_deploy.runtimes.tensorrt import TensorRTBuilder
    from ffnet_deploy.runtimes.worker import Worker

    macs = macs_by_node(load_graph(graph))
    with Worker(f"the {runtime} build", TensorRTBuilder, runtime) as worker:
        worker.on_progress = progress
        found: EngineFindings = worker.call("build", graph, engine, macs, options)
        return found

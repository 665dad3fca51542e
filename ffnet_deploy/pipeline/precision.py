"""From the FP32 graph to the FP16 and INT8 ones: what must stay as it is, the graph, and the check that it works."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ffnet_deploy.artifacts.records import GraphRecord, Stamp, derived, keep, stamp
from ffnet_deploy.artifacts.values import Activation, GraphFindings, IntegerWork, SourceImages, Verification
from ffnet_deploy.calibration.record import Calibration, current_calibration
from ffnet_deploy.graph.current import Graph
from ffnet_deploy.machine.devices import default_threads
from ffnet_deploy.progress import Progress
from ffnet_deploy.synthetic.feeds import street_feeds

if TYPE_CHECKING:
    from collections.abc import Callable

    import onnx

    from ffnet_deploy.artifacts.values import Io, Precision
    from ffnet_deploy.graph.qdq import Dialect, Quantised
    from ffnet_deploy.graph.ranges import Range
    from ffnet_deploy.verify.agreement import Tolerance

_IMAGES = 2
SYNTHETIC = SourceImages(f"{_IMAGES} synthetic street scenes", _IMAGES)
_TOOLS = ("onnx", "numpy", "onnxruntime-gpu", "onnxruntime")


def half_graph(graph: Graph, patterns: Sequence[str], io: Io, progress: Progress) -> Graph:
    """Write the FP16 graph beside the FP32 one, checked on synthetic street scenes.

    Args:
        graph: the current FP32 graph; its workspace gets ``models/STEM.fp16.onnx`` and its record.
        patterns: names or patterns of nodes that stay FP32, beside those whose ranges demand it.
        io: type of the graph's inputs and outputs.
        progress: told what is going on.

    Raises:
        UsageError: a pattern names no node.
        PrecisionError: an activation is not finite in FP32 already.
        VerificationError: FP16 computes something else; no file is kept.
    """
    from ffnet_deploy.graph.channels import with_four_channels
    from ffnet_deploy.graph.fp16 import must_stay_fp32, rounded, to_fp16
    from ffnet_deploy.verify.agreement import FP16

    started = time.monotonic()
    model = graph.load()
    progress("observing ranges", 0, None)
    ranges = _observe(model, graph)
    half = to_fp16(model, must_stay_fp32(model, ranges, patterns), io)
    half = replace(half, model=with_four_channels(half.model))
    progress("checking FP16", 0, None)
    check = _compared(model, rounded(half.model), graph, FP16)
    largest = max(ranges, key=lambda name: ranges[name].magnitude)
    found = GraphFindings(
        kept_fp32=dict(half.kept),
        largest_activation=Activation(largest, ranges[largest].magnitude),
        emulated=check,
    )
    ends = replace(graph.record.options.ends, io=io)
    options = replace(graph.record.options, ends=ends, keep_fp32=tuple(patterns))

    def record(file: Stamp) -> GraphRecord:
        changes = {"precision": "fp16", "options": options, "images": SYNTHETIC, "found": found}
        return derived(graph.record, graph.path.name, file, **changes)

    return _kept(graph, half.model, "fp16", started, record)


def _kept(
    parent: Graph, model: onnx.ModelProto, precision: Precision, started: float, record: Callable[[Stamp], GraphRecord]
) -> Graph:
    """Write a graph of another precision beside its parent."""
    path = parent.workspace.path_of(replace(parent.name, precision=precision))
    data = model.SerializeToString(deterministic=True)
    made = keep(path, data, lambda sha256, size: record(stamp(sha256, size, started, _TOOLS)))
    return Graph(parent.workspace, path, made)


def _observe(model: onnx.ModelProto, graph: Graph) -> dict[str, Range]:
    from ffnet_deploy.graph.ranges import observe, with_extremes
    from ffnet_deploy.runtimes.onnxruntime import OnnxRuntimeRunner

    with OnnxRuntimeRunner(with_extremes(model).SerializeToString(), threads=default_threads()) as runner:
        return observe(model, runner, street_feeds(graph.shape, _IMAGES))


def _compared(model: onnx.ModelProto, other: onnx.ModelProto, graph: Graph, tolerance: Tolerance) -> Verification:
    """A graph, emulated, against FP32, on the scenes that gave the ranges."""
    from ffnet_deploy.runtimes.onnxruntime import OnnxRuntimeRunner
    from ffnet_deploy.verify.agreement import verified

    threads = default_threads()
    with (
        OnnxRuntimeRunner(model.SerializeToString(), threads=threads) as reference,
        OnnxRuntimeRunner(other.SerializeToString(), threads=threads, exact=True) as emulated,
    ):
        return verified(reference, emulated, street_feeds(graph.shape, _IMAGES), tolerance)


@dataclass(frozen=True, slots=True)
class Int8Options:
    """How an INT8 graph is made."""

    method: str | None = None
    """Of the calibration's ranges; None is the one that it names."""
    keep_fp16: tuple[str, ...] = ()
    """Names or patterns of convolutions that are not quantised."""


def check_int8(graph: Graph, options: Int8Options) -> None:
    """Refuse what :func:`int8_graph` would refuse for its options, before anything slow.

    Raises:
        ArtifactError: no calibration, or one of another graph.
        UsageError: a pattern names no convolution, or a method that does not exist.
        PrecisionError: the calibration lacks a tensor.
    """
    from ffnet_deploy.graph.qdq import check_ranges, plan

    calibration = current_calibration(graph)
    model = graph.load()
    check_ranges(model, calibration.limits(options.method or calibration.method))
    plan(model, "cpu", keep=options.keep_fp16)


def int8_graph(graph: Graph, dialect: Dialect, options: Int8Options, progress: Progress) -> Graph:
    """Write the INT8 graph of a dialect beside the FP32 one, checked on synthetic street scenes.

    Args:
        graph: the current FP32 graph; its workspace has the calibration, and gets ``models/STEM.int8.onnx`` or
            ``models/STEM.int8-cpu.onnx``.
        dialect: ``tensorrt`` or ``cpu``.
        options: whose ranges, and what is not quantised.
        progress: told what is going on.

    Raises:
        ArtifactError: no calibration, or one of another graph.
        UsageError: a pattern names no convolution, or a method that does not exist.
        PrecisionError: a tensor has no range, or nothing can be quantised.
        VerificationError: INT8 computes something else; no file is kept.
    """
    from ffnet_deploy.verify.agreement import INT8

    started = time.monotonic()
    calibration = current_calibration(graph)
    method = options.method or calibration.method
    progress(f"quantising for {dialect}", 0, None)
    exported = graph.load()
    quantised, kept = _quantised(exported, graph, calibration, dialect, replace(options, method=method))
    progress("checking INT8", 0, None)
    check = _compared(exported, _scored(quantised.model, dialect), graph, INT8)
    precision: Precision = "int8" if dialect == "tensorrt" else "int8-cpu"

    def record(file: Stamp) -> GraphRecord:
        return derived(
            graph.record,
            graph.path.name,
            file,
            precision=precision,
            options=replace(graph.record.options, method=method, keep_fp16=options.keep_fp16),
            ranges=calibration.source,
            images=calibration.file.images.source,
            marks=calibration.file.marks,
            found=_int8_findings(quantised, kept, check),
        )

    return _kept(graph, quantised.model, precision, started, record)


def _int8_findings(quantised: Quantised, kept: Mapping[str, str], check: Verification) -> GraphFindings:
    return GraphFindings(
        quantised=IntegerWork(quantised.nodes, round(quantised.share, 6), round(quantised.possible, 6)),
        declined=dict(quantised.declined),
        kept_fp32=dict(kept),
        emulated=check,
    )


def _quantised(
    exported: onnx.ModelProto, graph: Graph, calibration: Calibration, dialect: Dialect, options: Int8Options
) -> tuple[Quantised, dict[str, str]]:
    """The graph of a dialect, and what of TensorRT's is FP32: what is beyond FP16 there is not quantised either."""
    from onnx import TensorProto

    from ffnet_deploy.graph.channels import with_four_channels
    from ffnet_deploy.graph.fp16 import must_stay_fp32, to_fp16
    from ffnet_deploy.graph.qdq import quantise

    model = calibration.equalised(exported).model
    limits = calibration.limits(options.method or calibration.method)
    if dialect == "cpu":
        return quantise(model, limits, dialect, keep=options.keep_fp16), {}
    # Calibration has seen what is quantised; what lies between, on its way to a ReLU or an Add, is observed here.
    ranges = {**_observe(model, graph), **calibration.ranges()}
    beyond = must_stay_fp32(model, ranges)
    widened = with_four_channels(model, TensorProto.FLOAT)
    quantised = quantise(widened, limits, dialect, keep=options.keep_fp16, beyond=beyond)
    names = {node.name for node in quantised.model.graph.node}
    half = to_fp16(quantised.model, {name: reason for name, reason in beyond.items() if name in names})
    return replace(quantised, model=half.model), dict(half.kept)


def _scored(model: onnx.ModelProto, dialect: Dialect) -> onnx.ModelProto:
    from ffnet_deploy.graph.fp16 import rounded

    return rounded(model) if dialect == "tensorrt" else model

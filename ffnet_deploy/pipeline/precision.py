"""From the FP32 graph to the FP16 and INT8 ones: what must stay as it is, the graph, and the check that it works."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ffnet_deploy import artifacts, runtimes
from ffnet_deploy.artifacts import Record, Workspace
from ffnet_deploy.pipeline.current import Graph, Progress, street_feeds

if TYPE_CHECKING:
    import onnx

    from ffnet_deploy.graph.fp16 import Half, Io
    from ffnet_deploy.graph.qdq import Dialect, Quantised
    from ffnet_deploy.graph.ranges import Range
    from ffnet_deploy.pipeline.calibrate import Calibration
    from ffnet_deploy.verify import Tolerance

_IMAGES = 2
SYNTHETIC = f"{_IMAGES} synthetic street scenes"


def half_graph(workspace: Workspace, graph: Graph, keep: Sequence[str], io: Io, progress: Progress) -> Graph:
    """Write the FP16 graph beside the FP32 one, checked on synthetic street scenes.

    Args:
        workspace: gets ``models/STEM.fp16.onnx`` and its record.
        graph: the current FP32 graph.
        keep: names or patterns of nodes that stay FP32, beside those whose ranges demand it.
        io: type of the graph's inputs and outputs.
        progress: told what is going on.

    Raises:
        UsageError: a pattern names no node.
        PrecisionError: an activation is not finite in FP32 already.
        VerificationError: FP16 computes something else; no file is kept.
    """
    import onnx

    from ffnet_deploy.graph.channels import with_four_channels
    from ffnet_deploy.graph.fp16 import must_stay_fp32, to_fp16

    started = time.monotonic()
    model = onnx.load(graph.path)
    progress("observing ranges", 0, None)
    ranges = _observe(model, graph)
    half = to_fp16(model, must_stay_fp32(model, ranges, keep), io)
    half = replace(half, model=with_four_channels(half.model))
    progress("checking FP16", 0, None)
    check = _check(model, half, graph)
    data = half.model.SerializeToString(deterministic=True)
    path = workspace.graph(graph.stem, "fp16")
    largest = max(ranges, key=lambda name: ranges[name].magnitude)
    record = artifacts.keep(
        path,
        data,
        lambda sha256, size: Record(
            kind="graph",
            model=graph.record.model,
            precision="fp16",
            sha256=sha256,
            size=size,
            sources={"graph": {"file": graph.path.name, "sha256": graph.record.sha256}, "ranges": SYNTHETIC},
            options={**_inherited(graph), "io": io, "keep_fp32": list(keep)},
            found={
                "kept_fp32": dict(half.kept),
                "largest_activation": {"name": largest, "magnitude": ranges[largest].magnitude},
                "emulated": check,
            },
            marks=graph.record.marks,
            seconds=round(time.monotonic() - started, 3),
            tools=artifacts.tool_versions("onnx", "numpy", "onnxruntime-gpu", "onnxruntime"),
            created=artifacts.now(),
        ),
    )
    return Graph(path, record)


def _inherited(graph: Graph) -> dict[str, Any]:
    """What a graph made from another is like it in; the command that makes it is not."""
    return {key: value for key, value in graph.record.options.items() if key != "command"}


def _observe(model: onnx.ModelProto, graph: Graph) -> dict[str, Range]:
    from ffnet_deploy.graph.ranges import observe, watched
    from ffnet_deploy.runtimes.onnxruntime import OnnxRuntimeRunner

    with OnnxRuntimeRunner(watched(model).SerializeToString(), threads=runtimes.default_threads()) as runner:
        return observe(model, runner, street_feeds(graph.shape, _IMAGES))


def _check(model: onnx.ModelProto, half: Half, graph: Graph) -> dict[str, Any]:
    """FP16, emulated by rounding, against FP32, on the scenes that gave the ranges."""
    from ffnet_deploy.graph.fp16 import rounded
    from ffnet_deploy.verify import FP16

    return _compared(model, rounded(half.model), graph, FP16)


def _compared(model: onnx.ModelProto, other: onnx.ModelProto, graph: Graph, tolerance: Tolerance) -> dict[str, Any]:
    from ffnet_deploy.runtimes.onnxruntime import OnnxRuntimeRunner
    from ffnet_deploy.verify import verify

    threads = runtimes.default_threads()
    with (
        OnnxRuntimeRunner(model.SerializeToString(), threads=threads) as reference,
        OnnxRuntimeRunner(other.SerializeToString(), threads=threads, exact=True) as emulated,
    ):
        return verify(reference, emulated, street_feeds(graph.shape, _IMAGES), tolerance).to_json()


@dataclass(frozen=True, slots=True)
class Int8Options:
    """How an INT8 graph is made."""

    method: str | None = None
    """Of the calibration's ranges; None is the one that it names."""
    keep_fp16: tuple[str, ...] = ()
    """Names or patterns of convolutions that are not quantised."""


def check_int8(workspace: Workspace, graph: Graph, options: Int8Options) -> None:
    """Refuse what :func:`int8_graph` would refuse for its options, before anything slow.

    Raises:
        ArtifactError: no calibration, or one of another graph.
        UsageError: a pattern names no convolution, or a method that the calibration does not hold.
        PrecisionError: the calibration lacks a tensor.
    """
    import onnx

    from ffnet_deploy.graph.qdq import check_ranges, plan
    from ffnet_deploy.pipeline.calibrate import current_calibration

    calibration = current_calibration(workspace, graph)
    model = onnx.load(graph.path)
    check_ranges(model, calibration.limits(options.method or calibration.method))
    plan(model, "cpu", keep=options.keep_fp16)


def int8_graph(workspace: Workspace, graph: Graph, dialect: Dialect, options: Int8Options, progress: Progress) -> Graph:
    """Write the INT8 graph of a dialect beside the FP32 one, checked on synthetic street scenes.

    Args:
        workspace: has the calibration; gets ``models/STEM.int8.onnx`` or ``models/STEM.int8-cpu.onnx``.
        graph: the current FP32 graph.
        dialect: ``tensorrt`` or ``cpu``.
        options: whose ranges, and what is not quantised.
        progress: told what is going on.

    Raises:
        ArtifactError: no calibration, or one of another graph.
        UsageError: a pattern names no convolution, or a method that the calibration does not hold.
        PrecisionError: a tensor has no range, or nothing can be quantised.
        VerificationError: INT8 computes something else; no file is kept.
    """
    import onnx

    from ffnet_deploy.pipeline.calibrate import current_calibration
    from ffnet_deploy.verify import INT8

    started = time.monotonic()
    calibration = current_calibration(workspace, graph)
    method = options.method or calibration.method
    progress(f"quantising for {dialect}", 0, None)
    exported = onnx.load(graph.path)
    model = calibration.equalised(exported).model
    quantised, kept = _quantised(model, graph, calibration, dialect, method, options.keep_fp16)
    progress("checking INT8", 0, None)
    check = _compared(exported, _scored(quantised.model, dialect), graph, INT8)
    asked = {"io": "fp32", "method": method, "keep_fp16": list(options.keep_fp16)}
    precision = "int8" if dialect == "tensorrt" else "int8-cpu"
    path = workspace.graph(graph.stem, precision)
    record = artifacts.keep(
        path,
        quantised.model.SerializeToString(deterministic=True),
        lambda sha256, size: Record(
            kind="graph",
            model=graph.record.model,
            precision=precision,
            sha256=sha256,
            size=size,
            sources=_sources(graph, calibration),
            options={**_inherited(graph), **asked},
            found=_found(quantised, kept, check),
            marks=list(calibration.values["marks"]),
            seconds=round(time.monotonic() - started, 3),
            tools=artifacts.tool_versions("onnx", "numpy", "onnxruntime-gpu", "onnxruntime"),
            created=artifacts.now(),
        ),
    )
    return Graph(path, record)


def _found(quantised: Quantised, kept: Mapping[str, str], check: Mapping[str, Any]) -> dict[str, Any]:
    """What became of an INT8 graph's nodes."""
    return {
        "quantised": {
            "nodes": list(quantised.nodes),
            "share": round(quantised.share, 6),
            "possible": round(quantised.possible, 6),
        },
        "declined": dict(quantised.declined),
        "kept_fp32": dict(kept),
        "emulated": dict(check),
    }


def _sources(graph: Graph, calibration: Calibration) -> dict[str, Any]:
    """What an INT8 graph was made from."""
    images = calibration.values["images"]
    return {
        "graph": {"file": graph.path.name, "sha256": graph.record.sha256},
        "calibration": {"file": calibration.path.name, "fingerprint": calibration.fingerprint},
        "images": {key: images[key] for key in ("from", "count", "sha256", "resized")},
    }


def _quantised(
    model: onnx.ModelProto, graph: Graph, calibration: Calibration, dialect: Dialect, method: str, keep: Sequence[str]
) -> tuple[Quantised, dict[str, str]]:
    """The graph of a dialect, and what of TensorRT's is FP32: what is beyond FP16 there is not quantised either."""
    from onnx import TensorProto

    from ffnet_deploy.graph.channels import with_four_channels
    from ffnet_deploy.graph.fp16 import must_stay_fp32, to_fp16
    from ffnet_deploy.graph.qdq import quantise

    limits = calibration.limits(method)
    if dialect == "cpu":
        return quantise(model, limits, dialect, keep=keep), {}
    # Calibration has seen what is quantised; what lies between, on its way to a ReLU or an Add, is observed here.
    ranges = {**_observe(model, graph), **calibration.ranges()}
    beyond = must_stay_fp32(model, ranges)
    quantised = quantise(with_four_channels(model, TensorProto.FLOAT), limits, dialect, keep=keep, beyond=beyond)
    names = {node.name for node in quantised.model.graph.node}
    half = to_fp16(quantised.model, {name: reason for name, reason in beyond.items() if name in names})
    return replace(quantised, model=half.model), dict(half.kept)


def _scored(model: onnx.ModelProto, dialect: Dialect) -> onnx.ModelProto:
    from ffnet_deploy.graph.fp16 import rounded

    return rounded(model) if dialect == "tensorrt" else model

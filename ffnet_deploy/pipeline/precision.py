"""From the FP32 graph to the FP16 one: what must stay FP32, the typed graph, and the check that it still works."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ffnet_deploy import artifacts, runtimes
from ffnet_deploy.artifacts import Record, Workspace
from ffnet_deploy.pipeline.current import Graph, Progress, street_feeds

if TYPE_CHECKING:
    import onnx

    from ffnet_deploy.graph.fp16 import Half, Io
    from ffnet_deploy.graph.ranges import Range

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
    from ffnet_deploy.runtimes.onnxruntime import OnnxRuntimeRunner
    from ffnet_deploy.verify import FP16, verify

    threads = runtimes.default_threads()
    with (
        OnnxRuntimeRunner(model.SerializeToString(), threads=threads) as reference,
        OnnxRuntimeRunner(rounded(half.model).SerializeToString(), threads=threads) as emulated,
    ):
        return verify(reference, emulated, street_feeds(graph.shape, _IMAGES), FP16).to_json()

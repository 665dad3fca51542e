"""How large activations get: the extremes of every tensor over some inputs, in flat memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper

from ffnet_deploy.errors import PrecisionError
from ffnet_deploy.graph.facts import shapes


class Range(NamedTuple):
    """Smallest and largest value of a tensor over all inputs seen."""

    low: float
    high: float

    @property
    def magnitude(self) -> float:
        return max(abs(self.low), abs(self.high))


Run = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]


# Operator, suffix of what it reduces, suffix of the result.
_WATCH = (("ReduceMin", "", "/ReduceMin"), ("ReduceMax", "", "/ReduceMax"), ("ReduceMax", "/nans", "/AnyNaN"))


def watched(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with the minimum and maximum of every activation as its outputs, in place of its own.

    The reductions are inside the graph, so no runtime has to keep an activation longer than the graph itself needs it.
    """
    watching = onnx.ModelProto()
    watching.CopyFrom(model)
    graph = watching.graph
    known = shapes(model)
    del graph.output[:]
    tensors = [value.name for value in graph.input] + [name for node in model.graph.node for name in node.output]
    for name in tensors:
        # The extremes skip over NaN, so it is looked for apart.
        graph.node.append(helper.make_node("IsNaN", [name], [f"{name}/IsNaN"]))
        graph.node.append(helper.make_node("Cast", [f"{name}/IsNaN"], [f"{name}/nans"], to=TensorProto.FLOAT))
        for op, source, target in _WATCH:
            reduced = [f"{name}{target}"]
            graph.node.append(helper.make_node(op, [f"{name}{source}"], reduced, keepdims=0, noop_with_empty_axes=0))
            graph.output.append(helper.make_tensor_value_info(reduced[0], TensorProto.FLOAT, []))
    assert set(tensors) <= set(known)
    return watching


def observe(model: onnx.ModelProto, run: Run, feeds: Iterable[Mapping[str, np.ndarray]]) -> dict[str, Range]:
    """Extremes of the input and of every activation.

    Args:
        model: FP32; its tensors give the names.
        run: runs :func:`watched` of it, feeds to outputs.
        feeds: inputs, one after the other.

    Raises:
        PrecisionError: an activation is not finite.
    """
    names = [value.name for value in model.graph.input] + [name for node in model.graph.node for name in node.output]
    lows = dict.fromkeys(names, math.inf)
    highs = dict.fromkeys(names, -math.inf)
    for feed in feeds:
        extremes = run(feed)
        for name in names:
            low, high = float(extremes[f"{name}/ReduceMin"]), float(extremes[f"{name}/ReduceMax"])
            if extremes[f"{name}/AnyNaN"] or not (math.isfinite(low) and math.isfinite(high)):
                raise PrecisionError(f"{name} is not finite on a calibration image. Check the weights and the images.")
            lows[name], highs[name] = min(lows[name], low), max(highs[name], high)
    return {name: Range(lows[name], highs[name]) for name in names}

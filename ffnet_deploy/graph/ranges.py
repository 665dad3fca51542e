"""How large activations get: minimum and maximum of every tensor over some inputs, in constant memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper

from ffnet_deploy.errors import PrecisionError
from ffnet_deploy.graph.edit import copied
from ffnet_deploy.graph.facts import shapes

INT8_LEVELS = 127
"""The largest integer of symmetric int8."""
UINT8_LEVELS = 255
"""The largest integer of uint8."""


class Limits(NamedTuple):
    """The range of a tensor that integers cover, as one calibration method chooses it."""

    magnitude: float
    """For symmetric int8, which covers -magnitude to magnitude."""
    low: float
    """Lower end for uint8 with a zero point; at most 0."""
    high: float
    """Upper end for uint8 with a zero point; at least 0."""


class Range(NamedTuple):
    """Smallest and largest value of a tensor over all inputs seen."""

    low: float
    high: float

    @property
    def magnitude(self) -> float:
        """The largest absolute value."""
        return max(abs(self.low), abs(self.high))


RunGraph = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]
"""Runs a graph: from its inputs to its outputs, both by name."""

# Operator, suffix of its input, suffix of its output.
_WATCH = (("ReduceMin", "", "/ReduceMin"), ("ReduceMax", "", "/ReduceMax"), ("ReduceMax", "/nans", "/AnyNaN"))


def with_extremes(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy that gives scalars instead of its own outputs: for every activation its extremes, and whether it has NaN.

    The reductions are part of the graph. So a runtime can free each activation as soon as the graph has used it.

    Args:
        model: FP32; it is not changed.

    Returns:
        For the input and every activation ``x`` the outputs ``x/ReduceMin``, ``x/ReduceMax`` and ``x/AnyNaN`` (1 or 0),
        FP32, of no axes.
    """
    watching = copied(model)
    graph = watching.graph
    known = shapes(model)
    del graph.output[:]
    tensors = [value.name for value in graph.input] + [name for node in model.graph.node for name in node.output]
    for name in tensors:
        # ReduceMin and ReduceMax skip NaN, so another reduction finds it.
        graph.node.append(helper.make_node("IsNaN", [name], [f"{name}/IsNaN"]))
        graph.node.append(helper.make_node("Cast", [f"{name}/IsNaN"], [f"{name}/nans"], to=TensorProto.FLOAT))
        for op, source, target in _WATCH:
            reduced = [f"{name}{target}"]
            graph.node.append(helper.make_node(op, [f"{name}{source}"], reduced, keepdims=0, noop_with_empty_axes=0))
            graph.output.append(helper.make_tensor_value_info(reduced[0], TensorProto.FLOAT, []))
    assert set(tensors) <= set(known)
    return watching


def observe(model: onnx.ModelProto, run: RunGraph, feeds: Iterable[Mapping[str, np.ndarray]]) -> dict[str, Range]:
    """Minimum and maximum of the input and of every activation, over all ``feeds``.

    Args:
        model: FP32; its tensors give the names.
        run: runs the graph that :func:`with_extremes` makes of it.
        feeds: inputs of the graph, by name.

    Returns:
        The range of every tensor by name, in the graph's order.

    Raises:
        PrecisionError: a tensor has an infinite value or NaN.
    """
    names = [value.name for value in model.graph.input] + [name for node in model.graph.node for name in node.output]
    lows = dict.fromkeys(names, math.inf)
    highs = dict.fromkeys(names, -math.inf)
    for feed in feeds:
        extremes = run(feed)
        for name in names:
            low, high = float(extremes[f"{name}/ReduceMin"]), float(extremes[f"{name}/ReduceMax"])
            if extremes[f"{name}/AnyNaN"] or not (math.isfinite(low) and math.isfinite(high)):
                raise PrecisionError(
                    f"{name} is not finite on a calibration image (finite activations were needed). "
                    "Check the weights and the images."
                )
            lows[name], highs[name] = min(lows[name], low), max(highs[name], high)
    return {name: Range(lows[name], highs[name]) for name in names}

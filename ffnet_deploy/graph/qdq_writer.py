"""Writes the pairs of QuantizeLinear and DequantizeLinear, and the integer weights, into a copy of a graph."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ffnet_deploy.graph.edit import copied, drop_unused_initializers, finished, replace_nodes
from ffnet_deploy.graph.int8_plan import Dialect
from ffnet_deploy.graph.pairs import Edges
from ffnet_deploy.graph.ranges import INT8_LEVELS, UINT8_LEVELS, Limits

MIN_OPSET = 19
"""The first opset whose scales may be FP16."""
_SMALLEST_HALF = float(np.finfo(np.float16).smallest_subnormal)
_BIAS_MAX = 2**30
"""Limit of an integer bias. It leaves half of int32 to the sum that the bias is added to."""


class QdqWriter:
    """Writes one graph.

    Args:
        model: the FP32 graph; it is not changed.
        dialect: decides types, scales, and whether biases are integers.
    """

    def __init__(self, model: onnx.ModelProto, dialect: Dialect) -> None:
        self._model = copied(model)
        self._dialect: Dialect = dialect
        self._constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        self._nodes: list[onnx.NodeProto] = []
        self._scales: dict[str, float] = {}

    def write(self, edges: Edges, limits: Mapping[str, Limits], nodes: set[str]) -> onnx.ModelProto:
        """Write everything and check the result. A writer can do this once.

        Args:
            edges: the tensors that get a pair; none is an output of the graph.
            limits: the range of each of them.
            nodes: names of the convolutions that are INT8; the input of each has a pair.
        """
        graph = self._model.graph
        assert not edges.keys() & {value.name for value in graph.output}
        reads = {(node, i): f"{name}/dequantised" for name, uses in edges.items() for node, i in uses}
        for value in graph.input:
            self._add_pair(value.name, limits)
        for node in graph.node:
            source = node.input[0] if node.input else ""
            node.input[:] = [reads.get((node.name, i), name) for i, name in enumerate(node.input)]
            if node.name in nodes:
                self._quantise_weights(node, self._scales[source])
            if node.op_type == "Resize" and self._dialect == "cpu":
                self._name_all_axes(node)
            self._nodes.append(node)
            for name in node.output:
                self._add_pair(name, limits)
        replace_nodes(graph, self._nodes)
        drop_unused_initializers(graph)
        for opset in self._model.opset_import:
            if opset.domain in ("", "ai.onnx"):
                opset.version = max(opset.version, MIN_OPSET)
        return finished(self._model)

    def _name_all_axes(self, node: onnx.NodeProto) -> None:
        """Give a Resize by factors of the spatial axes the factors of all four axes.

        Graphs of any batch have such Resizes. ONNX Runtime 1.31 moves a Resize of integers to its channels-last layout,
        forgets its axes, and fails.
        """
        axes = next((a for a in node.attribute if a.name == "axes"), None)
        if axes is not None and len(node.input) == 3:
            factors = np.ones(4, np.float32)
            factors[list(axes.ints)] = self._constants[node.input[2]]
            node.input[2] = self._constant(f"{node.input[2]}/all", factors)
            node.attribute.remove(axes)

    def _constant(self, name: str, values: np.ndarray) -> str:
        """Add a constant to the graph and return its name."""
        self._model.graph.initializer.append(numpy_helper.from_array(values, name))
        return name

    def _add_pair(self, name: str, limits: Mapping[str, Limits]) -> None:
        """Append the pair of a tensor, if it has a range."""
        if name not in limits:
            return
        scale, zero = self._scale(limits[name])
        self._scales[name] = scale
        q, dq = f"{name}/quantised", f"{name}/dequantised"
        ends = [self._constant(f"{q}/scale", np.array(scale, np.float32)), self._constant(f"{q}/zero", zero)]
        self._nodes.append(helper.make_node("QuantizeLinear", [name, *ends], [q], f"{name}/QuantizeLinear"))
        self._nodes.append(helper.make_node("DequantizeLinear", [q, *ends], [dq], f"{name}/DequantizeLinear"))

    def _scale(self, limits: Limits) -> tuple[float, np.ndarray]:
        """Scale and zero point of a range; the type of the zero point is that of the integers."""
        if self._dialect == "tensorrt":
            return float(_half_up(np.array(limits.magnitude / INT8_LEVELS))), np.array(0, np.int8)
        scale = float(np.float32((limits.high - limits.low) / UINT8_LEVELS))
        return scale, np.array(min(max(round(-limits.low / scale), 0), UINT8_LEVELS), np.uint8)

    def _quantise_weights(self, node: onnx.NodeProto, scale: float) -> None:
        """Quantise a convolution's filter, with one scale for each output channel, and for the CPU its bias.

        Args:
            node: the convolution; it then reads the new weights.
            scale: of its input.
        """
        name = node.input[1]
        weight = self._constants[name].astype(np.float64)
        bias = self._constants[node.input[2]].astype(np.float64) if len(node.input) > 2 else None
        largest = np.abs(weight).reshape(len(weight), -1).max(axis=1)
        scales = np.where(largest > 0, largest / INT8_LEVELS, 2.0**-14)
        if self._dialect == "tensorrt":
            scales = _half_up(scales)
        elif bias is not None:
            # The scale of an int32 bias is the product of the scales of input and filter. Where a filter is so much
            # smaller than its bias that the bias would overflow, the filter gets a coarser scale.
            scales = np.maximum(scales, np.abs(bias) / (scale * _BIAS_MAX))
        scales = scales.astype(np.float32)
        lattice = weight / scales.astype(np.float64).reshape(-1, *[1] * (weight.ndim - 1))
        integers = np.clip(np.round(lattice), -INT8_LEVELS, INT8_LEVELS).astype(np.int8)
        node.input[1] = self._dequantised(name, integers, scales)
        if self._dialect == "cpu" and bias is not None:
            product = np.float32(scale) * scales
            whole = np.round(bias / product.astype(np.float64)).astype(np.int32)
            node.input[2] = self._dequantised(node.input[2], whole, product)

    def _dequantised(self, name: str, integers: np.ndarray, scales: np.ndarray) -> str:
        """Add integer weights, whose first axis has the scales, and return the name of their float values."""
        ends = [
            self._constant(f"{name}/integers", integers),
            self._constant(f"{name}/scale", scales),
            self._constant(f"{name}/zero", np.zeros(scales.shape, integers.dtype)),
        ]
        output = f"{name}/dequantised"
        self._nodes.append(helper.make_node("DequantizeLinear", ends, [output], f"{name}/DequantizeLinear", axis=0))
        return output


def _half_up(values: np.ndarray) -> np.ndarray:
    """Values rounded up to what FP16 can hold: float64.

    With scales rounded down, the largest values would be beyond int8.
    """
    half = values.astype(np.float16)
    half = np.where(half.astype(np.float64) < values, np.nextafter(half, np.float16(np.inf)), half)
    return np.maximum(half.astype(np.float64), _SMALLEST_HALF)

"""FP32 graph to FP16: which nodes must stay FP32, the FP16 graph, and its emulation in FP32 on a CPU."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ffnet_deploy.artifacts.values import Io
from ffnet_deploy.errors import PrecisionError
from ffnet_deploy.graph.edit import checked, copied, finished, replace_initializers, replace_nodes
from ffnet_deploy.graph.patterns import asked_for, check_patterns
from ffnet_deploy.graph.ranges import Range

FP16_MAX = float(np.finfo(np.float16).max)
MARGIN = 4.0
"""Other images may make an activation larger by this factor, and it must still fit into FP16."""
_REDUCTIONS = frozenset(("ReduceMean", "GlobalAveragePool", "ReduceSum"))
_TYPES = {"half": TensorProto.FLOAT16, "float": TensorProto.FLOAT}
_SUFFIX = {"half": "fp16", "float": "fp32"}


@dataclass(frozen=True, slots=True)
class Half:
    """An FP16 graph, in which some nodes stay FP32."""

    model: onnx.ModelProto
    kept: Mapping[str, str]
    """The nodes that stay FP32, with the reason."""


def must_stay_fp32(model: onnx.ModelProto, ranges: Mapping[str, Range], patterns: Sequence[str] = ()) -> dict[str, str]:
    """Decide which nodes cannot be FP16.

    Args:
        model: the FP32 graph.
        ranges: of its activations, see :func:`ffnet_deploy.graph.ranges.observe`.
        patterns: the user's ``--keep-fp32``: node names or shell patterns of them.

    Returns:
        The reason by node name, in the graph's order.

    Raises:
        UsageError: a pattern matches no node.
    """
    reasons: dict[str, str] = {}
    check_patterns("--keep-fp32", patterns, [node.name for node in model.graph.node], "node")
    weights = {tensor.name: tensor for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT}
    for node in model.graph.node:
        reason = _reason(node, ranges, weights, patterns)
        if reason:
            reasons[node.name] = reason
    return reasons


def _reason(
    node: onnx.NodeProto,
    ranges: Mapping[str, Range],
    weights: Mapping[str, onnx.TensorProto],
    patterns: Sequence[str],
) -> str | None:
    if asked := asked_for(node.name, patterns):
        return asked
    if node.op_type in _REDUCTIONS:
        return "a reduction: its sum may leave FP16, and loses digits"
    for name in (*node.input, *node.output):
        if name in ranges and ranges[name].magnitude * MARGIN > FP16_MAX:
            return f"{name} reaches {ranges[name].magnitude:.4g}; with a margin of {MARGIN:g} that is beyond FP16"
        if name in weights and _magnitude(weights[name]) > FP16_MAX:
            return f"{name} holds {_magnitude(weights[name]):.4g}, beyond FP16"
    return None


def _magnitude(tensor: onnx.TensorProto) -> float:
    return float(np.abs(numpy_helper.to_array(tensor)).max(initial=0.0))


def to_fp16(model: onnx.ModelProto, keep: Mapping[str, str] | None = None, io: Io = "fp32") -> Half:
    """A copy with weights and activations in FP16, except at the nodes in ``keep``.

    A Cast stands wherever a tensor passes from an FP16 node to an FP32 node or back.

    Args:
        model: an FP32 graph; it is not changed.
        keep: nodes that stay FP32, with reasons.
        io: type of the graph's inputs and outputs.

    Raises:
        PrecisionError: a weight of an FP16 node is too large for FP16, or the graph is not FP32.
    """
    kept = dict(keep or {})
    half = copied(model)
    _Halving(half.graph, frozenset(kept), "half" if io == "fp16" else "float").run()
    return Half(finished(half), kept)


class _Halving:
    """Changes a graph in place: decides the type of every floating-point tensor, and inserts the Casts between types.

    Args:
        graph: FP32.
        kept: names of the nodes that stay FP32.
        ends: type of inputs and outputs, ``half`` or ``float``.
    """

    def __init__(self, graph: onnx.GraphProto, kept: frozenset[str], ends: str) -> None:
        self._graph, self._kept, self._ends = graph, kept, ends
        pairs = [node for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
        integers = {name for node in pairs for name in node.input}
        self._weights = {
            tensor.name: tensor
            for tensor in graph.initializer
            if not (tensor.data_type == TensorProto.INT8 and tensor.name in integers) and _is_float(tensor)
        }
        self._typed: dict[str, str] = {}
        self._new: dict[str, onnx.TensorProto] = {}
        self._casts: set[str] = set()

    def run(self) -> None:
        outputs = {value.name for value in self._graph.output}
        for value in (*self._graph.input, *self._graph.output):
            value.type.tensor_type.elem_type = _TYPES[self._ends]
        self._typed.update((value.name, self._ends) for value in self._graph.input)
        nodes: list[onnx.NodeProto] = []
        for node in list(self._graph.node):
            kind = "float" if node.name in self._kept else "half"
            nodes += self._cast_inputs(node, kind)
            nodes.append(node)
            for i, name in enumerate(node.output):
                if node.op_type != "QuantizeLinear":  # its output is an integer
                    self._typed[name] = kind
                if name in outputs and kind != self._ends:
                    # The graph's output keeps its name, so the node's output gets another one.
                    inner = f"{name}/{_SUFFIX[kind]}"
                    node.output[i] = inner
                    # Readers of the node's type read this tensor.
                    self._casts.add(inner)
                    nodes.append(_cast(inner, name, f"{name}/Cast", self._ends))
                    self._typed[name] = self._ends
        replace_nodes(self._graph, nodes)
        others = [tensor for tensor in self._graph.initializer if tensor.name not in self._weights]
        replace_initializers(self._graph, [*others, *self._new.values()])

    def _cast_inputs(self, node: onnx.NodeProto, kind: str) -> Iterator[onnx.NodeProto]:
        """Make a node read tensors of type ``kind``, and give the Casts that this needs."""
        # The other inputs of a Resize keep their types: its scales are always FP32, its sizes int64.
        count = 1 if node.op_type == "Resize" else len(node.input)
        for i, name in enumerate(node.input[:count]):
            if name in self._weights:
                node.input[i] = self._weight(name, kind)
            elif self._typed.get(name, kind) != kind:
                inner = f"{name}/{_SUFFIX[kind]}"
                if inner not in self._casts:
                    self._casts.add(inner)
                    first = f"{name}/Cast" if kind == "half" else f"{name}/Cast_fp32"
                    yield _cast(name, inner, first, kind)
                node.input[i] = inner
        for name in node.input[count:]:
            if name in self._weights:
                self._new[name] = self._weights[name]

    def _weight(self, name: str, kind: str) -> str:
        """The name of a weight in type ``kind``."""
        if kind == "float":
            copy = f"{name}/fp32"
            self._new[copy] = numpy_helper.from_array(numpy_helper.to_array(self._weights[name]), copy)
            return copy
        if name not in self._new:
            values = numpy_helper.to_array(self._weights[name])
            largest = float(np.abs(values).max(initial=0.0))
            if largest > FP16_MAX:
                raise PrecisionError(
                    f"{name} holds {largest:.4g} (at most {FP16_MAX:.0f} fits into FP16). "
                    "Keep its node with --keep-fp32."
                )
            self._new[name] = numpy_helper.from_array(values.astype(np.float16), name)
        return name


def _is_float(tensor: onnx.TensorProto) -> bool:
    if tensor.data_type in (TensorProto.INT64, TensorProto.INT32):  # sizes, pads and axes
        return False
    if tensor.data_type != TensorProto.FLOAT:
        kind = TensorProto.DataType.Name(tensor.data_type)
        raise PrecisionError(f"{tensor.name} is {kind} (FP32 was needed). Build from a graph of: ffnet-deploy export")
    return True


def _cast(source: str, target: str, name: str, kind: str) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [target], name=name, to=_TYPES[kind])


def rounded(model: onnx.ModelProto) -> onnx.ModelProto:
    """An FP32 graph that computes what an FP16 graph does, for a runtime without FP16 kernels.

    ONNX Runtime's CPU runs FP16 graphs in FP32 and does not round the results in between, so an overflow stays hidden.
    In this graph operators and weights are FP32. The weights hold values that FP16 can hold. Every result that is FP16
    in ``model`` passes through a Cast to FP16 and one back, which ONNX Runtime keeps. The sums inside an operator are
    FP32, as on tensor cores.

    Args:
        model: of :func:`to_fp16`; it is not changed.

    Returns:
        A graph whose inputs and outputs have the same names and are FP32.
    """
    emulated = copied(model)
    graph = emulated.graph
    halves = {
        value.name
        for value in (*graph.input, *graph.value_info, *graph.output)
        if value.type.tensor_type.elem_type == TensorProto.FLOAT16
    }
    _widen(graph, halves)
    nodes: list[onnx.NodeProto] = []
    # What reads an FP16 input must read its rounded values.
    inputs = {value.name: f"{value.name}/rounded" for value in graph.input if value.name in halves}
    for name, inner in inputs.items():
        nodes += _rounding(name, inner)
    for node in graph.node:
        node.input[:] = [inputs.get(name, name) for name in node.input]
        nodes += _with_rounded_results(node, halves)
    replace_nodes(graph, nodes)
    return checked(emulated)


def _widen(graph: onnx.GraphProto, halves: set[str]) -> None:
    """Make weights, inputs and outputs FP32, and drop the inferred types."""
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT16:
            values = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    for value in (*graph.input, *graph.output):
        if value.name in halves:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    del graph.value_info[:]


def _with_rounded_results(node: onnx.NodeProto, halves: set[str]) -> list[onnx.NodeProto]:
    """A node whose results are FP32, and behind it the Casts that round those which were FP16."""
    if node.op_type == "DequantizeLinear":
        # An INT8 convolution reads the integers themselves. It never rounds their product with the scale.
        return [node]
    if node.op_type == "Cast":
        # All types are FP32 now, so a Cast does nothing. If its result was FP16, the rounding below remains.
        node.CopyFrom(helper.make_node("Identity", list(node.input), list(node.output), name=node.name))
    results = [name for name in node.output if name in halves]
    node.output[:] = [f"{name}/exact" if name in halves else name for name in node.output]
    return [node, *(cast for name in results for cast in _rounding(f"{name}/exact", name))]


def _rounding(source: str, target: str) -> list[onnx.NodeProto]:
    """A Cast to FP16 and one back."""
    return [
        _cast(source, f"{target}/half", f"{target}/ToHalf", "half"),
        _cast(f"{target}/half", target, f"{target}/ToFloat", "float"),
    ]

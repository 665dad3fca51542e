"""FP32 graph to FP16: what may be halved, the typed graph, and its emulation in FP32 for a CPU."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ffnet_deploy.errors import PrecisionError, UsageError
from ffnet_deploy.graph.ranges import Range

FP16_MAX = float(np.finfo(np.float16).max)
MARGIN = 4.0
"""An activation may grow this much beyond what was seen before it leaves FP16."""
_REDUCTIONS = frozenset(("ReduceMean", "GlobalAveragePool", "ReduceSum"))
_TYPES = {"half": TensorProto.FLOAT16, "float": TensorProto.FLOAT}
_SUFFIX = {"half": "fp16", "float": "fp32"}

Io = Literal["fp32", "fp16"]


@dataclass(frozen=True, slots=True)
class Half:
    """An FP16 graph, and the nodes that stay FP32 in it with the reason."""

    model: onnx.ModelProto
    kept: Mapping[str, str]


def must_stay_fp32(model: onnx.ModelProto, ranges: Mapping[str, Range], patterns: Sequence[str] = ()) -> dict[str, str]:
    """Decide by ranges which nodes cannot be FP16.

    Args:
        model: the FP32 graph.
        ranges: extremes of its activations, see :func:`ffnet_deploy.graph.ranges.observe`.
        patterns: node names or shell patterns of them, of ``--keep-fp32``.

    Returns:
        Node name to reason, in the graph's order.

    Raises:
        UsageError: a pattern that no node has.
    """
    reasons: dict[str, str] = {}
    names = [node.name for node in model.graph.node]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UsageError(
                f"--keep-fp32 {pattern!r} names no node (the first is {names[0]!r}). Quote the pattern, and see the "
                "nodes with: ffnet-deploy inspect FILE"
            )
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
    for pattern in patterns:
        if fnmatchcase(node.name, pattern):
            return f"asked for by {pattern!r}"
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
    """A copy with weights and activations in FP16, but for the nodes in ``keep``.

    Args:
        model: an FP32 graph; it is not changed.
        keep: nodes that stay FP32, with reasons; a Cast stands wherever a tensor crosses between the two.
        io: type of the graph's inputs and outputs.

    Raises:
        PrecisionError: a weight of a halved node is beyond what FP16 can hold, or the graph is not FP32.
    """
    kept = dict(keep or {})
    half = onnx.ModelProto()
    half.CopyFrom(model)
    _Halving(half.graph, frozenset(kept), "half" if io == "fp16" else "float").run()
    half = onnx.shape_inference.infer_shapes(half, strict_mode=True)
    onnx.checker.check_model(half, full_check=True)
    return Half(half, kept)


class _Halving:
    """Walks a graph once, giving every floating tensor a type and inserting the Casts between types."""

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
                if node.op_type != "QuantizeLinear":  # its integers have one type
                    self._typed[name] = kind
                if name in outputs and kind != self._ends:
                    # The graph's output keeps its name; the node writes beside it.
                    inner = f"{name}/{_SUFFIX[kind]}"
                    node.output[i] = inner
                    # Who reads it inside the graph reads this one.
                    self._casts.add(inner)
                    nodes.append(_cast(inner, name, f"{name}/Cast", self._ends))
                    self._typed[name] = self._ends
        del self._graph.node[:]
        self._graph.node.extend(nodes)
        others = [tensor for tensor in self._graph.initializer if tensor.name not in self._weights]
        del self._graph.initializer[:]
        self._graph.initializer.extend([*others, *self._new.values()])
        # Their types are those of FP32; shape inference finds the new ones.
        del self._graph.value_info[:]

    def _cast_inputs(self, node: onnx.NodeProto, kind: str) -> Iterator[onnx.NodeProto]:
        # Beyond its data, Resize takes scales, which are always FP32, and sizes.
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
        if kind == "float":
            copy = f"{name}/fp32"
            self._new[copy] = numpy_helper.from_array(numpy_helper.to_array(self._weights[name]), copy)
            return copy
        if name not in self._new:
            values = numpy_helper.to_array(self._weights[name])
            largest = float(np.abs(values).max(initial=0.0))
            if largest > FP16_MAX:
                raise PrecisionError(
                    f"{name} holds {largest:.4g} (FP16 ends at {FP16_MAX:.0f}). Keep its node with --keep-fp32."
                )
            self._new[name] = numpy_helper.from_array(values.astype(np.float16), name)
        return name


def _is_float(tensor: onnx.TensorProto) -> bool:
    if tensor.data_type in (TensorProto.INT64, TensorProto.INT32):  # sizes, pads and axes
        return False
    if tensor.data_type != TensorProto.FLOAT:
        kind = TensorProto.DataType.Name(tensor.data_type)
        raise PrecisionError(f"{tensor.name} is {kind} (FP32 was needed). Build from the graph that export made.")
    return True


def _cast(source: str, target: str, name: str, kind: str) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [target], name=name, to=_TYPES[kind])


def rounded(model: onnx.ModelProto) -> onnx.ModelProto:
    """An FP32 graph that computes what an FP16 graph does, on a runtime that has no FP16 kernels.

    ONNX Runtime's CPU computes FP16 graphs in FP32 and rounds nothing in between, so an overflow stays hidden there.
    Here operators and weights are FP32, weights hold FP16 values, and behind every node whose result is FP16 stands a
    Cast to FP16 and back, which ONNX Runtime keeps. Sums inside an operator are FP32, as on tensor cores.

    Args:
        model: of :func:`to_fp16`; it is not changed.

    Returns:
        FP32 inputs and outputs of the same names.
    """
    emulated = onnx.ModelProto()
    emulated.CopyFrom(model)
    graph = emulated.graph
    halves = {
        value.name
        for value in (*graph.input, *graph.value_info, *graph.output)
        if value.type.tensor_type.elem_type == TensorProto.FLOAT16
    }
    for i, tensor in enumerate(graph.initializer):
        if tensor.data_type == TensorProto.FLOAT16:
            values = numpy_helper.to_array(tensor).astype(np.float32)
            graph.initializer[i].CopyFrom(numpy_helper.from_array(values, tensor.name))
    for value in (*graph.input, *graph.output):
        if value.name in halves:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    del graph.value_info[:]
    nodes = list(graph.node)
    del graph.node[:]
    for value in graph.input:
        if value.name in halves:
            graph.node.extend(_rounding(value.name, f"{value.name}/rounded"))
            for node in nodes:
                node.input[:] = [f"{value.name}/rounded" if name == value.name else name for name in node.input]
    for node in nodes:
        if node.op_type == "DequantizeLinear":
            # An INT8 convolution takes the integers: their product with the scale is never rounded.
            graph.node.append(node)
            continue
        if node.op_type == "Cast":
            # Types are all FP32 now: what is left of a Cast is its rounding, which its output's type decides below.
            node.CopyFrom(helper.make_node("Identity", list(node.input), list(node.output), name=node.name))
        results = [name for name in node.output if name in halves]
        node.output[:] = [f"{name}/exact" if name in halves else name for name in node.output]
        graph.node.append(node)
        for name in results:
            graph.node.extend(_rounding(f"{name}/exact", name))
    onnx.checker.check_model(emulated, full_check=True)
    return emulated


def _rounding(source: str, target: str) -> list[onnx.NodeProto]:
    return [
        _cast(source, f"{target}/half", f"{target}/ToHalf", "half"),
        _cast(f"{target}/half", target, f"{target}/ToFloat", "float"),
    ]

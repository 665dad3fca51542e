"""What a graph says of itself: shapes of its tensors, and the work of its convolutions."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any, TypeVar

import numpy as np
import onnx
from onnx import TensorProto

COMPUTE = ("Conv", "Gemm")
_Value = TypeVar("_Value")


def shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor, weights included; a symbolic batch counts as 1."""
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    found = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        found[value.name] = tuple(dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim)
    return found


def macs_by_node(model: onnx.ModelProto) -> dict[str, int]:
    """Multiply-accumulates of each convolution and Gemm at the graph's batch, by node name."""
    known = shapes(model)
    macs = {}
    for node in model.graph.node:
        if node.op_type in COMPUTE:
            # A filter is (O, I/groups, kH, kW); Gemm's is (O, I), since PyTorch's linear is exported with transB.
            macs[node.name] = math.prod(known[node.output[0]]) * math.prod(known[node.input[1]][1:])
    return macs


def attribute(node: onnx.NodeProto, name: str, default: _Value) -> _Value:
    """A node's attribute as a Python value; strings are bytes."""
    found: _Value = next((onnx.helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)
    return found


def resize_scales(before: tuple[int, ...], after: tuple[int, ...]) -> np.ndarray:
    """float32 factors that give exactly ``after``, which is floor(before * factor)."""
    factors = np.array(after, np.float32) / np.array(before, np.float32)
    # In double precision, as ONNX infers shapes: 7 * 1.8571428 falls short of 13 there, though not in single.
    short = np.floor(np.array(before) * factors.astype(np.float64)) < np.array(after)
    return np.where(short, np.nextafter(factors, np.float32(np.inf)), factors).astype(np.float32)


def described(model: onnx.ModelProto) -> dict[str, Any]:
    """What a graph is, as plain values: opsets, ends, operators, work, types of its weights, our metadata."""
    graph = model.graph
    kinds: Counter[str] = Counter()
    for tensor in graph.initializer:
        kinds[TensorProto.DataType.Name(tensor.data_type).lower()] += math.prod(tensor.dims)
    ours = all(o.domain in ("", "ai.onnx") for o in model.opset_import)
    return {
        "opset": {o.domain or "ai.onnx": o.version for o in model.opset_import},
        "inputs": {v.name: _type(v) for v in graph.input},
        "outputs": {v.name: _type(v) for v in graph.output},
        "operators": dict(Counter(node.op_type for node in graph.node).most_common()),
        # A graph that a runtime has optimised has operators whose shapes nobody else infers.
        "macs": sum(macs_by_node(model).values()) if ours else None,
        "weights": dict(kinds),
        "metadata": {p.key.removeprefix("ffnet_deploy."): p.value for p in model.metadata_props},
    }


def _type(value: onnx.ValueInfoProto) -> str:
    tensor = value.type.tensor_type
    sides = ", ".join(str(side.dim_param or side.dim_value) for side in tensor.shape.dim)
    return f"{TensorProto.DataType.Name(tensor.elem_type).lower()} ({sides})"

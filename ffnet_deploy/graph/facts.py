"""Facts about a graph: shapes of its tensors, work of its convolutions, and a summary."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np
import onnx
from onnx import TensorProto

COMPUTE = ("Conv", "Gemm")
"""The operators that multiply and accumulate."""
_Value = TypeVar("_Value")


def shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor, weights included; a symbolic batch counts as 1."""
    inferred = onnx.shape_inference.infer_shapes(without_weights(model), strict_mode=True).graph
    found = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        found[value.name] = tuple(dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim)
    return found


_SMALL = 1 << 12
"""Elements of a constant that shapes may depend on, such as the sizes of a Resize."""


def without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph for inferring shapes, which copies it four times: large constants are inputs of their shape."""
    graph = onnx.GraphProto(name=model.graph.name)
    graph.node.extend(model.graph.node)
    graph.input.extend(model.graph.input)
    graph.output.extend(model.graph.output)
    graph.value_info.extend(model.graph.value_info)
    given = {value.name for value in model.graph.input}
    for tensor in model.graph.initializer:
        if math.prod(tensor.dims) <= _SMALL:
            graph.initializer.append(tensor)
        elif tensor.name not in given:
            graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return onnx.ModelProto(
        ir_version=model.ir_version, opset_import=model.opset_import, graph=graph, functions=model.functions
    )


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
    """The value of a node's attribute, or ``default`` if the node does not have it. Strings are bytes."""
    found: _Value = next((onnx.helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)
    return found


def resize_scales(before: tuple[int, ...], after: tuple[int, ...]) -> np.ndarray:
    """Factors that resize the sides ``before`` to exactly ``after``: float32, one for each side.

    ONNX defines the new side as floor(before * factor).
    """
    factors = np.array(after, np.float32) / np.array(before, np.float32)
    # ONNX infers shapes in double precision. There 7 * 1.8571428 is less than 13, though not in single precision.
    short = np.floor(np.array(before) * factors.astype(np.float64)) < np.array(after)
    return np.where(short, np.nextafter(factors, np.float32(np.inf)), factors).astype(np.float32)


@dataclass(frozen=True, slots=True)
class GraphFacts:
    """The summary of a graph."""

    opset: Mapping[str, int]
    """Versions by domain; the default domain is ``ai.onnx``."""
    inputs: Mapping[str, str]
    """Type and shape by name, as in ``float (1, 3, 512, 1024)``."""
    outputs: Mapping[str, str]
    """Like ``inputs``."""
    operators: Mapping[str, int]
    """Number of nodes by operator, the most frequent first."""
    macs: int | None
    """Multiply-accumulates at the graph's batch; None if the graph has operators of a runtime's own."""
    weights: Mapping[str, int]
    """Number of values by data type."""
    metadata: Mapping[str, str]
    """The model's metadata, without the prefix ``ffnet_deploy.`` of the keys."""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, one key for each field."""
        return asdict(self)


def is_standard(model: onnx.ModelProto) -> bool:
    """Whether all operators may be ONNX's, so that it can check them and infer shapes."""
    return all(o.domain in ("", "ai.onnx") for o in model.opset_import)


def described(model: onnx.ModelProto) -> GraphFacts:
    """Summarise a graph."""
    graph = model.graph
    kinds: Counter[str] = Counter()
    for tensor in graph.initializer:
        kinds[_type_name(tensor.data_type)] += math.prod(tensor.dims)
    return GraphFacts(
        opset={o.domain or "ai.onnx": o.version for o in model.opset_import},
        inputs={v.name: _type(v) for v in graph.input},
        outputs={v.name: _type(v) for v in graph.output},
        operators=dict(Counter(node.op_type for node in graph.node).most_common()),
        # ONNX cannot infer the shapes behind operators that a runtime's optimiser has put in.
        macs=sum(macs_by_node(model).values()) if is_standard(model) else None,
        weights=dict(kinds),
        metadata={p.key.removeprefix("ffnet_deploy."): p.value for p in model.metadata_props},
    )


def _type(value: onnx.ValueInfoProto) -> str:
    tensor = value.type.tensor_type
    sides = ", ".join(str(side.dim_param or side.dim_value) for side in tensor.shape.dim)
    return f"{_type_name(tensor.elem_type)} ({sides})"


def _type_name(number: int) -> str:
    # A runtime's own graph may hold types that this version of ONNX does not know.
    known = number in TensorProto.DataType.values()
    return TensorProto.DataType.Name(number).lower() if known else f"type {number}"

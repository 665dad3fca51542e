"""FP32 graph to FP16: weights and activations in half precision, inputs and outputs as they were."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ffnet_deploy.errors import PrecisionError

_FP16_MAX = float(np.finfo(np.float16).max)


def to_fp16(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with every weight and activation in FP16; a Cast at each end keeps FP32 inputs and outputs.

    This is the plain whole-graph conversion: no node is kept in FP32.

    Raises:
        PrecisionError: a weight is beyond what FP16 can hold, or the graph is not FP32.
    """
    half = onnx.ModelProto()
    half.CopyFrom(model)
    graph = half.graph
    _halve_weights(graph)
    # Their types are those of FP32; shape inference finds the new ones.
    del graph.value_info[:]
    for value in graph.input:
        _cast(graph, value.name, TensorProto.FLOAT16, entering=True)
    for value in graph.output:
        _cast(graph, value.name, TensorProto.FLOAT, entering=False)
    half = onnx.shape_inference.infer_shapes(half, strict_mode=True)
    onnx.checker.check_model(half, full_check=True)
    return half


def _halve_weights(graph: onnx.GraphProto) -> None:
    for i, tensor in enumerate(graph.initializer):
        if tensor.data_type == TensorProto.INT64:  # sizes, pads and axes
            continue
        if tensor.data_type != TensorProto.FLOAT:
            kind = TensorProto.DataType.Name(tensor.data_type)
            raise PrecisionError(f"{tensor.name} is {kind} (FP32 was needed). Build from the graph that export made.")
        values = numpy_helper.to_array(tensor)
        largest = float(np.abs(values).max(initial=0.0))
        if largest > _FP16_MAX:
            raise PrecisionError(
                f"{tensor.name} holds {largest:.4g} (FP16 ends at {_FP16_MAX:.0f}). Build this model with --fp32."
            )
        graph.initializer[i].CopyFrom(numpy_helper.from_array(values.astype(np.float16), tensor.name))


def _cast(graph: onnx.GraphProto, name: str, to: int, *, entering: bool) -> None:
    """Put a Cast behind a graph input, or in front of a graph output."""
    inner = f"{name}/fp16"
    for node in graph.node:
        node.input[:] = [inner if n == name else n for n in node.input]
        if not entering:
            node.output[:] = [inner if n == name else n for n in node.output]
    ends = ([name], [inner]) if entering else ([inner], [name])
    cast = helper.make_node("Cast", *ends, name=f"{name}/Cast", to=to)
    if entering:
        graph.node.insert(0, cast)
    else:
        graph.node.append(cast)

"""Four channels in front of an FP16 network: what a builder would pad with a stored plane of zeros."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ffnet_deploy.graph.facts import attribute

CHANNELS = 4
"""What FP16 convolutions read at a time."""


def with_four_channels(model: onnx.ModelProto, kind: int = TensorProto.FLOAT16) -> onnx.ModelProto:
    """A copy in which convolutions of a 3-channel image read 4 channels, the last of them zeros.

    Args:
        model: it is not changed.
        kind: type of the filters that are widened; others stay.

    To align the image TensorRT-RTX 1.7.1 concatenates it with a constant plane of zeros that it stores in the engine,
    H x W in FP16: 4.2 MB at 1024x2048, a seventh of a small model's engine. A Pad in the graph, in front of a filter
    with a fourth plane of zeros, gives the same sums and is computed instead. Depth-wise convolutions (the blur) and
    those kept in FP32 stay as they are.
    """
    widened = onnx.ModelProto()
    widened.CopyFrom(model)
    graph = widened.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    padded: set[str] = set()
    for node in graph.node:
        weight = weights.get(node.input[1]) if node.op_type == "Conv" else None
        if weight is not None and _reads_image(node, weight, kind):
            source, target = node.input[0], f"{node.input[0]}/{CHANNELS}channels"
            if target not in padded:
                padded.add(target)
                pads, axes = f"{target}.pads", f"{target}.axes"
                graph.initializer.append(numpy_helper.from_array(np.array([0, CHANNELS - 3], np.int64), pads))
                graph.initializer.append(numpy_helper.from_array(np.array([1], np.int64), axes))
                nodes.append(helper.make_node("Pad", [source, pads, "", axes], [target], f"{target}/Pad"))
            node.input[0] = target
            _add_plane(weight)
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.value_info[:]
    inferred = onnx.shape_inference.infer_shapes(widened, strict_mode=True)
    onnx.checker.check_model(inferred, full_check=True)
    return inferred


def _reads_image(node: onnx.NodeProto, weight: onnx.TensorProto, kind: int) -> bool:
    return attribute(node, "group", 1) == 1 and weight.data_type == kind and weight.dims[1] == 3


def _add_plane(weight: onnx.TensorProto) -> None:
    values = numpy_helper.to_array(weight)
    plane = np.zeros((values.shape[0], CHANNELS - 3, *values.shape[2:]), values.dtype)
    weight.CopyFrom(numpy_helper.from_array(np.concatenate([values, plane], axis=1), weight.name))

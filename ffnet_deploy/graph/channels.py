"""A fourth channel for the image in front of an FP16 network, so that TensorRT-RTX need not store one."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ffnet_deploy.graph.edit import copied, finished, replace_nodes
from ffnet_deploy.graph.facts import attribute

CHANNELS = 4
"""FP16 convolutions read this many channels at a time."""


def with_four_channels(model: onnx.ModelProto, kind: int = TensorProto.FLOAT16) -> onnx.ModelProto:
    """A copy in which the convolutions of a 3-channel image read 4 channels, the last of them zeros.

    FP16 convolutions need 4 channels. To provide them, TensorRT-RTX 1.7.1 concatenates the image with a constant plane
    of zeros, and it stores that plane in the engine: H x W in FP16, 4.2 MB at 1024x2048, which is a seventh of a small
    model's engine. Here a Pad computes the plane, and the filter gets a fourth plane of zeros. The sums stay the same.
    Depth-wise convolutions (the blur) and convolutions that stay FP32 do not change.

    Args:
        model: it is not changed.
        kind: ONNX data type (a ``TensorProto`` value) of the filters to widen; filters of other types do not change.
    """
    widened = copied(model)
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
                nodes.append(_pad(graph, source, target))
            node.input[0] = target
            _add_plane(weight)
        nodes.append(node)
    replace_nodes(graph, nodes)
    return finished(widened)


def _reads_image(node: onnx.NodeProto, weight: onnx.TensorProto, kind: int) -> bool:
    return attribute(node, "group", 1) == 1 and weight.data_type == kind and weight.dims[1] == 3


def _pad(graph: onnx.GraphProto, source: str, target: str) -> onnx.NodeProto:
    """A node that appends the missing channel; its constants go into the graph."""
    pads, axes = f"{target}.pads", f"{target}.axes"
    graph.initializer.append(numpy_helper.from_array(np.array([0, CHANNELS - 3], np.int64), pads))
    graph.initializer.append(numpy_helper.from_array(np.array([1], np.int64), axes))
    return helper.make_node("Pad", [source, pads, "", axes], [target], f"{target}/Pad")


def _add_plane(weight: onnx.TensorProto) -> None:
    values = numpy_helper.to_array(weight)
    plane = np.zeros((values.shape[0], CHANNELS - 3, *values.shape[2:]), values.dtype)
    weight.CopyFrom(numpy_helper.from_array(np.concatenate([values, plane], axis=1), weight.name))

"""A graph for any batch size: its first axis is symbolic, and no constant in it holds the batch."""

from __future__ import annotations

import onnx
from onnx import helper, numpy_helper

from ffnet_deploy.errors import ExportError
from ffnet_deploy.graph.edit import copied, drop_unused_initializers, finished
from ffnet_deploy.graph.facts import resize_scales, shapes
from ffnet_deploy.graph.nearest import with_exact_nearest

BATCH = "batch"
_SPATIAL = [2, 3]


def with_dynamic_batch(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose inputs and outputs have a symbolic first axis, ``batch``.

    In an exported FFNet only Resize holds the batch, in its constant ``sizes`` (N, C, H, W). Here it gets ``scales`` of
    the two spatial axes instead (opset 18), which needs no Shape node. ``sizes`` of two axes would not do:
    TensorRT-RTX 1.7.1 reads the symbolic batch of such a Resize as a length of -1 and refuses the graph. Where scales
    would copy other pixels than sizes do, Gathers take the Resize's place (:mod:`ffnet_deploy.graph.nearest`).

    Args:
        model: an exported graph with static shapes; it is not changed.

    Raises:
        ExportError: a Resize has no constant sizes, or another node fixes the batch.
    """
    dynamic = copied(with_exact_nearest(model, _factor))
    graph = dynamic.graph
    _scale_spatial_axes(graph, shapes(dynamic))
    drop_unused_initializers(graph)
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = BATCH
    inferred = finished(dynamic)
    fixed = [v.name for v in inferred.graph.value_info if not v.type.tensor_type.shape.dim[0].dim_param]
    if fixed:
        raise ExportError(
            f"{fixed[0]} has a fixed batch (a symbolic one was needed). Export without --dynamic-batch, or report this."
        )
    return inferred


def _factor(before: int, after: int) -> float:
    return float(resize_scales((before,), (after,))[0])


def _scale_spatial_axes(graph: onnx.GraphProto, known: dict[str, tuple[int, ...]]) -> None:
    """Give every Resize of a graph factors of the spatial axes in place of sizes of all axes."""
    constants = {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type != "Resize":
            continue
        if len(node.input) < 4 or node.input[3] not in constants:
            raise ExportError(
                f"{node.name} has no constant sizes (a Resize to a constant size was needed). "
                "Install the versions of constraints.txt, or report this."
            )
        scales = resize_scales(known[node.input[0]][2:], known[node.output[0]][2:])
        node.input[:] = [node.input[0], "", f"{node.name}.scales"]
        graph.initializer.append(numpy_helper.from_array(scales, node.input[2]))
        node.attribute.append(helper.make_attribute("axes", _SPATIAL))

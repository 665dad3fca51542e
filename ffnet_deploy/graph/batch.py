"""A graph for any batch: the batch axis symbolic, and no size that holds it."""

from __future__ import annotations

import onnx
from onnx import helper, numpy_helper

from ffnet_deploy.errors import ExportError
from ffnet_deploy.graph.facts import resize_scales, shapes

BATCH = "batch"
_SPATIAL = [2, 3]


def with_dynamic_batch(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose inputs and outputs have a symbolic first axis, ``batch``.

    Only Resize names the batch inside an exported FFNet, in its ``sizes``; here it resizes by factors of the two
    spatial axes (opset 18), so that no Shape node is needed. Not by sizes of those axes: TensorRT-RTX 1.7.1 takes the
    batch of such a Resize for a length of -1, and refuses it.

    Raises:
        ExportError: a Resize whose sizes are not constant, or a node that fixes the batch.
    """
    dynamic = onnx.ModelProto()
    dynamic.CopyFrom(model)
    graph = dynamic.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    known = shapes(model)
    replaced = set()
    for node in graph.node:
        if node.op_type != "Resize":
            continue
        name = node.input[3] if len(node.input) > 3 else ""
        if name not in constants:
            raise ExportError(
                f"{node.name} has no constant sizes. Install the versions of constraints.txt, or report this."
            )
        replaced.add(name)
        scales = resize_scales(known[node.input[0]][2:], known[node.output[0]][2:])
        node.input[:] = [node.input[0], "", f"{node.name}.scales"]
        graph.initializer.append(numpy_helper.from_array(scales, node.input[2]))
        node.attribute.append(helper.make_attribute("axes", _SPATIAL))
    kept = [tensor for tensor in graph.initializer if tensor.name not in replaced]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    del graph.value_info[:]
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = BATCH
    inferred = onnx.shape_inference.infer_shapes(dynamic, strict_mode=True)
    fixed = [v.name for v in inferred.graph.value_info if not v.type.tensor_type.shape.dim[0].dim_param]
    if fixed:
        raise ExportError(f"{fixed[0]} fixes the batch. Export without --dynamic-batch, or report this.")
    onnx.checker.check_model(inferred, full_check=True)
    return inferred

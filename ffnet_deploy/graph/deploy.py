"""The deployable graph: an image in, labels out, with everything between them inside."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ffnet_deploy.data.images import MEAN, STD
from ffnet_deploy.errors import PrecisionError
from ffnet_deploy.graph.facts import resize_scales

IMAGE = "image"
LOGITS = "logits"
LABELS = "labels"


def with_image_in(model: onnx.ModelProto) -> onnx.ModelProto:
    """Take uint8 NHWC instead of normalised float NCHW; ``image`` keeps its name.

    The input becomes uint8 (N, H, W, 3), RGB. Behind it stand a Cast (TensorRT's parser refuses a uint8 Transpose), the
    transposition, and the normalisation by ImageNet's mean and std in FP32, whatever the precision of the network.
    """
    deployed = _copy(model)
    graph = deployed.graph
    (image,) = graph.input
    kind = image.type.tensor_type.elem_type
    n, _, h, w = image.type.tensor_type.shape.dim
    inner = f"{IMAGE}/normalised"
    for node in graph.node:
        node.input[:] = [inner if name == IMAGE else name for name in node.input]
    scale = (np.float32(1) / (np.array(STD, np.float32) * 255)).reshape(1, 3, 1, 1)
    shift = (-np.array(MEAN, np.float32) / np.array(STD, np.float32)).reshape(1, 3, 1, 1)
    graph.initializer.append(numpy_helper.from_array(scale, f"{IMAGE}/scale"))
    graph.initializer.append(numpy_helper.from_array(shift, f"{IMAGE}/shift"))
    front = [
        helper.make_node("Cast", [IMAGE], [f"{IMAGE}/float"], f"{IMAGE}/ToFloat", to=TensorProto.FLOAT),
        helper.make_node("Transpose", [f"{IMAGE}/float"], [f"{IMAGE}/nchw"], f"{IMAGE}/Transpose", perm=[0, 3, 1, 2]),
        helper.make_node("Mul", [f"{IMAGE}/nchw", f"{IMAGE}/scale"], [f"{IMAGE}/scaled"], f"{IMAGE}/Mul"),
        helper.make_node("Add", [f"{IMAGE}/scaled", f"{IMAGE}/shift"], [f"{IMAGE}/shifted"], f"{IMAGE}/Add"),
        helper.make_node("Cast", [f"{IMAGE}/shifted"], [inner], f"{IMAGE}/ToNetwork", to=kind),
    ]
    nodes = list(graph.node)
    del graph.node[:]
    graph.node.extend([*front, *nodes])
    shape = [n.dim_param or n.dim_value, h.dim_value, w.dim_value, 3]
    image.CopyFrom(helper.make_tensor_value_info(IMAGE, TensorProto.UINT8, shape))
    return _finished(deployed)


def with_labels_out(model: onnx.ModelProto, size: tuple[int, int], *, align_corners: bool) -> onnx.ModelProto:
    """Give a label map instead of logits: ``labels``, uint8 (N, H, W), train ids.

    Args:
        model: with logits (N, C, h, w) as its output.
        size: (H, W) to which the logits are up-sampled, bilinearly and in FP32, before the arg-max.
        align_corners: of that up-sampling, as PyTorch means it.

    Raises:
        PrecisionError: the model gives no logits map.
    """
    deployed = _copy(model)
    graph = deployed.graph
    (logits,) = graph.output
    shape = logits.type.tensor_type.shape.dim
    if len(shape) != 4:
        raise PrecisionError(f"{LOGITS} has {len(shape)} axes (a map with 4 was needed). Leave --labels-out away.")
    mode = "align_corners" if align_corners else "half_pixel"
    names = [f"{LABELS}/float", f"{LABELS}/full", f"{LABELS}/int64"]
    # By size where the batch is fixed, which is exact for any ratio; TensorRT-RTX takes only factors where it is not.
    fixed = bool(shape[0].dim_value)
    factors = resize_scales((shape[2].dim_value, shape[3].dim_value), size)
    target = numpy_helper.from_array(np.array(size, np.int64) if fixed else factors, f"{LABELS}/target")
    graph.initializer.append(target)
    graph.node.extend(
        [
            helper.make_node("Cast", [LOGITS], [names[0]], f"{LABELS}/ToFloat", to=TensorProto.FLOAT),
            helper.make_node(
                "Resize",
                [names[0], "", "", target.name] if fixed else [names[0], "", target.name],
                [names[1]],
                f"{LABELS}/Resize",
                mode="linear",
                coordinate_transformation_mode=mode,
                axes=[2, 3],
            ),
            helper.make_node("ArgMax", [names[1]], [names[2]], f"{LABELS}/ArgMax", axis=1, keepdims=0),
            helper.make_node("Cast", [names[2]], [LABELS], f"{LABELS}/ToUint8", to=TensorProto.UINT8),
        ]
    )
    batch = shape[0].dim_param or shape[0].dim_value
    logits.CopyFrom(helper.make_tensor_value_info(LABELS, TensorProto.UINT8, [batch, *size]))
    return _finished(deployed)


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    del copied.graph.value_info[:]
    return copied


def _finished(model: onnx.ModelProto) -> onnx.ModelProto:
    finished = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    onnx.checker.check_model(finished, full_check=True)
    return finished

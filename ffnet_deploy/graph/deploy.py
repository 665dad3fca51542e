"""The deployed graph: it takes an image and gives labels, and computes everything in between."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ffnet_deploy.data.images import MEAN, STD
from ffnet_deploy.errors import PrecisionError
from ffnet_deploy.graph.edit import copied, finished, replace_nodes
from ffnet_deploy.graph.facts import resize_scales

IMAGE = "image"
LOGITS = "logits"
LABELS = "labels"


def with_image_in(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy that takes the raw image: ``image``, uint8 (N, H, W, 3), RGB.

    The copy casts the image to FP32, transposes it to NCHW and normalises it with ImageNet's mean and standard
    deviation. All of this is FP32, whatever the precision of the network.

    Args:
        model: takes the normalised ``image``, FP32 or FP16 (N, 3, H, W); it is not changed.
    """
    deployed = copied(model)
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
        # The Cast comes first, since TensorRT's parser refuses a uint8 Transpose.
        helper.make_node("Cast", [IMAGE], [f"{IMAGE}/float"], f"{IMAGE}/ToFloat", to=TensorProto.FLOAT),
        helper.make_node("Transpose", [f"{IMAGE}/float"], [f"{IMAGE}/nchw"], f"{IMAGE}/Transpose", perm=[0, 3, 1, 2]),
        helper.make_node("Mul", [f"{IMAGE}/nchw", f"{IMAGE}/scale"], [f"{IMAGE}/scaled"], f"{IMAGE}/Mul"),
        helper.make_node("Add", [f"{IMAGE}/scaled", f"{IMAGE}/shift"], [f"{IMAGE}/shifted"], f"{IMAGE}/Add"),
        helper.make_node("Cast", [f"{IMAGE}/shifted"], [inner], f"{IMAGE}/ToNetwork", to=kind),
    ]
    replace_nodes(graph, [*front, *graph.node])
    shape = [n.dim_param or n.dim_value, h.dim_value, w.dim_value, 3]
    image.CopyFrom(helper.make_tensor_value_info(IMAGE, TensorProto.UINT8, shape))
    return finished(deployed)


def with_labels_out(model: onnx.ModelProto, size: tuple[int, int], *, align_corners: bool) -> onnx.ModelProto:
    """A copy that gives a label map instead of logits: ``labels``, uint8 (N, H, W), Cityscapes train ids.

    The copy casts the logits to FP32, upsamples them bilinearly, and takes the arg-max over the classes.

    Args:
        model: gives ``logits``, FP32 or FP16 (N, C, h, w); it is not changed.
        size: (H, W) of the label map.
        align_corners: of the upsampling, as PyTorch defines it.

    Raises:
        PrecisionError: the logits are no map.
    """
    deployed = copied(model)
    graph = deployed.graph
    (logits,) = graph.output
    shape = logits.type.tensor_type.shape.dim
    if len(shape) != 4:
        raise PrecisionError(f"{LOGITS} has {len(shape)} axes (a map with 4 was needed). Leave --labels-out away.")
    # A size is exact for any ratio. With a symbolic batch TensorRT-RTX takes factors only.
    fixed = bool(shape[0].dim_value)
    factors = resize_scales((shape[2].dim_value, shape[3].dim_value), size)
    target = numpy_helper.from_array(np.array(size, np.int64) if fixed else factors, f"{LABELS}/target")
    graph.initializer.append(target)
    graph.node.extend(_labelling(["", target.name] if fixed else [target.name], align_corners=align_corners))
    batch = shape[0].dim_param or shape[0].dim_value
    logits.CopyFrom(helper.make_tensor_value_info(LABELS, TensorProto.UINT8, [batch, *size]))
    return finished(deployed)


def _labelling(target: list[str], *, align_corners: bool) -> list[onnx.NodeProto]:
    """The nodes from logits to labels; ``target`` names the inputs of the Resize from its scales on."""
    real, full, arg_max = f"{LABELS}/float", f"{LABELS}/full", f"{LABELS}/int64"
    return [
        helper.make_node("Cast", [LOGITS], [real], f"{LABELS}/ToFloat", to=TensorProto.FLOAT),
        helper.make_node(
            "Resize",
            [real, "", *target],
            [full],
            f"{LABELS}/Resize",
            mode="linear",
            coordinate_transformation_mode="align_corners" if align_corners else "half_pixel",
            axes=[2, 3],
        ),
        helper.make_node("ArgMax", [full], [arg_max], f"{LABELS}/ArgMax", axis=1, keepdims=0),
        helper.make_node("Cast", [arg_max], [LABELS], f"{LABELS}/ToUint8", to=TensorProto.UINT8),
    ]

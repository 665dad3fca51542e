"""From a module to an ONNX graph that means the same to three runtimes."""

from __future__ import annotations

import ast
import copy
import itertools
import logging
import warnings
from collections import Counter
from collections.abc import Mapping

import onnx
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ffnet_deploy.errors import ExportError
from ffnet_deploy.graph.nearest import with_exact_nearest
from ffnet_deploy.zoo.network import FFNet
from ffnet_deploy.zoo.specs import ModelSpec

INPUT = "image"
OUTPUT = "logits"
ALLOWED = frozenset(
    ("Conv", "Relu", "Add", "Resize", "Concat", "MaxPool", "Pad", "GlobalAveragePool", "ReduceMean", "Flatten", "Gemm")
)
MIN_OPSET = 18
"""Below it the exporter would convert its own opset-18 output down, which is not tested."""
_NEAREST = {"mode": b"nearest", "coordinate_transformation_mode": b"asymmetric", "nearest_mode": b"floor"}
_BILINEAR = {"mode": b"linear", "coordinate_transformation_mode": b"align_corners"}


def export(
    module: FFNet, spec: ModelSpec, shape: tuple[int, int, int, int], *, opset: int, metadata: Mapping[str, str]
) -> onnx.ModelProto:
    """Write a module as an ONNX graph: static shapes, batch norm folded, nodes named after PyTorch's modules.

    Args:
        module: in eval mode, on the CPU; it is not changed.
        spec: what the graph is checked against.
        shape: (N, 3, H, W) of the input ``image``, float32; the output is ``logits``.
        opset: of the default ONNX domain.
        metadata: written into the model, so that a file tells what it is without its record.

    Raises:
        ExportError: the exporter failed, or the graph has operators or resize modes beyond the contract.
    """
    folded = fold_batch_norm(copy.deepcopy(module))
    try:
        traced = _traced(folded, shape, opset)
    except torch.onnx.errors.OnnxExporterError as error:
        cause = _root(error)
        first = (str(cause).splitlines() or ["no reason given"])[0]
        raise ExportError(
            f"PyTorch {torch.__version__} could not export {spec.name} at opset {opset} "
            f"({type(cause).__name__}: {first}). "
            "Install the versions of constraints.txt, or report this."
        ) from error
    tidied = _tidy(traced)
    for key, value in sorted(metadata.items()):
        tidied.metadata_props.add(key=f"ffnet_deploy.{key}", value=value)
    _ensure_contract(tidied, spec)
    exact = with_exact_nearest(tidied)
    onnx.checker.check_model(exact, full_check=True)
    return exact


def _root(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def fold_batch_norm(module: nn.Module) -> nn.Module:
    """Fold every batch norm into the convolution before it, in place, and return the module."""
    children = dict(module.named_children())
    for child in children.values():
        fold_batch_norm(child)
    pairs = [(f"conv{name.removeprefix('bn')}", name) for name in children if name.startswith("bn")]
    if isinstance(module, nn.Sequential):
        pairs += itertools.pairwise(children)
    for conv_name, bn_name in pairs:
        conv, bn = children.get(conv_name), children[bn_name]
        if isinstance(conv, nn.Conv2d) and isinstance(bn, nn.BatchNorm2d):
            setattr(module, conv_name, fuse_conv_bn_eval(conv, bn))
            setattr(module, bn_name, nn.Identity())
    return module


def _traced(module: nn.Module, shape: tuple[int, int, int, int], opset: int) -> onnx.ModelProto:
    # The exporter reports that torchvision, which nobody needs here, is not installed.
    registration = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = registration.level
    registration.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module,
                (torch.zeros(shape),),
                dynamo=True,
                opset_version=opset,
                input_names=[INPUT],
                output_names=[OUTPUT],
                verbose=False,
            )
    finally:
        registration.setLevel(level)
    assert program is not None
    return program.model_proto


def _tidy(model: onnx.ModelProto) -> onnx.ModelProto:
    """Name nodes and tensors after modules, and drop what says where the graph was traced."""
    graph = model.graph
    names = {value.name: value.name for value in (*graph.input, *graph.output)}
    constants = {tensor.name for tensor in graph.initializer}
    taken: Counter[str] = Counter()
    for node in graph.node:
        stem = f"{_module_of(node)}/{node.op_type}".lstrip("/")
        taken[stem] += 1
        node.name = stem if taken[stem] == 1 else f"{stem}_{taken[stem] - 1}"
        for i, output in enumerate(node.output):
            names.setdefault(output, node.name if i == 0 else f"{node.name}:{i}")
        for i, value in enumerate(node.input):
            # The exporter's own constants (sizes, pads) are numbered; weights keep their state-dict key.
            if value in constants and value.startswith("val_"):
                names.setdefault(value, f"{node.name}.{i}")
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names[name] for name in node.output]
        node.ClearField("doc_string")
        del node.metadata_props[:]
    for named in (*graph.initializer, *graph.value_info):
        named.name = names.get(named.name, named.name)
        named.ClearField("doc_string")
    for holder in (model, graph, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        del holder.metadata_props[:]
        holder.ClearField("doc_string")
    graph.name = "ffnet"
    return model


def _module_of(node: onnx.NodeProto) -> str:
    for entry in node.metadata_props:
        if entry.key == "pkg.torch.onnx.name_scopes":
            scopes = ast.literal_eval(entry.value)
            return str(scopes[-2]) if len(scopes) > 1 else ""
    return ""


def _ensure_contract(model: onnx.ModelProto, spec: ModelSpec) -> None:
    """Check that the graph has only the operators and resize modes that runtimes are promised."""
    found = {node.op_type for node in model.graph.node}
    if found - ALLOWED:
        raise ExportError(
            f"The graph of {spec.name} has {', '.join(sorted(found - ALLOWED))} (only {', '.join(sorted(ALLOWED))} "
            "are allowed). Install the versions of constraints.txt, or report this."
        )
    wanted = _NEAREST if spec.upsampling == "nearest" else _BILINEAR
    for node in model.graph.node:
        if node.op_type != "Resize":
            continue
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        if any(attributes.get(key) != value for key, value in wanted.items()):
            raise ExportError(
                f"{node.name} was exported as {attributes} (needed {wanted}). "
                "Install the versions of constraints.txt, or report this."
            )

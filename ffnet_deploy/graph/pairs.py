"""Which tensors get a pair of QuantizeLinear and DequantizeLinear, and which pairs share a scale."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import onnx

from ffnet_deploy.graph.groups import Groups
from ffnet_deploy.graph.int8_plan import Dialect
from ffnet_deploy.graph.links import Links
from ffnet_deploy.graph.ranges import Limits

_SAME_SCALE = frozenset(("Resize", "Gather", "MaxPool", "Concat"))
"""Operators that only move or pick values, so that their inputs and outputs share one scale."""

Edges = dict[str, list[tuple[str, int]]]
"""By tensor that gets a pair: the inputs (node name, index) that read it behind the pair."""


def edges_of(model: onnx.ModelProto, nodes: Iterable[str], dialect: Dialect) -> Edges:
    """Where a dialect puts pairs.

    Args:
        model: the FP32 graph.
        nodes: names of the convolutions that are INT8.
        dialect: whose rules hold.
    """
    return tensorrt_edges(model, nodes) if dialect == "tensorrt" else cpu_edges(model, nodes)


def tensorrt_edges(model: onnx.ModelProto, nodes: Iterable[str]) -> Edges:
    """Where TensorRT's dialect puts pairs.

    They stand in three places: in front of INT8 convolutions; on the branch of an Add that does not come straight from
    a convolution; and in front of operators that move values to such a pair.

    Args:
        model: the FP32 graph.
        nodes: names of the convolutions that are INT8.
    """
    links, quantised = Links(model.graph), set(nodes)
    edges: Edges = {}
    # In reverse order, since whether a node needs pairs depends on the nodes that read its output.
    for node in reversed(model.graph.node):
        inputs = [i for i, name in enumerate(node.input) if name and name not in links.constants]
        if node.name in quantised:
            chosen = [0]
        elif node.op_type == "Add":
            chosen = _added(node, inputs, edges, links, quantised)
        else:
            chosen = inputs if node.op_type in _SAME_SCALE and node.output[0] in edges else []
        for i in chosen:
            edges.setdefault(node.input[i], []).append((node.name, i))
    return edges


def _added(node: onnx.NodeProto, inputs: list[int], edges: Edges, links: Links, quantised: set[str]) -> list[int]:
    """The inputs of an Add that get a pair in TensorRT's dialect."""
    fusing = [i for i in inputs if _fuses(node.input[i], links, quantised)]
    if fusing:
        # One convolution fuses with the Add and gives it floats. The other branch is INT8.
        return [i for i in inputs if i != fusing[0]]
    relu = links.only_reader(node.output[0], "Relu")
    inside = node.output[0] in edges or (relu is not None and relu.output[0] in edges)
    return inputs if inside else []


def _fuses(name: str, links: Links, quantised: set[str]) -> bool:
    """Whether a tensor comes straight from an INT8 convolution, and only an Add reads it."""
    maker = links.maker.get(name)
    return maker is not None and maker.name in quantised and links.only_reader(name, "Add") is not None


def cpu_edges(model: onnx.ModelProto, nodes: Iterable[str]) -> Edges:
    """Where ONNX Runtime's dialect puts pairs: in front of and behind every operator of the integer chain.

    The chain has the INT8 convolutions, and each Add, Resize, Gather, MaxPool and Concat that reads an operator of it.

    Args:
        model: the FP32 graph.
        nodes: names of the convolutions that are INT8.
    """
    links, integer = Links(model.graph), set(nodes)
    points: set[str] = set()
    for node in model.graph.node:
        passes = node.op_type == "Add" or node.op_type in _SAME_SCALE
        if passes and any(_origin(name, links) in integer for name in links.data_inputs(node)):
            integer.add(node.name)
        if node.name in integer:
            inputs = node.input[:1] if node.op_type == "Conv" else links.data_inputs(node)
            points.update(inputs)
            relu = links.only_reader(node.output[0], "Relu")
            points.add(relu.output[0] if relu else node.output[0])
    points -= links.ends  # the logits are floats
    edges: Edges = {}
    for node in model.graph.node:
        for i, name in enumerate(node.input):
            if name in points:
                edges.setdefault(name, []).append((node.name, i))
    return edges


def _origin(name: str, links: Links) -> str | None:
    """The node that computes a tensor; for a ReLU, the node in front of it."""
    maker = links.maker.get(name)
    if maker is not None and maker.op_type == "Relu":
        maker = links.maker.get(maker.input[0])
    return maker.name if maker is not None else None


def shared_limits(model: onnx.ModelProto, edges: Edges, limits: Mapping[str, Limits]) -> dict[str, Limits]:
    """The range of each tensor that has a pair.

    Inputs and outputs of an operator that only moves values get a common range, which covers the range of each.

    Args:
        model: the FP32 graph.
        edges: of :func:`edges_of`.
        limits: ranges by tensor.
    """
    groups = Groups(edges)
    for node in model.graph.node:
        if node.op_type in _SAME_SCALE and node.output[0] in groups:
            for name in node.input:
                if name in groups:
                    groups.join(name, node.output[0])
    common = {
        root: Limits(
            max(limits[name].magnitude for name in names),
            min(limits[name].low for name in names),
            max(limits[name].high for name in names),
        )
        for root, names in groups.members().items()
    }
    return {name: common[groups.root(name)] for name in edges}

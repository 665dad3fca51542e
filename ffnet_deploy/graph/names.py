"""Which nodes of an exported graph a runtime's fused layers compute."""

from __future__ import annotations

import re
from collections.abc import Sequence

import onnx

from ffnet_deploy.graph.facts import COMPUTE

_SUFFIX = re.compile(r"_nchwc$|_token_\d+$")
"""What ONNX Runtime appends to the name of a tensor that it keeps in blocks, and of an operator of integers."""


def nodes_of(model: onnx.ModelProto, layers: Sequence[str]) -> list[tuple[str, ...]]:
    """The exported nodes that each layer of an optimised graph stands for.

    A fused layer is called after one of the tensors of its chain (a convolution's, or that of the activation behind
    it), and tensors are called after nodes. So a layer that is called after an activation also computes the
    convolution in front of it; what then belongs to no layer (a sum, an activation) was fused into the layer that
    gives its latest input.

    Args:
        model: as exported.
        layers: names, in the order of execution.

    Returns:
        For each layer names of nodes in the graph's order; empty for a layer that is in no exported graph.
    """
    by_name = {node.name: node for node in model.graph.node}
    maker = {tensor: node.name for node in model.graph.node for tensor in node.output}
    owner: dict[str, int] = {}
    for i, layer in enumerate(layers):
        name = _plain(layer)
        found = name if name in by_name else maker.get(name)
        if found is None or found in owner:
            continue
        owner[found] = i
        front = maker.get(by_name[found].input[0]) if by_name[found].op_type not in COMPUTE else None
        elementwise = by_name[found].op_type in ("Relu", "Clip", "Sigmoid", "HardSwish")
        if front is not None and elementwise and by_name[front].op_type in COMPUTE and not _named(front, layers):
            owner.setdefault(front, i)
    for node in model.graph.node:
        before = [owner[maker[tensor]] for tensor in node.input if maker.get(tensor) in owner]
        if node.name not in owner and before:
            owner[node.name] = max(before)
    return [tuple(node.name for node in model.graph.node if owner.get(node.name) == i) for i in range(len(layers))]


def _plain(layer: str) -> str:
    return _SUFFIX.sub("", layer)


def _named(node: str, layers: Sequence[str]) -> bool:
    return any(_plain(layer) == node for layer in layers)


def module_of(nodes: Sequence[str], layer: str, operators: dict[str, str]) -> str:
    """The PyTorch module that a layer is called after: of its convolution, else of its first node.

    Args:
        nodes: what the layer computes.
        layer: its own name, for layers that are in no exported graph.
        operators: type of every exported node, by name.
    """
    computing = [node for node in nodes if operators[node] in COMPUTE]
    first = next(iter(computing or nodes), None)
    return layer if first is None else first.rpartition("/")[0]

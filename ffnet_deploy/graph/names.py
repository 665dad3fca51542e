"""Which nodes of the exported graph each fused layer of a runtime computes."""

from __future__ import annotations

import re
from collections.abc import Sequence

import onnx

from ffnet_deploy.graph.facts import COMPUTE

_SUFFIX = re.compile(r"_nchwc$|_token_\d+$")
"""What ONNX Runtime appends to names: of a tensor in its blocked layout, and of an integer operator."""


def nodes_of(model: onnx.ModelProto, layers: Sequence[str]) -> list[tuple[str, ...]]:
    """The exported nodes that each layer of an optimised graph computes.

    A runtime names a fused layer after a tensor of its chain: the convolution's output or the activation's. Tensors
    have the names of their nodes. So there are two rules. A layer named after an activation also computes the
    convolution in front of it. A node that then belongs to no layer (a sum, an activation) belongs to the layer that
    computes the last of its inputs.

    Args:
        model: the exported graph.
        layers: names, in the order of execution.

    Returns:
        The names of each layer's nodes, in the graph's order. A layer that no exported node accounts for has none.
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
    """The PyTorch module of a layer: that of its first convolution or Gemm, else that of its first node.

    Args:
        nodes: names of the exported nodes that the layer computes.
        layer: its own name, which is the result if there are no nodes.
        operators: operator of every exported node, by the node's name.
    """
    computing = [node for node in nodes if operators[node] in COMPUTE]
    first = next(iter(computing or nodes), None)
    return layer if first is None else first.rpartition("/")[0]

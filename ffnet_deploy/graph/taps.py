"""A look inside a graph: its inner tensors become outputs, a few at a time so that memory stays bounded."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

import onnx
from onnx import TensorProto, helper

from ffnet_deploy.graph.edit import copied, drop_unused_initializers, replace_nodes
from ffnet_deploy.graph.facts import shapes
from ffnet_deploy.graph.nearest import HALFWAY

_FLOAT_BYTES = 4


class Tap(NamedTuple):
    """One tensor of an exported graph: the output of a node."""

    node: str
    """Name of the node: PyTorch module, ``/`` and operator; from the module's second call on also a number."""
    tensor: str
    """Name of the output."""
    size: int
    """Bytes of the output in FP32; a symbolic batch counts as 1."""
    inputs: tuple[str, ...]
    """Tensors that the node reads, weights apart."""


def taps(model: onnx.ModelProto) -> list[Tap]:
    """The first output of every node, in the graph's order. Tensors that PyTorch does not have are passed over."""
    known = shapes(model)
    weights = {tensor.name for tensor in model.graph.initializer}
    passed = {node.output[0]: node.input[0] for node in model.graph.node if node.name.endswith(HALFWAY)}
    return [
        Tap(
            node.name,
            node.output[0],
            _FLOAT_BYTES * math.prod(known[node.output[0]]),
            tuple(passed.get(name, name) for name in node.input if name and name not in weights),
        )
        for node in model.graph.node
        if node.output[0] not in passed
    ]


def grouped(items: Iterable[Tap], budget: int) -> Iterator[list[Tap]]:
    """Consecutive taps of at most ``budget`` bytes together; a single larger tap comes alone."""
    group: list[Tap] = []
    held = 0
    for item in items:
        if group and held + item.size > budget:
            yield group
            group, held = [], 0
        group.append(item)
        held += item.size
    if group:
        yield group


def tapped(model: onnx.ModelProto, names: Collection[str]) -> onnx.ModelProto:
    """A copy that gives the tensors ``names`` instead of its own outputs.

    The copy has only the nodes that compute them. Its outputs have no shapes: a runtime infers them.

    Args:
        model: it is not changed.
        names: outputs of its nodes, all FP32.
    """
    cut = copied(model)
    graph = cut.graph
    needed = set(names)
    nodes = []
    for node in reversed(list(graph.node)):
        if needed.intersection(node.output):
            needed.update(node.input)
            nodes.append(node)
    replace_nodes(graph, reversed(nodes))
    drop_unused_initializers(graph)
    del graph.output[:], graph.value_info[:]
    graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    return cut

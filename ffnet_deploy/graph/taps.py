"""Looking inside a graph: some of its tensors as outputs, a few at a time so that memory stays bounded."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

import onnx
from onnx import TensorProto, helper

from ffnet_deploy.graph.facts import shapes

_FLOAT = 4


class Tap(NamedTuple):
    """One tensor of an exported graph: what a node gives."""

    node: str
    """The node's name: the PyTorch module, ``/``, the operator, and a number from the module's second call on."""
    tensor: str
    size: int
    """Bytes in FP32, at batch 1 if the batch is free."""
    inputs: tuple[str, ...]
    """Tensors that its node reads; weights are not among them."""


def taps(model: onnx.ModelProto) -> list[Tap]:
    """What the nodes of a graph give, in the graph's order."""
    known = shapes(model)
    weights = {tensor.name for tensor in model.graph.initializer}
    return [
        Tap(
            node.name,
            node.output[0],
            _FLOAT * math.prod(known[node.output[0]]),
            tuple(name for name in node.input if name and name not in weights),
        )
        for node in model.graph.node
    ]


def grouped(items: Iterable[Tap], budget: int) -> Iterator[list[Tap]]:
    """Runs of taps that fit ``budget`` bytes together; one that is larger than that comes alone."""
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
    """A copy with the tensors ``names`` as its outputs, in place of its own, and without the nodes that they need not.

    Args:
        model: its tensors ``names`` are FP32.
        names: of what nodes give.
    """
    cut = onnx.ModelProto()
    cut.CopyFrom(model)
    graph = cut.graph
    needed = set(names)
    nodes = []
    for node in reversed(list(graph.node)):
        if needed.intersection(node.output):
            needed.update(node.input)
            nodes.append(node)
    weights = [tensor for tensor in graph.initializer if tensor.name in needed]
    del graph.node[:], graph.initializer[:], graph.output[:], graph.value_info[:]
    graph.node.extend(reversed(nodes))
    graph.initializer.extend(weights)
    graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    return cut

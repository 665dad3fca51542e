"""A graph cut into pieces that run one after the other.

Only the activations of one piece, and those that later pieces read, are in memory at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper

from ffnet_deploy.graph.facts import shapes
from ffnet_deploy.graph.ranges import RunGraph

_FLOAT_BYTES = 4


@dataclass(frozen=True, slots=True)
class Segment:
    """Consecutive nodes of a graph, as a graph of their own."""

    model: onnx.ModelProto
    watched: tuple[str, ...]
    """The watched tensors that it computes."""
    last_use: tuple[str, ...]
    """Tensors that no later segment reads."""


def cut(model: onnx.ModelProto, watched: Iterable[str], budget: int) -> list[Segment]:
    """Cut a graph into pieces whose watched tensors have at most ``budget`` bytes each.

    Args:
        model: FP32, with static shapes; it is not changed.
        watched: names of the tensors to see. A piece gives these, and what later pieces read.
        budget: in bytes. A piece may exceed it if the outputs of a single node do.

    Returns:
        The pieces, in the order in which they must run.
    """
    wanted = set(watched)
    known = shapes(model)
    pieces: list[list[onnx.NodeProto]] = [[]]
    size = 0
    for node in model.graph.node:
        mine = sum(_FLOAT_BYTES * math.prod(known[name]) for name in node.output if name in wanted)
        if pieces[-1] and size + mine > budget:
            pieces.append([])
            size = 0
        pieces[-1].append(node)
        size += mine
    return _linked(model, pieces, wanted, known)


def _linked(
    model: onnx.ModelProto,
    pieces: Sequence[Sequence[onnx.NodeProto]],
    wanted: set[str],
    known: Mapping[str, tuple[int, ...]],
) -> list[Segment]:
    """A graph for each piece: its inputs are what it reads and does not compute."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    ends = {value.name for value in model.graph.output}
    segments: list[Segment] = []
    for i, piece in enumerate(pieces):
        made = {name for node in piece for name in node.output}
        read = {name for node in piece for name in node.input if name}
        later = {name for rest in pieces[i + 1 :] for node in rest for name in node.input}
        needed = sorted(read - made - constants.keys())
        given = sorted(made & (later | wanted | ends))
        graph = helper.make_graph(
            list(piece),
            f"{model.graph.name}/{i}",
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, known[name]) for name in needed],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, known[name]) for name in given],
            [constants[name] for name in sorted(read & constants.keys())],
        )
        part = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
        gone = tuple(sorted({*needed, *given} - later))
        segments.append(Segment(part, tuple(name for name in given if name in wanted), gone))
    return segments


def walk(
    segments: Sequence[Segment], runs: Sequence[RunGraph], feeds: Mapping[str, np.ndarray]
) -> Iterator[tuple[str, np.ndarray]]:
    """Run the pieces on one input, and give each watched tensor as soon as its piece has run.

    Args:
        segments: of :func:`cut`.
        runs: runs each segment's graph, one for each segment.
        feeds: inputs of the whole graph, by name.

    Yields:
        Name and values (FP32) of each watched tensor, once.
    """
    alive = dict(feeds)
    for segment, run in zip(segments, runs, strict=True):
        alive.update(run({value.name: alive[value.name] for value in segment.model.graph.input}))
        for name in segment.watched:
            yield name, alive[name]
        for name in segment.last_use:
            del alive[name]

"""A graph in pieces that run one after the other, so that no more than one piece's activations exist at a time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper

from ffnet_deploy.graph.facts import shapes
from ffnet_deploy.graph.ranges import Run

_FLOAT_BYTES = 4


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of consecutive nodes as a graph of its own."""

    model: onnx.ModelProto
    watched: tuple[str, ...]
    """Tensors that it computes and that are asked for."""
    last_use: tuple[str, ...]
    """Tensors that no later segment needs once this one has run."""


def cut(model: onnx.ModelProto, watched: Iterable[str], budget: int) -> list[Segment]:
    """Cut a graph so that each piece gives at most about ``budget`` bytes, and the pieces hold each weight once.

    Args:
        model: FP32; nodes in topological order, as ONNX demands.
        watched: tensors to see; a piece gives these and what later pieces need.
        budget: bytes of watched tensors in one piece; a single tensor may exceed it.
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
    segments: Sequence[Segment], runs: Sequence[Run], feeds: Mapping[str, np.ndarray]
) -> Iterator[tuple[str, np.ndarray]]:
    """Run the pieces in order on one input and give each watched tensor once, as soon as it is there.

    Args:
        segments: of :func:`cut`.
        runs: one for each segment.
        feeds: of the whole graph.
    """
    alive = dict(feeds)
    for segment, run in zip(segments, runs, strict=True):
        alive.update(run({value.name: alive[value.name] for value in segment.model.graph.input}))
        for name in segment.watched:
            yield name, alive[name]
        for name in segment.last_use:
            del alive[name]

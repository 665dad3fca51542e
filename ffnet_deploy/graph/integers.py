"""A Q/DQ graph in the operators that ONNX Runtime's integer kernels do fast; it computes the same.

Seen with ONNX Runtime 1.31 on a 46NS at 512x1024, where the convolutions take 156 of 174 ms: a nearest Resize of bytes
goes pixel by pixel (8.5 ms, as Expand 0.9), and the last classifier, whose result is float, is no integer convolution,
so its input is made float and laid out anew (5.9 ms, as Gemm 1.0). OpenVINO and TensorRT want the plain graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ffnet_deploy.graph.facts import attribute, shapes
from ffnet_deploy.graph.links import Links

_CHANNELS_LAST = [0, 2, 3, 1]
_CHANNELS_FIRST = [0, 3, 1, 2]
_Step = tuple[str, Sequence[int] | Sequence[str], dict[str, Any]]
"""An operator; beside the tensor that it changes, a shape or the names of other inputs; and its attributes."""


def in_fast_operators(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a graph in ONNX Runtime's CPU dialect, ready to be optimised by it.

    Args:
        model: as :func:`ffnet_deploy.graph.qdq.quantise` gives it; it is not changed. What it holds beside nearest
            Resizes by whole factors and 1x1 convolutions from integers to floats stays as it is.
    """
    return _Rewriter(model).run()


class _Rewriter:
    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = onnx.ModelProto()
        self._model.CopyFrom(model)
        self._links, self._shapes = Links(self._model.graph), shapes(model)
        self._constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        self._new: list[onnx.TensorProto] = []

    def run(self) -> onnx.ModelProto:
        graph = self._model.graph
        nodes: list[onnx.NodeProto] = []
        # Outputs of the pairs around what has become a move of integers.
        gone: set[str] = set()
        for node in graph.node:
            if node.op_type == "Resize" and (ends := self._integer_ends(node)) and (factors := self._factors(node)):
                nodes += self._expanded(node, *ends, factors)
                gone |= {node.input[0], ends[1]}
            elif node.op_type == "Conv" and self._is_product(node):
                nodes += self._as_gemm(node)
            else:
                nodes.append(node)
        reads = {name for node in nodes for name in node.input}
        makes = [n for n in nodes if not (n.op_type == "QuantizeLinear" and n.output[0] in gone)]
        kept = [n for n in makes if not (n.op_type == "DequantizeLinear" and n.output[0] in gone - reads)]
        del graph.node[:]
        graph.node.extend(kept)
        used = {name for node in kept for name in node.input}
        constants = [t for t in (*graph.initializer, *self._new) if t.name in used]
        del graph.initializer[:]
        graph.initializer.extend(constants)
        del graph.value_info[:]
        inferred = onnx.shape_inference.infer_shapes(self._model, strict_mode=True)
        onnx.checker.check_model(inferred, full_check=True)
        return inferred

    def _integer_ends(self, node: onnx.NodeProto) -> tuple[str, str] | None:
        """The integers that a node's pairs begin and end with, if both have one scale."""
        before = self._links.maker.get(node.input[0])
        after = self._links.only_reader(node.output[0], "QuantizeLinear")
        if before is None or before.op_type != "DequantizeLinear" or after is None:
            return None
        same = all(
            np.array_equal(self._constants[a], self._constants[b])
            for a, b in zip(before.input[1:], after.input[1:], strict=True)
        )
        return (before.input[0], after.output[0]) if same else None

    def _factors(self, node: onnx.NodeProto) -> tuple[int, int] | None:
        """By how much a Resize repeats rows and columns; None if it does anything else."""
        (_, _, h, w), (_, _, high, wide) = self._shapes[node.input[0]], self._shapes[node.output[0]]
        repeats = (
            attribute(node, "mode", b"nearest") == b"nearest"
            and attribute(node, "coordinate_transformation_mode", b"half_pixel") == b"asymmetric"
            and attribute(node, "nearest_mode", b"round_prefer_floor") == b"floor"
        )
        return (high // h, wide // w) if repeats and high % h == 0 and wide % w == 0 else None

    def _expanded(
        self, node: onnx.NodeProto, source: str, target: str, factors: tuple[int, int]
    ) -> list[onnx.NodeProto]:
        _, c, h, w = self._shapes[node.input[0]]
        down, across = factors
        # In a Reshape 0 takes the batch over, and Expand leaves what it is told to make 1.
        steps: list[_Step] = [
            ("Transpose", [], {"perm": _CHANNELS_LAST}),
            ("Reshape", [0, h, 1, w, 1, c], {}),
            ("Expand", [1, 1, down, 1, across, 1], {}),
            ("Reshape", [0, h * down, w * across, c], {}),
            ("Transpose", [], {"perm": _CHANNELS_FIRST}),
        ]
        return self._chain(node.name, source, target, steps)

    def _is_product(self, node: onnx.NodeProto) -> bool:
        """Whether a convolution is a product of each pixel's integers with a filter of integers, and ends in floats."""
        makers = [self._links.maker.get(name) for name in node.input]
        readers = self._links.readers.get(node.output[0], [])
        return (
            all(maker is not None and maker.op_type == "DequantizeLinear" for maker in makers)
            and all(reader.op_type not in ("QuantizeLinear", "Relu") for reader in readers)
            and attribute(node, "group", 1) == 1
            and self._shapes[node.input[1]][2:] == (1, 1)
            and self._shapes[node.input[0]][2:] == self._shapes[node.output[0]][2:]
        )

    def _as_gemm(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        (_, c, h, w), k = self._shapes[node.input[0]], self._shapes[node.output[0]][1]
        filter_ = self._links.maker[node.input[1]]
        assert all(len(self._links.readers[name]) == 1 for name in (node.input[1], filter_.input[0]))
        self._links.constants[filter_.input[0]].dims[:] = [k, c]
        steps: list[_Step] = [
            ("Transpose", [], {"perm": _CHANNELS_LAST}),
            ("Reshape", [-1, c], {}),
            ("Gemm", list(node.input[1:]), {"transB": 1}),
            ("Reshape", [-1, h, w, k], {}),
            ("Transpose", [], {"perm": _CHANNELS_FIRST}),
        ]
        return self._chain(node.name, node.input[0], node.output[0], steps)

    def _chain(self, name: str, source: str, target: str, steps: Sequence[_Step]) -> list[onnx.NodeProto]:
        """Nodes that each read what the one before gives; the middle one, which does the work, has the name."""
        nodes = []
        for i, (op_type, others, attributes) in enumerate(steps):
            output = target if i == len(steps) - 1 else f"{name}/{i}"
            names = [str(other) for other in others]
            if others and isinstance(others[0], int):
                names = [f"{name}/{i}/shape"]
                self._new.append(numpy_helper.from_array(np.array(others, np.int64), names[0]))
            called = name if i == len(steps) // 2 else f"{name}/{i}/{op_type}"
            nodes.append(helper.make_node(op_type, [source, *names], [output], called, **attributes))
            source = output
        return nodes

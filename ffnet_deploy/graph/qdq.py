"""FP32 graph to INT8, with explicit QuantizeLinear and DequantizeLinear (a *pair*), in the dialects of two runtimes.

TensorRT's dialect is symmetric int8. There is no pair between a convolution and its ReLU or Add, so that these fuse.
Biases, and the tensors without a pair, are floats. The last classifier is not quantised.

The dialect of ONNX Runtime's CPU has uint8 activations with a zero point and int32 biases. There is a pair behind every
operator, so that the whole chain runs in integer kernels. A last classifier of 1x1 reads integers too, and gives floats
(see :mod:`ffnet_deploy.graph.integers`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from ffnet_deploy.data.images import MEAN, STD
from ffnet_deploy.errors import PrecisionError
from ffnet_deploy.graph.facts import macs_by_node
from ffnet_deploy.graph.int8_plan import Dialect, plan
from ffnet_deploy.graph.pairs import Edges, cpu_edges, edges_of, shared_limits, tensorrt_edges
from ffnet_deploy.graph.qdq_writer import QdqWriter
from ffnet_deploy.graph.ranges import Limits

__all__ = ["Dialect", "Quantised", "check_ranges", "input_limits", "plan", "quantise", "watched"]

_GUESSED = Limits(1.0, 0.0, 1.0)


@dataclass(frozen=True, slots=True)
class Quantised:
    """An INT8 graph, and which of its convolutions and Gemms are INT8."""

    model: onnx.ModelProto
    nodes: tuple[str, ...]
    """Names of the convolutions that are INT8."""
    declined: Mapping[str, str]
    """Names of the others, with reasons."""
    share: float
    """The part of the multiply-accumulates that is INT8, 0 to 1."""
    possible: float
    """The largest share that the rules of the dialect allow in this graph, 0 to 1."""


def quantise(
    model: onnx.ModelProto,
    limits: Mapping[str, Limits],
    dialect: Dialect,
    *,
    keep: Sequence[str] = (),
    beyond: Mapping[str, str] | None = None,
) -> Quantised:
    """A copy with pairs and integer weights. All else stays FP32; :func:`ffnet_deploy.graph.fp16.to_fp16` can halve it.

    Args:
        model: the FP32 graph; it is not changed.
        limits: the range of every tensor of :func:`watched`.
        dialect: whose rules hold.
        keep: the user's ``--keep-fp16``: names or shell patterns of nodes that are not INT8.
        beyond: nodes that must stay FP32, since FP16 cannot hold their values, with reasons.

    Raises:
        UsageError: a pattern matches no convolution or Gemm.
        PrecisionError: a tensor has no range, or no convolution can be INT8.
    """
    check_ranges(model, limits)
    known = {**limits, **input_limits(model)}
    chosen = plan(model, dialect, known, keep=keep, beyond=beyond)
    if not chosen.nodes:
        name, reason = next(iter(chosen.declined.items()), ("the graph", "it has no convolution"))
        raise PrecisionError(
            f"No convolution can be INT8, first {name}: {reason} (at least one was needed). "
            "Quantise less, or build --fp16."
        )
    if dialect == "cpu":
        # The integer chain includes tensors that were always 0 in calibration. Their range is a guess.
        known = {name: found if found.magnitude > 0 else _GUESSED for name, found in known.items()}
    edges = _possible(edges_of(model, chosen.nodes, dialect), known, beyond or {})
    written = QdqWriter(model, dialect).write(edges, shared_limits(model, edges, known), set(chosen.nodes))
    macs = macs_by_node(model)
    total = sum(macs.values())
    share = sum(macs[name] for name in chosen.nodes) / total
    possible = sum(macs[name] for name in plan(model, dialect).nodes) / total
    return Quantised(written, chosen.nodes, chosen.declined, share, possible)


def _possible(edges: Edges, limits: Mapping[str, Limits], beyond: Mapping[str, str]) -> Edges:
    """The edges without two kinds that cannot be INT8.

    A tensor that is always 0 gives no scale. A node of ``beyond`` reads values too large for FP16, and a
    DequantizeLinear in FP16 could not give them back.
    """
    return {
        name: left
        for name, uses in edges.items()
        if limits[name].magnitude > 0 and (left := [use for use in uses if use[0] not in beyond])
    }


def watched(model: onnx.ModelProto) -> tuple[str, ...]:
    """Every tensor whose range calibration must find, for either dialect, in the graph's order.

    Those of :func:`input_limits` are not among them.
    """
    wanted = {
        *tensorrt_edges(model, plan(model, "tensorrt").nodes),
        *cpu_edges(model, plan(model, "cpu").nodes),
    } - input_limits(model).keys()
    return tuple(name for node in model.graph.node for name in node.output if name in wanted)


def check_ranges(model: onnx.ModelProto, limits: Mapping[str, Limits]) -> None:
    """Check that every tensor of :func:`watched` has a range.

    Raises:
        PrecisionError: a tensor has none.
    """
    missing = [name for name in watched(model) if name not in limits]
    if missing:
        name = next((entry.value for entry in model.metadata_props if entry.key == "ffnet_deploy.model"), "NAME")
        raise PrecisionError(
            f"{len(missing)} tensors have no range, first {missing[0]} (all that are quantised need one). "
            f"Run: ffnet-deploy calibrate {name} --data DIR"
        )


def input_limits(model: onnx.ModelProto) -> dict[str, Limits]:
    """Ranges that are known without calibration, by tensor.

    These are the ranges of the normalised image, and of tensors that only pad or average it. No image exceeds them.
    """
    low = -max(mean / std for mean, std in zip(MEAN, STD, strict=True))
    high = max((1 - mean) / std for mean, std in zip(MEAN, STD, strict=True))
    exact = {value.name: Limits(max(-low, high), low, high) for value in model.graph.input}
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.input[0] in exact and (node.op_type == "Pad" or _averages(node, constants)):
            exact[node.output[0]] = exact[node.input[0]]
    return exact


def _averages(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> bool:
    """Whether each output is a weighted mean of inputs: no weight is negative, and the sum of each filter is 1."""
    if node.op_type != "Conv" or len(node.input) > 2 or node.input[1] not in constants:
        return False
    weight = numpy_helper.to_array(constants[node.input[1]])
    return bool((weight >= 0).all()) and bool(np.allclose(weight.sum(axis=(1, 2, 3)), 1, atol=1e-5))

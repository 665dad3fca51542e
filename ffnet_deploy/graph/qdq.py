"""FP32 graph to INT8: explicit QuantizeLinear and DequantizeLinear, in the dialects of two runtimes.

TensorRT's dialect is symmetric, its bias and everything between integers float, with no pair between a convolution and
its ReLU or Add, so that these fuse; the last classifier stays float. ONNX Runtime's CPU dialect has uint8 activations,
an int32 bias and a pair behind every operator, so that the chain stays in integer kernels; a last classifier of single
pixels reads integers too, and gives floats (see :mod:`ffnet_deploy.graph.integers`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ffnet_deploy.data.images import MEAN, STD
from ffnet_deploy.errors import PrecisionError, UsageError
from ffnet_deploy.graph.facts import COMPUTE, attribute, macs_by_node
from ffnet_deploy.graph.histograms import INT8_LEVELS, UINT8_LEVELS, Limits
from ffnet_deploy.graph.links import Links

Dialect = Literal["tensorrt", "cpu"]
MIN_OPSET = 19
"""From here on scales may be FP16."""
_SAME_SCALE = frozenset(("Resize", "MaxPool", "Concat"))
"""Operators that only move or pick values: what goes in and out shares one scale."""
_SMALLEST_HALF = float(np.finfo(np.float16).smallest_subnormal)
_BIAS_MAX = 2**30
_GUESSED = Limits(1.0, 0.0, 1.0)


_LAST = "the last classifier: its small differences decide the labels"
_LAST_WIDE = "the last classifier: kernels for more than one pixel give integers, and its differences decide the labels"
_NO_CONVOLUTION = "no convolution: only those are quantised"
_GROUPED = "a grouped convolution: the blur has little work and needs its digits"


@dataclass(frozen=True, slots=True)
class Quantised:
    """An INT8 graph, and what became of its convolutions and Gemms."""

    model: onnx.ModelProto
    nodes: tuple[str, ...]
    """Convolutions that compute in INT8."""
    declined: Mapping[str, str]
    """The others, with reasons."""
    share: float
    """Of the multiply-accumulates that the first have, 0..1."""
    possible: float
    """The most that the rules allow: all but Gemm and grouped convolutions, and in TensorRT the last classifier."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Which convolutions are quantised in a dialect, and why the others are not."""

    nodes: tuple[str, ...]
    declined: Mapping[str, str] = field(default_factory=dict)


def plan(
    model: onnx.ModelProto,
    dialect: Dialect,
    limits: Mapping[str, Limits] | None = None,
    *,
    keep: Sequence[str] = (),
    beyond: Mapping[str, str] | None = None,
) -> Plan:
    """Decide which convolutions are quantised.

    Args:
        model: the FP32 graph.
        dialect: whose rules hold.
        limits: of activations, once they are known.
        keep: names or shell patterns of nodes that are not, of ``--keep-fp16``.
        beyond: nodes that FP16 cannot hold, with reasons.

    Raises:
        UsageError: a pattern that no convolution or Gemm has.
    """
    links = Links(model.graph)
    candidates = [node for node in model.graph.node if node.op_type in COMPUTE]
    for pattern in keep:
        if not any(fnmatchcase(node.name, pattern) for node in candidates):
            raise UsageError(
                f"--keep-fp16 {pattern!r} names no convolution (the first is {candidates[0].name!r}). Quote the "
                "pattern, and see the nodes with: ffnet-deploy inspect FILE"
            )
    kept = beyond or {}
    reasons = {
        node.name: kept.get(node.name) or _reason(node, dialect, links, keep, limits or {}) for node in candidates
    }
    return Plan(
        tuple(name for name, reason in reasons.items() if reason is None),
        {name: reason for name, reason in reasons.items() if reason is not None},
    )


def _reason(
    node: onnx.NodeProto, dialect: Dialect, links: Links, keep: Sequence[str], limits: Mapping[str, Limits]
) -> str | None:
    for pattern in keep:
        if fnmatchcase(node.name, pattern):
            return f"asked for by {pattern!r}"
    last = node.output[0] in links.ends
    if last and dialect == "tensorrt":
        return _LAST
    if node.op_type != "Conv":
        return _NO_CONVOLUTION
    if attribute(node, "group", 1) > 1:
        return _GROUPED
    if node.input[1] not in links.constants:
        return "its filter is computed in the graph"
    if last and list(links.constants[node.input[1]].dims[2:]) != [1, 1]:
        return _LAST_WIDE
    if node.input[0] in limits and limits[node.input[0]].magnitude == 0:
        return f"{node.input[0]} was 0 on every calibration image, which gives no range"
    return None


def input_limits(model: onnx.ModelProto) -> dict[str, Limits]:
    """Exact ranges of the normalised image and of what merely pads or averages it; no image exceeds them."""
    low = -max(mean / std for mean, std in zip(MEAN, STD, strict=True))
    high = max((1 - mean) / std for mean, std in zip(MEAN, STD, strict=True))
    exact = {value.name: Limits(max(-low, high), low, high) for value in model.graph.input}
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.input[0] in exact and (node.op_type == "Pad" or _averages(node, constants)):
            exact[node.output[0]] = exact[node.input[0]]
    return exact


def _averages(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> bool:
    """Whether each output is a mean of inputs: no weight is negative, and each filter's sum is 1."""
    if node.op_type != "Conv" or len(node.input) > 2 or node.input[1] not in constants:
        return False
    weight = numpy_helper.to_array(constants[node.input[1]])
    return bool((weight >= 0).all()) and bool(np.allclose(weight.sum(axis=(1, 2, 3)), 1, atol=1e-5))


Edges = dict[str, list[tuple[str, int]]]
"""Tensors that get a pair, and which inputs (node name, index) then read it."""


def tensorrt_edges(model: onnx.ModelProto, nodes: Iterable[str]) -> Edges:
    """Where TensorRT's dialect puts pairs: in front of convolutions, on the branch of an Add that no convolution fuses
    with, and in front of what passes values on to such a pair."""  # noqa: D205, D209
    links, quantised = Links(model.graph), set(nodes)
    edges: Edges = {}
    # Backwards: what reads a tensor has been seen before what makes it.
    for node in reversed(model.graph.node):
        inputs = [i for i, name in enumerate(node.input) if name and name not in links.constants]
        if node.name in quantised:
            chosen = [0]
        elif node.op_type == "Add":
            fusing = [i for i in inputs if _fuses(node.input[i], links, quantised)]
            relu = links.only_reader(node.output[0], "Relu")
            inside = node.output[0] in edges or (relu is not None and relu.output[0] in edges)
            chosen = [i for i in inputs if i != fusing[0]] if fusing else inputs if inside else []
        else:
            chosen = inputs if node.op_type in _SAME_SCALE and node.output[0] in edges else []
        for i in chosen:
            edges.setdefault(node.input[i], []).append((node.name, i))
    return edges


def _fuses(name: str, links: Links, quantised: set[str]) -> bool:
    """Whether a tensor comes straight from an INT8 convolution and goes nowhere but into an Add."""
    maker = links.maker.get(name)
    return maker is not None and maker.name in quantised and links.only_reader(name, "Add") is not None


def cpu_edges(model: onnx.ModelProto, nodes: Iterable[str]) -> Edges:
    """Where ONNX Runtime's dialect puts pairs: in front of and behind every operator of the integer chain."""
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
    """The node that computes a tensor, ReLU apart."""
    maker = links.maker.get(name)
    if maker is not None and maker.op_type == "Relu":
        maker = links.maker.get(maker.input[0])
    return maker.name if maker is not None else None


def watched(model: onnx.ModelProto) -> tuple[str, ...]:
    """Every tensor that needs a range in either dialect, in the graph's order; those with exact ranges are left out."""
    wanted = {
        *tensorrt_edges(model, plan(model, "tensorrt").nodes),
        *cpu_edges(model, plan(model, "cpu").nodes),
    } - input_limits(model).keys()
    return tuple(name for node in model.graph.node for name in node.output if name in wanted)


def check_ranges(model: onnx.ModelProto, limits: Mapping[str, Limits]) -> None:
    """Hold ranges to what either dialect needs.

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


def quantise(
    model: onnx.ModelProto,
    limits: Mapping[str, Limits],
    dialect: Dialect,
    *,
    keep: Sequence[str] = (),
    beyond: Mapping[str, str] | None = None,
) -> Quantised:
    """A copy with Q/DQ pairs; everything else stays FP32 (see :func:`ffnet_deploy.graph.fp16.to_fp16` for TensorRT's).

    Args:
        model: the FP32 graph; it is not changed.
        limits: of every tensor of :func:`watched`.
        dialect: whose rules hold.
        keep: names or patterns of nodes that are not quantised.
        beyond: nodes that are not either, since FP16 cannot hold what they read or write, with reasons.

    Raises:
        UsageError: a pattern names no convolution.
        PrecisionError: a tensor has no range, or nothing can be quantised.
    """
    check_ranges(model, limits)
    known = {**limits, **input_limits(model)}
    chosen = plan(model, dialect, known, keep=keep, beyond=beyond)
    if not chosen.nodes:
        first = next(iter(chosen.declined.items()), ("the graph", "it has no convolution"))
        raise PrecisionError(f"No convolution can be INT8 ({first[0]}: {first[1]}). Quantise less, or build --fp16.")
    edges = (tensorrt_edges if dialect == "tensorrt" else cpu_edges)(model, chosen.nodes)
    if dialect == "cpu":
        # The chain goes on in integers behind a tensor that was always 0; what it might be elsewhere is a guess.
        known = {name: found if found.magnitude > 0 else _GUESSED for name, found in known.items()}
    # A tensor that is always 0 gives no scale, and one beyond FP16 would not come back from its integers.
    edges = {
        name: left
        for name, uses in edges.items()
        if known[name].magnitude > 0 and (left := [use for use in uses if use[0] not in (beyond or {})])
    }
    written = _Writer(model, dialect).write(edges, _shared(model, edges, known), set(chosen.nodes))
    macs = macs_by_node(model)
    total = sum(macs.values())
    share = sum(macs[name] for name in chosen.nodes) / total
    possible = sum(macs[name] for name in plan(model, dialect).nodes) / total
    return Quantised(written, chosen.nodes, chosen.declined, share, possible)


def _shared(model: onnx.ModelProto, edges: Edges, limits: Mapping[str, Limits]) -> dict[str, Limits]:
    """Range of each tensor with a pair; what goes in and out of an operator that moves values has the same."""
    group = {name: name for name in edges}

    def root(name: str) -> str:
        while group[name] != name:
            name = group[name]
        return name

    for node in model.graph.node:
        if node.op_type in _SAME_SCALE and node.output[0] in group:
            for name in node.input:
                if name in group:
                    group[root(name)] = root(node.output[0])
    members: dict[str, list[Limits]] = {}
    for name in edges:
        members.setdefault(root(name), []).append(limits[name])
    return {
        name: Limits(
            max(v.magnitude for v in members[root(name)]),
            min(v.low for v in members[root(name)]),
            max(v.high for v in members[root(name)]),
        )
        for name in edges
    }


class _Writer:
    """Puts the pairs into a copy of a graph."""

    def __init__(self, model: onnx.ModelProto, dialect: Dialect) -> None:
        self._model = onnx.ModelProto()
        self._model.CopyFrom(model)
        self._dialect: Dialect = dialect
        self._constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        self._new: list[onnx.TensorProto] = []

    def write(self, edges: Edges, limits: Mapping[str, Limits], nodes: set[str]) -> onnx.ModelProto:
        graph = self._model.graph
        reads = {(node, i): name for name, uses in edges.items() for node, i in uses}
        scales: dict[str, float] = {}
        ends = {value.name for value in graph.output}
        result: list[onnx.NodeProto] = []

        def pair(name: str) -> None:
            if name in edges and name not in scales:
                scales[name] = self._pair(name, limits[name], result)

        for value in graph.input:
            pair(value.name)
        for node in list(graph.node):
            source = node.input[0] if node.input else ""
            for i in range(len(node.input)):
                if (node.name, i) in reads:
                    node.input[i] = f"{reads[node.name, i]}/dequantised"
            if node.name in nodes:
                self._filter(node, scales[source], result)
            if node.op_type == "Resize" and self._dialect == "cpu":
                self._name_all_axes(node)
            result.append(node)
            for name in node.output:
                pair(name)
        assert not ends & edges.keys()
        del graph.node[:]
        graph.node.extend(result)
        used = {name for node in result for name in node.input}
        kept = [t for t in graph.initializer if t.name in used]
        del graph.initializer[:]
        graph.initializer.extend([*kept, *self._new])
        del graph.value_info[:]
        for opset in self._model.opset_import:
            if opset.domain in ("", "ai.onnx"):
                opset.version = max(opset.version, MIN_OPSET)
        inferred = onnx.shape_inference.infer_shapes(self._model, strict_mode=True)
        onnx.checker.check_model(inferred, full_check=True)
        return inferred

    def _name_all_axes(self, node: onnx.NodeProto) -> None:
        """Let a Resize by factors of the spatial axes alone, as graphs of any batch have it, name all four.

        ONNX Runtime 1.31 moves a Resize of integers to its channels-last layout, forgets its axes, and fails.
        """
        axes = next((a for a in node.attribute if a.name == "axes"), None)
        if axes is not None and len(node.input) == 3:
            factors = np.ones(4, np.float32)
            factors[list(axes.ints)] = self._constants[node.input[2]]
            node.input[2] = self._constant(f"{node.input[2]}/all", factors)
            node.attribute.remove(axes)

    def _constant(self, name: str, values: np.ndarray) -> str:
        self._new.append(numpy_helper.from_array(values, name))
        return name

    def _pair(self, name: str, limits: Limits, result: list[onnx.NodeProto]) -> float:
        """Append a pair behind a tensor and give its scale."""
        if self._dialect == "tensorrt":
            scale = float(_half_up(np.array(limits.magnitude / INT8_LEVELS)))
            zero = np.array(0, np.int8)
        else:
            scale = float(np.float32((limits.high - limits.low) / UINT8_LEVELS))
            zero = np.array(min(max(round(-limits.low / scale), 0), UINT8_LEVELS), np.uint8)
        q, dq = f"{name}/quantised", f"{name}/dequantised"
        ends = [self._constant(f"{q}/scale", np.array(scale, np.float32)), self._constant(f"{q}/zero", zero)]
        result.append(helper.make_node("QuantizeLinear", [name, *ends], [q], f"{name}/QuantizeLinear"))
        result.append(helper.make_node("DequantizeLinear", [q, *ends], [dq], f"{name}/DequantizeLinear"))
        return scale

    def _filter(self, node: onnx.NodeProto, scale: float, result: list[onnx.NodeProto]) -> None:
        """Quantise a convolution's filter by output channel, and for the CPU its bias."""
        name = node.input[1]
        weight = self._constants[name].astype(np.float64)
        bias = self._constants[node.input[2]].astype(np.float64) if len(node.input) > 2 else None
        largest = np.abs(weight).reshape(len(weight), -1).max(axis=1)
        scales = np.where(largest > 0, largest / INT8_LEVELS, 2.0**-14)
        if self._dialect == "tensorrt":
            scales = _half_up(scales)
        elif bias is not None:
            # An int32 bias has the product of both scales: a filter much smaller than its bias gives way.
            scales = np.maximum(scales, np.abs(bias) / (scale * _BIAS_MAX))
        scales = scales.astype(np.float32)
        lattice = weight / scales.astype(np.float64).reshape(-1, *[1] * (weight.ndim - 1))
        integers = np.clip(np.round(lattice), -INT8_LEVELS, INT8_LEVELS).astype(np.int8)
        node.input[1] = self._dequantised(name, integers, scales, result)
        if self._dialect == "cpu" and bias is not None:
            product = np.float32(scale) * scales
            whole = np.round(bias / product.astype(np.float64)).astype(np.int32)
            node.input[2] = self._dequantised(node.input[2], whole, product, result)

    def _dequantised(self, name: str, integers: np.ndarray, scales: np.ndarray, result: list[onnx.NodeProto]) -> str:
        ends = [
            self._constant(f"{name}/integers", integers),
            self._constant(f"{name}/scale", scales),
            self._constant(f"{name}/zero", np.zeros(scales.shape, integers.dtype)),
        ]
        output = f"{name}/dequantised"
        result.append(helper.make_node("DequantizeLinear", ends, [output], f"{name}/DequantizeLinear", axis=0))
        return output


def _half_up(values: np.ndarray) -> np.ndarray:
    """The next values that FP16 holds, not below: integers found with them do not leave int8."""
    half = values.astype(np.float16)
    half = np.where(half.astype(np.float64) < values, np.nextafter(half, np.float16(np.inf)), half)
    return np.maximum(half.astype(np.float64), _SMALLEST_HALF)

"""Which convolutions are INT8 in a dialect, and why the others are not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import onnx

from ffnet_deploy.graph.facts import COMPUTE, attribute
from ffnet_deploy.graph.links import Links
from ffnet_deploy.graph.patterns import asked_for, check_patterns
from ffnet_deploy.graph.ranges import Limits

Dialect = Literal["tensorrt", "cpu"]
"""The runtime whose rules hold; :mod:`ffnet_deploy.graph.qdq` describes both."""

_LAST = "the last classifier: its small differences decide the labels"
_LAST_WIDE = "the last classifier: kernels for more than one pixel give integers, and its differences decide the labels"
_NO_CONVOLUTION = "no convolution: only those are quantised"
_GROUPED = "a grouped convolution: the blur has little work and needs its digits"


@dataclass(frozen=True, slots=True)
class Int8Plan:
    """The convolutions and Gemms of a graph, by whether they are INT8."""

    nodes: tuple[str, ...]
    """Names of the convolutions that are INT8."""
    declined: Mapping[str, str] = field(default_factory=dict)
    """Names of the others, with reasons."""


def plan(
    model: onnx.ModelProto,
    dialect: Dialect,
    limits: Mapping[str, Limits] | None = None,
    *,
    keep: Sequence[str] = (),
    beyond: Mapping[str, str] | None = None,
) -> Int8Plan:
    """Decide which convolutions are INT8.

    Args:
        model: the FP32 graph.
        dialect: whose rules hold.
        limits: ranges of activations by tensor, if they are known.
        keep: the user's ``--keep-fp16``: names or shell patterns of nodes that are not INT8.
        beyond: nodes that must stay FP32, since FP16 cannot hold their values, with reasons.

    Raises:
        UsageError: a pattern matches no convolution or Gemm.
    """
    links = Links(model.graph)
    candidates = [node for node in model.graph.node if node.op_type in COMPUTE]
    check_patterns("--keep-fp16", keep, [node.name for node in candidates], "convolution")
    fp32 = beyond or {}
    reasons = {
        node.name: fp32.get(node.name) or asked_for(node.name, keep) or _reason(node, dialect, links, limits or {})
        for node in candidates
    }
    return Int8Plan(
        tuple(name for name, reason in reasons.items() if reason is None),
        {name: reason for name, reason in reasons.items() if reason is not None},
    )


def _reason(node: onnx.NodeProto, dialect: Dialect, links: Links, limits: Mapping[str, Limits]) -> str | None:
    """Why the rules of a dialect decline a node; None if they do not."""
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

"""What is really in an engine: the layer list that TensorRT-RTX prints while it builds, read back.

Seen with TensorRT-RTX 1.7.1, DETAILED profiling verbosity and a VERBOSE logger: one message holds ``Layers:`` and a
line for each layer, ``Name: …, LayerType: …, Inputs: [ { Name: …, Dimensions: [...], …, Datatype: Half, … } ],
Constants: [...], Outputs: [...], TacticName: …, Metadata: [ONNX Layer: …]…``. No GPU is needed for it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ffnet_deploy.artifacts.values import EngineFindings

_TENSOR = re.compile(r"\{ Name: (?P<name>.*?), Dimensions: \[(?P<shape>[\d,-]*)\].*?Datatype: (?P<dtype>\w+)")
NODE = re.compile(r"\[ONNX Layer: (.*?)\]")
# The lists hold brackets of their own (dimensions); a list ends where the next field begins.
_FIELDS = re.compile(r"^Name: (.*?), LayerType: (\w+), Inputs: (.*), Constants: (.*), Outputs: (.*), TacticName: (.*)$")

PRECISIONS = {"float": "fp32", "half": "fp16", "int8": "int8", "bfloat16": "bf16", "fp8": "fp8"}
_BITS = {"float": 32, "half": 16, "bfloat16": 16, "int8": 8, "uint8": 8, "fp8": 8, "bool": 8, "int32": 32, "int64": 64}
# Pointwise work, copies and streams' signals: what computes no convolution although it names one in its metadata.
_NOT_COMPUTE = frozenset(("kgen", "runtime_function", "signal", "wait", "reformat", "shape_call"))


@dataclass(frozen=True, slots=True)
class EngineTensor:
    """An input, constant or output of an engine's layer."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    """Lower case, as TensorRT names it: ``float``, ``half``, ``int8``."""

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * _BITS.get(self.dtype, 32) // 8


@dataclass(frozen=True, slots=True)
class EngineLayer:
    """One layer of an engine, and the ONNX nodes that it came from."""

    name: str
    kind: str
    """``correlation`` (a convolution), ``runtime_fusion``, ``kgen`` (generated pointwise kernels) …"""
    inputs: tuple[EngineTensor, ...]
    constants: tuple[EngineTensor, ...]
    outputs: tuple[EngineTensor, ...]
    nodes: tuple[str, ...]

    @property
    def weight(self) -> EngineTensor | None:
        """The largest constant of at least two dimensions above 1: the filter, if this layer has one."""
        filters = [c for c in self.constants if sum(side > 1 for side in c.shape) > 1 or c.shape[1:] == (1, 1, 1)]
        return max(filters, key=lambda c: math.prod(c.shape), default=None)

    @property
    def precision(self) -> str:
        """Of its first input and its filter: the wider of the two, since that is what it computes in."""
        kinds = [t.dtype for t in (*self.inputs[:1], *((self.weight,) if self.weight else ()))]
        widest = max(kinds, key=lambda kind: _BITS.get(kind, 32), default="float")
        return PRECISIONS.get(widest, widest)


def parse_log(messages: Iterable[str]) -> list[EngineLayer]:
    """Find the layer list in what a builder logged; empty if there is none."""
    layers = []
    for message in messages:
        for line in message.splitlines():
            found = _FIELDS.match(line)
            if found:
                name, kind, inputs, constants, outputs, rest = found.groups()
                nodes = tuple(NODE.findall(rest))
                layers.append(EngineLayer(name, kind, _tensors(inputs), _tensors(constants), _tensors(outputs), nodes))
    return layers


def _tensors(text: str) -> tuple[EngineTensor, ...]:
    return tuple(
        EngineTensor(found["name"], tuple(int(v) for v in found["shape"].split(",") if v), found["dtype"].lower())
        for found in _TENSOR.finditer(text)
    )


def precision_by_node(layers: Sequence[EngineLayer], nodes: Iterable[str]) -> dict[str, str]:
    """The precision in which each ONNX convolution or Gemm is computed; a node that no layer names is left out."""
    found: dict[str, str] = {}
    for layer in layers:
        if layer.kind in _NOT_COMPUTE or layer.weight is None:
            continue
        for node in layer.nodes:
            found[node] = layer.precision
    return {node: found[node] for node in nodes if node in found}


def summary(layers: Sequence[EngineLayer], macs: Mapping[str, int]) -> EngineFindings:
    """What goes into an engine's record; empty where there are no layers.

    Args:
        layers: of the engine.
        macs: multiply-accumulates of each convolution and Gemm of the graph, by node name.

    """
    if not layers:
        return EngineFindings()
    by_node = precision_by_node(layers, macs)
    total = sum(macs.values())
    share: dict[str, float] = {}
    for node, count in macs.items():
        precision = by_node.get(node, "unknown")
        share[precision] = share.get(precision, 0.0) + count / total
    kinds: dict[str, int] = {}
    for layer in layers:
        kinds[layer.kind] = kinds.get(layer.kind, 0) + 1
    return EngineFindings(
        precision=by_node,
        share={precision: round(value, 6) for precision, value in share.items()},
        layers=kinds,
        bytes_between_layers=_bytes([tensor for layer in layers for tensor in layer.outputs]),
    )


def _bytes(tensors: Sequence[EngineTensor]) -> int | None:
    # An engine for several batches has -1 in its shapes: how much is written depends on the run.
    if any(size < 0 for tensor in tensors for size in tensor.shape):
        return None
    return sum(tensor.bytes for tensor in tensors)


@dataclass(frozen=True, slots=True)
class LayerTime:
    """How long one layer of an engine took, as its runtime's profiler tells."""

    name: str
    """As the runtime calls it."""
    kind: str
    """Operator, or type of layer."""
    samples: tuple[float, ...]
    """Milliseconds in each run."""
    precision: str | None
    """That it ran in; None where the runtime does not tell."""
    bytes: int | None
    """It read and wrote, weights included; None where the runtime does not tell."""
    nodes: tuple[str, ...] | None = None
    """Nodes of the graph it came from; None where they follow from its name."""

"""Cross-layer equalisation: the same FP32 function with channels of like range, for one scale to serve them all.

Between two convolutions stands at most a ReLU, which commutes with positive factors: what a channel is divided by in
the first filter, the second is multiplied with. An activation has one scale for all channels, so channels that are
much larger than others would take the digits from them.

Source: Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction" (ICCV 2019), section 4.1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from ffnet_deploy.graph.links import Links

_LARGEST_FACTOR = 2.0**16
"""Beyond it a channel is as good as dead, and its filter would leave FP16."""


@dataclass(frozen=True, slots=True)
class Equalised:
    """A graph that computes the same in exact arithmetic, and the pairs of convolutions that were balanced."""

    model: onnx.ModelProto
    pairs: tuple[tuple[str, str], ...]


def equalise(model: onnx.ModelProto) -> Equalised:
    """Balance every pair of convolutions with nothing but a ReLU between them, both of their ranges set to the mean.

    Factors are powers of two, so that no digit of a weight changes.

    Args:
        model: FP32; it is not changed.
    """
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    links = Links(copied.graph)
    pairs = []
    for first in copied.graph.node:
        second = _second(first, links)
        if second is not None:
            _balance(first, second, links)
            pairs.append((first.name, second.name))
    return Equalised(copied, tuple(pairs))


def _second(first: onnx.NodeProto, links: Links) -> onnx.NodeProto | None:
    """The convolution that alone reads another's result, through a ReLU or directly; both own their filters."""
    if not _owns_filter(first, links):
        return None
    relu = links.only_reader(first.output[0], "Relu")
    second = links.only_reader(relu.output[0] if relu else first.output[0], "Conv")
    return second if second is not None and _owns_filter(second, links) else None


def _owns_filter(node: onnx.NodeProto, links: Links) -> bool:
    grouped = any(a.name == "group" and a.i > 1 for a in node.attribute)
    constants = all(name in links.constants and len(links.readers[name]) == 1 for name in node.input[1:])
    return node.op_type == "Conv" and not grouped and constants


def _balance(first: onnx.NodeProto, second: onnx.NodeProto, links: Links) -> None:
    one, two = (numpy_helper.to_array(links.constants[node.input[1]]) for node in (first, second))
    out = np.abs(one).reshape(len(one), -1).max(axis=1).astype(np.float64)
    read = np.abs(two).max(axis=(0, 2, 3)).astype(np.float64)
    alive = (out > 0) & (read > 0)
    factors: np.ndarray = np.ones(len(out))
    factors[alive] = np.sqrt(out[alive] / read[alive])
    # A common factor would move the range of the whole tensor, and nothing else.
    factors[alive] /= np.exp(np.log(factors[alive]).mean()) if alive.any() else 1.0
    factors = 2.0 ** np.round(np.log2(np.clip(factors, 1 / _LARGEST_FACTOR, _LARGEST_FACTOR)))
    factors = factors.astype(np.float32)
    _store(links.constants[first.input[1]], one / factors.reshape(-1, 1, 1, 1))
    _store(links.constants[second.input[1]], two * factors.reshape(1, -1, 1, 1))
    if len(first.input) > 2:
        _store(links.constants[first.input[2]], numpy_helper.to_array(links.constants[first.input[2]]) / factors)


def _store(tensor: onnx.TensorProto, values: np.ndarray) -> None:
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))

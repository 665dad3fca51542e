"""Cross-layer equalisation: the same function in FP32, with channels of similar range.

INT8 gives all channels of an activation one scale. Channels that are much larger than the others make that scale
coarse, and the others lose precision. So this pass rescales channels.

ReLU, Add, Resize, Gather and MaxPool commute with a positive factor for each channel. The filters that compute a
channel are divided by a factor, and the filters that read it are multiplied by it. Only the activation in between
changes. All activations of a residual stage are added to each other, so they share their factors.

A filter has a scale for each output channel, so the division costs no precision. The multiplication does: it makes the
input channels of a filter less alike. The factors are a compromise between the two.

Sources: Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction" (ICCV 2019), section
4.1, for pairs of convolutions, with ranges of weights; Xiao et al., "SmoothQuant" (ICML 2023), for the compromise
between activations and weights, in transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import numpy_helper

from ffnet_deploy.graph.edit import copied
from ffnet_deploy.graph.facts import attribute, shapes
from ffnet_deploy.graph.groups import Groups
from ffnet_deploy.graph.links import Links

_COMMUTING = frozenset(("Relu", "Add", "Resize", "Gather", "MaxPool"))
_LARGEST_FACTOR = 2.0**16
"""Limit of a factor. A channel that needs more is as good as always 0, and its filter would leave FP16."""
_FLOOR = 2.0**-6
"""Least size of a channel, as a part of the median size: a rarely active channel may be larger on other images."""
_SHARE = 0.75
"""The compromise: 1 makes the channels of activations alike, 0 those of the filters that read them.

With 0, 0.25, 0.5, 0.75 and 1 the noise in the logits of the demo's weights was 3.1, 2.9, 2.7, 2.6 and 2.5 % in
TensorRT's dialect (``rounded``, six val scenes), and 2.5, 2.4, 2.1, 2.0 and 2.2 % in the CPU's.
"""
_INLIERS = 0.999
"""The share of a channel's values that its size covers."""
_SAMPLES = 4096
"""Values of a channel to look at; enough for this quantile."""


@dataclass(slots=True)
class Stream:
    """Activations that share their factors, and the convolutions that compute and read them."""

    tensors: list[str]
    """Names of the activations."""
    makers: list[onnx.NodeProto] = field(default_factory=list)
    """Convolutions that compute one of the activations."""
    readers: list[tuple[onnx.NodeProto, int]] = field(default_factory=list)
    """Convolutions that read one, each with the input channel at which it begins: behind a Concat not always 0."""
    fixed: bool = False
    """Whether the stream must not change, since another kind of node computes or reads it."""


@dataclass(frozen=True, slots=True)
class Equalised:
    """An equalised graph. It computes the same outputs as before."""

    model: onnx.ModelProto
    streams: int
    """How many streams have new factors."""
    factors: Mapping[str, np.ndarray]
    """By tensor, float32 (C,): its channels times these factors are the channels before equalisation."""


def channel_sizes(values: np.ndarray) -> np.ndarray:
    """How large the values of each channel are.

    The size is the magnitude that one value in a thousand exceeds. Where this is 0, it is the largest magnitude, so
    that only a channel that is always 0 has size 0.

    Args:
        values: of an activation, float32 (N, C, ...). Large ones are sampled.

    Returns:
        float32 (C,), at least 0.
    """
    channels = np.moveaxis(values, 1, 0).reshape(values.shape[1], -1)
    # An even step would see only a few columns of the image, whose width is even.
    some = np.abs(channels[:, :: (channels.shape[1] // _SAMPLES) | 1])
    rank = min(int(some.shape[1] * _INLIERS), some.shape[1] - 1)
    sizes = np.partition(some, rank, axis=1)[:, rank]
    rare = sizes == 0
    sizes[rare] = np.abs(channels[rare]).max(axis=1)
    return sizes


def equalise(model: onnx.ModelProto, sizes: Mapping[str, np.ndarray]) -> Equalised:
    """Make the channels of every stream more alike.

    Args:
        model: FP32; it is not changed.
        sizes: by tensor, float32 (C,), as :func:`channel_sizes` gives them; the largest over all images. A stream stays
            as it is if none of its tensors has sizes.
    """
    equalised = copied(model)
    links = Links(equalised.graph)
    streams = [
        s
        for s in _streams(equalised, links)
        if not s.fixed and s.makers and s.readers and not sizes.keys().isdisjoint(s.tensors)
    ]
    channels = _channels(equalised)
    factors: dict[str, np.ndarray] = {}
    for stream in streams:
        size = np.max([sizes[name] for name in stream.tensors if name in sizes], axis=0)
        factors.update(dict.fromkeys(stream.tensors, _balance(stream, size, links)))
    for node in equalised.graph.node:
        # A Concat's output is in no stream; its factors are those of its inputs.
        if node.op_type == "Concat" and any(name in factors for name in node.input):
            parts = [factors[n] if n in factors else np.ones(channels[n], np.float32) for n in node.input]
            factors[node.output[0]] = np.concatenate(parts)
    return Equalised(equalised, len(streams), factors)


def _streams(model: onnx.ModelProto, links: Links) -> list[Stream]:
    """Every activation in exactly one stream: those that commuting operators link share one."""
    groups = Groups((*links.maker, *(value.name for value in model.graph.input)))
    for node in model.graph.node:
        if node.op_type in _COMMUTING:
            for name in links.data_inputs(node):
                groups.join(name, node.output[0])
    channels = _channels(model)
    return [_stream(tensors, channels, links) for tensors in groups.members().values()]


def _stream(tensors: list[str], channels: Mapping[str, int], links: Links) -> Stream:
    stream = Stream(tensors)
    for name in tensors:
        stream.fixed |= name in links.ends or name not in links.maker
        if name in links.maker:
            _made_by(stream, links.maker[name], links)
        for node in links.readers.get(name, []):
            _read_by(stream, node, name, channels, links)
    return stream


def _channels(model: onnx.ModelProto) -> dict[str, int]:
    return {name: shape[1] if len(shape) > 1 else 0 for name, shape in shapes(model).items()}


def _made_by(stream: Stream, node: onnx.NodeProto, links: Links) -> None:
    """Note in a stream that ``node`` computes one of its activations."""
    if _owns_filter(node, links):
        stream.makers.append(node)
    else:
        # An Add of a constant does not commute with a factor.
        stream.fixed |= node.op_type not in _COMMUTING or (node.op_type == "Add" and len(links.data_inputs(node)) < 2)


def _read_by(stream: Stream, node: onnx.NodeProto, name: str, channels: Mapping[str, int], links: Links) -> None:
    """Note in a stream that ``node`` reads its activation ``name``."""
    if node.op_type == "Concat":
        readers = links.readers.get(node.output[0], [])
        good = node.output[0] not in links.ends and all(_owns_filter(reader, links) for reader in readers)
        stream.fixed |= not good or list(node.input).count(name) > 1
        start = sum(channels[other] for other in node.input[: list(node.input).index(name)])
        stream.readers += [(reader, start) for reader in readers]
    elif _owns_filter(node, links):
        stream.readers.append((node, 0))
    else:
        stream.fixed |= node.op_type not in _COMMUTING


def _owns_filter(node: onnx.NodeProto, links: Links) -> bool:
    """Whether a node is a convolution, not grouped, whose filter and bias are constants that no other node reads."""
    if node.op_type != "Conv" or attribute(node, "group", 1) > 1:
        return False
    return all(name in links.constants and len(links.readers[name]) == 1 for name in node.input[1:])


def _balance(stream: Stream, size: np.ndarray, links: Links) -> np.ndarray:
    """Rescale the channels of a stream, whose sizes are ``size``, and return what divides them: float32 (C,)."""
    width = len(size)
    slices = [(node, slice(start, start + width)) for node, start in stream.readers]
    read = np.max([np.abs(_filter(node, links)[:, part]).max(axis=(0, 2, 3)) for node, part in slices], axis=0)
    alive = (size > 0) & (read > 0)
    if not alive.any():
        return np.ones(width, np.float32)
    size = np.maximum(size, _FLOOR * np.median(size[alive])).astype(np.float64)
    octaves = _SHARE * np.log2(size) - (1 - _SHARE) * np.log2(np.where(alive, read, 1))
    # A factor that all channels share would only change the range of the whole tensor, so it is taken out.
    octaves = np.where(alive, octaves - octaves[alive].mean(), 0)
    factors: np.ndarray = np.clip(2.0**octaves, 1 / _LARGEST_FACTOR, _LARGEST_FACTOR).astype(np.float32)
    for node in stream.makers:
        _store(node.input[1], _filter(node, links) / factors.reshape(-1, 1, 1, 1), links)
        for bias in node.input[2:]:
            _store(bias, numpy_helper.to_array(links.constants[bias]) / factors, links)
    for node, part in slices:
        values = _filter(node, links).copy()
        values[:, part] *= factors.reshape(1, -1, 1, 1)
        _store(node.input[1], values, links)
    return factors


def _filter(node: onnx.NodeProto, links: Links) -> np.ndarray:
    """A convolution's filter as it is now: (O, I, kH, kW)."""
    return numpy_helper.to_array(links.constants[node.input[1]])


def _store(name: str, values: np.ndarray, links: Links) -> None:
    links.constants[name].CopyFrom(numpy_helper.from_array(values, name))

"""Cross-layer equalisation: the same function in FP32 with channels of like range, so that one scale can serve them.

ReLU, Add, Resize and MaxPool commute with a positive factor for each channel. So what the filters that make a channel
are divided by, the filters that read it are multiplied with, and nothing changes but the size of the activation between
them: the whole stream of a residual stage has common factors. An activation has one scale for all its channels;
channels much larger than the others would take the digits from them. A filter has one for each output channel, so the
factors cost nothing where a channel is made, and digits where it is read: they are a compromise.

Sources: Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction" (ICCV 2019), section
4.1, there for pairs of convolutions and with weights for sizes; Xiao et al., "SmoothQuant" (ICML 2023), for the
compromise between sizes of activations and weights, there for transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import numpy_helper

from ffnet_deploy.graph.facts import attribute, shapes
from ffnet_deploy.graph.links import Links

_COMMUTING = frozenset(("Relu", "Add", "Resize", "MaxPool"))
_LARGEST_FACTOR = 2.0**16
"""Beyond it a channel is as good as dead, and its filter would leave FP16."""
_FLOOR = 2.0**-6
"""Of the median channel's size: a channel that was hardly seen may be larger on other images."""
_SHARE = 0.75
"""How much of a channel's size its activation gives up; the rest stays for the sake of the filters that read it. With
0, 0.25, 0.5, 0.75 and 1 the logits of the demo's weights are 3.1, 2.9, 2.7, 2.6 and 2.5 % noise in TensorRT's dialect
(``rounded``, six val scenes), 2.5, 2.4, 2.1, 2.0 and 2.2 % in the CPU's.
"""
_INLIERS = 0.999
_SAMPLES = 4096
"""Of a channel: enough for such a quantile."""


@dataclass(slots=True)
class Stream:
    """Activations that share their channels' factors, and the convolutions that make and read them."""

    makers: list[onnx.NodeProto] = field(default_factory=list)
    readers: list[tuple[onnx.NodeProto, int]] = field(default_factory=list)
    """With the first of the channels that they read: behind a Concat there are others before."""
    tensors: set[str] = field(default_factory=set)
    """Names of the activations."""
    fixed: bool = False
    """Something else makes or reads it, so it stays as it is."""


@dataclass(frozen=True, slots=True)
class Equalised:
    """A graph that computes the same, and how many streams were balanced in it."""

    model: onnx.ModelProto
    streams: int
    factors: Mapping[str, np.ndarray]
    """By tensor: what each of its channels is to be multiplied with to be as before, float32 (C,)."""


def channel_sizes(values: np.ndarray) -> np.ndarray:
    """What all but one in a thousand of each channel's values stay within: float32 (C,), from (N, C, ...).

    The largest value of a channel that is nearly always 0; only what is always 0 has no size.
    """
    channels = np.moveaxis(values, 1, 0).reshape(values.shape[1], -1)
    # An odd step, or a few columns of the image would be all that is seen.
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
        sizes: of each channel by tensor, as :func:`channel_sizes` gives them, the largest over images. Streams of which
            no tensor has any stay as they are.
    """
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    links = Links(copied.graph)
    streams = [
        s for s in _streams(copied, links) if not s.fixed and s.makers and s.readers and s.tensors & sizes.keys()
    ]
    channels = _channels(copied)
    factors: dict[str, np.ndarray] = {}
    for stream in streams:
        size = np.max([sizes[name] for name in stream.tensors & sizes.keys()], axis=0)
        factors.update(dict.fromkeys(stream.tensors, _balance(stream, size, links)))
    for node in copied.graph.node:
        # Behind a Concat nothing is balanced, but its parts are.
        if node.op_type == "Concat" and any(name in factors for name in node.input):
            parts = [factors[n] if n in factors else np.ones(channels[n], np.float32) for n in node.input]
            factors[node.output[0]] = np.concatenate(parts)
    return Equalised(copied, len(streams), factors)


def _streams(model: onnx.ModelProto, links: Links) -> list[Stream]:
    group = {name: name for name in (*links.maker, *(value.name for value in model.graph.input))}

    def root(name: str) -> str:
        while group[name] != name:
            name = group[name]
        return name

    for node in model.graph.node:
        if node.op_type in _COMMUTING:
            for name in links.data_inputs(node):
                group[root(name)] = root(node.output[0])
    streams = {name: Stream() for name in group if root(name) == name}
    channels = _channels(model)
    for name in group:
        stream = streams[root(name)]
        stream.tensors.add(name)
        stream.fixed |= name in links.ends or name not in links.maker
        if name in links.maker:
            _made_by(stream, links.maker[name], links)
        for node in links.readers.get(name, []):
            _read_by(stream, node, name, channels, links)
    return list(streams.values())


def _channels(model: onnx.ModelProto) -> dict[str, int]:
    return {name: shape[1] if len(shape) > 1 else 0 for name, shape in shapes(model).items()}


def _made_by(stream: Stream, node: onnx.NodeProto, links: Links) -> None:
    if _owns_filter(node, links):
        stream.makers.append(node)
    else:
        # An Add of a constant does not commute.
        stream.fixed |= node.op_type not in _COMMUTING or (node.op_type == "Add" and len(links.data_inputs(node)) < 2)


def _read_by(stream: Stream, node: onnx.NodeProto, name: str, channels: dict[str, int], links: Links) -> None:
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
    """Whether it is a convolution over all channels whose constant filter nobody else reads."""
    if node.op_type != "Conv" or attribute(node, "group", 1) > 1:
        return False
    return all(name in links.constants and len(links.readers[name]) == 1 for name in node.input[1:])


def _balance(stream: Stream, size: np.ndarray, links: Links) -> np.ndarray:
    """Change the filters of a stream, and give what its channels were divided by: float32 (C,)."""
    width = len(size)
    slices = [(node, slice(start, start + width)) for node, start in stream.readers]
    read = np.max([np.abs(_filter(node, links)[:, part]).max(axis=(0, 2, 3)) for node, part in slices], axis=0)
    alive = (size > 0) & (read > 0)
    if not alive.any():
        return np.ones(width, np.float32)
    size = np.maximum(size, _FLOOR * np.median(size[alive])).astype(np.float64)
    octaves = _SHARE * np.log2(size) - (1 - _SHARE) * np.log2(np.where(alive, read, 1))
    # A factor common to all would move the range of the whole tensor, and nothing else.
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
    """(O, I, kH, kW) as it is now."""
    return numpy_helper.to_array(links.constants[node.input[1]])


def _store(name: str, values: np.ndarray, links: Links) -> None:
    links.constants[name].CopyFrom(numpy_helper.from_array(values, name))

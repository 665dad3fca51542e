"""Copies of trained weights that compute the same in FP32 and are made to be hard for INT8.

Positive factors pass through ReLU and Add, so a channel may be made larger where it is computed if it is made smaller
where it is read. Factors are powers of two: no digit changes. For ``segmentation_ffnet46NS_CCC_mobile``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

_STAGES = {"layer1": 6, "layer2": 8, "layer3": 8}
_LARGEST_OCTAVES = 9


def scaled(state: Mapping[str, Tensor], seed: int = 0) -> dict[str, Tensor]:
    """Inside every residual block a quarter of the channels 2 to 512 times as large, and their consumers as small."""
    rng = np.random.default_rng(seed)
    changed = {name: value.clone() for name, value in state.items()}
    for block in _blocks():
        count = len(changed[f"{block}.bn1.weight"])
        octaves = np.where(rng.random(count) < 1 / 4, rng.integers(1, _LARGEST_OCTAVES + 1, count), 0)
        factors = torch.from_numpy(2.0**octaves).float()
        _scale_output(changed, f"{block}.bn1", factors)
        _scale_input(changed, f"{block}.conv2", factors)
    return changed


def tailed(state: Mapping[str, Tensor], channels: tuple[int, ...] = (5, 11), octaves: int = 6) -> dict[str, Tensor]:
    """The stream of the first stage with a heavy tail: a few of its channels 64 times as large.

    Several convolutions read that stream, and it is added to in each block.
    """
    changed = {name: value.clone() for name, value in state.items()}
    factors = torch.ones(len(changed["backbone_model.layer1.0.bn2.weight"]))
    factors[list(channels)] = 2.0**octaves
    stage = "backbone_model.layer1"
    makers = [f"{stage}.0.downsample.1", *(f"{stage}.{i}.bn2" for i in range(_STAGES["layer1"]))]
    readers = [f"{stage}.{i}.conv1" for i in range(1, _STAGES["layer1"])]
    readers += ["backbone_model.layer2.0.conv1", "backbone_model.layer2.0.downsample.0"]
    readers += ["head.layers.0.adapter_conv.1.layers.0"]
    for maker in makers:
        _scale_output(changed, maker, factors)
    for reader in readers:
        _scale_input(changed, reader, factors)
    return changed


def _blocks() -> Iterator[str]:
    for stage, count in _STAGES.items():
        yield from (f"backbone_model.{stage}.{i}" for i in range(count))


def _scale_output(state: dict[str, Tensor], batch_norm: str, factors: Tensor) -> None:
    for name in ("weight", "bias"):
        state[f"{batch_norm}.{name}"] *= factors


def _scale_input(state: dict[str, Tensor], convolution: str, factors: Tensor) -> None:
    state[f"{convolution}.weight"] /= factors.reshape(1, -1, 1, 1)

"""Deterministic weights and inputs for comparing an FFNet with the recorded reference outputs.

The recorded outputs in ``outputs.npz`` come from the published FFNet definitions filled by
:func:`fill_state_dict` and fed with :func:`make_input`. Fill your own model the same way and the outputs
must agree. Only numpy is needed; every draw depends on the seed and the tensor's name alone.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import numpy as np


def _rng(seed: int, name: str) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def tensor_values(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray | None:
    """Values (float32, of ``shape``) for the state-dict entry ``name``; None leaves it as the model made it.

    Left alone: ``num_batches_tracked`` counters and the fixed blur ``smoothing.weight``.
    """
    if name.endswith("num_batches_tracked") or name == "smoothing.weight":
        return None
    rng = _rng(seed, name)
    if name.endswith("running_mean"):
        return rng.normal(0.0, 0.1, shape).astype(np.float32)
    if name.endswith("running_var"):
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    if len(shape) >= 2:  # convolution (O, I/g, kH, kW) or linear (O, I): keep the activations' scale
        fan_in = int(np.prod(shape[1:]))
        values: np.ndarray = rng.standard_normal(shape) * np.sqrt(2.0 / fan_in)
        return values.astype(np.float32)
    if name.endswith("weight"):  # batch-norm scale; small on the last one of a residual branch
        low, high = (0.1, 0.3) if name.endswith(("bn2.weight", "bn3.weight")) else (0.5, 1.0)
        return rng.uniform(low, high, shape).astype(np.float32)
    return rng.normal(0.0, 0.05, shape).astype(np.float32)  # biases


def fill_state_dict(shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, np.ndarray]:
    """Map of the entries to overwrite, from a map of every entry's name to its shape."""
    filled = {name: tensor_values(name, tuple(shape), seed) for name, shape in shapes.items()}
    return {name: values for name, values in filled.items() if values is not None}


def make_input(shape: tuple[int, int, int, int], seed: int) -> np.ndarray:
    """A normalised-image-like float32 NCHW input: smooth structure plus noise, about unit variance."""
    rng = _rng(seed, "input")
    n, c, h, w = shape
    coarse = rng.standard_normal((n, c, (h + 31) // 32, (w + 31) // 32))
    smooth = np.kron(coarse, np.ones((32, 32)))[..., :h, :w]
    return (smooth + 0.3 * rng.standard_normal(shape)).astype(np.float32)

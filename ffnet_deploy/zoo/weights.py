"""From a weight file to a module: safe loading, the known adjustments, and nothing else."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import nn

from ffnet_deploy.zoo.checkpoint import Shapes, State, UnusableError, opened, refused, some
from ffnet_deploy.zoo.network import FFNet, Smoothing
from ffnet_deploy.zoo.specs import ModelSpec, find

_T = TypeVar("_T")

_BLUR = "smoothing.weight"
_BACKBONE = "backbone_model."

UNTRAINED = "untrained"
"""Mark of everything made from random weights."""


@dataclass(frozen=True, slots=True)
class LoadedWeights:
    """A module and what its weights are."""

    module: FFNet
    """In eval mode, float32, on the CPU."""
    sha256: str
    """Of the weight file; ``random-SEED`` for random weights."""
    marks: tuple[str, ...] = ()
    """What everything made from it must say."""
    notes: tuple[str, ...] = ()
    """Adjustments that were needed, for the user."""


def build_model(name: str, weights: str | Path | None = None) -> nn.Module:
    """Build a published FFNet in eval mode.

    Args:
        name: one of :func:`ffnet_deploy.list_models`.
        weights: path of a published ``.pth``; None leaves the module freshly initialised.

    Returns:
        A module that takes float32 (N, 3, H, W), RGB/255 normalised by ImageNet's mean and std, and returns float32
        logits: (N, 19, h, w) with h, w a quarter or an eighth of the network's input, or (N, 1000).

    Raises:
        UnknownModelError: no such name.
        WeightsError: the file is absent, damaged, hostile, or does not fit.
    """
    spec = find(name)
    return FFNet(spec).eval() if weights is None else load(spec, Path(weights)).module


def load(spec: ModelSpec, path: Path) -> LoadedWeights:
    """Build ``spec`` and fill it from ``path``. Every key must fit, apart from known peculiarities of published files.

    Raises:
        WeightsError: the file is absent, damaged, hostile, or does not fit.
    """
    try:
        fitted, state, sha256, marks, notes = read_fitting(spec, path)
    except UnusableError as error:
        raise refused(path, error, spec.name) from error
    # `_train` models keep their head's initialisation; every other key was checked above.
    module = FFNet(fitted) if spec.train else _unfilled(fitted)
    module.load_state_dict(state, strict=not spec.train)
    return LoadedWeights(module.eval(), sha256, marks, notes)


class FittingState(NamedTuple):
    """A state dict that fits a network."""

    spec: ModelSpec
    """Of that network: the one asked for, or with the head that the file has."""
    state: State
    sha256: str
    """Of the file."""
    marks: tuple[str, ...]
    notes: tuple[str, ...]


def read_fitting(spec: ModelSpec, path: Path) -> FittingState:
    """The entries of ``path`` for ``spec``, adjusted; every shape is compared before a value is read.

    Raises:
        UnusableError: the file is absent, damaged, hostile, or does not fit.
    """
    checkpoint = opened(path)
    fitted, marks = _fitting(spec, checkpoint.shapes)
    shapes, notes = _adjusted(fitted, checkpoint.shapes, (3, 1, 5, 5))
    _check_keys(spec, shapes, shapes_of(fitted))
    state, _ = _adjusted(fitted, checkpoint.state(), Smoothing().weight)
    return FittingState(fitted, state, checkpoint.sha256(), marks, (*marks, *notes))


def load_random(spec: ModelSpec, seed: int = 0) -> LoadedWeights:
    """Build ``spec`` with random weights, whose batch norms and biases matter, for latency work and tests."""
    module = _unfilled(spec)
    state: State = {}
    for name, empty in module.state_dict().items():
        values = draw(name, tuple(empty.shape), seed)
        constant = Smoothing().weight if name == _BLUR else torch.zeros_like(empty)
        state[name] = constant if values is None else torch.from_numpy(values)
    module.load_state_dict(state)
    return LoadedWeights(module.eval(), f"random-{seed}", (UNTRAINED,))


def _unfilled(spec: ModelSpec) -> FFNet:
    """The network with storage and no values yet: drawing some to overwrite them takes longer than to read a file."""
    with torch.device("meta"):
        module = FFNet(spec)
    return module.to_empty(device="cpu")


def draw(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray | None:
    """Values (float32, ``shape``) of one state-dict entry; None if it is not drawn: a counter or the blur.

    Depends on the seed and the name alone, so equal layers of two models are equal. Tested against
    ``tests/support/golden/deterministic.py``, which made the recorded outputs.
    """
    if name.endswith("num_batches_tracked") or name == _BLUR:
        return None
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    if name.endswith("running_mean"):
        values = rng.normal(0.0, 0.1, shape)
    elif name.endswith("running_var"):
        values = rng.uniform(0.5, 1.5, shape)
    elif len(shape) >= 2:
        # He initialisation keeps the activations' scale through the depth.
        values = rng.standard_normal(shape) * np.sqrt(2.0 / np.prod(shape[1:]))
    elif name.endswith("weight"):
        # The last batch norm of a residual branch is small, or the sum would grow with every block.
        low, high = (0.1, 0.3) if name.endswith(("bn2.weight", "bn3.weight")) else (0.5, 1.0)
        values = rng.uniform(low, high, shape)
    else:
        values = rng.normal(0.0, 0.05, shape)
    return values.astype(np.float32)


def shapes_of(spec: ModelSpec) -> Shapes:
    """Every state-dict key and its shape, without allocating the weights."""
    return dict(_shapes_of(spec))


@cache
def _shapes_of(spec: ModelSpec) -> Shapes:
    with torch.device("meta"):
        return {name: tuple(value.shape) for name, value in FFNet(spec).state_dict().items()}


def _fitting(spec: ModelSpec, given: Shapes) -> tuple[ModelSpec, tuple[str, ...]]:
    """The spec to build for this file: the ``dAAC`` files, known not to fit the code, may need another head."""
    published = spec.segmentation_head == "C" and spec.up_head == "A" and spec.strided and not spec.train
    if not published or _same(given, shapes_of(spec)):
        return spec, ()
    heads = (replace(spec, up_head=up, segmentation_head=head) for up, head in product("ABC", repeat=2))
    fits = [other for other in heads if _same(given, shapes_of(other))]
    if len(fits) != 1:
        return spec, ()
    letters = f"{fits[0].up_head}{fits[0].segmentation_head}"
    return fits[0], (f"head {letters} from the weight file instead of AC",)


def _same(a: Shapes, b: Shapes) -> bool:
    return {k: v for k, v in a.items() if k != _BLUR} == {k: v for k, v in b.items() if k != _BLUR}


def _adjusted(spec: ModelSpec, entries: dict[str, _T], blur: _T) -> tuple[dict[str, _T], tuple[str, ...]]:
    """A file's entries, or their shapes, after the known adjustments, and what was adjusted."""
    if spec.train:
        return {k: v for k, v in entries.items() if k.startswith(_BACKBONE)}, ("backbone only; the head is untrained",)
    if spec.pre_down and _BLUR not in entries:
        # Two published files lack it; it is a constant.
        return {**entries, _BLUR: blur}, (f"{_BLUR} added",)
    if not spec.pre_down and _BLUR in entries:
        return {k: v for k, v in entries.items() if k != _BLUR}, (f"{_BLUR} dropped",)
    return entries, ()


def _check_keys(spec: ModelSpec, given: Shapes, wanted: Shapes) -> None:
    if spec.train:
        assert spec.imagenet_model is not None
        # A strided first stage projects its shortcut; the ImageNet network has none there, so it starts untrained.
        parent = shapes_of(find(spec.imagenet_model))
        wanted = {k: v for k, v in wanted.items() if k.startswith(_BACKBONE) and k in parent}
    missing = [k for k in wanted if k not in given]
    unexpected = [k for k in given if k not in wanted]
    misshapen = [f"{k} {v} instead of {wanted[k]}" for k, v in given.items() if k in wanted and v != wanted[k]]
    if missing or unexpected or misshapen:
        lists = {"missing": missing, "unexpected": unexpected, "misshapen": misshapen}
        found = "; ".join(f"{len(keys)} {what}: {some(keys)}" for what, keys in lists.items() if keys)
        raise UnusableError(
            f"does not fit {spec.name}: {found}",
            f"Name the model it belongs to, or get {spec.weights_file}: ffnet-deploy weights fetch {spec.name}",
        )

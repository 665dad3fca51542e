"""A short, real training on synthetic scenes: weights for trying the commands, worth nothing on real streets."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ffnet_deploy.artifacts import hash_json, replacing
from ffnet_deploy.data.cityscapes import IGNORED, SIZE, Sample, fingerprint, load
from ffnet_deploy.data.images import blur_and_halve, normalise
from ffnet_deploy.errors import WeightsError
from ffnet_deploy.zoo.network import FFNet, Residual
from ffnet_deploy.zoo.specs import ModelSpec

STEPS = 400
"""About two minutes on two cores."""
VERSION = 2
"""Of the recipe: weights and half-done trainings of another one do not count."""

_CROP = (128, 256)
_BATCH = 8
_PEAK_RATE, _WARM_UP = 3e-3, 0.15
_DECAY = 1e-2
_SAVE_EVERY = 50
# Half of the crops show a class drawn by lot: rare ones would hardly be seen in so short a training.
_AIMED = 0.5
_CANDIDATES = 3  # Of which the one with the most classes is taken: a crop of bare road teaches nothing new.
_SPOTS = 2000


@dataclass(frozen=True, slots=True)
class _Example:
    image: Tensor
    """float32 (3, H/2, W/2), normalised, blurred and halved."""
    truth: NDArray[np.uint8]
    """uint8 (H, W), train ids; 255 is ignored."""
    spots: tuple[NDArray[np.int64], ...]
    """For each class in the picture int64 (n, 2): rows and columns, in pixels of ``image``, where it is."""


def train(
    spec: ModelSpec,
    samples: Sequence[Sample],
    checkpoint: Path,
    *,
    steps: int = STEPS,
    seed: int = 0,
    size: tuple[int, int] = SIZE,
    progress: Callable[[int, int, float], None] | None = None,
) -> Path:
    """Train a segmentation model from scratch and write its weights in the published layout.

    An interrupted training goes on from the state beside ``checkpoint`` when it is started again with the same
    arguments, and ends with the weights that it would have had. PyTorch's random state is left as it was.

    Args:
        spec: a segmentation model that takes the half-size image (no ``_pre_down``: the blur is applied here).
        samples: images and label files.
        checkpoint: gets an ordered state dict of float32 tensors (and the batch norms' int64 counters).
        steps: batches of 8 crops of at most 128x256 pixels of the half-size image.
        seed: of the initial weights and of every crop.
        size: height and width of every image, even.
        progress: called after each step with (steps done, steps in all, loss of this step).

    Raises:
        DataError: an image or a label file is damaged or misread.
        WeightsError: the loss is no longer finite.
        ArtifactError: ``checkpoint`` cannot be written.
    """
    assert spec.task == "segmentation"
    assert not spec.pre_down
    samples = tuple(samples)
    run = _Run(spec, steps, seed)
    identity = hash_json([VERSION, spec.name, steps, seed, torch.__version__, list(fingerprint(samples))])
    partial = checkpoint.with_name(f"{checkpoint.name}.partial")
    done = _resume(partial, identity, run.model, run.optimiser)
    examples = [_prepare(sample, size) for sample in samples]
    for step in range(done, steps):
        loss = run.step(step, examples)
        if not math.isfinite(loss):
            partial.unlink(missing_ok=True)
            raise WeightsError(
                f"The loss of step {step + 1} of {steps} is {loss} (a finite one was needed). "
                "Train again with another seed."
            )
        if (step + 1) % _SAVE_EVERY == 0 and step + 1 < steps:
            _save(partial, {"identity": identity, "done": step + 1, **run.state()})
        if progress:
            progress(step + 1, steps, loss)
    trained = run.model.state_dict()
    _save(checkpoint, type(trained)((name, value.contiguous()) for name, value in trained.items()))
    partial.unlink(missing_ok=True)
    return checkpoint


class _Run:
    """A model and its optimiser; a step depends on its number and the seed alone, so a run can be taken up again."""

    def __init__(self, spec: ModelSpec, steps: int, seed: int) -> None:
        self._steps, self._seed = steps, seed
        # A fork keeps the caller's random state; every crop has a generator of its own.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model = FFNet(spec).train()
            _initialise(self.model)
        # Channels last makes a step a sixth faster; the state dict's values do not depend on it.
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimiser = torch.optim.AdamW(_groups(self.model), lr=_PEAK_RATE, foreach=True)

    def step(self, step: int, examples: Sequence[_Example]) -> float:
        """Learn from one batch; returns its loss. Nothing is learnt from a loss that is not finite."""
        for group in self.optimiser.param_groups:
            group["lr"] = _PEAK_RATE * _one_cycle(step / self._steps)
        images, truth = _batch(examples, np.random.default_rng((self._seed, step)))
        logits = F.interpolate(self.model(images), size=truth.shape[-2:], mode="bilinear", align_corners=False)
        loss = F.cross_entropy(logits, truth, ignore_index=IGNORED)
        value = float(loss.detach())
        if math.isfinite(value):
            self.optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimiser.step()
        return value

    def state(self) -> dict[str, Any]:
        return {"model": self.model.state_dict(), "optimiser": self.optimiser.state_dict()}


def _initialise(model: nn.Module) -> None:
    """Kernels by fan-out and every residual block as its shortcut: halves the steps that PyTorch's own start needs."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, Residual):
            nn.init.zeros_(module.get_parameter("bn2.weight"))


def _groups(model: nn.Module) -> list[dict[str, Any]]:
    """Weight decay for kernels only, not for biases and batch norms."""
    kernels = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    return [{"params": kernels, "weight_decay": _DECAY}, {"params": others, "weight_decay": 0.0}]


def _one_cycle(share: float) -> float:
    """Share of the peak rate: up and down again along a cosine."""
    if share < _WARM_UP:
        return 0.04 + 0.96 * (1 - math.cos(math.pi * share / _WARM_UP)) / 2
    return (1 + math.cos(math.pi * (share - _WARM_UP) / (1 - _WARM_UP))) / 2


def _prepare(sample: Sample, size: tuple[int, int]) -> _Example:
    loaded = load(sample, size)
    image = torch.from_numpy(blur_and_halve(normalise(loaded.image))[0])
    half = loaded.truth[::2, ::2]
    rng = np.random.default_rng(0)
    spots = []
    for label in np.unique(half[half != IGNORED]):
        places = np.argwhere(half == label)
        spots.append(places[rng.integers(len(places), size=_SPOTS)])
    return _Example(image, loaded.truth, tuple(spots))


def _batch(examples: Sequence[_Example], rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Random crops, half of them mirrored: float32 (8, 3, h, w) and int64 (8, h, w) train ids."""
    images, truths = [], []
    for _ in range(_BATCH):
        crops = [_crop(examples[int(rng.integers(len(examples)))], rng) for _ in range(_CANDIDATES)]
        image, truth = max(crops, key=lambda crop: len(np.unique(crop[1][::4, ::4])))
        if rng.random() < 0.5:
            image, truth = image.flip(2), truth[:, ::-1]
        images.append(image)
        truths.append(torch.from_numpy(truth.astype(np.int64)))
    return torch.stack(images).contiguous(memory_format=torch.channels_last), torch.stack(truths)


def _crop(example: _Example, rng: np.random.Generator) -> tuple[Tensor, NDArray[np.uint8]]:
    height, width = example.image.shape[1:]
    high, wide = min(_CROP[0], height), min(_CROP[1], width)
    y, x = int(rng.integers(height - high + 1)), int(rng.integers(width - wide + 1))
    if rng.random() < _AIMED and example.spots:
        spots = example.spots[int(rng.integers(len(example.spots)))]
        row, column = spots[rng.integers(len(spots))]
        y = int(np.clip(row - rng.integers(high), 0, height - high))
        x = int(np.clip(column - rng.integers(wide), 0, width - wide))
    # Each half-size pixel covers 2x2 labels: taking any of the four by lot leaves no shift on average.
    dy, dx = rng.integers(2, size=2)
    truth = example.truth[2 * y + dy : 2 * (y + high) : 2, 2 * x + dx : 2 * (x + wide) : 2]
    return example.image[:, y : y + high, x : x + wide], truth


def _save(path: Path, value: object) -> None:
    with replacing(path) as part:
        torch.save(value, part)


def _resume(partial: Path, identity: str, model: nn.Module, optimiser: torch.optim.Optimizer) -> int:
    """Steps that the state beside the checkpoint has done; 0 without one that fits."""
    try:
        state = torch.load(partial, map_location="cpu", weights_only=True)
        if state["identity"] != identity:
            return 0
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        return int(state["done"])
    except Exception:  # noqa: BLE001 - absent, damaged or foreign: torch.load raises untyped errors
        return 0

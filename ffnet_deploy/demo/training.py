"""A short, real training on synthetic scenes: weights for trying the commands, worth nothing on real streets."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ffnet_deploy.artifacts.writing import hash_json, replacing
from ffnet_deploy.data.cityscapes import IGNORED, SIZE, CityscapesSample, fingerprint, load
from ffnet_deploy.data.images import blur_and_halve, normalise
from ffnet_deploy.errors import WeightsError
from ffnet_deploy.zoo.network import FFNet, Residual
from ffnet_deploy.zoo.specs import ModelSpec

STEPS = 60
"""About half a minute on two cores."""
VERSION = 3
"""Of the recipe: weights and half-done trainings of another one do not count."""

_CROP = (128, 256)
_BATCH = 6
_PEAK_RATE, _WARM_UP = 3e-3, 0.15
_PEAK_TURN = 0.15
"""Of a kernel in one step, as a share of its own length."""
_COARSE = 0.7
"""Of the steps, those that see the pictures at half the scale: four times as much street for the same work."""
_SETTLING = 0.85
"""Of the steps, those whose batch norms take each batch's own statistics; the last ones take the running ones."""
_SAVE_EVERY = 20
_MOMENTUM = 0.9
_ITERATIONS = 3
"""As many as even out what matters here; five bring the smallest singular values near 1 too."""
_QUINTIC = (3.4445, -4.7750, 2.0315)
_TINY = 1e-12
# Most crops show a class drawn by lot: rare ones would hardly be seen in so short a training.
_AIMED = 0.9
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
    samples: Sequence[CityscapesSample],
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
        steps: batches of 6 crops of at most 128x256 pixels, of a quarter-size image first, then of the half-size one.
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
    run = _Training(spec, steps, seed)
    identity = hash_json([VERSION, spec.name, steps, seed, torch.__version__, list(fingerprint(samples))])
    unfinished = checkpoint.with_name(f"{checkpoint.name}.partial")
    done = run.resume(unfinished, identity)
    examples = _prepare_all(samples, size)
    for step in range(done, steps):
        loss = run.step(step, examples)
        if not math.isfinite(loss):
            unfinished.unlink(missing_ok=True)
            raise WeightsError(
                f"The loss of step {step + 1} of {steps} is {loss} (a finite one was needed). "
                "Train again with another seed."
            )
        if (step + 1) % _SAVE_EVERY == 0 and step + 1 < steps:
            _save(unfinished, {"identity": identity, "done": step + 1, **run.state()})
        if progress:
            progress(step + 1, steps, loss)
    trained = run.model.state_dict()
    _save(checkpoint, type(trained)((name, value.contiguous()) for name, value in trained.items()))
    unfinished.unlink(missing_ok=True)
    return checkpoint


class _Training:
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
        kernels, others = _shared_out(self.model)
        self.kernels = Turning(kernels)
        self.optimiser = torch.optim.AdamW(others, lr=_PEAK_RATE, weight_decay=0.0, fused=True)

    def step(self, step: int, examples: Sequence[Sequence[_Example]]) -> float:
        """Learn from one batch; returns its loss. Nothing is learnt from a loss that is not finite."""
        share = _one_cycle(step / self._steps)
        for group in self.optimiser.param_groups:
            group["lr"] = _PEAK_RATE * share
        # As it will be used: the last steps get used to statistics that do not change with the batch.
        self.model.train(step < _SETTLING * self._steps)
        level = examples[1 if step < _COARSE * self._steps else 0]
        images, truth = _batch(level, np.random.default_rng((self._seed, step)))
        logits = F.interpolate(self.model(images), size=truth.shape[-2:], mode="bilinear", align_corners=False)
        loss = F.cross_entropy(logits, truth, ignore_index=IGNORED)
        value = float(loss.detach())
        if math.isfinite(value):
            self.model.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimiser.step()
            self.kernels.step(_PEAK_TURN * share)
        return value

    def state(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "momentum": [*self.kernels.momentum.values()],
        }

    def resume(self, unfinished: Path, identity: str) -> int:
        """Take up the state beside the checkpoint; returns the steps that it has done, 0 without one that fits."""
        try:
            state = torch.load(unfinished, map_location="cpu", weights_only=True)
            if state["identity"] != identity:
                return 0
            self.model.load_state_dict(state["model"])
            self.optimiser.load_state_dict(state["optimiser"])
            for mine, saved in zip(self.kernels.momentum.values(), state["momentum"], strict=True):
                mine.copy_(saved)
            return int(state["done"])
        except Exception:  # noqa: BLE001 - absent, damaged or foreign: torch.load raises untyped errors
            return 0


class Turning:
    """An optimiser for kernels that a batch norm follows: their length means nothing, so steps only turn them.

    Each step goes along the momentum with all its singular values made alike (Muon, K. Jordan 2024): every direction
    of a kernel learns at once, which takes far fewer steps than AdamW here. Lengths stay as they were drawn.
    """

    def __init__(self, kernels: Sequence[Tensor]) -> None:
        """Nothing is changed yet; ``kernels`` are float32 (out, in, h, w)."""
        groups: dict[tuple[int, int], list[Tensor]] = defaultdict(list)
        for kernel in kernels:
            groups[len(kernel), kernel[0].numel()].append(kernel)
        # Kernels of one shape are computed together.
        self._groups = dict(groups)
        self.momentum = {shape: torch.zeros(len(group), *shape) for shape, group in groups.items()}
        self._lengths = {shape: torch.stack([k.detach().norm() for k in group]) for shape, group in groups.items()}

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Turn every kernel by its gradient; ``rate`` is the step's length as a share of the kernel's."""
        for shape, group in self._groups.items():
            gradients = torch.stack([_rows(_gradient(kernel)) for kernel in group])
            momentum = self.momentum[shape].mul_(_MOMENTUM).add_(gradients)
            steps = evened(gradients.add_(momentum, alpha=_MOMENTUM))
            # A step of zeros (behind a block that is still its shortcut) stays one.
            scales = rate * self._lengths[shape] / steps.flatten(1).norm(dim=1).clamp_min(_TINY)
            for kernel, step, scale, length in zip(group, steps, scales, self._lengths[shape], strict=True):
                rows = kernel.permute(0, 2, 3, 1)
                rows.sub_((step * scale).view(rows.shape))
                kernel.mul_(length / kernel.norm())


def _gradient(kernel: Tensor) -> Tensor:
    assert kernel.grad is not None
    return kernel.grad


def _rows(kernel: Tensor) -> Tensor:
    """(out, in, h, w) as (out, h * w * in), in the order that it has in memory."""
    return kernel.permute(0, 2, 3, 1).flatten(1)


def evened(matrices: Tensor) -> Tensor:
    """Each of (N, rows, columns) with its larger singular values brought nearer to each other, directions kept.

    The quintic Newton-Schulz iteration, on the small product of a matrix with itself.
    """
    tall = matrices.shape[1] > matrices.shape[2]
    wide = matrices.mT if tall else matrices
    wide = wide / wide.flatten(1).norm(dim=1).clamp_min(_TINY)[:, None, None]
    product, one = wide @ wide.mT, torch.eye(wide.shape[1])
    whole = _factor(product, one)
    factor = whole
    for _ in range(_ITERATIONS - 1):
        product = factor @ product @ factor
        factor = _factor(product, one)
        whole = factor @ whole
    found: Tensor = whole @ wide
    return found.mT if tall else found


def _factor(product: Tensor, one: Tensor) -> Tensor:
    return _QUINTIC[0] * one + _QUINTIC[1] * product + _QUINTIC[2] * (product @ product)


def _initialise(model: nn.Module) -> None:
    """Draw kernels by fan-out, and let every residual block start as its shortcut. This halves the steps needed."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, Residual):
            nn.init.zeros_(module.get_parameter("bn2.weight"))


def _shared_out(model: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """Kernels that a batch norm follows, but the first one; and all other parameters."""
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    chosen: list[Tensor] = [conv.weight for conv in convolutions[1:-1]]
    numbers = {id(kernel) for kernel in chosen}
    return chosen, [p for p in model.parameters() if id(p) not in numbers]


def _one_cycle(share: float) -> float:
    """Share of the peak rate: up and down again along a cosine."""
    if share < _WARM_UP:
        return 0.04 + 0.96 * (1 - math.cos(math.pi * share / _WARM_UP)) / 2
    return (1 + math.cos(math.pi * (share - _WARM_UP) / (1 - _WARM_UP))) / 2


def _prepare_all(samples: Sequence[CityscapesSample], size: tuple[int, int]) -> tuple[list[_Example], list[_Example]]:
    """All samples, at the scale of the network's input and at half of it."""
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        fine = list(pool.map(partial(_prepare, size=size), samples))
    return fine, [_halved(example) for example in fine]


def _halved(example: _Example) -> _Example:
    image = F.avg_pool2d(example.image[None], 2)[0]
    return _Example(image, example.truth[::2, ::2], tuple(spots // 2 for spots in example.spots))


def _prepare(sample: CityscapesSample, size: tuple[int, int]) -> _Example:
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
    """Random crops, half of them mirrored: float32 (6, 3, h, w) and int64 (6, h, w) train ids."""
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

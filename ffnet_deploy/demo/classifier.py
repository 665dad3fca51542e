"""A classification model for the demo: a random backbone whose last layer is fitted to synthetic pictures."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ffnet_deploy.artifacts.records import WeightsRecord, load_record, save_record, stamp_of
from ffnet_deploy.artifacts.writing import hash_json, replacing
from ffnet_deploy.data.imagenet import ImageSample, decode_sample
from ffnet_deploy.data.images import normalise
from ffnet_deploy.errors import ArtifactError, DataError
from ffnet_deploy.zoo.network import FFNet, Residual
from ffnet_deploy.zoo.specs import ModelSpec
from ffnet_deploy.zoo.weights import load_random

MARK = "demo weights"
"""Stands on everything made from them."""
VERSION = 2
"""Of the recipe: weights of another one do not count."""

_BATCH = 16
_STATISTICS = 64
"""Pictures that the batch norms' statistics are taken from."""
_BRANCH = 0.3
_LOGITS = 10.0
"""Logits of a sure answer; the least squares aim at 1."""
_NEVER = -50.0
"""Bias of a class that has no pictures: below whatever the fitted classes say, so it is in no top 5 of 5 or more."""
_FAINT = 1e-3
"""Left of the drawn rows of those classes: rows of zeros would be found in no real network."""
_RIDGES = tuple(10.0 ** (power / 2) for power in range(-12, 1))
"""Shares of the kernel's largest eigenvalue."""

Matrix = NDArray[np.float64]


def fit_classifier(
    spec: ModelSpec,
    samples: Sequence[ImageSample],
    checkpoint: Path,
    *,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Fit the last layer of a classification model and write its weights, with their record, in the published layout.

    Every other layer keeps weights drawn from the seed, the first one with the pictures' colours evened out; the
    batch norms' statistics are those of the pictures. The rows of the classes that occur are least squares on the
    features, with the ridge that predicts left-out pictures best; all other classes are ruled out by their bias.
    Weights that were fitted to the same are left alone.

    Args:
        spec: a classification model.
        samples: pictures of at least two classes, as ``find_set(root / "train").samples`` gives them.
        checkpoint: gets an ordered state dict of float32 tensors (and the batch norms' int64 counters).
        seed: of the drawn weights.
        progress: called with (pictures done, pictures in all).

    Raises:
        DataError: a picture is damaged, or there are fewer than two classes.
        ArtifactError: ``checkpoint`` cannot be written.
    """
    assert spec.task == "classification"
    started = time.monotonic()
    labels = np.array([sample.label for sample in samples])
    if len(set(labels.tolist())) < 2:
        raise DataError(f"{len(samples)} pictures of one class or none (two classes were needed). Name a larger set.")
    data = [sample.source.read() for sample in samples]
    pictures = [[hashlib.sha256(one).hexdigest(), label] for one, label in zip(data, labels.tolist(), strict=True)]
    recipe = hash_json([seed, VERSION, pictures])
    if _is_fitted(checkpoint, spec, recipe):
        return checkpoint
    batches = _Batches(samples, data)
    model = load_random(spec, seed).module
    _quieten(model)
    _take_statistics(model, batches)
    classifier = _classifier(model)
    features = _features(model, classifier, batches, progress)
    _fill(classifier, _fit(features, labels), sorted(set(labels.tolist())))
    state = model.state_dict()
    with replacing(checkpoint) as part:
        torch.save(type(state)((name, value.contiguous()) for name, value in state.items()), part)
    file = stamp_of(checkpoint, started, ("torch", "numpy"))
    save_record(checkpoint, WeightsRecord(model=spec.name, file=file, marks=(MARK,), recipe=recipe))
    return checkpoint


class _Batches(NamedTuple):
    """Pictures by number, decoded when they are asked for: memory does not grow with their count."""

    samples: Sequence[ImageSample]
    data: Sequence[bytes]

    def __call__(self, order: Sequence[int]) -> Iterator[Tensor]:
        """float32 (up to 16, 3, 224, 224), normalised."""
        for start in range(0, len(order), _BATCH):
            chosen = order[start : start + _BATCH]
            images = [normalise(decode_sample(self.samples[i], self.data[i])) for i in chosen]
            yield torch.from_numpy(np.concatenate(images)).contiguous(memory_format=torch.channels_last)


def _quieten(model: FFNet) -> None:
    """Weaken the residual branches: each that was never trained blurs what its shortcut carries."""
    with torch.no_grad():
        for block in model.modules():
            if isinstance(block, Residual):
                block.get_parameter("bn3.weight" if block.bottleneck else "bn2.weight").mul_(_BRANCH)


@torch.inference_mode()
def _take_statistics(model: FFNet, batches: _Batches) -> None:
    """Mean and variance of every batch norm's input, averaged over batches of mixed classes."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # The plain average of all batches.
        norm.train()
    order = np.random.default_rng(0).permutation(len(batches.samples))[:_STATISTICS].tolist()
    _whiten(model, torch.cat(list(batches(order[: 2 * _BATCH]))))
    for images in batches(order):
        model(images)
    for norm in norms:
        norm.eval()


def _whiten(model: FFNet, images: Tensor) -> None:
    """Let the first kernels see three colours that vary alike: brightness, which varies most, would drown the rest."""
    first = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    pixels = images.permute(1, 0, 2, 3).flatten(1).double()
    values, vectors = torch.linalg.eigh(torch.cov(pixels))
    mix = (vectors / (values + 1e-3).sqrt()) @ vectors.T
    first.weight.copy_(torch.einsum("oihw,ij->ojhw", first.weight.double(), mix))


@torch.inference_mode()
def _features(
    model: FFNet, classifier: nn.Linear, batches: _Batches, progress: Callable[[int, int], None] | None
) -> Matrix:
    """What the last layer gets for each picture: float64 (N, 2048)."""
    seen: list[NDArray[np.float32]] = []
    hook = classifier.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0].numpy()))
    total = len(batches.samples)
    for images in batches(range(total)):
        model(images)
        if progress:
            progress(sum(map(len, seen)), total)
    hook.remove()
    return np.concatenate(seen).astype(np.float64)


class _Fit(NamedTuple):
    weight: Matrix
    """float64 (K, 2048)"""
    bias: Matrix
    """float64 (K)"""


def _fit(features: Matrix, labels: NDArray[np.int64]) -> _Fit:
    """Ridge regression to one for the own class and zero for others.

    With more features than pictures it is solved among the pictures: with the kernel's eigenvectors, the error of
    every picture when it is left out costs one product for each ridge.
    """
    count = len(features)
    mean = features.mean(0)
    targets = (labels[:, None] == np.unique(labels)).astype(np.float64)
    shift = targets.mean(0)
    values, vectors = np.linalg.eigh((features - mean) @ (features - mean).T)
    turned = vectors.T @ (targets - shift)

    def dual(ridge: float) -> tuple[Matrix, float]:
        inverse = 1 / (values.clip(0) + ridge)
        duals = vectors @ (inverse[:, None] * turned)
        # A picture's residual, over what of its own target it does not explain; 1/N is its share in the mean.
        left_out = ridge * duals / (ridge * (vectors**2 @ inverse) - 1 / count)[:, None]
        return duals, float((left_out**2).mean())

    duals, _ = min((dual(share * values[-1]) for share in _RIDGES), key=lambda item: item[1])
    weight = duals.T @ (features - mean)
    return _Fit(_LOGITS * weight, _LOGITS * (shift - weight @ mean))


def _fill(classifier: nn.Linear, fit: _Fit, classes: Sequence[int]) -> None:
    with torch.no_grad():
        classifier.weight.mul_(_FAINT)
        classifier.bias.fill_(_NEVER)
        classifier.weight[list(classes)] = torch.from_numpy(fit.weight.astype(np.float32))
        classifier.bias[list(classes)] = torch.from_numpy(fit.bias.astype(np.float32))


def _classifier(model: FFNet) -> nn.Linear:
    found = [module for module in model.modules() if isinstance(module, nn.Linear)]
    assert len(found) == 1
    return found[0]


def _is_fitted(checkpoint: Path, spec: ModelSpec, recipe: str) -> bool:
    try:
        record = load_record(checkpoint, WeightsRecord, remedy="ffnet-deploy demo")
    except ArtifactError:
        return False
    return (record.model, record.recipe) == (spec.name, recipe)

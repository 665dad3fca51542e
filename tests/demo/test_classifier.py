from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ffnet_deploy.artifacts.records import WeightsRecord, load_record, record_path
from ffnet_deploy.data.imagenet import ImageSample, find_set, load
from ffnet_deploy.data.images import normalise
from ffnet_deploy.demo.classifier import _fit, fit_classifier
from ffnet_deploy.errors import DataError
from ffnet_deploy.synthetic.objects import write_objects
from ffnet_deploy.zoo import weights
from ffnet_deploy.zoo.network import FFNet
from ffnet_deploy.zoo.specs import find

SPEC = find("classification_ffnet46NS_CBX_mobile")
FOUR = ("n02391049", "n02802426", "n03223299", "n07742313")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("objects")
    write_objects(folder, train=4, val=2, seed=0)
    return folder


def samples(root: Path, split: str) -> tuple[ImageSample, ...]:
    """Of four classes that differ much: little work, and a little training is enough."""
    return tuple(s for s in find_set(root / split).samples if s.name.startswith(FOUR))


@pytest.fixture(scope="module")
def checkpoint(root: Path) -> Path:
    return fit_classifier(SPEC, samples(root, "train"), root / "weights" / "demo.pth", seed=0)


def logits(path: Path, pictures: tuple[ImageSample, ...]) -> np.ndarray:
    module = weights.load(SPEC, path).module
    with torch.inference_mode():
        found: torch.Tensor = module(torch.from_numpy(np.concatenate([normalise(load(s)) for s in pictures])))
    return found.numpy()


def test_weights_fit_the_published_layout_and_carry_their_mark(checkpoint: Path) -> None:
    state = torch.load(checkpoint, weights_only=True)
    FFNet(SPEC).load_state_dict(state, strict=True)
    assert all(value.is_contiguous() and bool(torch.isfinite(value).all()) for value in state.values())
    record = load_record(checkpoint, WeightsRecord, remedy="")
    assert (record.kind, record.model, list(record.marks)) == ("weights", SPEC.name, ["demo weights"])
    assert sorted(p.name for p in checkpoint.parent.iterdir()) == ["demo.pth", "demo.pth.json"]


def test_the_classes_are_told_apart_and_no_other_is_ever_said(root: Path, checkpoint: Path) -> None:
    pictures = samples(root, "val")
    found = logits(checkpoint, pictures)
    truth = [s.label for s in pictures]
    # Chance is a quarter.
    assert np.mean(found.argmax(1) == truth) >= 0.6
    fitted = sorted(set(truth))
    others = np.delete(found, fitted, axis=1)
    assert others.max() < found[:, fitted].min() - 10
    # As rows of a trained layer do, the others differ.
    assert np.ptp(others, axis=1).min() > 0


def test_fitted_weights_are_kept_until_something_changes(root: Path, checkpoint: Path) -> None:
    pictures = samples(root, "train")
    before = checkpoint.stat().st_mtime_ns
    calls: list[tuple[int, int]] = []
    fit_classifier(SPEC, pictures, checkpoint, seed=0, progress=lambda *call: calls.append(call))
    assert (checkpoint.stat().st_mtime_ns, calls) == (before, [])
    other = checkpoint.with_name("other.pth")
    fit_classifier(SPEC, pictures[:6], other, seed=0, progress=lambda *call: calls.append(call))
    assert calls == [(6, 6)]
    recipes = [load_record(file, WeightsRecord, remedy="").recipe for file in (other, checkpoint)]
    assert recipes[0] != recipes[1]
    other.unlink()
    record_path(other).unlink()


def test_one_class_is_not_enough(root: Path, tmp_path: Path) -> None:
    for pictures in (samples(root, "train")[:4], ()):
        with pytest.raises(DataError, match="two classes were needed"):
            fit_classifier(SPEC, pictures, tmp_path / "w.pth")
    assert list(tmp_path.iterdir()) == []


def plain_ridge(features: np.ndarray, targets: np.ndarray, ridge: float) -> tuple[np.ndarray, np.ndarray]:
    """Weights and bias from the normal equations."""
    mean, shift = features.mean(0), targets.mean(0)
    inverse = np.linalg.inv((features - mean).T @ (features - mean) + ridge * np.eye(features.shape[1]))
    weight = inverse @ (features - mean).T @ (targets - shift)
    return weight, shift - mean @ weight


def test_the_fit_is_the_ridge_that_predicts_left_out_pictures_best() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 40) * 7
    features = rng.random((40, 60)) + 0.4 * (labels[:, None] == 7 * (np.arange(60) % 3))
    fit = _fit(features, labels)
    predicted = (features @ fit.weight.T + fit.bias) / 10
    targets = (labels[:, None] == np.array([0, 7, 14])).astype(float)
    largest = np.linalg.eigvalsh(np.cov(features.T, bias=True))[-1] * len(features)
    errors = {}
    for ridge in largest * 10.0 ** np.arange(-6, 0.5, 0.5):
        left_out = []
        for i in range(len(features)):
            rest = np.arange(len(features)) != i
            weight, bias = plain_ridge(features[rest], targets[rest], ridge)
            left_out.append(targets[i] - features[i] @ weight - bias)
        weight, bias = plain_ridge(features, targets, ridge)
        errors[float(np.square(left_out).mean())] = features @ weight + bias
    assert np.abs(predicted - errors[min(errors)]).max() < 1e-8
    assert min(errors) < 0.9 * max(errors)

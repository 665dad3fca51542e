"""Counts and ratios: confusion matrices, IoU, agreement. Pure functions of arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ffnet_deploy.artifacts.values import Interval

IGNORE = 255
"""Train id of pixels that do not count."""


def confusion(labels: np.ndarray, truth: np.ndarray, classes: int) -> np.ndarray:
    """Count (truth, label) pairs of one image.

    Args:
        labels: uint8 (H, W), train ids 0..classes-1.
        truth: uint8 (H, W), train ids; ids from ``classes`` on (255) are not counted.
        classes: number of train ids.

    Returns:
        int64 (classes, classes), rows are truth. Add over images, then :func:`iou`.

    Source: FFNet @2291ae7 ``fast_hist``; cityscapesScripts gives the same with one matrix for the whole set.
    """
    assert labels.shape == truth.shape
    counted = truth < classes
    pairs = truth[counted].astype(np.int32) * classes + labels[counted]
    matrix = np.zeros((classes, classes), np.int64)
    matrix += np.bincount(pairs, minlength=classes**2).reshape(classes, classes)
    return matrix


def iou(matrix: np.ndarray) -> np.ndarray:
    """Intersection over union by class: float64 (classes,), 0..1, NaN where a class is in neither truth nor labels."""
    hits = np.diag(matrix).astype(np.float64)
    union = matrix.sum(axis=0) + matrix.sum(axis=1) - np.diag(matrix)
    ratio = np.full(len(hits), np.nan)
    np.divide(hits, union, out=ratio, where=union > 0)
    return ratio


@dataclass(frozen=True, slots=True)
class Agreement:
    """How close one runner's logits are to the reference's, on the same inputs."""

    max_difference: float
    """Largest absolute difference, divided by the reference's standard deviation."""
    mean_difference: float
    """Mean absolute difference, divided by the reference's standard deviation."""
    equal: float
    """Share of equal arg-max pixels (segmentation) or equal top-1 (classification), 0..1."""
    count: int
    """Pixels or images compared."""


def agree(reference: np.ndarray, other: np.ndarray) -> Agreement:
    """Compare two logit arrays of one shape: (N, C, H, W) or (N, C); NaN anywhere counts as infinitely far."""
    assert reference.shape == other.shape
    spread = float(reference.std(dtype=np.float64)) or 1.0
    difference = np.abs(reference.astype(np.float64) - other.astype(np.float64)) / spread
    difference = np.nan_to_num(difference, nan=np.inf, posinf=np.inf)
    same = reference.argmax(axis=1) == other.argmax(axis=1)
    return Agreement(float(difference.max()), float(difference.mean()), float(same.mean()), same.size)


def pixel_accuracy(matrix: np.ndarray) -> float:
    """Share of counted pixels with the right class, 0..1; NaN where none counts."""
    total = int(matrix.sum())
    return float(np.trace(matrix) / total) if total else float("nan")


def mean_class_accuracy(matrix: np.ndarray) -> float:
    """Mean share of right pixels over the classes that occur in the truth, 0..1; NaN where none does."""
    truth = matrix.sum(axis=1)
    occurs = truth > 0
    return float((np.diag(matrix)[occurs] / truth[occurs]).mean()) if occurs.any() else float("nan")


def grouped(matrix: np.ndarray, groups: Sequence[Sequence[int]]) -> np.ndarray:
    """A confusion matrix of groups of classes: int64 (groups, groups), rows are truth.

    Source: cityscapesScripts @0bcc4a7 ``getIouScoreForCategory``: a class of the same category is no error.
    """
    member = np.zeros((len(groups), len(matrix)), np.int64)
    for row, group in zip(member, groups, strict=True):
        row[list(group)] = 1
    return np.asarray(member @ matrix @ member.T)


ROUNDS = 1000
"""Resamplings of a bootstrap: its limits then move by about a twentieth of the interval between seeds."""


def drop_of_miou(reference: np.ndarray, other: np.ndarray) -> Interval | None:
    """How far the drop of mIoU may lie from what was measured, had other images of the same kind been drawn.

    A paired bootstrap over images: each round draws as many images as there are, with replacement, and scores both
    sides on them. The seed is fixed, so a set gives the same interval each time.

    Args:
        reference: int64 (images, classes, classes), confusion by image.
        other: the same of the other side.

    Returns:
        Percentage points of mIoU, reference minus other, 2.5 % to 97.5 %; None for fewer than two images.
    """
    images, classes, _ = reference.shape
    if images < 2:
        return None
    rng = np.random.default_rng(0)
    drawn = rng.multinomial(images, np.full(images, 1 / images), size=ROUNDS).astype(np.float64)
    sides = [
        _miou_of_many((drawn @ side.reshape(images, -1)).reshape(ROUNDS, classes, classes))
        for side in (reference, other)
    ]
    return _limits(100 * (sides[0] - sides[1]))


def drop_of_accuracy(reference: np.ndarray, other: np.ndarray) -> Interval | None:
    """The same for top-1: from bool (images,), whether each image was right.

    An image's difference is 1, 0 or -1, so drawing images with replacement is drawing three counts.
    """
    images = len(reference)
    if images < 2:
        return None
    difference = reference.astype(np.int8) - other.astype(np.int8)
    counts = np.array([(difference == value).sum() for value in (1, 0, -1)])
    drawn = np.random.default_rng(0).multinomial(images, counts / images, size=ROUNDS)
    return _limits(100 * (drawn[:, 0] - drawn[:, 2]) / images)


def _miou_of_many(matrices: np.ndarray) -> np.ndarray:
    hits = np.diagonal(matrices, axis1=1, axis2=2)
    union = matrices.sum(axis=1) + matrices.sum(axis=2) - hits
    occurs = union > 0
    ratio = np.divide(hits, union, out=np.zeros_like(hits), where=occurs)
    return np.asarray(ratio.sum(axis=1) / np.maximum(occurs.sum(axis=1), 1))


def _limits(values: np.ndarray) -> Interval:
    low, high = np.percentile(values, [2.5, 97.5])
    return Interval(float(low), float(high))


BORDER = 3
"""Pixels: how far a class border reaches."""


def near_border(labels: np.ndarray, distance: int = BORDER) -> np.ndarray:
    """Which pixels have a pixel of another class within ``distance``, in Chebyshev's metric (a square window).

    Args:
        labels: uint8 (N, H, W) or (H, W), class ids.
        distance: half the window's side, in pixels of ``labels``.

    Returns:
        bool, of the same shape.
    """
    lowest = highest = labels
    for axis in (labels.ndim - 2, labels.ndim - 1):
        lowest = _window(lowest, axis, distance, np.minimum)
        highest = _window(highest, axis, distance, np.maximum)
    return np.asarray(lowest != highest)


def _window(labels: np.ndarray, axis: int, distance: int, pick: np.ufunc) -> np.ndarray:
    # Repeating the edge adds nothing to a window: the edge pixel itself is in every window that leaves the image.
    margins = [(distance, distance) if i == axis else (0, 0) for i in range(labels.ndim)]
    padded = np.pad(labels, margins, mode="edge")
    side = labels.shape[axis]
    picked = labels
    for shift in range(2 * distance + 1):
        picked = pick(picked, padded.take(range(shift, shift + side), axis=axis))
    return picked

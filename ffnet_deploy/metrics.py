"""Counts and ratios: confusion matrices, IoU, agreement. Pure functions of arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

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

"""Counts and ratios against loops that anybody can check by eye."""

from __future__ import annotations

import numpy as np
import pytest

from ffnet_deploy.metrics import IGNORE, agree, confusion, iou, near_border

CLASSES = 5


def pictures(seed: int, *, ignored: bool = True) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, (13, 17)).astype(np.uint8)
    truth = rng.integers(0, CLASSES, (13, 17)).astype(np.uint8)
    if ignored:
        truth[rng.random(truth.shape) < 0.3] = IGNORE
    return labels, truth


def slow_confusion(labels: np.ndarray, truth: np.ndarray) -> list[list[int]]:
    counts = [[0] * CLASSES for _ in range(CLASSES)]
    for y in range(truth.shape[0]):
        for x in range(truth.shape[1]):
            if truth[y, x] != IGNORE:
                counts[truth[y, x]][labels[y, x]] += 1
    return counts


def slow_iou(counts: list[list[int]], k: int) -> float:
    hits = counts[k][k]
    missed = sum(counts[k]) - hits
    false = sum(row[k] for row in counts) - hits
    return hits / (hits + missed + false) if hits + missed + false else float("nan")


@pytest.mark.parametrize("seed", range(3))
def test_confusion_and_iou_are_those_of_a_loop(seed: int) -> None:
    labels, truth = pictures(seed)
    matrix = confusion(labels, truth, CLASSES)
    slow = slow_confusion(labels, truth)
    assert matrix.dtype == np.int64
    assert matrix.tolist() == slow
    np.testing.assert_allclose(iou(matrix), [slow_iou(slow, k) for k in range(CLASSES)], rtol=1e-12)


def test_rows_are_the_truth() -> None:
    matrix = confusion(np.array([[1]], np.uint8), np.array([[3]], np.uint8), CLASSES)
    assert matrix[3, 1] == 1
    assert matrix.sum() == 1


def test_matrices_of_two_images_add_up() -> None:
    (a, b), (c, d) = pictures(0), pictures(1)
    both = confusion(np.concatenate((a, c)), np.concatenate((b, d)), CLASSES)
    assert np.array_equal(both, confusion(a, b, CLASSES) + confusion(c, d, CLASSES))


def test_the_highest_pair_of_nineteen_classes_is_counted_where_it_belongs() -> None:
    # 18 * 19 + 18 does not fit into uint8.
    matrix = confusion(np.full((2, 2), 18, np.uint8), np.full((2, 2), 18, np.uint8), 19)
    assert matrix[18, 18] == 4
    assert matrix.sum() == 4


def test_ignored_pixels_count_nowhere() -> None:
    labels, truth = pictures(0)
    changed = np.where(truth == IGNORE, (labels + 1) % CLASSES, labels).astype(np.uint8)
    assert (changed != labels).any()
    assert np.array_equal(confusion(labels, truth, CLASSES), confusion(changed, truth, CLASSES))
    assert not confusion(labels, np.full_like(truth, IGNORE), CLASSES).any()


def test_a_class_in_neither_is_nan_and_one_that_was_only_predicted_is_zero() -> None:
    matrix = confusion(np.array([[0, 1, 1]], np.uint8), np.array([[0, 0, 2]], np.uint8), 4)
    found = iou(matrix)
    assert found[:3].tolist() == [0.5, 0.0, 0.0]
    assert np.isnan(found[3])


def test_agree_is_that_of_a_loop() -> None:
    rng = np.random.default_rng(0)
    reference = rng.normal(3, 2, (2, CLASSES, 4, 6)).astype(np.float32)
    other = reference + rng.normal(0, 0.5, reference.shape).astype(np.float32)
    flat = [float(v) for v in reference.ravel()]
    mean = sum(flat) / len(flat)
    spread = (sum((v - mean) ** 2 for v in flat) / len(flat)) ** 0.5
    differences = [abs(float(a) - float(b)) / spread for a, b in zip(reference.ravel(), other.ravel(), strict=True)]
    same = 0
    for n, y, x in np.ndindex(2, 4, 6):
        mine, theirs = reference[n, :, y, x].tolist(), other[n, :, y, x].tolist()
        same += mine.index(max(mine)) == theirs.index(max(theirs))

    found = agree(reference, other)
    assert found.max_difference == pytest.approx(max(differences), rel=1e-9)
    assert found.mean_difference == pytest.approx(sum(differences) / len(differences), rel=1e-9)
    assert 0 < same < 48
    assert found.equal == same / 48
    assert found.count == 48


def test_agreement_of_classification_counts_images() -> None:
    reference = np.array([[0.0, 1.0], [1.0, 0.0], [0.0, 2.0], [0.0, 2.0]], np.float32)
    other = reference[:, ::-1].copy()
    other[0] = reference[0]
    found = agree(reference, other)
    assert (found.equal, found.count) == (0.25, 4)


def test_the_same_array_agrees_fully() -> None:
    array = np.random.default_rng(0).normal(size=(1, CLASSES, 3, 3)).astype(np.float32)
    found = agree(array, array.copy())
    assert (found.max_difference, found.mean_difference, found.equal) == (0.0, 0.0, 1.0)


def test_a_constant_reference_is_measured_in_plain_units() -> None:
    found = agree(np.ones((1, 2, 2, 2), np.float32), np.full((1, 2, 2, 2), 1.5, np.float32))
    assert found.max_difference == 0.5


@pytest.mark.parametrize(
    ("side", "value"), [("reference", np.nan), ("other", np.nan), ("other", np.inf), ("other", -np.inf)]
)
def test_a_value_that_is_not_finite_is_infinitely_far(side: str, value: float) -> None:
    rng = np.random.default_rng(0)
    arrays = {name: rng.normal(size=(1, 3, 4, 4)).astype(np.float32) for name in ("reference", "other")}
    arrays[side][0, 0, 0, 0] = value
    found = agree(arrays["reference"], arrays["other"])
    assert found.max_difference == np.inf
    assert found.mean_difference == np.inf


def test_shapes_must_be_equal() -> None:
    with pytest.raises(AssertionError):
        agree(np.zeros((1, 3, 4, 4), np.float32), np.zeros((1, 3, 4, 1), np.float32))
    with pytest.raises(AssertionError):
        confusion(np.zeros((2, 2), np.uint8), np.zeros((2, 1), np.uint8), CLASSES)


# --- borders --------------------------------------------------------------------------------------------------------


def slow_near_border(labels: np.ndarray, distance: int) -> np.ndarray:
    height, width = labels.shape
    near = np.zeros(labels.shape, bool)
    for y in range(height):
        for x in range(width):
            for v in range(max(0, y - distance), min(height, y + distance + 1)):
                for u in range(max(0, x - distance), min(width, x + distance + 1)):
                    near[y, x] |= labels[v, u] != labels[y, x]
    return near


@pytest.mark.parametrize("distance", [1, 3])
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (13, 17), (2, 31)])
def test_near_borders_as_a_loop_finds_them(size: tuple[int, int], distance: int) -> None:
    rng = np.random.default_rng(size[1])
    # Mostly one class, so that there are pixels away from borders and some at the image's edge.
    labels = np.where(rng.random(size) < 0.04, rng.integers(0, CLASSES, size), 2).astype(np.uint8)
    assert np.array_equal(near_border(labels, distance), slow_near_border(labels, distance))


def test_near_borders_of_several_images_are_those_of_each() -> None:
    rng = np.random.default_rng(5)
    labels = (rng.random((3, 12, 14)) < 0.02).astype(np.uint8)
    assert np.array_equal(near_border(labels), np.stack([slow_near_border(one, 3) for one in labels]))
    assert 0 < near_border(labels).mean() < 1


def test_one_pixel_of_another_class_is_near_for_a_square_around_it() -> None:
    labels = np.zeros((9, 11), np.uint8)
    labels[4, 5] = 7
    expected = np.zeros((9, 11), bool)
    expected[1:8, 2:9] = True
    assert np.array_equal(near_border(labels), expected)

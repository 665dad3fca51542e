"""Counts and ratios against loops that anybody can check by eye."""

from __future__ import annotations

import numpy as np
import pytest

from ffnet_deploy.artifacts.values import Interval
from ffnet_deploy.metrics import (
    IGNORE,
    ROUNDS,
    agree,
    confusion,
    drop_of_accuracy,
    drop_of_miou,
    grouped,
    iou,
    mean_class_accuracy,
    near_border,
    pixel_accuracy,
)

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


# --- accuracies and groups ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_accuracies_are_those_of_a_loop(seed: int) -> None:
    labels, truth = pictures(seed)
    truth[truth == 2] = IGNORE
    right, total = [0] * CLASSES, [0] * CLASSES
    for mine, its in zip(labels.ravel().tolist(), truth.ravel().tolist(), strict=True):
        if its != IGNORE:
            total[its] += 1
            right[its] += mine == its
    matrix = confusion(labels, truth, CLASSES)
    assert pixel_accuracy(matrix) == pytest.approx(sum(right) / sum(total), rel=1e-12)
    # Class 2 is not in the truth, so it has no accuracy, though it is predicted.
    recalls = [r / t for r, t in zip(right, total, strict=True) if t]
    assert len(recalls) == CLASSES - 1
    assert mean_class_accuracy(matrix) == pytest.approx(sum(recalls) / len(recalls), rel=1e-12)


def test_accuracies_of_nothing_are_nan() -> None:
    nothing = np.zeros((CLASSES, CLASSES), np.int64)
    assert np.isnan(pixel_accuracy(nothing))
    assert np.isnan(mean_class_accuracy(nothing))


@pytest.mark.parametrize("seed", range(3))
def test_groups_are_those_of_pictures_with_group_numbers(seed: int) -> None:
    labels, truth = pictures(seed)
    groups = ((0, 3), (1,), (2, 4))
    number = {k: g for g, group in enumerate(groups) for k in group}
    grouped_labels = np.vectorize(number.get)(labels).astype(np.uint8)
    grouped_truth = np.array([number.get(k, IGNORE) for k in truth.ravel().tolist()], np.uint8).reshape(truth.shape)
    found = grouped(confusion(labels, truth, CLASSES), groups)
    assert found.dtype == np.int64
    assert np.array_equal(found, confusion(grouped_labels, grouped_truth, 3))


# --- intervals ------------------------------------------------------------------------------------------------------


def matrices(images: int, seed: int, *, errors: float = 0.3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(images):
        truth = rng.integers(0, CLASSES - 1, (8, 8)).astype(np.uint8)
        wrong = rng.random(truth.shape) < errors
        labels = np.where(wrong, rng.integers(0, CLASSES, truth.shape), truth).astype(np.uint8)
        found.append(confusion(labels, truth, CLASSES))
    return np.stack(found)


def slow_miou(matrix: np.ndarray) -> float:
    ious = [slow_iou(matrix.tolist(), k) for k in range(CLASSES)]
    known = [value for value in ious if not np.isnan(value)]
    return 100 * sum(known) / len(known)


@pytest.mark.parametrize("images", [2, 3, 12])
def test_the_interval_of_a_drop_is_that_of_drawing_images_one_by_one(images: int) -> None:
    reference, other = matrices(images, 0), matrices(images, 1, errors=0.5)
    # The same draws as how often each image is drawn; everything after them is written again.
    draws = np.random.default_rng(0).multinomial(images, [1 / images] * images, size=ROUNDS)
    drops = []
    for draw in draws[:ROUNDS].tolist():
        chosen = [i for i, times in enumerate(draw) for _ in range(times)]
        assert len(chosen) == images
        sides = [slow_miou(sum((side[i] for i in chosen), np.zeros_like(side[0]))) for side in (reference, other)]
        drops.append(sides[0] - sides[1])
    drops.sort()

    def percentile(share: float) -> float:
        at = share * (len(drops) - 1)
        low = int(at)
        return drops[low] + (at - low) * (drops[min(low + 1, len(drops) - 1)] - drops[low])

    found = drop_of_miou(reference, other)
    assert found is not None
    assert found.low == pytest.approx(percentile(0.025), abs=1e-9)
    assert found.high == pytest.approx(percentile(0.975), abs=1e-9)
    assert found.low <= found.high


def test_an_interval_is_the_same_each_time_and_ignores_the_global_seed() -> None:
    reference, other = matrices(10, 0), matrices(10, 1)
    first = drop_of_miou(reference, other)
    np.random.seed(123)
    assert drop_of_miou(reference, other) == first
    right, worse = np.arange(50) % 3 > 0, np.arange(50) % 4 > 0
    assert drop_of_accuracy(right, worse) == drop_of_accuracy(right, worse)


def test_equal_sides_drop_nothing_at_all() -> None:
    same = matrices(10, 0)
    assert drop_of_miou(same, same.copy()) == Interval(0.0, 0.0)
    right = np.arange(50) % 3 > 0
    assert drop_of_accuracy(right, right.copy()) == Interval(0.0, 0.0)


def test_the_interval_of_a_worse_side_is_above_zero_and_turns_its_sign() -> None:
    better, worse = matrices(40, 0, errors=0.1), matrices(40, 1, errors=0.5)
    found, turned = drop_of_miou(better, worse), drop_of_miou(worse, better)
    assert found is not None
    assert turned is not None
    assert 0 < found.low < found.high
    assert (turned.low, turned.high) == pytest.approx((-found.high, -found.low))
    drop = slow_miou(better.sum(axis=0)) - slow_miou(worse.sum(axis=0))
    assert found.low < drop < found.high


def test_more_images_give_a_narrower_interval() -> None:
    widths = []
    for images in (20, 320):
        found = drop_of_miou(matrices(images, 0), matrices(images, 1, errors=0.4))
        assert found is not None
        widths.append(found.high - found.low)
    # Sixteen times the images should make it a quarter.
    assert 2.5 < widths[0] / widths[1] < 6


def test_one_image_has_no_interval() -> None:
    assert drop_of_miou(matrices(1, 0), matrices(1, 1)) is None
    assert drop_of_accuracy(np.array([True]), np.array([False])) is None


def test_a_class_that_is_in_few_images_may_be_drawn_or_not() -> None:
    # Class 4 is in the last image alone: rounds without it have a mean over fewer classes.
    reference = matrices(6, 0)
    reference[:5, 4, :] = reference[:5, :, 4] = 0
    found = drop_of_miou(reference, reference * 1)
    assert found == Interval(0.0, 0.0)


@pytest.mark.parametrize(("count", "seed"), [(40, 0), (300, 1), (2000, 2)])
def test_the_interval_of_top_1_is_that_of_drawing_images(count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    reference = rng.random(count) < 0.75
    other = np.where(rng.random(count) < 0.1, rng.random(count) < 0.5, reference)
    drops = []
    for _ in range(4000):
        chosen = rng.integers(0, count, count)
        drops.append(100 * (reference[chosen].mean() - other[chosen].mean()))
    found = drop_of_accuracy(reference, other)
    assert found is not None
    low, high = np.percentile(drops, [2.5, 97.5])
    # Both are drawn by chance: their limits differ by some hundredths of the width, and by one image in small sets.
    slack = 0.12 * (high - low) + 100 / count
    assert abs(found.low - low) <= slack
    assert abs(found.high - high) <= slack

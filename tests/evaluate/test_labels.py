"""Label maps without full-size logits are those of PyTorch's ``interpolate`` and ``argmax``, but for rounding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ffnet_deploy.evaluate.labels import upsampled_labels

Size = tuple[int, int]
BOTH = pytest.mark.parametrize("align", [False, True])


def smooth(classes: int, size: Size, seed: int = 0) -> np.ndarray:
    """Logits like a trained network's: large areas with one clear class and borders between them."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.normal(0, 5, (1, classes, 4, 5)).astype(np.float32))
    full = F.interpolate(coarse, size, mode="bicubic", align_corners=False)[0].numpy()
    return np.asarray(full + rng.normal(0, 0.05, full.shape), np.float32)


def noise(classes: int, size: Size, seed: int = 0) -> np.ndarray:
    """Logits whose best class changes from pixel to pixel: everywhere several classes are possible."""
    return np.random.default_rng(seed).normal(size=(classes, *size)).astype(np.float32)


def wanted(logits: np.ndarray, size: Size, align: bool) -> tuple[np.ndarray, np.ndarray]:
    """PyTorch's labels and its full-size logits."""
    full = F.interpolate(torch.from_numpy(logits)[None], size, mode="bilinear", align_corners=align)[0].numpy()
    return full.argmax(axis=0), full


def assert_same_but_for_ties(logits: np.ndarray, size: Size, align: bool) -> None:
    found = upsampled_labels(logits, size, align_corners=align)
    labels, full = wanted(logits, size, align)
    assert found.dtype == np.uint8
    assert found.shape == size
    other = found != labels
    # A few roundings of the largest logit; what is further apart may never be confused.
    rounding = 4 * np.finfo(np.float32).eps * float(np.abs(logits).max())
    lost = full.max(axis=0) - np.take_along_axis(full, found[None].astype(np.int64), axis=0)[0]
    assert (lost[other] <= rounding).all()
    assert other.mean() <= 1e-3


SIZES: list[tuple[Size, Size]] = [
    ((16, 32), (64, 128)),
    ((8, 16), (64, 128)),
    ((16, 32), (16, 32)),
    ((15, 31), (64, 128)),
    ((17, 33), (65, 129)),
    ((13, 7), (50, 61)),
    ((9, 11), (10, 12)),
    ((33, 35), (16, 17)),
    ((40, 20), (7, 90)),
    ((1, 1), (5, 6)),
    ((1, 9), (8, 36)),
    ((9, 1), (36, 8)),
    ((7, 9), (1, 1)),
    ((7, 9), (1, 30)),
    ((2, 2), (64, 3)),
]


@BOTH
@pytest.mark.parametrize(("small", "size"), SIZES)
@pytest.mark.parametrize("draw", [smooth, noise])
def test_labels_are_pytorchs(draw: object, small: Size, size: Size, align: bool) -> None:
    assert callable(draw)
    for classes, seed in ((19, 0), (19, 1), (2, 2), (1, 3)):
        assert_same_but_for_ties(draw(classes, small, seed), size, align)


@BOTH
@pytest.mark.parametrize("scale", [1e-6, 1e4, 1e30])
def test_the_scale_of_logits_does_not_matter(align: bool, scale: float) -> None:
    assert_same_but_for_ties(smooth(19, (16, 32)) * np.float32(scale), (64, 128), align)


@BOTH
def test_a_large_common_offset_leaves_only_ties_open(align: bool) -> None:
    # All logits lie near 1000, so rounding is a thousand times as large as without the offset.
    assert_same_but_for_ties(smooth(19, (16, 32)) + np.float32(1000), (64, 128), align)


@BOTH
@pytest.mark.parametrize("value", [0.0, 0.1, -3.7])
def test_the_first_of_equals_wins_everywhere(align: bool, value: float) -> None:
    logits = np.full((19, 5, 7), value, np.float32)
    assert not upsampled_labels(logits, (20, 28), align_corners=align).any()
    logits[[3, 11]] += 1
    assert (upsampled_labels(logits, (20, 28), align_corners=align) == 3).all()


@BOTH
def test_of_two_equal_classes_the_first_wins_at_every_pixel(align: bool) -> None:
    logits = noise(5, (9, 9))
    twice = np.concatenate((logits, logits))
    found = upsampled_labels(twice, (36, 36), align_corners=align)
    assert found.max() < 5
    assert np.array_equal(found, upsampled_labels(logits, (36, 36), align_corners=align))


def test_the_two_up_samplings_differ() -> None:
    logits = noise(19, (16, 32))
    one, other = (upsampled_labels(logits, (64, 128), align_corners=align) for align in (False, True))
    assert not np.array_equal(one, other)


def test_a_class_that_is_best_between_its_corners_alone_is_found() -> None:
    # Class 2 is second at every corner and still first in the middle.
    logits = np.array([[[10.0, 0.0]], [[0.0, 10.0]], [[6.0, 6.0]]], np.float32)
    found = upsampled_labels(logits, (1, 9), align_corners=True)
    # At x = k/8 the three are 10 - 1.25 k, 1.25 k and 6.
    assert found.tolist() == [[0, 0, 0, 0, 2, 1, 1, 1, 1]]
    assert_same_but_for_ties(logits, (1, 9), True)


def test_more_cells_than_are_computed_at_a_time() -> None:
    assert_same_but_for_ties(noise(19, (64, 64)), (128, 192), False)


def test_arrays_that_are_no_whole_arrays() -> None:
    logits = noise(19, (12, 14))
    view = np.asfortranarray(np.repeat(logits, 2, axis=2))[:, :, ::2]
    found = upsampled_labels(view, (40, 44), align_corners=False)
    assert np.array_equal(found, upsampled_labels(logits, (40, 44), align_corners=False))


@pytest.mark.slow
@BOTH
def test_labels_of_whole_images_are_pytorchs(align: bool) -> None:
    assert_same_but_for_ties(smooth(19, (128, 256)), (1024, 2048), align)

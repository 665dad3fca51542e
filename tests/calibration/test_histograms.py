"""Streamed histograms and the ranges read from them, against the same on all values at once."""

from __future__ import annotations

import numpy as np
import pytest

from ffnet_deploy.calibration.histograms import Histogram, error, limits
from ffnet_deploy.calibration.methods import METHODS
from ffnet_deploy.errors import PrecisionError
from ffnet_deploy.graph.ranges import INT8_LEVELS, UINT8_LEVELS, Limits

RNG = np.random.default_rng(0)
RELU = np.maximum(RNG.standard_normal(60_000), 0).astype(np.float32)
SIGNED = (RNG.standard_normal(60_000) * 3 + 1).astype(np.float32)
TAILED = np.concatenate([RELU, np.array([300.0, 280.0, 260.0], np.float32)])
CASES = {"relu": RELU, "signed": SIGNED, "tailed": TAILED, "negative": -np.abs(SIGNED)}


def counted(*parts: np.ndarray) -> Histogram:
    histogram = Histogram()
    for part in parts:
        histogram.add(part, "t on x")
    return histogram


def quantised(values: np.ndarray, scale: float, lowest: int, highest: int) -> np.ndarray:
    return scale * np.clip(np.round(values.astype(np.float64) / scale), lowest, highest)


def squared_error(values: np.ndarray, scale: float, lowest: int, highest: int) -> float:
    return float(((values - quantised(values, scale, lowest, highest)) ** 2).sum())


@pytest.mark.parametrize("values", CASES.values(), ids=CASES)
def test_every_value_is_in_its_bin(values: np.ndarray) -> None:
    histogram = counted(values)
    spread = histogram.spread()
    assert histogram.total == spread.counts.sum() == values.size
    assert (histogram.low, histogram.high) == (values.min(), values.max())
    # Rising, without overlap, and each at most 1/256 of its value wide.
    assert (spread.left <= spread.right).all()
    assert (spread.right[:-1] <= spread.left[1:]).all()
    far = np.maximum(np.abs(spread.left), np.abs(spread.right))
    assert (spread.right - spread.left <= far / 256 + 1e-38).all()
    for i in (0, len(spread.counts) // 2, -1):
        negative = spread.right[i] <= 0 and spread.left[i] < 0
        above = values > spread.left[i] if negative and i != 0 else values >= spread.left[i]
        below = (
            values <= spread.right[i]
            if negative or i == -1 or spread.left[i] == spread.right[i]
            else values < spread.right[i]
        )
        assert int((above & below).sum()) == spread.counts[i], i


def test_parts_in_any_order_give_the_same() -> None:
    parts = np.array_split(SIGNED, 7)
    one, other = counted(SIGNED.reshape(1, 3, 100, 200)), counted(*reversed(parts))
    assert np.array_equal(one.counts, other.counts)
    assert (one.low, one.high) == (other.low, other.high)


def test_a_histogram_keeps_its_size() -> None:
    histogram = counted(RELU)
    before = histogram.counts.nbytes
    histogram.add(np.array([1e30, -1e-30, 3e-45, -0.0], np.float32), "t on x")
    assert histogram.counts.nbytes == before == 1 << 20
    assert (histogram.low, histogram.high) == (float(np.float32(-1e-30)), float(np.float32(1e30)))


@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_named(value: float) -> None:
    values = RELU.copy()
    values[54_321] = value
    with pytest.raises(PrecisionError, match=r"^relu on aachen_1 is not finite .* Check the weights and this image\.$"):
        Histogram().add(values, "relu on aachen_1")


@pytest.mark.parametrize("values", CASES.values(), ids=CASES)
def test_max_is_the_extremes(values: np.ndarray) -> None:
    found = limits(counted(values))["max"]
    assert found == Limits(np.abs(values).max(), min(values.min(), 0), max(values.max(), 0))


@pytest.mark.parametrize("percentile", [99.0, 99.9, 99.99])
@pytest.mark.parametrize("values", CASES.values(), ids=CASES)
def test_percentile_is_that_of_all_values(values: np.ndarray, percentile: float) -> None:
    found = limits(counted(values), percentile)["percentile"]
    tail = (100 - percentile) / (2 if values.min() < 0 < values.max() else 1)
    wanted = (
        np.percentile(np.abs(values), percentile),
        min(np.percentile(values, tail), 0) if values.min() < 0 else 0,
        max(np.percentile(values, 100 - tail), 0) if values.max() > 0 else 0,
    )
    assert found == pytest.approx(wanted, rel=0.005)


@pytest.mark.parametrize("values", CASES.values(), ids=CASES)
@pytest.mark.parametrize("share", [1.0, 0.5, 0.1])
def test_the_error_of_a_range_is_that_of_all_values(values: np.ndarray, share: float) -> None:
    scale = share * float(np.abs(values).max()) / INT8_LEVELS
    found = error(counted(values).spread(), scale, -128, 127)
    assert found == pytest.approx(squared_error(values, scale, -128, 127), rel=0.03)


@pytest.mark.parametrize("values", CASES.values(), ids=CASES)
def test_mse_is_the_least_error_on_a_fine_grid(values: np.ndarray) -> None:
    found = limits(counted(values))["mse"]
    top = float(np.abs(values).max())
    grid = top * 2.0 ** (-np.arange(8 * 16) / 16)
    symmetric = min(squared_error(values, m / INT8_LEVELS, -128, 127) for m in grid)
    assert squared_error(values, found.magnitude / INT8_LEVELS, -128, 127) <= 1.03 * symmetric
    # uint8 has its own ends, and twice the levels on one side.
    scale = (found.high - found.low) / UINT8_LEVELS
    zero = round(-found.low / scale)
    mine = squared_error(values, scale, -zero, UINT8_LEVELS - zero)
    whole = (max(values.max(), 0) - min(values.min(), 0)) / UINT8_LEVELS
    zero = round(-min(float(values.min()), 0) / whole)
    assert mine <= 1.001 * squared_error(values, whole, -zero, UINT8_LEVELS - zero)
    assert mine <= symmetric


def divergence(values: np.ndarray, top: float, levels: int, bins_per_level: int = 16) -> float:
    """The definition, on the values themselves."""
    magnitudes = np.abs(values[values != 0]).astype(np.float64)
    edges = np.linspace(0, top, levels * bins_per_level + 1)
    inside = np.histogram(magnitudes, edges)[0].astype(np.float64)
    true, kept = inside.copy(), np.zeros_like(inside)
    true[-1] += (magnitudes > top).sum()
    for level in range(levels):
        part = slice(level * bins_per_level, (level + 1) * bins_per_level)
        occupied = inside[part] > 0
        if occupied.any():
            kept[part][occupied] = inside[part].sum() / occupied.sum()
    met = true > 0
    p, q = true / true.sum(), kept / kept.sum()
    return float((p[met] * np.log(p[met] / np.maximum(q[met], 1e-12))).sum())


@pytest.mark.parametrize("values", [RELU, SIGNED, TAILED], ids=["relu", "signed", "tailed"])
def test_entropy_is_near_the_least_divergence(values: np.ndarray) -> None:
    found = limits(counted(values))["entropy"].magnitude
    top = float(np.abs(values).max())
    costs = {t: divergence(values, t, INT8_LEVELS + 1) for t in top * 2.0 ** (-np.arange(8 * 8) / 8)}
    assert divergence(values, found, INT8_LEVELS + 1) <= 1.2 * min(costs.values()) + 1e-4


def test_an_outlier_takes_the_range_of_max_alone() -> None:
    found = limits(counted(TAILED))
    assert found["max"].magnitude == 300
    assert found["percentile"].magnitude < RELU.max()
    assert found["entropy"].magnitude < 300 / 6
    assert found["entropy"].high < 300 / 6


def test_a_constant_tensor_has_its_value_as_range() -> None:
    for value in (2.5, -2.5):
        for method, found in limits(counted(np.full(100, value, np.float32))).items():
            assert found.magnitude == pytest.approx(2.5, rel=0.01), method
            assert found.high - found.low == pytest.approx(2.5, rel=0.01), method


def test_a_tensor_of_zeros_has_no_range() -> None:
    assert limits(counted(np.zeros(100, np.float32))) == dict.fromkeys(METHODS, Limits(0, 0, 0))


@pytest.mark.parametrize("ends", [(0, 1e-37), (-1e-37, 1e-38), (-1e-45, 0), (1e-37, 1e-37)])
def test_a_tensor_next_to_zero_has_no_range(ends: tuple[float, float]) -> None:
    assert limits(counted(np.linspace(*ends, 100, dtype=np.float32))) == dict.fromkeys(METHODS, Limits(0, 0, 0))


@pytest.mark.parametrize("largest", [2.0**-119, 2.0**-112, 5.0])
def test_a_few_values_among_tiny_ones_still_have_a_range(largest: float) -> None:
    values = np.full(1_000_000, 1e-40, np.float32)
    values[:3] = largest
    for method, found in limits(counted(values)).items():
        assert min(found.magnitude, found.high - found.low) >= 2.0**-119, method
    assert limits(counted(values))["percentile"].magnitude == largest


def test_a_few_values_among_zeros_still_have_a_range() -> None:
    values = np.zeros(1_000_000, np.float32)
    values[:3] = 5
    for method, found in limits(counted(values)).items():
        assert found.magnitude == pytest.approx(5, rel=0.01), method

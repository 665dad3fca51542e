"""Histograms of activations in constant memory, and the ranges that four methods choose from one histogram.

The upper 17 bits of a float32 value are its bin: sign, exponent and 8 bits of the mantissa. So a bin is at most 1/256
of its value wide, at any magnitude. No range has to be known beforehand, so one pass over the images is enough. The
order of the images does not matter, and an outlier does not make the bins of other values coarser.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ffnet_deploy.calibration.methods import METHODS, PERCENTILE, SMALLEST
from ffnet_deploy.errors import PrecisionError
from ffnet_deploy.graph.ranges import INT8_LEVELS, UINT8_LEVELS, Limits

_DROPPED = 15
"""Lower bits of a float32 value that do not count for its bin."""
BINS = 1 << (32 - _DROPPED)
_NEGATIVE = BINS // 2
"""Bins from here on hold negative values."""
_NOT_FINITE = 255 << (23 - _DROPPED)
"""Bins from here on, of either sign, hold infinity and NaN."""
_MOST_COUNTED = 1 << 45
"""In one bin: sums over all bins stay within 64 bits."""
_CHUNK = 1 << 18
"""Values to count at a time; their bins fit into a core's cache."""
_BINS_PER_LEVEL = 16
"""Bins of each integer step, for the divergence."""
_COARSE, _FINE = 2, 16
"""Ranges to try per octave: first over all octaves, then around the best."""
_OCTAVES = 10
"""The smallest range to try is 2 to the power of minus this, times the maximum."""
_SMALL_OCTAVES = 4
"""Values this many octaves below the step of the smallest range count as one bin: they become 0 in any range."""


@dataclass(frozen=True, slots=True)
class Spread:
    """The occupied bins of a histogram in rising order: their edges, float64 (n,), and counts, int64 (n,)."""

    left: np.ndarray
    right: np.ndarray
    counts: np.ndarray


class Histogram:
    """Counts of one tensor's values over any number of inputs."""

    def __init__(self) -> None:
        self.counts = np.zeros(BINS, np.int64)
        self.low = np.inf
        self.high = -np.inf

    @classmethod
    def of(cls, bins: np.ndarray, counts: np.ndarray, low: float, high: float) -> Histogram:
        """A histogram from its occupied bins and its ends, as a file has them.

        Args:
            bins: uint32 (n,), rising.
            counts: int64 (n,), of each of these bins.
            low: the smallest value.
            high: the largest value.

        Raises:
            ValueError: no values give this.
        """
        if not len(bins) or (np.diff(bins.astype(np.int64)) <= 0).any() or bins[-1] >= BINS:
            raise ValueError("its bins are no bins in rising order")
        if (bins % _NEGATIVE >= _NOT_FINITE).any() or counts.min() < 1 or counts.max() > _MOST_COUNTED:
            raise ValueError("it has bins or counts that no values give")
        found = cls()
        found.counts[bins] = counts
        found.low, found.high = low, high
        ends = np.array([low, high], np.float32)
        spread = found.spread()
        exact = (ends == [low, high]).all() and np.isin(ends.view(np.uint32) >> _DROPPED, bins).all()
        if not exact or (spread.left > spread.right).any():
            raise ValueError(f"its values do not reach from {low:g} to {high:g}")
        return found

    def add(self, values: np.ndarray, what: str) -> None:
        """Count values.

        Args:
            values: float32, any shape.
            what: the tensor and the image, for the message.

        Raises:
            PrecisionError: a value is infinite or NaN. The histogram then holds some of the values and is useless.
        """
        flat = np.ascontiguousarray(values, np.float32).reshape(-1)
        for start in range(0, flat.size, _CHUNK):
            part = flat[start : start + _CHUNK]
            found = np.bincount(part.view(np.uint32) >> _DROPPED)
            if found[_NOT_FINITE:_NEGATIVE].any() or found[_NEGATIVE + _NOT_FINITE :].any():
                raise not_finite(what)
            self.counts[: len(found)] += found
            self.low, self.high = min(self.low, float(part.min())), max(self.high, float(part.max()))

    def merge(self, other: Histogram) -> None:
        """Add the counts of another histogram."""
        self.counts += other.counts
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)

    @property
    def total(self) -> int:
        """How many values it has counted."""
        return int(self.counts.sum())

    def spread(self) -> Spread:
        """The occupied bins; the outermost end at the smallest and the largest value."""
        positive = np.flatnonzero(self.counts[:_NEGATIVE])
        negative = np.flatnonzero(self.counts[_NEGATIVE:])[::-1]
        outer, inner = -_edges(negative + 1), -_edges(negative)
        left = np.concatenate([outer, _edges(positive)])
        right = np.concatenate([inner, _edges(positive + 1)])
        counts = np.concatenate([self.counts[_NEGATIVE:][negative], self.counts[positive]])
        return Spread(np.maximum(left, self.low), np.minimum(right, self.high), counts)


def not_finite(what: str) -> PrecisionError:
    """The error that ``what``, a tensor on an image, has a value that is infinite or NaN."""
    return PrecisionError(f"{what} is not finite (finite activations were needed). Check the weights and this image.")


def _edges(bins: np.ndarray) -> np.ndarray:
    """Lower edges of bins of positive values, float64. The first bin counts as 0; the second begins at 0 too."""
    edges = (bins.astype(np.uint32) << _DROPPED).view(np.float32).astype(np.float64)
    return np.where(bins <= 1, 0.0, edges)


def limits(histogram: Histogram, percentile: float = PERCENTILE) -> dict[str, Limits]:
    """The range that each method chooses.

    - ``max``: minimum and maximum.
    - ``percentile``: covers ``percentile`` percent of the values.
    - ``mse``: gives the smallest squared error of the quantised values.
    - ``entropy``: gives the smallest Kullback-Leibler divergence of the quantised from the true distribution.

    Args:
        histogram: of one tensor; it has counted at least one value.
        percentile: in percent, above 0 and at most 100.

    Returns:
        The ranges by method. All are 0 for a tensor that is always 0, or below ``SMALLEST``.
    """
    spread = _without_small(histogram.spread())
    low, high = min(histogram.low, 0.0), max(histogram.high, 0.0)
    found = {"max": Limits(max(-low, high), low, high)}
    if found["max"].magnitude < SMALLEST:
        return dict.fromkeys(METHODS, Limits(0.0, 0.0, 0.0))
    found["percentile"] = _by_percentile(spread, low, high, percentile / 100)
    found["mse"] = _by_error(spread, low, high)
    found["entropy"] = _by_entropy(spread, low, high)
    # Where nearly all values are 0 or next to it, the others still need a range.
    return {method: found[method if _wide(found[method]) else "max"] for method in METHODS}


def _wide(found: Limits) -> bool:
    return min(found.magnitude, found.high - found.low) >= SMALLEST


def _without_small(spread: Spread) -> Spread:
    """The same, with one bin for all tiny values. They occupy most bins, so this saves most of the time."""
    far = np.maximum(np.abs(spread.left), np.abs(spread.right))
    small = far < far.max() * 2.0 ** -(_OCTAVES + _SMALL_OCTAVES + np.log2(INT8_LEVELS))
    if small.sum() < 2:
        return spread
    first, end = int(np.argmax(small)), len(small) - int(np.argmax(small[::-1]))
    return Spread(
        np.concatenate([spread.left[: first + 1], spread.left[end:]]),
        np.concatenate([spread.right[:first], spread.right[end - 1 :]]),
        np.concatenate([spread.counts[:first], [spread.counts[first:end].sum()], spread.counts[end:]]),
    )


def _by_percentile(spread: Spread, low: float, high: float, share: float) -> Limits:
    magnitude = _quantile(_folded(spread), share)
    # With values of both signs, each side loses half of what is left out.
    tail = (1 - share) / 2 if low < 0 < high else 1 - share
    lowest = min(_quantile(spread, tail), 0.0) if low < 0 else 0.0
    highest = max(_quantile(spread, 1 - tail), 0.0) if high > 0 else 0.0
    return Limits(magnitude, lowest, highest)


def _folded(spread: Spread) -> Spread:
    """The distribution of magnitudes."""
    negative = spread.right <= 0
    left = np.where(negative, -spread.right, spread.left)
    right = np.where(negative, -spread.left, spread.right)
    # Magnitudes of both signs may have the same bin. It then comes twice, which changes no sum over bins.
    order = np.argsort(left, kind="stable")
    return Spread(left[order], right[order], spread.counts[order])


def _quantile(spread: Spread, share: float) -> float:
    """The value that ``share`` (0 to 1) of all values do not exceed, interpolated within its bin."""
    above = np.cumsum(spread.counts)
    wanted = share * above[-1]
    i = min(int(np.searchsorted(above, wanted)), len(above) - 1)
    inside = 1 - (above[i] - wanted) / spread.counts[i]
    return float(spread.left[i] + (spread.right[i] - spread.left[i]) * min(max(inside, 0.0), 1.0))


def error(spread: Spread, scale: float, lowest: int, highest: int) -> float:
    """Sum of the squared differences of x and ``scale * clip(round(x / scale), lowest, highest)``.

    The values of a bin count as evenly spread over it.
    """

    def integral(x: np.ndarray) -> np.ndarray:
        # The squared error from 0 to x: each whole step adds scale^3 / 12, the rest adds its cube / 3.
        k = np.clip(np.floor(x / scale + 0.5), lowest, highest)
        return k * (scale**3 / 12) + (x - k * scale) ** 3 / 3

    width = spread.right - spread.left
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = (integral(spread.right) - integral(spread.left)) / width
    point = spread.left - scale * np.clip(np.round(spread.left / scale), lowest, highest)
    # In a bin of a single value, or nearly so, the integral would be lost to rounding.
    return float((np.where(width > 1e-9 * np.abs(spread.right), mean, point**2) * spread.counts).sum())


def _best(top: float, cost: Callable[[float], float]) -> float:
    """The end of a range, at most ``top``, with the least cost: tried in equal ratios, then finer around the best."""
    octaves = min((-i / _COARSE for i in range(_OCTAVES * _COARSE)), key=lambda o: cost(top * 2.0**o))
    around = (octaves + i / _FINE for i in range(-_FINE // _COARSE, _FINE // _COARSE + 1))
    return float(top * 2.0 ** min((o for o in around if o <= 0), key=lambda o: cost(top * 2.0**o)))


def _by_error(spread: Spread, low: float, high: float) -> Limits:
    top = max(-low, high)
    magnitude = _best(top, lambda m: error(spread, m / INT8_LEVELS, -INT8_LEVELS - 1, INT8_LEVELS))
    # With values of both signs, uint8 has two ends to choose. They alternate, and each end gets two turns.
    ends = [low, high]
    for _ in range(2 if low < 0 < high else 1):
        if high > 0:
            ends[1] = _best(high, lambda end: _uint8_error(spread, ends[0], end))
        if low < 0:
            ends[0] = -_best(-low, lambda end: _uint8_error(spread, -end, ends[1]))
    return Limits(magnitude, ends[0], ends[1])


def _uint8_error(spread: Spread, low: float, high: float) -> float:
    scale = (high - low) / UINT8_LEVELS
    zero = round(-low / scale)
    return error(spread, scale, -zero, UINT8_LEVELS - zero)


def _by_entropy(spread: Spread, low: float, high: float) -> Limits:
    magnitudes = _folded(spread)
    top = max(-low, high)
    magnitude = _least_divergent(magnitudes, top, INT8_LEVELS + 1)
    if low < 0 < high:
        return Limits(magnitude, max(low, -magnitude), min(high, magnitude))
    one_sided = _least_divergent(magnitudes, top, UINT8_LEVELS + 1)
    return Limits(magnitude, -one_sided if low < 0 else 0.0, one_sided if high > 0 else 0.0)


def _least_divergent(magnitudes: Spread, top: float, levels: int) -> float:
    """The end of a range of ``levels`` integers, at most ``top``, with the least divergence."""
    # A 0 stays 0 in any range. Zeros would only outweigh the values that differ.
    counted = magnitudes.left > 0
    positive = Spread(magnitudes.left[counted], magnitudes.right[counted], magnitudes.counts[counted])
    if not len(positive.counts):
        return top
    return _best(top, lambda end: _divergence(positive, end, levels))


def _divergence(spread: Spread, top: float, levels: int) -> float:
    """Kullback-Leibler divergence of the quantised from the clipped distribution.

    The clipped distribution has all values beyond ``top`` in its last bin. The quantised one has the values of each of
    ``levels`` integers spread evenly over the occupied bins of that integer.

    Source: Migacz, "8-bit inference with TensorRT" (GTC 2017). Unlike there, every range has the same number of bins,
    since bins of a fixed width are too coarse for ranges far below the maximum.
    """
    edges = np.linspace(0, top, levels * _BINS_PER_LEVEL + 1)
    inside = np.diff(_cumulative(spread, edges)).reshape(levels, _BINS_PER_LEVEL)
    clipped = inside.copy()
    clipped[-1, -1] += spread.counts.sum() - inside.sum()
    occupied = inside > 0
    share = inside.sum(axis=1, keepdims=True) / np.maximum(occupied.sum(axis=1, keepdims=True), 1)
    even = np.where(occupied, share, 0.0)
    if not even.any():
        return np.inf
    true, kept = clipped / clipped.sum(), even / even.sum()
    met = true > 0
    # Where the quantised distribution is 0, a tiny value stands in, so that the term is large but finite.
    return float((true[met] * np.log(true[met] / np.maximum(kept[met], 1e-12))).sum())


def _cumulative(spread: Spread, edges: np.ndarray) -> np.ndarray:
    """How many values lie below each edge. The values of a bin count as evenly spread over it."""
    x = np.stack([spread.left, spread.right], axis=1).reshape(-1)
    below = np.cumsum(spread.counts).astype(np.float64)
    y = np.stack([below - spread.counts, below], axis=1).reshape(-1)
    return np.asarray(np.interp(edges, x, y, left=0.0))

"""What timed runs say: percentiles, spread, and how sure a ratio of two rungs is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ffnet_deploy.artifacts.values import Interval
from ffnet_deploy.bench.result import Phase

_RESAMPLES = 2000
_FEWEST_TURNS = 5
"""Of fewer turns than this no interval is given: it would look surer than it is."""


@dataclass(frozen=True, slots=True)
class Turn:
    """Runs of one rung between two runs of others: milliseconds of each, in the order taken."""

    samples: tuple[float, ...]
    seconds: float
    """From the first run's start to the last one's end; with concurrency less than the samples' sum."""


def percentile(samples: Sequence[float], p: float) -> float:
    """The sample at ``p`` percent, without interpolation: trtexec's formula."""
    ordered = sorted(samples)
    return ordered[max(len(ordered) - 1 - int((100 - p) * len(ordered) / 100), 0)]


def variation(samples: Sequence[float]) -> float:
    """Standard deviation over mean, 0 where all are equal."""
    mean = sum(samples) / len(samples)
    return math.sqrt(sum((s - mean) ** 2 for s in samples) / len(samples)) / mean


@dataclass(frozen=True, slots=True)
class Summary:
    """What a table shows of samples in milliseconds."""

    min_ms: float
    median_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float
    mean_ms: float
    coefficient_of_variation: float


def summary(samples: Sequence[float]) -> Summary:
    """Summarise samples in milliseconds."""
    return Summary(
        min_ms=min(samples),
        median_ms=percentile(samples, 50),
        p90_ms=percentile(samples, 90),
        p95_ms=percentile(samples, 95),
        p99_ms=percentile(samples, 99),
        max_ms=max(samples),
        mean_ms=sum(samples) / len(samples),
        coefficient_of_variation=variation(samples),
    )


def median_ms(turns: Sequence[Turn]) -> float:
    """Cost of a rung by latency: the median of all runs, milliseconds."""
    return percentile([sample for turn in turns for sample in turn.samples], 50)


def seconds_each(turns: Sequence[Turn]) -> float:
    """Cost of a rung by throughput: seconds that a run takes of the wall clock."""
    return sum(turn.seconds for turn in turns) / sum(len(turn.samples) for turn in turns)


def speed_up(
    reference: Sequence[Turn], rung: Sequence[Turn], *, by_wall_clock: bool = False, paired: bool = True
) -> Interval | None:
    """Bootstrap interval of cost(reference) / cost(rung); None with too few turns.

    Runs that follow each other are alike (clocks, caches, other work), so single runs are not resampled: turns are.
    Both rungs' turns of one round stand next to each other in time and are drawn together, so that what disturbed the
    round disturbs numerator and denominator alike.

    Args:
        reference: its turns, one a round.
        rung: its turns in the same rounds.
        by_wall_clock: the cost is ``seconds_each`` and not ``median_ms``.
        paired: both took turns in one run; False draws each by itself, as for runs on two machines.
    """
    if min(len(reference), len(rung)) < _FEWEST_TURNS:
        return None
    assert not paired or len(reference) == len(rung)
    random = np.random.default_rng(0)
    first = _draws(random, len(reference))
    second = first if paired else _draws(random, len(rung))
    costs = _seconds_each if by_wall_clock else _medians
    ratios = costs(reference, first) / costs(rung, second)
    low, high = np.percentile(ratios, [2.5, 97.5])
    return Interval(float(low), float(high))


def _draws(random: np.random.Generator, rounds: int) -> np.ndarray:
    """How often each round is drawn in each resample: int64 (resamples, rounds)."""
    drawn = random.integers(rounds, size=(_RESAMPLES, rounds))
    return np.stack([np.bincount(draw, minlength=rounds) for draw in drawn])


def _seconds_each(turns: Sequence[Turn], counts: np.ndarray) -> np.ndarray:
    """``seconds_each`` of every resample; float (resamples,)."""
    seconds = np.array([turn.seconds for turn in turns])
    return np.asarray(counts @ seconds / (counts @ np.array([len(turn.samples) for turn in turns])))


def _medians(turns: Sequence[Turn], counts: np.ndarray) -> np.ndarray:
    """``median_ms`` of every resample: of all samples in order, each as often as its turn was drawn; (resamples,)."""
    samples = np.array([sample for turn in turns for sample in turn.samples])
    turn_of = np.repeat(np.arange(len(turns)), [len(turn.samples) for turn in turns])
    order = np.argsort(samples)
    samples, turn_of = samples[order], turn_of[order]
    found = []
    for count in counts:
        reached = np.cumsum(count[turn_of])
        total = reached[-1]
        found.append(samples[np.searchsorted(reached, max(total - 1 - total // 2, 0), side="right")])
    return np.array(found)


def median_or_none(samples: Sequence[float]) -> float | None:
    """The median, or None of nothing."""
    return percentile(samples, 50) if samples else None


def phases(starts: Sequence[Mapping[str, float]]) -> dict[str, Phase]:
    """Median, least, largest and all values of every phase of cold starts, by the phase's name."""
    columns = {name: tuple(start[name] for start in starts) for name in starts[0]}
    return {
        name: Phase(median_ms=percentile(values, 50), min_ms=min(values), max_ms=max(values), samples_ms=values)
        for name, values in columns.items()
    }

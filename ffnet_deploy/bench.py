"""Latency of every rung, side by side: each in its own process, taking turns."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ffnet_deploy.runtimes import Rung, open_rung
from ffnet_deploy.runtimes.base import Worker

if TYPE_CHECKING:
    from ffnet_deploy.runtimes.base import Feeds

_TURN_S = 0.5
"""A turn is long against what a switch between processes disturbs, short against the machine's drift."""
_WARM_UP_S = 0.5
_WARM_UP_RUNS = 3


@dataclass(frozen=True, slots=True)
class Latency:
    """Every sample of one rung, in the order taken: milliseconds of one run at the graph's batch."""

    rung: Rung
    samples: tuple[float, ...]

    def percentile(self, p: float) -> float:
        """The sample at ``p`` percent, without interpolation: trtexec's formula."""
        ordered = sorted(self.samples)
        return ordered[max(len(ordered) - 1 - int((100 - p) * len(ordered) / 100), 0)]

    @property
    def median(self) -> float:
        return self.percentile(50)

    def to_json(self) -> dict[str, Any]:
        """Summary and samples as plain JSON values."""
        n = len(self.samples)
        mean = sum(self.samples) / n
        deviation = math.sqrt(sum((s - mean) ** 2 for s in self.samples) / n)
        return {
            "rung": self.rung.name,
            "min_ms": min(self.samples),
            "median_ms": self.median,
            "p90_ms": self.percentile(90),
            "p99_ms": self.percentile(99),
            "max_ms": max(self.samples),
            "mean_ms": mean,
            "coefficient_of_variation": deviation / mean,
            "samples_ms": list(self.samples),
        }


def bench(
    rungs: Sequence[Rung],
    feeds: Sequence[Sequence[Feeds]],
    *,
    iters: int,
    threads: int,
    device: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Latency]:
    """Time every rung for ``iters`` runs on the same inputs; the inputs are on the device.

    Each rung has a process of its own, since ONNX Runtime's spinning threads slow whatever shares their process.
    Rungs take turns, so that the machine's drift meets all alike; a turn starts with one run that is not counted.

    Args:
        rungs: what to time.
        feeds: of each rung, taken in turn; the same images, in the form that the rung takes.
        iters: samples of each rung.
        threads: of every rung.
        device: CUDA device, None for the CPU.
        progress: told (samples taken, samples wanted).

    Raises:
        EngineError, MissingDependencyError, WeightsError: a rung cannot be opened, or its process died.
    """
    with ExitStack() as stack:
        workers = [
            stack.enter_context(Worker(f"the benchmark of {rung.name}", open_rung, rung, threads, device))
            for rung in rungs
        ]
        turns = [_turn_length(worker, mine) for worker, mine in zip(workers, feeds, strict=True)]
        samples: list[list[float]] = [[] for _ in rungs]
        while any(len(taken) < iters for taken in samples):
            for worker, mine, turn, taken in zip(workers, feeds, turns, samples, strict=True):
                runs = min(turn, iters - len(taken))
                if runs > 0:
                    taken += worker.call("latencies", mine, runs + 1)[1:]
                if progress:
                    progress(sum(map(len, samples)), iters * len(rungs))
        return [Latency(rung, tuple(taken)) for rung, taken in zip(rungs, samples, strict=True)]


def _turn_length(worker: Worker, feeds: Sequence[Feeds]) -> int:
    """Warm a rung up, and say how many of its runs fill a turn."""
    start = time.monotonic()
    samples: list[float] = []
    while len(samples) < _WARM_UP_RUNS or time.monotonic() - start < _WARM_UP_S:
        samples += worker.call("latencies", feeds, 1)
    return max(1, round(_TURN_S * 1000 / min(samples)))

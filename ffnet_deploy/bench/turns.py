"""Latency of every rung, side by side: each in its own process, taking turns."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ffnet_deploy.bench.result import Resources, WarmUp
from ffnet_deploy.bench.samples import Turn, median_ms, percentile, seconds_each, variation
from ffnet_deploy.bench.subject import ColdStart, RunSettings, Subject
from ffnet_deploy.machine.threads import threads_spin
from ffnet_deploy.runtimes.rung import Rung
from ffnet_deploy.runtimes.worker import Worker

if TYPE_CHECKING:
    from ffnet_deploy.runtimes.runner import Feeds

_SETTLED = 0.02
"""Two medians that follow each other differ by no more than this share once a rung has settled."""


@dataclass(frozen=True, slots=True)
class BenchPlan:
    """How long everything takes."""

    iters: int
    """Runs of each rung, at least."""
    min_seconds: float = 3.0
    """Time in runs of each rung, at least."""
    rounds: int = 20
    """Turns of each rung, at least, as far as there are runs for them."""
    turn_s: float = 0.5
    """Of the rung that needs least: long against what a switch between processes disturbs, short against drift."""
    warm_up_s: float = 0.5
    """Of each rung, at least."""
    most_warm_up_s: float = 10.0
    """A rung that has not settled by then is timed all the same, and the result says so."""
    block_runs: int = 5
    """Of a warm-up: how many runs make a median that is compared with the one before."""
    spinning: bool = True
    """Whether idle threads spin, as they do in a program of its own. If not, they leave the cores to other work."""


@dataclass(frozen=True, slots=True)
class BenchEntry:
    """A rung with its inputs and settings."""

    rung: Rung
    feeds: Sequence[Feeds]
    job: RunSettings
    subject: Callable[[Rung, Sequence[Feeds], RunSettings], Subject] = Subject
    """Made in the worker; a subclass may open what is no rung of the ladder."""


@dataclass(frozen=True, slots=True)
class Latency:
    """Every run of one rung, in the order taken, at the graph's batch."""

    rung: Rung
    turns: tuple[Turn, ...]
    warm_up: WarmUp
    resources: Resources

    @property
    def samples(self) -> tuple[float, ...]:
        """Milliseconds of each run."""
        return tuple(sample for turn in self.turns for sample in turn.samples)

    @property
    def median(self) -> float:
        """Milliseconds."""
        return median_ms(self.turns)

    @property
    def variation(self) -> float:
        """Standard deviation over mean."""
        return variation(self.samples)

    @property
    def images_per_s(self) -> float:
        """At the concurrency it ran with."""
        return self.rung.shape[0] / seconds_each(self.turns)

    def cost(self, mode: str) -> float:
        """What is compared: milliseconds of a run, or seconds of the wall clock for an image in mode ``throughput``."""
        return 1 / self.images_per_s if mode == "throughput" else self.median


@dataclass(frozen=True, slots=True)
class Cold:
    """Starts of one rung from nothing, each in a process of its own."""

    rung: Rung
    starts: tuple[Mapping[str, float], ...]
    """Milliseconds by phase: ``import``, ``load``, ``first``, ``second``, and ``to_first``."""
    resources: Resources

    def cost(self, _mode: str) -> float:
        """What is compared: milliseconds from nothing to the first result."""
        return percentile([start["to_first"] for start in self.starts], 50)


def take_turns(
    entries: Sequence[BenchEntry], plan: BenchPlan, *, progress: Callable[[int, int], None] | None = None
) -> list[Latency]:
    """Time every rung on the same inputs.

    Each rung has a process of its own, since ONNX Runtime's spinning threads slow whatever shares their process.
    Rungs take turns, one in every round and in alternating order, so that the machine's drift meets all alike; a turn
    starts with one run that is not counted. Rounds go on until every rung has the runs and the seconds of the plan.

    Args:
        entries: what to time.
        plan: how long.
        progress: told (runs taken, runs wanted).

    Raises:
        EngineError, MissingDependencyError, WeightsError: a rung cannot be opened, or its process died.
    """
    with ExitStack() as stack:
        workers = _started(entries, stack)
        warm_ups = [_warm_up(worker, entry.job, plan) for worker, entry in zip(workers, entries, strict=True)]
        runs = _runs_in_a_turn([warm_up.median_ms for warm_up in warm_ups], plan)
        turns: list[list[Turn]] = [[] for _ in entries]
        while not all(_enough(taken, plan) for taken in turns):
            order = range(len(entries)) if len(turns[0]) % 2 == 0 else reversed(range(len(entries)))
            for i in order:
                turns[i].append(_turn(workers[i], runs[i], entries[i].job))
                if progress:
                    progress(sum(min(plan.iters, _count(taken)) for taken in turns), plan.iters * len(entries))
        resources: list[Resources] = [worker.call("resources") for worker in workers]
    return [
        Latency(entry.rung, tuple(taken), warm_up, used)
        for entry, taken, warm_up, used in zip(entries, turns, warm_ups, resources, strict=True)
    ]


def _started(entries: Sequence[BenchEntry], stack: ExitStack) -> list[Worker]:
    # On a GPU one after the other: each reads by how much the GPU's used memory grows while it opens.
    at_once = len(entries) if all(entry.job.device is None for entry in entries) else 1
    with threads_spin(entries[0].job.spinning), ThreadPoolExecutor(at_once) as pool:
        starts = [
            pool.submit(Worker, f"the benchmark of {e.rung.name}", e.subject, e.rung, e.feeds, e.job) for e in entries
        ]
    # All that did start end with the stack, also if one could not.
    for start in starts:
        if start.exception() is None:
            stack.enter_context(start.result())
    return [start.result() for start in starts]


def _turn(worker: Worker, runs: int, job: RunSettings) -> Turn:
    turn: Turn
    if job.mode == "throughput":
        # Runs of several lanes overlap: the one that wakes the caches is a call of its own.
        worker.call("run", job.concurrency)
        turn = worker.call("run", max(runs, job.concurrency))
        return turn
    turn = worker.call("run", runs + 1)
    return Turn(turn.samples[1:], sum(turn.samples[1:]) / 1000)


def _count(turns: Sequence[Turn]) -> int:
    return sum(len(turn.samples) for turn in turns)


def _enough(turns: Sequence[Turn], plan: BenchPlan) -> bool:
    return _count(turns) >= plan.iters and sum(turn.seconds for turn in turns) >= plan.min_seconds


def _warm_up(worker: Worker, job: RunSettings, plan: BenchPlan) -> WarmUp:
    """Run until time is up and the median of a block is that of the block before."""
    start = time.monotonic()
    blocks: list[float] = []
    runs, settled = 0, False
    while True:
        block: list[float] = []
        since = time.monotonic()
        # Fast rungs fill a block with more runs: five of half a millisecond say little.
        while len(block) < plan.block_runs or time.monotonic() - since < plan.warm_up_s / 4:
            # At least one run for every runner.
            block += worker.call("run", job.concurrency if len(block) < plan.block_runs else plan.block_runs).samples
        blocks.append(percentile(block, 50))
        runs += len(block)
        settled = len(blocks) > 1 and abs(blocks[-1] / blocks[-2] - 1) <= _SETTLED
        spent = time.monotonic() - start
        if (settled and spent >= plan.warm_up_s) or (spent >= plan.most_warm_up_s and len(blocks) > 1):
            return WarmUp(spent, runs, settled, blocks[-1])


def _runs_in_a_turn(medians: Sequence[float], plan: BenchPlan) -> list[int]:
    """Runs of each rung in a round, so that all need the same number of rounds."""
    wanted = [max(plan.iters, math.ceil(plan.min_seconds * 1000 / median)) for median in medians]
    shortest = min(runs * median / 1000 for runs, median in zip(wanted, medians, strict=True))
    rounds = min(max(plan.rounds, round(shortest / plan.turn_s)), *wanted)
    return [math.ceil(runs / rounds) for runs in wanted]


def cold_starts(
    entries: Sequence[BenchEntry], repeats: int, *, progress: Callable[[int, int], None] | None = None
) -> list[Cold]:
    """Start every rung ``repeats`` times, each time in a new process, all rungs in turns.

    Files come from the page cache: what a disk adds is not in it.

    Raises:
        EngineError, MissingDependencyError, WeightsError: a rung cannot be opened, or its process died.
    """
    starts: list[list[dict[str, float]]] = [[] for _ in entries]
    resources = [Resources() for _ in entries]
    for _ in range(repeats):
        for i, entry in enumerate(entries):
            what = f"the cold start of {entry.rung.name}"
            with threads_spin(entry.job.spinning), Worker(what, ColdStart, entry.rung, entry.feeds, entry.job) as one:
                starts[i].append(one.call("run"))
                resources[i] = one.call("resources")
            if progress:
                progress(sum(map(len, starts)), repeats * len(entries))
    return [Cold(entry.rung, tuple(taken), used) for entry, taken, used in zip(entries, starts, resources, strict=True)]

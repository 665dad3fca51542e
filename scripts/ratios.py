"""What the benchmark scripts share: rungs that take turns, one ratio of each, and limits that a script is held to."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ffnet_deploy.artifacts.records import now
from ffnet_deploy.artifacts.values import Interval
from ffnet_deploy.bench.doubts import of_machine, of_rung
from ffnet_deploy.bench.result import Doubt, TurnFacts
from ffnet_deploy.bench.samples import speed_up, summary
from ffnet_deploy.bench.turns import BenchEntry, BenchPlan, Latency, take_turns
from ffnet_deploy.machine.environment import describe_environment
from ffnet_deploy.machine.load import Load, Watch, other_work
from ffnet_deploy.runtimes.rung import REFERENCE


@dataclass(frozen=True, slots=True)
class Measured:
    """What took turns on this CPU, and how sure it is."""

    entries: Sequence[BenchEntry]
    plan: BenchPlan
    latencies: Sequence[Latency]
    load: Load
    doubts: Sequence[Doubt]

    @property
    def best_pytorch(self) -> Latency:
        """The fastest of PyTorch's rungs."""
        return min((item for item in self.latencies if item.rung.runtime == REFERENCE), key=lambda item: item.median)

    def named(self, name: str) -> Latency:
        """A rung by its name."""
        return next(item for item in self.latencies if item.rung.name == name)

    def facts(self, model: str) -> dict[str, Any]:
        """What every such result says before its rungs."""
        return {
            "created": now(),
            "model": model,
            "shape": list(self.latencies[0].rung.shape),
            "plan": asdict(self.plan),
            "environment": describe_environment().to_json(),
            "load": asdict(self.load),
            "warnings": [asdict(doubt) for doubt in self.doubts],
            "best_pytorch": self.best_pytorch.rung.name,
        }


def measured(entries: Sequence[BenchEntry], plan: BenchPlan) -> Measured:
    """Let everything take turns in mode ``compute``."""

    def told(done: int, total: int) -> None:
        print(f"{done} of {total}", end="\r", flush=True)

    before = other_work()
    with Watch() as watch:
        found = take_turns(entries, plan, progress=told)
    doubts = [doubt for item in found for doubt in of_rung(item, "compute", on_gpu=False)]
    load = watch.found(before)
    return Measured(entries, plan, found, load, [*doubts, *of_machine(load)])


@dataclass(frozen=True, slots=True)
class Ratio:
    """One rung's time over another's."""

    value: float
    interval: Interval | None
    """None for a rung with itself, and with few turns."""


def ratio(slow: Latency, fast: Latency) -> Ratio:
    """How many times as long ``slow`` takes as ``fast``."""
    return Ratio(slow.median / fast.median, None if slow is fast else speed_up(slow.turns, fast.turns))


def rung(item: Latency, threads: int, name: str, over: Ratio) -> dict[str, Any]:
    """What the pages show of a rung, with every sample.

    Args:
        item: the rung.
        threads: that it had.
        name: of the ratio, as the pages look it up.
        over: the ratio.
    """
    return {
        "rung": item.rung.name,
        "threads": threads,
        **asdict(summary(item.samples)),
        "samples_ms": [round(sample, 3) for sample in item.samples],
        "turns": [asdict(TurnFacts(len(turn.samples), turn.seconds)) for turn in item.turns],
        "warm_up": asdict(item.warm_up),
        **asdict(item.resources),
        name: over.value,
        f"{name}_interval": asdict(over.interval) if over.interval else None,
    }


def arguments(parser: argparse.ArgumentParser, output: Path) -> None:
    """Add how long everything takes, and where the result goes."""
    parser.add_argument("--iters", type=int, default=100, help="runs of each, at least")
    parser.add_argument("--min-seconds", type=float, default=10.0, help="seconds in runs of each, at least")
    parser.add_argument("--output", type=Path, default=output, help="write there instead")


def plan_of(asked: argparse.Namespace) -> BenchPlan:
    """How long everything takes."""
    return BenchPlan(asked.iters, asked.min_seconds, rounds=min(25, asked.iters))


def tell(result: Mapping[str, Any], name: str, text: str) -> None:
    """Print every rung with its ratio, and the warnings."""
    for row in result["rungs"]:
        print(f"{row['rung']:45} {row['median_ms']:9.2f} ms  {row[name]:.2f}{text}")
    for warning in result["warnings"]:
        print(f"warning: {warning['rung'] or ''} {warning['text']}")


def hold(limits: Sequence[Mapping[str, Any]], told: Sequence[str]) -> None:
    """Print each limit and what was found, and exit: 1 if one that applies to this CPU is missed.

    Args:
        limits: each with what was ``found``, whether it ``applies``, and whether it is ``met``.
        told: each in words.
    """
    for limit, text in zip(limits, told, strict=True):
        missed = "missed" if limit["applies"] else "missed, and not asked of this CPU (no VNNI)"
        print(f"{text}: {limit['found']:.2f}, {'met' if limit['met'] else missed}")
    sys.exit(any(limit["applies"] and not limit["met"] for limit in limits))


def has_vnni(flags: Sequence[str]) -> bool:
    """Whether the processor has integer products in one instruction; without VNNI they take three."""
    return any("vnni" in flag for flag in flags)

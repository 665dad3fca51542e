"""From timed runs to the figures of a result: summaries, speed-ups and their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from ffnet_deploy.artifacts.values import Interval
from ffnet_deploy.bench.options import BenchOptions
from ffnet_deploy.bench.result import RungLatency, RungStarts, TurnFacts
from ffnet_deploy.bench.samples import phases, speed_up, summary
from ffnet_deploy.bench.turns import Cold, Latency
from ffnet_deploy.ladder import facts_of
from ffnet_deploy.runtimes.rung import REFERENCE

Timed = Latency | Cold


def fastest_pytorch(timed: Sequence[Timed], options: BenchOptions) -> Timed:
    """The fastest of PyTorch's rungs."""
    ours = [item for item in timed if item.rung.runtime == REFERENCE]
    return min(ours, key=lambda item: item.cost(options.mode))


def rungs_of(timed: Sequence[Timed], options: BenchOptions) -> tuple[RungLatency | RungStarts, ...]:
    """Every rung with its figures.

    Args:
        timed: the reference first.
        options: what was asked for.
    """
    first, best = timed[0], fastest_pytorch(timed, options)
    return tuple(_rung(item, first, best, options) for item in timed)


def _rung(item: Timed, first: Timed, best: Timed, options: BenchOptions) -> RungLatency | RungStarts:
    cost = item.cost(options.mode)
    facts = asdict(facts_of(item.rung, options.device))
    faster, over_pytorch = first.cost(options.mode) / cost, best.cost(options.mode) / cost
    if isinstance(item, Cold):
        return RungStarts(
            **facts,
            resources=item.resources,
            speed_up=faster,
            speed_up_interval=None,
            speed_up_fastest_pytorch=over_pytorch,
            phases=phases(item.starts),
        )
    return RungLatency(
        **facts,
        resources=item.resources,
        speed_up=faster,
        speed_up_interval=_interval(item, first, options),
        speed_up_fastest_pytorch=over_pytorch,
        **asdict(summary(item.samples)),
        images_per_s=item.images_per_s,
        samples_ms=item.samples,
        turns=tuple(TurnFacts(len(turn.samples), turn.seconds) for turn in item.turns),
        warm_up=item.warm_up,
    )


def _interval(item: Latency, first: Timed, options: BenchOptions) -> Interval | None:
    if item is first or not isinstance(first, Latency):
        return None
    return speed_up(first.turns, item.turns, by_wall_clock=options.mode == "throughput")

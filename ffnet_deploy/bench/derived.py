"""A benchmark read back: every figure that follows from its samples is computed anew, and none is believed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict

import numpy as np

from ffnet_deploy.artifacts.values import Interval
from ffnet_deploy.bench.result import PHASES, BenchmarkFile, RungLatency, RungStarts
from ffnet_deploy.bench.samples import Turn, median_ms, percentile, phases, seconds_each, speed_up, summary
from ffnet_deploy.runtimes.rung import REFERENCE

AnyRung = RungLatency | RungStarts
_IN_ORDER = 1e-9
"""Share by which sums over the same samples may differ between versions of Python."""
_LANES_BEGIN = 0.5
"""Share of a turn's runs that may lie outside its seconds: lanes may begin before the clock is read."""


def turns_of(rung: RungLatency) -> list[Turn]:
    """The turns with their samples."""
    turns, at = [], 0
    for turn in rung.turns:
        turns.append(Turn(rung.samples_ms[at : at + turn.runs], turn.seconds))
        at += turn.runs
    return turns


def cost_of(rung: AnyRung, mode: str) -> float:
    """What is compared: milliseconds of a run or a start; seconds of the wall clock for a run in mode throughput."""
    if isinstance(rung, RungStarts):
        return percentile(rung.phases["to_first"].samples_ms, 50)
    turns = turns_of(rung)
    return seconds_each(turns) if mode == "throughput" else median_ms(turns)


def check_derived(file: BenchmarkFile) -> None:
    """Check that a benchmark is one, and that what it derives follows from what it measured.

    Raises:
        ValueError: it is not, or does not; the message names the rung and the figure.
    """
    _check_whole(file)
    for rung in file.rungs:
        _check_measured(rung, file)
    costs = {rung.rung: cost_of(rung, file.mode) for rung in file.rungs}
    first, fastest = file.rungs[0], file.fastest_pytorch
    least = min(costs[rung.rung] for rung in file.rungs if rung.runtime == REFERENCE)
    if not math.isclose(costs.get(fastest, 0.0), least, rel_tol=_IN_ORDER):
        raise ValueError(f"fastest_pytorch: {fastest} is not the fastest of PyTorch's rungs")
    same_draws = file.environment.tools.get("numpy") == np.__version__
    for rung in file.rungs:
        true = dict(_figures(rung, file))
        true["speed_up"] = costs[first.rung] / costs[rung.rung]
        true["speed_up_fastest_pytorch"] = least / costs[rung.rung]
        wrong = next((name for name, value in true.items() if not _same(_stated(rung, name), value)), None)
        if wrong:
            raise ValueError(f"{rung.rung}: {wrong} is not what its samples give")
        _check_interval(rung, first, file.mode, same_draws=same_draws)


def _check_whole(file: BenchmarkFile) -> None:
    names = [rung.rung for rung in file.rungs]
    if len(set(names)) != len(names):
        raise ValueError("a rung is there twice")
    expected: list[RungLatency] | list[RungStarts] = file.starts if file.mode == "cold" else file.latencies
    if len(expected) != len(file.rungs) or not file.rungs:
        raise ValueError(f"no figures of mode {file.mode}")
    if names[0] != f"{REFERENCE} fp32":
        raise ValueError(f"the first rung is {names[0]}, and not the reference")
    misnamed = [r.rung for r in file.rungs if not f"{r.rung} ".startswith(f"{r.runtime} {r.precision} ")]
    if misnamed:
        raise ValueError(f"{misnamed[0]} is not of its runtime and precision")
    strangers = [doubt.rung for doubt in file.warnings if doubt.rung is not None and doubt.rung not in names]
    if strangers:
        raise ValueError(f"it warns of {strangers[0]}, and has no such rung")
    if file.shape[1] != 3:
        raise ValueError(f"its input has {file.shape[1]} channels, and not 3")
    if (file.min_seconds is None) != (file.mode == "cold") or (file.concurrency > 1 and file.mode != "throughput"):
        raise ValueError(f"min_seconds or concurrency does not go with mode {file.mode}")
    if len({len(rung.turns) for rung in file.latencies}) > 1:
        raise ValueError("its rungs took different numbers of turns")


def _check_measured(rung: AnyRung, file: BenchmarkFile) -> None:
    if isinstance(rung, RungStarts):
        _check_starts(rung, file.iters)
        return
    if not rung.samples_ms or sum(turn.runs for turn in rung.turns) != len(rung.samples_ms):
        raise ValueError(f"{rung.rung}: its turns do not fit its samples")
    for turn in turns_of(rung):
        runs_s = sum(turn.samples) / 1000
        if file.mode == "throughput":
            fits = turn.seconds * file.concurrency >= _LANES_BEGIN * runs_s
        else:
            fits = math.isclose(turn.seconds, runs_s, rel_tol=_IN_ORDER)
        if not fits:
            raise ValueError(f"{rung.rung}: a turn of {turn.seconds:g} s does not fit its samples")


def _check_starts(rung: RungStarts, starts: int) -> None:
    counts = {len(phase.samples_ms) for phase in rung.phases.values()}
    if set(rung.phases) != set(PHASES) or counts != {starts}:
        raise ValueError(f"{rung.rung}: its phases are not those of its {starts} starts")
    parts = ("import", "load", "first", "to_first")
    for *spent, total in zip(*(rung.phases[name].samples_ms for name in parts), strict=True):
        if not math.isclose(sum(spent), total, rel_tol=_IN_ORDER):
            raise ValueError(f"{rung.rung}: to_first is not the sum of import, load and first")


def _figures(rung: AnyRung, file: BenchmarkFile) -> Iterator[tuple[str, float]]:
    """Figures that follow from a rung's own samples, by their place."""
    if isinstance(rung, RungLatency):
        yield from asdict(summary(rung.samples_ms)).items()
        yield "images_per_s", file.shape[0] / seconds_each(turns_of(rung))
        return
    samples = {name: phase.samples_ms for name, phase in rung.phases.items()}
    starts = [{name: samples[name][i] for name in PHASES} for i in range(file.iters)]
    for name, phase in phases(starts).items():
        for field in ("median_ms", "min_ms", "max_ms"):
            yield f"phases.{name}.{field}", getattr(phase, field)


def _stated(rung: AnyRung, place: str) -> float:
    if isinstance(rung, RungStarts) and place.startswith("phases."):
        _, phase, field = place.split(".")
        return float(getattr(rung.phases[phase], field))
    return float(getattr(rung, place))


def _check_interval(rung: AnyRung, first: AnyRung, mode: str, *, same_draws: bool) -> None:
    stated, true = rung.speed_up_interval, None
    if rung is not first and isinstance(rung, RungLatency) and isinstance(first, RungLatency):
        true = speed_up(turns_of(first), turns_of(rung), by_wall_clock=mode == "throughput")
    # Another version of NumPy may draw other turns.
    if (stated is None) != (true is None) or (same_draws and not _same_interval(stated, true)):
        raise ValueError(f"{rung.rung}: speed_up_interval is not what its turns give")


def _same_interval(stated: Interval | None, true: Interval | None) -> bool:
    if stated is None or true is None:
        return stated is true
    return _same(stated.low, true.low) and _same(stated.high, true.high)


def _same(stated: float, true: float) -> bool:
    return math.isclose(stated, true, rel_tol=_IN_ORDER, abs_tol=1e-12)

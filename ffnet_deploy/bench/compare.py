"""Two benchmarks compared: two times, versions or machines."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ffnet_deploy.artifacts.records import now
from ffnet_deploy.artifacts.values import Interval
from ffnet_deploy.bench.result import BENCH_SCHEMA, BenchmarkFile, Doubt, RungLatency, RungStarts, read_benchmark
from ffnet_deploy.errors import FFNetDeployError, GateError, UsageError, facts_of_error

_NOT_SETTINGS = ("environment.load_average",)


@dataclass(frozen=True, slots=True)
class ComparedRung:
    """One rung in both."""

    rung: str
    before: float
    """Milliseconds; images per second in mode ``throughput``."""
    after: float
    slowdown: float
    """Time of the second over time of the first, in every mode."""
    interval: Interval | None
    """95 % interval of ``slowdown``; None with too few turns, and in mode ``cold``."""
    other_file: bool
    """Whether the two were taken with different files."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A setting or a part of the environment that is not the same."""

    what: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Warned:
    """What one of the two benchmarks says against its own figures."""

    file: str
    """``A`` or ``B``."""
    kind: str
    rung: str | None
    """Whose figure; None is everyone's."""
    text: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """What two benchmarks say of the same model in the same mode."""

    files: tuple[str, str]
    model: str
    mode: str
    batch: int
    rungs: tuple[ComparedRung, ...]
    only_in_a: tuple[str, ...]
    only_in_b: tuple[str, ...]
    differences: tuple[Difference, ...]
    warnings: tuple[Warned, ...]
    max_slowdown: float | None
    failure: FFNetDeployError | None = None
    created: str = field(default_factory=now)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        values = asdict(replace(self, failure=None))
        del values["failure"]
        error = facts_of_error(self.failure)
        head = {"schema": BENCH_SCHEMA, "command": "compare", "created": values.pop("created")}
        return {**head, **values, "error": error and asdict(error)}


def compare(before: Path, after: Path, max_slowdown: float | None = None) -> Comparison:
    """Compare two benchmarks.

    Args:
        before: what ``bench --json`` wrote.
        after: the same of another time, version or machine.
        max_slowdown: gate on every rung's time of ``after`` over its time of ``before``.

    Raises:
        UsageError: the gate makes no sense, or the two measure different things.
        ArtifactError: a file is absent, or no benchmark's JSON of this version.
    """
    if max_slowdown is not None and not (math.isfinite(max_slowdown) and max_slowdown > 0):
        raise UsageError(f"--max-slowdown {max_slowdown} is no gate (a ratio above 0 was needed). Say: 1.05")
    first, second = read_benchmark(before), read_benchmark(after)
    _check_same(before, after, first, second)
    ours, theirs = ({rung.rung: rung for rung in side.rungs} for side in (first, second))
    both = [name for name in ours if name in theirs]
    if not both:
        raise UsageError(f"{before} and {after} have no rung in common. Name two benchmarks of the same engines.")
    result = Comparison(
        files=(str(before), str(after)),
        model=first.model,
        mode=first.mode,
        batch=first.shape[0],
        rungs=tuple(_compared(first, ours[name], theirs[name]) for name in both),
        only_in_a=tuple(name for name in ours if name not in theirs),
        only_in_b=tuple(name for name in theirs if name not in ours),
        differences=tuple(_differences(first, second)),
        warnings=(*_warnings("A", first.warnings), *_warnings("B", second.warnings)),
        max_slowdown=max_slowdown,
    )
    return _gated(result)


def _check_same(before: Path, after: Path, first: BenchmarkFile, second: BenchmarkFile) -> None:
    same = {
        "modes": (first.mode, second.mode),
        "models": (first.model, second.model),
        "input shapes": (first.shape, second.shape),
    }
    for what, (a, b) in same.items():
        if a != b:
            raise UsageError(
                f"{before} and {after} have different {what} ({a} and {b}), so their figures say nothing of each "
                "other. Name two that agree."
            )


def _warnings(file: str, doubts: tuple[Doubt, ...]) -> list[Warned]:
    return [Warned(file, doubt.kind, doubt.rung, doubt.text) for doubt in doubts]


def _compared(file: BenchmarkFile, before: RungLatency | RungStarts, after: RungLatency | RungStarts) -> ComparedRung:
    """One rung of both, from the samples: a derived figure in a file is never believed."""
    from ffnet_deploy.bench.derived import cost_of, turns_of
    from ffnet_deploy.bench.samples import speed_up

    by_wall_clock = file.mode == "throughput"
    costs = cost_of(before, file.mode), cost_of(after, file.mode)
    interval = None
    if isinstance(before, RungLatency) and isinstance(after, RungLatency):
        # A slow-down is how many times as fast the first is.
        interval = speed_up(turns_of(after), turns_of(before), by_wall_clock=by_wall_clock, paired=False)
    figures = (file.shape[0] / costs[0], file.shape[0] / costs[1]) if by_wall_clock else costs
    other_file = before.sha256 != after.sha256
    return ComparedRung(before.rung, *figures, costs[1] / costs[0], interval, other_file=other_file)


def _differences(first: BenchmarkFile, second: BenchmarkFile) -> list[Difference]:
    a, b = _settings(first), _settings(second)
    return [
        Difference(key.removeprefix("environment."), a.get(key, "-"), b.get(key, "-"))
        for key in dict.fromkeys((*a, *b))
        if a.get(key) != b.get(key)
    ]


def _settings(file: BenchmarkFile) -> dict[str, str]:
    flat = _flat(
        {
            "threads": file.threads,
            "concurrency": file.concurrency,
            "iters": file.iters,
            "min_seconds": file.min_seconds,
            "graph_sha256": file.graph_sha256,
            "weights_sha256": file.weights_sha256,
            "marks": file.marks,
            "environment": asdict(file.environment),
            "gpu": asdict(file.load.gpu) if file.load.gpu else {},
        }
    )
    return {key: value for key, value in flat.items() if key not in _NOT_SETTINGS}


def _flat(values: Mapping[str, object], prefix: str = "") -> dict[str, str]:
    """Leaves by dotted path, as text; lists are leaves."""
    found: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return found


def _gated(result: Comparison) -> Comparison:
    limit = result.max_slowdown
    if limit is None:
        return result
    slower = "; ".join(
        f"{row.rung} takes {row.slowdown:.3f} of the time" for row in result.rungs if not row.slowdown <= limit
    )
    told, remedies = [], []
    if slower:
        told.append(f"{slower} that it took before (at most {limit:g} was allowed)")
        remedies.append(
            "Look at what differs above, measure both again on a quiet machine, or allow more with --max-slowdown."
        )
    if result.only_in_a:
        told.append(f"only in A: {', '.join(result.only_in_a)} (with --max-slowdown every rung of A was needed in B)")
        remedies.append("Build what B lacks and measure it again, or leave --max-slowdown out.")
    return replace(result, failure=GateError(f"{'; '.join(told)}. {' '.join(remedies)}")) if told else result

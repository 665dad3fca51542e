"""Two benchmarks side by side: two times, versions or machines."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ffnet_deploy.errors import ArtifactError, FFNetDeployError, GateError, UsageError
from ffnet_deploy.pipeline.bench import BENCH_SCHEMA, MODES
from ffnet_deploy.pipeline.ladder import error_json

if TYPE_CHECKING:
    from ffnet_deploy.bench import Turn

_SAME = {"mode": "modes", "model": "models", "shape": "input shapes"}
"""What two benchmarks must have in common; ``shape`` holds the batch."""
_REMEDY = "Name a file that `ffnet-deploy bench --json FILE` wrote."
_NOT_SETTINGS = ("environment.load_average",)
_SETTINGS = ("threads", "concurrency", "iters", "min_seconds", "graph_sha256", "weights_sha256", "marks")


@dataclass(frozen=True, slots=True)
class Row:
    """One rung in both."""

    rung: str
    before: float
    """Milliseconds; images per second in mode ``throughput``."""
    after: float
    slowdown: float
    """Time of the second over time of the first, in every mode."""
    interval: tuple[float, float] | None
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

    paths: tuple[str, str]
    model: str
    mode: str
    batch: int
    rows: list[Row]
    alone: dict[str, list[str]]
    """Rungs that only ``A`` or only ``B`` has."""
    differences: list[Difference]
    warnings: list[Warned]
    max_slowdown: float | None
    failure: FFNetDeployError | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "schema": BENCH_SCHEMA,
            "command": "compare",
            "files": list(self.paths),
            "model": self.model,
            "mode": self.mode,
            "batch": self.batch,
            "rungs": [{**asdict(row), "interval": list(row.interval) if row.interval else None} for row in self.rows],
            "only_in_a": self.alone["A"],
            "only_in_b": self.alone["B"],
            "differences": [asdict(difference) for difference in self.differences],
            "warnings": [asdict(warning) for warning in self.warnings],
            "max_slowdown": self.max_slowdown,
            "error": error_json(self.failure),
        }


def compare(before: Path, after: Path, max_slowdown: float | None = None) -> Comparison:
    """Lay two benchmarks side by side.

    Raises:
        UsageError: the gate makes no sense, or the two measure different things.
        ArtifactError: a file is absent, or no benchmark's JSON of this version.
    """
    if max_slowdown is not None and not (math.isfinite(max_slowdown) and max_slowdown > 0):
        raise UsageError(f"--max-slowdown {max_slowdown} is no gate (a ratio above 0 was needed). Say: 1.05")
    first, second = _load(before), _load(after)
    for key, what in _SAME.items():
        if first[key] != second[key]:
            raise UsageError(
                f"{before} and {after} have different {what} ({first[key]} and {second[key]}), so their figures "
                "say nothing of each other. Name two that agree."
            )
    rungs = [{rung["rung"]: rung for rung in side["rungs"]} for side in (first, second)]
    both = [name for name in rungs[0] if name in rungs[1]]
    if not both:
        raise UsageError(f"{before} and {after} have no rung in common. Name two benchmarks of the same engines.")
    result = Comparison(
        paths=(str(before), str(after)),
        model=first["model"],
        mode=first["mode"],
        batch=first["shape"][0],
        rows=[_row(first["mode"], rungs[0][name], rungs[1][name]) for name in both],
        alone={
            "A": [name for name in rungs[0] if name not in rungs[1]],
            "B": [name for name in rungs[1] if name not in rungs[0]],
        },
        differences=_differences(first, second),
        warnings=[*_warnings("A", first), *_warnings("B", second)],
        max_slowdown=max_slowdown,
    )
    return _gated(result)


def _load(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read ({error.strerror}). {_REMEDY}") from error
    except ValueError as error:
        raise ArtifactError(f"{path} is no JSON ({error}). {_REMEDY}") from error
    command = values.get("command") if isinstance(values, dict) else None
    if command != "bench":
        what = f"a result of {command!r}" if command else "no result of ffnet-deploy"
        raise ArtifactError(f"{path} is {what} (one of 'bench' was needed). {_REMEDY}")
    if values.get("schema") != BENCH_SCHEMA:
        raise ArtifactError(
            f"{path} has schema {values.get('schema')!r} ({BENCH_SCHEMA} was needed). Measure again with this version."
        )
    if "rungs" not in values:
        told = values.get("error") or {}
        raise ArtifactError(f"{path} holds an error and no figures ({told.get('message')}). {_REMEDY}")
    if values.get("mode") not in MODES:
        raise UsageError(f"{path} is of mode {values.get('mode')!r} ({', '.join(MODES)} are compared). {_REMEDY}")
    try:
        for rung in values["rungs"]:
            _cost(values["mode"], rung)
            _ = rung["rung"], rung["sha256"], values["environment"]["tools"], values["shape"][0], values["model"]
            _ = values["mode"] == "cold" or _turns(rung)
        _warnings("", values)
    except (LookupError, TypeError, ValueError) as error:
        raise ArtifactError(f"{path} is damaged: {error!r} in it. {_REMEDY}") from error
    return dict(values)


def _warnings(file: str, values: Mapping[str, Any]) -> list[Warned]:
    return [Warned(file, told["kind"], told["rung"], told["text"]) for told in values["warnings"]]


def _cost(mode: str, rung: Mapping[str, Any]) -> float:
    """The figure that a mode is about: milliseconds, or images per second; more than 0."""
    if mode == "cold":
        value = rung["phases"]["to_first"]["median_ms"]
    else:
        value = rung["images_per_s" if mode == "throughput" else "median_ms"]
    if not (isinstance(value, int | float) and value > 0):
        raise ValueError(f"a figure of {value!r}")
    return float(value)


def _row(mode: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Row:
    from ffnet_deploy.bench.samples import speed_up

    costs = _cost(mode, before), _cost(mode, after)
    wall = mode == "throughput"
    # A slow-down is how many times as fast the first is.
    found = None if mode == "cold" else speed_up(_turns(after), _turns(before), by_wall_clock=wall, paired=False)
    return Row(
        rung=before["rung"],
        before=costs[0],
        after=costs[1],
        slowdown=costs[0] / costs[1] if wall else costs[1] / costs[0],
        interval=None if found is None else (found.low, found.high),
        other_file=before["sha256"] != after["sha256"],
    )


def _turns(rung: Mapping[str, Any]) -> list[Turn]:
    from ffnet_deploy.bench.samples import Turn

    samples, turns, at = [float(sample) for sample in rung["samples_ms"]], [], 0
    for turn in rung["turns"]:
        turns.append(Turn(tuple(samples[at : at + turn["runs"]]), float(turn["seconds"])))
        at += turn["runs"]
    if at != len(samples) or not all(turn.samples and turn.seconds > 0 for turn in turns):
        raise ValueError("turns that do not fit the samples")
    return turns


def _differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[Difference]:
    sides = []
    for values in (first, second):
        gpu = (values.get("load") or {}).get("gpu") or {}
        chosen = {key: values.get(key) for key in _SETTINGS}
        flat = _flat({**chosen, "environment": values["environment"], "gpu": gpu})
        sides.append({key: value for key, value in flat.items() if key not in _NOT_SETTINGS})
    a, b = sides
    return [
        Difference(key.removeprefix("environment."), a.get(key, "-"), b.get(key, "-"))
        for key in dict.fromkeys((*a, *b))
        if a.get(key) != b.get(key)
    ]


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Leaves by dotted path, as text; lists are leaves."""
    found: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = " ".join(map(str, value)) if isinstance(value, list) else str(value)
    return found


def _gated(result: Comparison) -> Comparison:
    limit = result.max_slowdown
    if limit is None:
        return result
    slower = "; ".join(
        f"{row.rung} takes {row.slowdown:.3f} of the time" for row in result.rows if not row.slowdown <= limit
    )
    told, remedies = [], []
    if slower:
        told.append(f"{slower} that it took before (at most {limit:g} was allowed)")
        remedies.append(
            "Look at what differs above, measure both again on a quiet machine, or allow more with --max-slowdown."
        )
    if result.alone["A"]:
        told.append(f"only in A: {', '.join(result.alone['A'])} (with --max-slowdown every rung of A was needed in B)")
        remedies.append("Build what B lacks and measure it again, or leave --max-slowdown out.")
    return replace(result, failure=GateError(f"{'; '.join(told)}. {' '.join(remedies)}")) if told else result

"""What a benchmark found: one value that is measured, written as JSON, read back and shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le

from ffnet_deploy.artifacts.reading import error_without_result, schema_of
from ffnet_deploy.artifacts.sealing import parse_sealed, sealed
from ffnet_deploy.artifacts.values import Count, Interval, NotNegative, Positive, Shape, Size
from ffnet_deploy.bench.options import Mode
from ffnet_deploy.errors import ArtifactError, ErrorFacts, FFNetDeployError
from ffnet_deploy.ladder import RungFacts, SkippedRung
from ffnet_deploy.machine.environment import Environment
from ffnet_deploy.machine.load import Load

BENCH_SCHEMA = 4
"""Version of the layout that docs/bench-json.md describes."""
_REMEDY = "Name a file that `ffnet-deploy bench --json FILE` wrote."
PHASES = ("import", "load", "first", "second", "to_first")
"""Of a start: the last one is the first three together."""

# From the clock's nanosecond to thirty years: what is computed from them stays finite.
Milliseconds = Annotated[float, Ge(1e-6), Le(1e12)]
Seconds = Annotated[float, Ge(1e-9), Le(1e9)]


@dataclass(frozen=True, slots=True)
class Doubt:
    """One thing that makes a figure say less than it seems to."""

    kind: str
    """``unstable``, ``not-settled``, ``launch-bound``, ``transfer-bound``, ``throttled`` or ``other-work``."""
    rung: str | None
    """Whose figure; None is everyone's."""
    text: str


@dataclass(frozen=True, slots=True)
class Resources:
    """What a rung took besides time; None where it is not known."""

    peak_host_bytes: Count | None = None
    """Most memory that the rung's process ever had resident."""
    device_bytes: int | None = None
    """By how much the used memory of the GPU grew."""
    enqueue_ms: NotNegative | None = None
    """Median time that the CPU takes to enqueue a run on the GPU."""
    upload_ms: NotNegative | None = None
    download_ms: NotNegative | None = None


@dataclass(frozen=True, slots=True)
class TurnFacts:
    """Runs of one rung between two runs of others, in the order taken."""

    runs: Size
    seconds: Seconds
    """From the first run's start to the last one's end; with concurrency less than the runs' sum."""


@dataclass(frozen=True, slots=True)
class WarmUp:
    """What came before the first run that counts."""

    seconds: NotNegative
    runs: Size
    settled: bool
    """Whether the running median had stopped moving."""
    median_ms: Positive
    """Of the last block of runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedRung(RungFacts):
    """One rung and how much faster it is than the reference."""

    resources: Resources
    speed_up: Positive
    """How many times as fast as the reference."""
    speed_up_interval: Interval | None
    """None for the reference itself, with fewer than five turns, and in mode ``cold``."""
    speed_up_fastest_pytorch: Positive


@dataclass(frozen=True, slots=True, kw_only=True)
class RungLatency(TimedRung):
    """Every run of one rung."""

    kind: Literal["latency"] = "latency"
    min_ms: Positive
    median_ms: Positive
    p90_ms: Positive
    p95_ms: Positive
    p99_ms: Positive
    max_ms: Positive
    mean_ms: Positive
    coefficient_of_variation: NotNegative
    images_per_s: Positive
    """At the concurrency it ran with."""
    samples_ms: tuple[Milliseconds, ...]
    """Of each run, in the order taken."""
    turns: tuple[TurnFacts, ...]
    warm_up: WarmUp


@dataclass(frozen=True, slots=True)
class Phase:
    """One phase of cold starts."""

    median_ms: NotNegative
    min_ms: NotNegative
    max_ms: NotNegative
    samples_ms: tuple[Milliseconds, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RungStarts(TimedRung):
    """Starts of one rung from nothing, each in a process of its own."""

    kind: Literal["starts"] = "starts"
    phases: Mapping[str, Phase]
    """``import``, ``load``, ``first``, ``second``, and ``to_first``: the first three together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkFile:
    """What ``bench --json`` writes."""

    schema: int = BENCH_SCHEMA
    command: Literal["bench"] = "bench"
    created: str
    model: str
    """Stem of the graph's file name."""
    mode: Mode
    shape: Shape
    iters: Size
    min_seconds: NotNegative | None
    """None in mode ``cold``."""
    concurrency: Size
    threads: Size
    marks: tuple[str, ...]
    graph_sha256: str
    weights_sha256: str
    rungs: tuple[RungLatency | RungStarts, ...]
    """The reference first."""
    fastest_pytorch: str
    skipped: tuple[SkippedRung, ...]
    warnings: tuple[Doubt, ...]
    load: Load
    """What else the machine did before and during the measurement, and its clocks."""
    environment: Environment
    error: ErrorFacts | None

    @property
    def latencies(self) -> list[RungLatency]:
        """The rungs; empty in mode ``cold``."""
        return [rung for rung in self.rungs if isinstance(rung, RungLatency)]

    @property
    def starts(self) -> list[RungStarts]:
        """The rungs in mode ``cold``; empty in all other modes."""
        return [rung for rung in self.rungs if isinstance(rung, RungStarts)]


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A benchmark, and the error that the command ends with although there is a result."""

    file: BenchmarkFile
    failure: FFNetDeployError | None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, sealed; docs/bench-json.md says what they mean."""
        return sealed(asdict(self.file))


def read_benchmark(path: Path) -> BenchmarkFile:
    """Read and validate what ``bench --json`` wrote.

    Raises:
        ArtifactError: absent, no benchmark of this version, damaged, or an error without a result.
    """
    try:
        text = path.read_bytes()
        schema, command = schema_of(text)
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read ({error.strerror}). {_REMEDY}") from error
    except ValueError as error:
        raise ArtifactError(f"{path} is no JSON ({error}). {_REMEDY}") from error
    if command != "bench":
        what = f"a result of {command!r}" if command else "no result of ffnet-deploy"
        raise ArtifactError(f"{path} is {what} (one of 'bench' was needed). {_REMEDY}")
    if schema != BENCH_SCHEMA:
        raise ArtifactError(f"{path} has schema {schema!r} ({BENCH_SCHEMA} was needed). Measure again.")
    try:
        file = parse_sealed(BenchmarkFile, text)
        # Imported late: it needs NumPy.
        from ffnet_deploy.bench.derived import check_derived

        check_derived(file)
    except ValueError as error:
        failed = error_without_result(text)
        if failed:
            raise ArtifactError(f"{path} has no figures ({failed}). {_REMEDY}") from error
        # A name from the file may hold line breaks.
        why = " ".join(str(error).split())
        raise ArtifactError(f"{path} is damaged, or holds no latencies ({why}). {_REMEDY}") from error
    return file

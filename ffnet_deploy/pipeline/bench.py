"""Latency of the reference and of every rung that can run here."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ffnet_deploy import artifacts, machine, runtimes
from ffnet_deploy.artifacts import Workspace
from ffnet_deploy.errors import FFNetDeployError, UsageError
from ffnet_deploy.pipeline.current import Graph, Progress, current_graph, quiet, street_feeds
from ffnet_deploy.pipeline.ladder import Skipped, device_in_use, device_of, error_json, ladder, rung_json
from ffnet_deploy.runtimes import Ends, Rung

if TYPE_CHECKING:
    from ffnet_deploy.bench import Cold, Entry, Latency
    from ffnet_deploy.bench.doubts import Doubt

BENCH_SCHEMA = 2
"""Version of the layout that docs/bench-json.md describes."""
MODES = ("compute", "end-to-end", "throughput", "cold")

_TOOLS = ("torch", "onnx", "onnxruntime-gpu", "onnxruntime", "numpy", "tensorrt", "tensorrt-rtx", "pycuda")
_MOST_THREADS = 256
_MOST_CONCURRENCY = 64
_FEEDS = 4
"""Inputs in turn: with one alone a cache as large as the input would make it look faster."""


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """What ``bench`` can be asked for."""

    mode: str = "compute"
    iters: int | None = None
    """Runs of each rung, at least; starts in mode ``cold``. None is 200, and 5."""
    min_seconds: float = 3.0
    concurrency: int | None = None
    """None is 1; given in mode ``throughput`` only."""
    device: int | None = None
    threads: int | None = None
    """None is all cores."""

    @property
    def runs(self) -> int:
        """``iters``, or the mode's default."""
        return self.iters if self.iters is not None else 5 if self.mode == "cold" else 200


@dataclass(frozen=True, slots=True)
class Benchmark:
    """Latencies of the reference (first) and of every rung that could run."""

    model: str
    shape: tuple[int, int, int, int]
    options: BenchOptions
    threads: int
    latencies: list[Latency]
    """Empty in mode ``cold``."""
    starts: list[Cold]
    """Empty in all other modes."""
    intervals: tuple[tuple[float, float] | None, ...]
    """95 % intervals of each rung's speed-up; None for the reference, with too few turns, and in mode ``cold``."""
    skipped: tuple[Skipped, ...]
    marks: tuple[str, ...]
    hashes: dict[str, str]
    """SHA-256 of the graph, the weights, and every rung's file by the rung's name."""
    environment: dict[str, Any]
    load: dict[str, Any]
    """What else the machine did before and during the measurement, and its clocks."""
    doubts: tuple[Doubt, ...]
    failure: FFNetDeployError | None
    """What the command ends with although there is a result."""
    created: str = field(default_factory=artifacts.now)

    @property
    def mode(self) -> str:
        return self.options.mode

    def cost(self, i: int) -> float:
        """What is compared: milliseconds, or seconds of the wall clock for an image in mode ``throughput``."""
        if self.mode == "cold":
            return self.starts[i].median("to_first")
        return 1 / self.latencies[i].images_per_s if self.mode == "throughput" else self.latencies[i].median

    @property
    def rungs(self) -> list[Rung]:
        """Everything that was timed, the reference first."""
        return [item.rung for item in (self.starts if self.mode == "cold" else self.latencies)]

    @property
    def fastest_pytorch(self) -> int:
        """Index of the fastest of PyTorch's rungs."""
        ours = [i for i, rung in enumerate(self.rungs) if rung.runtime == runtimes.REFERENCE]
        return min(ours, key=self.cost)

    def speed_up(self, i: int, against: int = 0) -> float:
        """How many times as fast as another rung, by default the reference."""
        return self.cost(against) / self.cost(i)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; docs/bench-json.md tells what they mean."""
        return {
            "schema": BENCH_SCHEMA,
            "command": "bench",
            "created": self.created,
            "model": self.model,
            "mode": self.mode,
            "shape": list(self.shape),
            "batch": self.shape[0],
            "iters": self.options.runs,
            "min_seconds": None if self.mode == "cold" else self.options.min_seconds,
            "concurrency": self.options.concurrency or 1,
            "threads": self.threads,
            "marks": list(self.marks),
            "graph_sha256": self.hashes["graph"],
            "weights_sha256": self.hashes["weights"],
            "rungs": [self._rung_json(i) for i in range(len(self.rungs))],
            "fastest_pytorch": self.rungs[self.fastest_pytorch].name,
            "skipped": [{"rung": s.rung.name, "reason": s.reason} for s in self.skipped],
            "warnings": [doubt.to_json() for doubt in self.doubts],
            "load": self.load,
            "environment": self.environment,
            "error": error_json(self.failure),
        }

    def _rung_json(self, i: int) -> dict[str, Any]:
        rung = self.rungs[i]
        timed: Cold | Latency = self.starts[i] if self.mode == "cold" else self.latencies[i]
        return {
            **rung_json(rung, self.options.device),
            "sha256": self.hashes.get(rung.name),
            **timed.to_json(),
            **({} if self.mode == "cold" else {"images_per_s": self.latencies[i].images_per_s}),
            "speed_up": self.speed_up(i),
            "speed_up_interval": list(interval) if (interval := self.intervals[i]) else None,
            "speed_up_fastest_pytorch": self.speed_up(i, self.fastest_pytorch),
        }


def bench(
    workspace: Workspace, name: str | None, options: BenchOptions | None = None, progress: Progress = quiet
) -> Benchmark:
    """Time the reference, PyTorch's faster ways, and every rung that can run here, side by side.

    Raises:
        UsageError: the options make no sense, or do not fit together.
        ArtifactError: no current graph, or a damaged or stale engine.
        EngineError, MissingDependencyError, WeightsError: a rung cannot be opened, or its process died.
    """
    from ffnet_deploy.machine.load import Watch, other_work

    options = options or BenchOptions()
    check(options)
    graph = current_graph(workspace, name)
    found = ladder(workspace, graph)
    # After everything that may be wrong: they load NumPy.
    from ffnet_deploy import bench as measure
    from ffnet_deploy.bench import doubts

    threads = runtimes.default_threads() if options.threads is None else options.threads
    rungs = [*pytorch_rungs(found.reference, options.device), *found.running]
    progress("drawing inputs", 0, None)
    entries = _entries(rungs, graph, options, threads)
    before = other_work()

    def told(done: int, total: int) -> None:
        progress("measuring", done, total)

    latencies: list[Latency] = []
    starts: list[Cold] = []
    with Watch(device_in_use(rungs, options.device)) as watch:
        if options.mode == measure.COLD:
            starts = measure.cold(entries, options.runs, progress=told)
        else:
            plan = measure.Plan(options.runs, options.min_seconds)
            latencies = measure.bench(entries, plan, progress=told)
    seen = [
        doubt
        for item in latencies
        for doubt in doubts.of_rung(item, options.mode, device_of(item.rung, options.device) is not None)
    ]
    return Benchmark(
        model=graph.stem,
        shape=graph.shape,
        options=options,
        threads=threads,
        latencies=latencies,
        starts=starts,
        intervals=_intervals(latencies, options) if latencies else (None,) * len(starts),
        skipped=found.skipped,
        marks=found.marks,
        hashes=_hashes(graph, rungs),
        environment=environment(),
        load={"other_work_before": before, **watch.to_json()},
        doubts=(*seen, *doubts.of_machine(before, watch)),
        failure=found.nothing_ran(),
    )


def _intervals(latencies: Sequence[Latency], options: BenchOptions) -> tuple[tuple[float, float] | None, ...]:
    from ffnet_deploy.bench.samples import speed_up

    first, *others = latencies
    wall = options.mode == "throughput"
    found = (speed_up(first.turns, item.turns, by_wall_clock=wall) for item in others)
    return (None, *(None if interval is None else (interval.low, interval.high) for interval in found))


def check(options: BenchOptions) -> None:
    """Refuse what makes no sense, before anything is loaded.

    Raises:
        UsageError: it does not.
        MissingDependencyError: there is no such GPU.
    """
    if options.runs < 1:
        raise UsageError(f"--iters {options.iters} measures nothing (1 or more was needed). Leave it out for 200.")
    if not (math.isfinite(options.min_seconds) and options.min_seconds >= 0):
        raise UsageError(f"--min-seconds {options.min_seconds} is no time (0 or more was needed). Leave it out for 3.")
    if options.mode not in MODES:
        raise UsageError(f"--mode {options.mode} is not known ({', '.join(MODES)} are). Name one of them.")
    if options.concurrency is not None and options.mode != "throughput":
        raise UsageError(
            f"--concurrency does not go with --mode {options.mode}. Say --mode throughput, or leave it out."
        )
    if options.concurrency is not None and not 1 <= options.concurrency <= _MOST_CONCURRENCY:
        raise UsageError(
            f"--concurrency {options.concurrency} makes no sense (1 to {_MOST_CONCURRENCY} were needed). Leave it out."
        )
    if options.threads is not None and not 1 <= options.threads <= _MOST_THREADS:
        raise UsageError(
            f"--threads {options.threads} makes no sense (1 to {_MOST_THREADS} were needed). Leave it out."
        )
    runtimes.check_device(options.device)


def pytorch_rungs(reference: Rung, device: int | None) -> list[Rung]:
    """The reference, and what PyTorch offers without leaving it: what an engine must beat to be worth building."""
    styles = [("fp32", "channels-last")]
    if device is not None:
        styles += [("fp32", "compiled"), ("fp16", ""), ("fp16", "channels-last"), ("fp16", "channels-last compiled")]
    return [reference, *(replace(reference, precision=p, variant=v) for p, v in styles)]


def _entries(rungs: Sequence[Rung], graph: Graph, options: BenchOptions, threads: int) -> list[Entry]:
    """Every rung with the same images, in the form that it takes in this mode."""
    from ffnet_deploy.bench import END_TO_END, Entry, Job

    job = Job(options.mode, threads, options.device, options.concurrency or 1)
    drawn: dict[tuple[bool, str], list[dict[str, Any]]] = {}
    entries = []
    for rung in rungs:
        whole = options.mode == END_TO_END
        if whole and rung.runtime == runtimes.REFERENCE:
            # On its device, as the engines with both ends do it.
            rung = replace(rung, ends=Ends(image_in=True, labels_out=True))
        ends = Ends(image_in=True) if whole else rung.ends
        key = (ends.image_in, ends.io)
        if key not in drawn:
            drawn[key] = street_feeds(graph.shape, _FEEDS, ends)
        entries.append(Entry(rung, drawn[key], replace(job, device=device_of(rung, options.device))))
    return entries


def _hashes(graph: Graph, rungs: Sequence[Rung]) -> dict[str, str]:
    weights = graph.record.sources["weights"]["sha256"]
    found = {"graph": graph.record.sha256, "weights": weights}
    for rung in rungs:
        if rung.runtime == runtimes.REFERENCE:
            found[rung.name] = weights
        elif rung.path is not None:
            # The ladder has held the file to its record.
            found[rung.name] = artifacts.load_record(rung.path, remedy="ffnet-deploy build", check=False).sha256
    return found


def environment() -> dict[str, Any]:
    """What a figure rests on: processor, cores, load, versions."""
    return {
        **machine.describe(),
        "cores": runtimes.default_threads(),
        "load_average": list(os.getloadavg()),
        "system": platform.platform(),
        "gpus": runtimes.visible_gpus(),
        "tools": artifacts.tool_versions(*_TOOLS),
    }

"""Where the time goes: every engine that can run here, layer by layer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ffnet_deploy import artifacts, runtimes
from ffnet_deploy.artifacts import Workspace
from ffnet_deploy.errors import FFNetDeployError, UsageError
from ffnet_deploy.pipeline.bench import BENCH_SCHEMA, BenchOptions, check, environment
from ffnet_deploy.pipeline.current import Progress, current_graph, quiet, street_feeds
from ffnet_deploy.pipeline.ladder import Skipped, device_in_use, device_of, error_json, ladder, rung_json
from ffnet_deploy.runtimes import Rung

if TYPE_CHECKING:
    from ffnet_deploy.bench.doubts import Doubt
    from ffnet_deploy.bench.profile import Layer, Peaks

_RUNS = 20
_FEEDS = 4


@dataclass(frozen=True, slots=True)
class Profiled:
    """One rung and its layers in the order of execution."""

    rung: Rung
    layers: list[Layer]
    held_to_peaks: bool = True
    """Whether the peaks are those of its device."""

    @property
    def total_ms(self) -> float:
        """The layers' medians together."""
        return sum(layer.median_ms for layer in self.layers)


@dataclass(frozen=True, slots=True)
class Profile:
    """Time by layer of every rung that could run; profiling perturbs, so it is no latency."""

    model: str
    shape: tuple[int, int, int, int]
    runs: int
    threads: int
    device: int | None
    rungs: list[Profiled]
    peaks: Peaks
    skipped: tuple[Skipped, ...]
    marks: tuple[str, ...]
    graph_sha256: str
    environment: dict[str, Any]
    load: dict[str, Any]
    doubts: tuple[Doubt, ...]
    failure: FFNetDeployError | None
    created: str = field(default_factory=artifacts.now)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; docs/bench-json.md tells what they mean."""
        return {
            "schema": BENCH_SCHEMA,
            "command": "bench",
            "created": self.created,
            "model": self.model,
            "mode": "profile",
            "shape": list(self.shape),
            "batch": self.shape[0],
            "iters": self.runs,
            "threads": self.threads,
            "marks": list(self.marks),
            "graph_sha256": self.graph_sha256,
            "peaks": self.peaks.to_json(),
            "rungs": [
                {
                    **rung_json(item.rung, self.device),
                    "total_ms": item.total_ms,
                    "layers": [layer.to_json() for layer in item.layers],
                }
                for item in self.rungs
            ],
            "skipped": [{"rung": s.rung.name, "reason": s.reason} for s in self.skipped],
            "warnings": [doubt.to_json() for doubt in self.doubts],
            "load": self.load,
            "environment": self.environment,
            "error": error_json(self.failure),
        }


def profile(
    workspace: Workspace, name: str | None, options: BenchOptions | None = None, progress: Progress = quiet
) -> Profile:
    """Time every layer of every engine that can run here, each in a process of its own.

    Raises:
        UsageError: the options make no sense, or are of another mode.
        ArtifactError: no current graph, or a damaged or stale engine.
        EngineError, MissingDependencyError: an engine cannot be loaded, or its process died.
    """
    from ffnet_deploy.machine.load import Watch, other_work

    options = options or BenchOptions()
    check(options)
    if options.mode != "compute":
        raise UsageError(f"--profile does not go with --mode {options.mode}: it times layers. Leave one of them out.")
    graph = current_graph(workspace, name)
    found = ladder(workspace, graph)
    import onnx

    from ffnet_deploy.bench.doubts import of_machine
    from ffnet_deploy.bench.profile import PeakMeter, Profiler, named
    from ffnet_deploy.bench.subject import Job
    from ffnet_deploy.runtimes.base import Worker

    threads = runtimes.default_threads() if options.threads is None else options.threads
    runs = _RUNS if options.iters is None else options.iters
    job = Job("compute", threads, options.device)
    model = onnx.load(graph.path)
    before = other_work()
    profiled = []
    with Watch(device_in_use(found.running, options.device)) as watch:
        progress("measuring peaks", 0, None)
        with Worker("the measurement of peaks", PeakMeter, threads, options.device) as meter:
            peaks: Peaks = meter.call("measure")
        for i, rung in enumerate(found.running):
            progress("profiling", i, len(found.running))
            feeds = street_feeds(graph.shape, _FEEDS, rung.ends)
            with Worker(f"the profile of {rung.name}", Profiler, rung, feeds, job) as worker:
                times = worker.call("layers", runs)
            assert rung.path is not None
            built = artifacts.load_record(rung.path, remedy="ffnet-deploy build", check=False).found.get("precision")
            # Peaks of another device say nothing of this one's layers.
            same = device_of(rung, options.device) == options.device
            profiled.append(Profiled(rung, named(times, model, peaks if same else None, built), same))
    return Profile(
        model=graph.stem,
        shape=graph.shape,
        runs=runs,
        threads=threads,
        device=options.device,
        rungs=profiled,
        peaks=peaks,
        skipped=found.skipped,
        marks=found.marks,
        graph_sha256=graph.record.sha256,
        environment=environment(),
        load={"other_work_before": before, **watch.to_json()},
        doubts=tuple(of_machine(before, watch)),
        failure=found.nothing_ran(),
    )

"""Where the time goes: every engine that can run here, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from ffnet_deploy.artifacts.records import EngineRecord, load_record, now
from ffnet_deploy.artifacts.workspace import Workspace
from ffnet_deploy.bench.options import BenchOptions
from ffnet_deploy.bench.profiled import Peaks, Profile, ProfiledRung, ProfileFile
from ffnet_deploy.errors import UsageError, facts_of_error
from ffnet_deploy.graph.current import Graph, current_graph
from ffnet_deploy.ladder import device_in_use, device_of, facts_of, ladder
from ffnet_deploy.machine.devices import default_threads
from ffnet_deploy.machine.environment import describe_environment
from ffnet_deploy.progress import Progress, quiet
from ffnet_deploy.runtimes.rung import Rung
from ffnet_deploy.synthetic.feeds import street_feeds

if TYPE_CHECKING:
    from ffnet_deploy.bench.profiled import LayerTiming
    from ffnet_deploy.bench.subject import RunSettings

_RUNS = 20
_FEEDS = 4


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

    options = _checked(options or BenchOptions())
    graph = current_graph(workspace, name)
    found = ladder(graph)

    from ffnet_deploy.bench.doubts import of_machine
    from ffnet_deploy.bench.subject import RunSettings

    settings = RunSettings("compute", options.threads or default_threads(), options.device)
    runs = options.iters or _RUNS
    before = other_work()
    with Watch(device_in_use(found.running, options.device)) as watch:
        progress("measuring peaks", 0, None)
        peaks = _peaks(settings)
        rungs = _profiled(graph, found.running, settings, runs, peaks, progress)
    load = watch.found(before)
    failure = found.nothing_ran()
    return Profile(
        ProfileFile(
            created=now(),
            model=graph.name.stem,
            shape=graph.shape,
            iters=runs,
            threads=settings.threads,
            marks=found.marks,
            graph_sha256=graph.record.file.sha256,
            peaks=peaks,
            rungs=tuple(rungs),
            skipped=tuple(item.facts for item in found.skipped),
            warnings=tuple(of_machine(load)),
            load=load,
            environment=describe_environment(),
            error=facts_of_error(failure),
        ),
        failure,
    )


def _checked(options: BenchOptions) -> BenchOptions:
    options.check()
    if options.mode != "compute":
        raise UsageError(f"--profile does not go with --mode {options.mode}: it times layers. Leave one of them out.")
    return options


def _peaks(settings: RunSettings) -> Peaks:
    from ffnet_deploy.bench.profiler import PeakMeter
    from ffnet_deploy.machine.threads import threads_spin
    from ffnet_deploy.runtimes.worker import Worker

    with threads_spin(), Worker("the measurement of peaks", PeakMeter, settings.threads, settings.device) as meter:
        peaks: Peaks = meter.call("measure")
    return peaks


def _profiled(
    graph: Graph, rungs: Sequence[Rung], settings: RunSettings, runs: int, peaks: Peaks, progress: Progress
) -> list[ProfiledRung]:
    from ffnet_deploy.bench.profiler import Profiler, named
    from ffnet_deploy.runtimes.worker import Worker

    model = graph.load()
    found = []
    for i, rung in enumerate(rungs):
        progress("profiling", i, len(rungs))
        assert rung.path is not None
        feeds = street_feeds(graph.shape, _FEEDS, rung.ends)
        with Worker(f"the profile of {rung.name}", Profiler, rung, feeds, settings) as worker:
            times = worker.call("layers", runs)
        built = load_record(rung.path, EngineRecord, remedy=str(graph.run("build")), check=False).found.precision
        # Peaks of another device say nothing of this one's layers.
        same = device_of(rung, settings.device) == settings.device
        layers: Sequence[LayerTiming] = named(times, model, peaks if same else None, built)
        found.append(
            ProfiledRung(
                **asdict(facts_of(rung, settings.device)),
                total_ms=sum(layer.median_ms for layer in layers),
                held_to_peaks=same,
                layers=tuple(layers),
            )
        )
    return found

"""Latency of the reference and of every rung that can run here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ffnet_deploy.artifacts.records import now
from ffnet_deploy.artifacts.values import Ends
from ffnet_deploy.artifacts.workspace import Workspace
from ffnet_deploy.bench.options import BenchOptions
from ffnet_deploy.bench.result import Benchmark, BenchmarkFile, Doubt
from ffnet_deploy.errors import facts_of_error
from ffnet_deploy.graph.current import Graph, current_graph
from ffnet_deploy.ladder import Ladder, device_in_use, device_of, ladder, pytorch_rungs
from ffnet_deploy.machine.devices import default_threads
from ffnet_deploy.machine.environment import describe_environment
from ffnet_deploy.progress import Progress, quiet
from ffnet_deploy.runtimes.rung import REFERENCE, Rung
from ffnet_deploy.synthetic.feeds import street_feeds

if TYPE_CHECKING:
    import numpy as np

    from ffnet_deploy.bench.figures import Timed
    from ffnet_deploy.bench.subject import RunSettings
    from ffnet_deploy.bench.turns import BenchEntry, BenchPlan
    from ffnet_deploy.machine.load import Load

_FEEDS = 4
"""Inputs in turn: with one alone a cache as large as the input would make it look faster."""


def bench(
    workspace: Workspace,
    name: str | None,
    options: BenchOptions | None = None,
    progress: Progress = quiet,
    plan: BenchPlan | None = None,
) -> Benchmark:
    """Time the reference, PyTorch's faster ways, and every rung that can run here, side by side.

    Args:
        workspace: where graph and engines are.
        name: of the model; None is the one exported last.
        options: what to time, and how long.
        progress: told how many runs are done.
        plan: how long warm-ups and turns take; by default what ``options`` ask for.

    Raises:
        UsageError: the options make no sense, or do not fit together.
        ArtifactError: no current graph, or a damaged or stale engine.
        EngineError, MissingDependencyError, WeightsError: a rung cannot be opened, or its process died.
    """
    from ffnet_deploy.machine.load import Watch, other_work

    options = options or BenchOptions()
    options.check()
    graph = current_graph(workspace, name)
    found = ladder(graph)
    # After everything that may be wrong: they load NumPy.
    from ffnet_deploy.bench.doubts import of_machine
    from ffnet_deploy.bench.subject import RunSettings
    from ffnet_deploy.bench.turns import BenchPlan

    plan = plan or BenchPlan(options.runs, options.min_seconds)
    threads = options.threads or default_threads()
    settings = RunSettings(options.mode, threads, options.device, options.concurrency or 1, plan.spinning)
    rungs = [*pytorch_rungs(found.reference, options.device), *found.running]
    progress("drawing inputs", 0, None)
    entries = _entries(rungs, graph, settings)
    before = other_work()
    with Watch(device_in_use(rungs, options.device)) as watch:
        timed = _timed(entries, options, plan, progress)
    load = watch.found(before)
    doubts = (*_doubts(timed, options), *of_machine(load))
    return _result(graph, found, options, timed, threads, doubts, load)


def _result(
    graph: Graph,
    found: Ladder,
    options: BenchOptions,
    timed: Sequence[Timed],
    threads: int,
    doubts: tuple[Doubt, ...],
    load: Load,
) -> Benchmark:
    from ffnet_deploy.bench import figures

    failure = found.nothing_ran()
    file = BenchmarkFile(
        created=now(),
        model=graph.name.stem,
        mode=options.mode,
        shape=graph.shape,
        iters=options.runs,
        min_seconds=None if options.cold else options.min_seconds,
        concurrency=options.concurrency or 1,
        threads=threads,
        marks=found.marks,
        graph_sha256=graph.record.file.sha256,
        weights_sha256=graph.record.weights.sha256,
        rungs=figures.rungs_of(timed, options),
        fastest_pytorch=figures.fastest_pytorch(timed, options).rung.name,
        skipped=tuple(item.facts for item in found.skipped),
        warnings=doubts,
        load=load,
        environment=describe_environment(),
        error=facts_of_error(failure),
    )
    return Benchmark(file, failure)


def _timed(
    entries: Sequence[BenchEntry], options: BenchOptions, plan: BenchPlan, progress: Progress
) -> Sequence[Timed]:
    from ffnet_deploy.bench.turns import cold_starts, take_turns

    def told(done: int, total: int) -> None:
        progress("measuring", done, total)

    if options.cold:
        return cold_starts(entries, options.runs, progress=told)
    return take_turns(entries, plan, progress=told)


def _doubts(timed: Sequence[Timed], options: BenchOptions) -> list[Doubt]:
    from ffnet_deploy.bench.doubts import of_rung
    from ffnet_deploy.bench.turns import Latency

    return [
        doubt
        for item in timed
        if isinstance(item, Latency)
        for doubt in of_rung(item, options.mode, device_of(item.rung, options.device) is not None)
    ]


def _entries(rungs: Sequence[Rung], graph: Graph, settings: RunSettings) -> list[BenchEntry]:
    """Every rung with the same images, in the form that it takes in this mode."""
    from ffnet_deploy.bench.turns import BenchEntry

    whole = settings.mode == "end-to-end"
    drawn: dict[tuple[bool, str], list[dict[str, np.ndarray]]] = {}
    entries = []
    for rung in rungs:
        if whole and rung.runtime == REFERENCE:
            # On its device, as the engines with both ends do it.
            rung = replace(rung, ends=Ends(image_in=True, labels_out=True))
        ends = Ends(image_in=True) if whole else rung.ends
        key = (ends.image_in, ends.io)
        if key not in drawn:
            drawn[key] = street_feeds(graph.shape, _FEEDS, ends)
        entries.append(BenchEntry(rung, drawn[key], replace(settings, device=device_of(rung, settings.device))))
    return entries

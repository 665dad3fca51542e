"""Latency of the reference and of every rung that can run here."""

from __future__ import annotations

import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ffnet_deploy import artifacts, runtimes
from ffnet_deploy.artifacts import Workspace
from ffnet_deploy.errors import FFNetDeployError, UsageError
from ffnet_deploy.pipeline.current import Progress, current_graph, quiet, street_feeds
from ffnet_deploy.pipeline.ladder import Skipped, error_json, ladder, rung_json

if TYPE_CHECKING:
    from ffnet_deploy.bench import Latency

_TOOLS = ("torch", "onnx", "onnxruntime-gpu", "onnxruntime", "numpy", "tensorrt", "tensorrt-rtx", "pycuda")
_MOST_THREADS = 256


@dataclass(frozen=True, slots=True)
class Benchmark:
    """Latencies of the reference (first) and of every rung that could run."""

    model: str
    batch: int
    iters: int
    threads: int
    device: int | None
    latencies: list[Latency]
    skipped: tuple[Skipped, ...]
    marks: tuple[str, ...]
    environment: dict[str, Any]
    other_work: float
    """Share of the processor that others took just before, 0..1."""
    failure: FFNetDeployError | None
    """What the command ends with although there is a result."""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        first = self.latencies[0].median
        return {
            "schema": artifacts.SCHEMA,
            "command": "bench",
            "model": self.model,
            "mode": "compute",
            "batch": self.batch,
            "iters": self.iters,
            "threads": self.threads,
            "marks": list(self.marks),
            "rungs": [
                {**item.to_json(), **rung_json(item.rung, self.device), "speed_up": first / item.median}
                for item in self.latencies
            ],
            "skipped": [{"rung": s.rung.name, "reason": s.reason} for s in self.skipped],
            "other_work": self.other_work,
            "environment": self.environment,
            "error": error_json(self.failure),
        }


def bench(
    workspace: Workspace,
    name: str | None,
    *,
    iters: int,
    device: int | None = None,
    threads: int | None = None,
    progress: Progress = quiet,
) -> Benchmark:
    """Time the reference and every rung that can run here, side by side.

    Raises:
        ArtifactError: no current graph, or a damaged or stale engine.
        EngineError, MissingDependencyError, WeightsError: a rung cannot be opened, or its process died.
    """
    from ffnet_deploy.bench import bench as measure

    if iters < 1:
        raise UsageError(f"--iters {iters} measures nothing (1 or more was needed). Leave it out for 200.")
    if threads is not None and not 1 <= threads <= _MOST_THREADS:
        raise UsageError(f"--threads {threads} makes no sense (1 to {_MOST_THREADS} were needed). Leave it out.")
    runtimes.check_device(device)
    graph = current_graph(workspace, name)
    rungs = ladder(workspace, graph)
    threads = runtimes.default_threads() if threads is None else threads
    others = other_work()
    timed = (rungs.reference, *rungs.running)
    latencies = measure(
        timed,
        [street_feeds(graph.shape, 2, rung.ends) for rung in timed],
        iters=iters,
        threads=threads,
        device=device,
        progress=lambda done, total: progress("measuring", done, total),
    )
    return Benchmark(
        model=graph.stem,
        batch=graph.shape[0],
        iters=iters,
        threads=threads,
        device=device,
        latencies=latencies,
        skipped=rungs.skipped,
        marks=tuple(graph.record.marks),
        environment=environment(),
        other_work=others,
        failure=rungs.nothing_ran(),
    )


def other_work(seconds: float = 0.5) -> float:
    """Share of all cores that is busy while this process sleeps, 0..1; 0 where the system does not tell."""
    before = _busy_and_total()
    time.sleep(seconds)
    after = _busy_and_total()
    if before is None or after is None or after[1] == before[1]:
        return 0.0
    return (after[0] - before[0]) / (after[1] - before[1])


def _busy_and_total() -> tuple[int, int] | None:
    try:
        ticks = [int(word) for word in Path("/proc/stat").read_text("utf-8").split("\n", 1)[0].split()[1:9]]
    except (OSError, ValueError):
        return None
    idle = ticks[3] + ticks[4]  # waiting for a disk is no work
    return sum(ticks) - idle, sum(ticks)


def environment() -> dict[str, Any]:
    """What a figure rests on: processor, cores, load, versions."""
    return {
        "processor": _processor(),
        "cores": runtimes.default_threads(),
        "load_average": list(os.getloadavg()),
        "system": platform.platform(),
        "gpus": runtimes.visible_gpus(),
        "tools": artifacts.tool_versions(*_TOOLS),
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()

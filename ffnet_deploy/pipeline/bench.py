"""Latency of the reference and of every rung that can run here."""

from __future__ import annotations

import os
import platform
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
    load_before: float
    """Of the machine, averaged over the minute before."""
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
            "load_before": self.load_before,
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
    load = os.getloadavg()[0]
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
        load_before=load,
        failure=rungs.nothing_ran(),
    )


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

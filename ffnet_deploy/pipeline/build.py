"""From the current graph to engines."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ffnet_deploy import artifacts, runtimes
from ffnet_deploy.artifacts import Record, Workspace
from ffnet_deploy.errors import MissingDependencyError
from ffnet_deploy.pipeline.current import Graph, Progress, current_graph, quiet


@dataclass(frozen=True, slots=True)
class Built:
    """An engine and its record."""

    path: Path
    record: Record


def build(
    workspace: Workspace,
    name: str | None,
    precisions: Sequence[str],
    runtime: str = "auto",
    *,
    progress: Progress = quiet,
) -> list[Built]:
    """Build engines from the current graph.

    Args:
        workspace: where the graph is and the engines go.
        name: of the model; None is the one exported last.
        precisions: of ``fp32`` and ``fp16``; none means FP32.
        runtime: one of ``runtimes.RUNTIMES`` or ``auto``.
        progress: told what is being built.

    Raises:
        ArtifactError: no current graph, or the workspace cannot be written.
        MissingDependencyError: the runtime is absent, or cannot do what was asked.
        PrecisionError, EngineError: the graph cannot be converted, or the runtime refuses it.
    """
    graph = current_graph(workspace, name)
    jobs = plan(precisions or ("fp32",), runtime)
    results = []
    for i, (precision, target) in enumerate(jobs):
        progress(f"building {target} {precision}", i, len(jobs))
        source = graph if precision == "fp32" else _half_graph(workspace, graph)
        results.append(_build_one(workspace, graph, source, precision, target))
    return results


def plan(precisions: Sequence[str], runtime: str) -> list[tuple[str, str]]:
    """(precision, runtime) pairs to build.

    ``auto`` is TensorRT where it and a GPU are, else TensorRT-RTX, and ONNX Runtime's FP32 engine besides: it is the
    rung that runs anywhere.

    Raises:
        MissingDependencyError: ONNX Runtime was asked for an FP16 engine.
    """
    if runtime == "auto":
        installed = runtimes.visible_gpus() and runtimes.reason_not_here("tensorrt") is None
        chosen = "tensorrt" if installed else "tensorrt-rtx"
        return [(precision, chosen) for precision in precisions] + [("fp32", "onnxruntime")]
    if runtime == "onnxruntime" and "fp16" in precisions:
        raise MissingDependencyError(
            "ONNX Runtime has no FP16 engine on a CPU: it computes FP16 graphs in FP32. "
            "Run: ffnet-deploy build --fp16 --runtime tensorrt-rtx"
        )
    return [(precision, runtime) for precision in precisions]


def _half_graph(workspace: Workspace, graph: Graph) -> Graph:
    """The FP16 graph beside the FP32 one, made again."""
    import onnx

    from ffnet_deploy.graph.fp16 import to_fp16

    started = time.monotonic()
    path = workspace.graph(graph.stem, "fp16")
    data = to_fp16(onnx.load(graph.path)).SerializeToString(deterministic=True)
    artifacts.write_bytes(path, data)
    record = Record(
        kind="graph",
        model=graph.record.model,
        precision="fp16",
        sha256=artifacts.sha256_of(path),
        size=len(data),
        sources={"graph": {"file": graph.path.name, "sha256": graph.record.sha256}},
        options={**graph.record.options, "io": "fp32"},
        marks=graph.record.marks,
        seconds=round(time.monotonic() - started, 3),
        tools=artifacts.tool_versions("onnx", "numpy"),
        created=artifacts.now(),
    )
    artifacts.save_record(path, record)
    return Graph(path, record)


def _build_one(workspace: Workspace, graph: Graph, source: Graph, precision: str, runtime: str) -> Built:
    started = time.monotonic()
    path = workspace.engine(graph.stem, precision, runtime)
    with artifacts.replacing(path) as part:
        found = _run_builder(runtime, source.path, part)
    record = Record(
        kind="engine",
        model=graph.record.model,
        precision=precision,
        runtime=runtime,
        sha256=artifacts.sha256_of(path),
        size=path.stat().st_size,
        sources={
            "graph": {"file": source.path.name, "sha256": source.record.sha256},
            "exported": {"file": graph.path.name, "sha256": graph.record.sha256},
        },
        options={"shape": list(graph.shape)},
        found=found,
        marks=graph.record.marks,
        seconds=round(time.monotonic() - started, 3),
        tools=artifacts.tool_versions("tensorrt", "tensorrt-rtx", "polygraphy", "onnxruntime-gpu", "onnxruntime"),
        created=artifacts.now(),
    )
    artifacts.save_record(path, record)
    return Built(path, record)


def _run_builder(runtime: str, graph: Path, engine: Path) -> dict[str, Any]:
    if runtime == "onnxruntime":
        from ffnet_deploy.runtimes import onnxruntime

        return onnxruntime.build(graph, engine)
    import onnx

    from ffnet_deploy.graph.facts import macs_by_node
    from ffnet_deploy.runtimes.base import Worker
    from ffnet_deploy.runtimes.tensorrt import TensorRTBuilder

    macs = macs_by_node(onnx.load(graph))
    with Worker(f"the {runtime} build", TensorRTBuilder, runtime) as worker:
        found: dict[str, Any] = worker.call("build", graph, engine, macs)
        return found

"""INT8 on this CPU against what it must beat: FP32, PyTorch eager and channels-last, and OpenVINO's INT8.

Needs the demo's workspace; ``calibrate`` and ``build --int8`` are done where they are missing. All take turns in one
run, by the method of ``bench``, with the same threads. OpenVINO gets the same Q/DQ graph as ONNX Runtime; beside them
stands INT8 with exact sums, which CPUs without VNNI pay for. Writes docs/measurements/int8_cpu.json, from which
``make docs`` fills docs/performance.md. Exit 1 if INT8 misses a limit that applies to this CPU. Run it on a machine
that does nothing else; it says when that was not so.

Run: make bench-int8
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from ffnet_deploy import artifacts, pipeline
from ffnet_deploy.artifacts import Workspace
from ffnet_deploy.bench import COMPUTE, Entry, Job, Latency, Plan, Subject, bench, speed_up
from ffnet_deploy.bench.doubts import of_machine, of_rung
from ffnet_deploy.errors import ArtifactError
from ffnet_deploy.machine.load import Watch, other_work
from ffnet_deploy.pipeline.bench import pytorch_rungs
from ffnet_deploy.pipeline.calibrate import current_calibration
from ffnet_deploy.pipeline.current import current_graph, street_feeds
from ffnet_deploy.pipeline.ladder import ladder
from ffnet_deploy.runtimes import REFERENCE, Rung, default_threads
from ffnet_deploy.runtimes.base import TensorSpec
from ffnet_deploy.runtimes.onnxruntime import OnnxRuntimeRunner

if TYPE_CHECKING:
    from ffnet_deploy.runtimes.base import Feeds

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "measurements" / "int8_cpu.json"
MODEL = "segmentation_ffnet46NS_CCC_mobile"
OURS, FP32, OPENVINO = "onnxruntime int8", "onnxruntime fp32", "openvino int8"
BEST_PYTORCH = "best of PyTorch"


class Exact(Subject):
    """ONNX Runtime without the sums that saturate on CPUs without VNNI."""

    def _open(self, rung: Rung, threads: int) -> OnnxRuntimeRunner:
        assert rung.path
        return OnnxRuntimeRunner(rung.path, threads=threads, exact=True)


class OpenVino(Subject):
    """A graph in OpenVINO."""

    def _open(self, rung: Rung, threads: int) -> OpenVinoRunner:
        assert rung.path
        return OpenVinoRunner(rung.path, threads)


class OpenVinoRunner:
    """Runs a graph with OpenVINO on the CPU, with one stream."""

    parallel = False

    def __init__(self, graph: Path, threads: int) -> None:
        import openvino

        core = openvino.Core()
        options = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
        compiled = core.compile_model(core.read_model(graph), "CPU", options)
        self._request = compiled.create_infer_request()
        self.inputs: Sequence[TensorSpec] = [TensorSpec("image", tuple(compiled.input(0).shape), "float32")]
        self.outputs: Sequence[TensorSpec] = [TensorSpec("logits", tuple(compiled.output(0).shape), "float32")]

    def __call__(self, feeds: Feeds) -> dict[str, np.ndarray]:
        found = self._request.infer({0: feeds["image"]}, share_inputs=True)
        return {"logits": np.asarray(found[0])}

    def latencies(self, feeds: Sequence[Feeds], iters: int) -> list[float]:
        samples = []
        for feed in itertools.islice(itertools.cycle(feeds), iters):
            start = time.perf_counter_ns()
            self._request.infer({0: feed["image"]}, share_inputs=True)
            samples.append((time.perf_counter_ns() - start) / 1e6)
        return samples

    def close(self) -> None:
        self.__dict__.pop("_request", None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def entries(space: Workspace) -> list[Entry]:
    """Everything that takes turns, on the same inputs; calibrates and builds what is missing."""
    graph = current_graph(space, MODEL)
    try:
        current_calibration(space, graph)
    except ArtifactError:
        pipeline.calibrate(space, MODEL, pipeline.CalibrateOptions(space.root / "cityscapes"))
    pipeline.build(space, MODEL, pipeline.BuildOptions(("fp32", "int8"), "onnxruntime"))
    found = ladder(space, graph, ("onnxruntime",))
    ours = {rung.name: rung for rung in found.running}
    int8, source = ours[OURS], space.graph(graph.stem, "int8-cpu")
    openvino = replace(int8, runtime="openvino", path=source, size=source.stat().st_size)
    feeds, job = street_feeds(graph.shape, 4), Job(COMPUTE, default_threads())
    return [
        *(Entry(rung, feeds, job) for rung in (*pytorch_rungs(found.reference, None), ours[FP32], int8)),
        Entry(replace(int8, variant="exact"), feeds, job, Exact),
        Entry(openvino, feeds, job, OpenVino),
    ]


def limits(flags: Sequence[str], times: Mapping[str, float]) -> list[dict[str, Any]]:
    """What INT8 must be against others, and what it is.

    Args:
        flags: of the processor; without VNNI an integer product takes three instructions in place of one.
        times: time of each of ``FP32``, ``BEST_PYTORCH`` and ``OPENVINO`` over INT8's.
    """
    vnni = any("vnni" in flag for flag in flags)
    asked = ((FP32, 2.5, vnni), (BEST_PYTORCH, 3.0, vnni), (OPENVINO, 1.0, True))
    return [
        {"against": name, "at_least": least, "found": times[name], "applies": applies, "met": times[name] >= least}
        for name, least, applies in asked
    ]


def measure(space: Workspace, plan: Plan) -> dict[str, Any]:
    """Time everything, and say how sure it is."""
    what = entries(space)
    before = other_work()
    with Watch() as watch:
        found = bench(what, plan, progress=lambda done, total: print(f"{done} of {total}", end="\r", flush=True))
    by_name = {item.rung.name: item for item in found}
    int8 = by_name[OURS]
    best = min((item for item in found if item.rung.runtime == REFERENCE), key=lambda item: item.median)
    environment = pipeline.environment()
    compared = {FP32: by_name[FP32], BEST_PYTORCH: best, OPENVINO: by_name[OPENVINO]}
    doubts = [doubt for item in found for doubt in of_rung(item, COMPUTE, on_gpu=False)] + of_machine(before, watch)
    return {
        "created": artifacts.now(),
        "model": MODEL,
        "shape": list(int8.rung.shape),
        "marks": list(int8.rung.marks),
        "plan": asdict(plan),
        "environment": {**environment, "tools": {**environment["tools"], **artifacts.tool_versions("openvino")}},
        "load": {"other_work_before": before, **watch.to_json()},
        "warnings": [doubt.to_json() for doubt in doubts],
        "best_pytorch": best.rung.name,
        "limits": limits(environment["flags"], {name: item.median / int8.median for name, item in compared.items()}),
        "rungs": [_kept(item, entry.job, int8) for item, entry in zip(found, what, strict=True)],
    }


def _kept(item: Latency, job: Job, int8: Latency) -> dict[str, Any]:
    """What the page shows of a rung, with every sample."""
    over = None if item is int8 else speed_up(item.turns, int8.turns)
    return {
        "rung": item.rung.name,
        "threads": job.threads,
        **item.to_json(),
        "samples_ms": [round(sample, 3) for sample in item.samples],
        "over_int8": item.median / int8.median,
        "over_int8_interval": over.to_json() if over else None,
    }


def main() -> None:
    """Measure, write, and hold INT8 to its limits."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--demo", type=Path, default=ROOT / "demo", help="workspace of make demo")
    parser.add_argument("--iters", type=int, default=100, help="runs of each, at least")
    parser.add_argument("--min-seconds", type=float, default=10.0, help="seconds in runs of each, at least")
    parser.add_argument("--output", type=Path, default=RESULTS, help="write there instead")
    arguments = parser.parse_args()
    plan = Plan(arguments.iters, arguments.min_seconds, rounds=min(25, arguments.iters))
    result = measure(Workspace(arguments.demo), plan)
    artifacts.write_json(arguments.output, result)
    for rung in result["rungs"]:
        print(f"{rung['rung']:30} {rung['median_ms']:9.2f} ms  {rung['over_int8']:.2f} x the time of INT8")
    for warning in result["warnings"]:
        print(f"warning: {warning['rung'] or ''} {warning['text']}")
    for limit in result["limits"]:
        told = (
            "met" if limit["met"] else "missed" if limit["applies"] else "missed, and not asked of this CPU (no VNNI)"
        )
        print(f"at least {limit['at_least']:g} times as fast as {limit['against']}: {limit['found']:.2f}, {told}")
    sys.exit(any(limit["applies"] and not limit["met"] for limit in result["limits"]))


if __name__ == "__main__":
    main()

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
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import ratios

from ffnet_deploy.artifacts.records import tool_versions
from ffnet_deploy.artifacts.workspace import Workspace
from ffnet_deploy.artifacts.writing import write_json
from ffnet_deploy.bench.subject import RunSettings, Subject
from ffnet_deploy.bench.turns import BenchEntry, BenchPlan
from ffnet_deploy.calibration.record import current_calibration
from ffnet_deploy.errors import ArtifactError
from ffnet_deploy.graph.current import current_graph
from ffnet_deploy.ladder import ladder, pytorch_rungs
from ffnet_deploy.machine.devices import default_threads
from ffnet_deploy.pipeline.build import BuildOptions, build
from ffnet_deploy.pipeline.calibrate import CalibrateOptions, calibrate
from ffnet_deploy.runtimes.onnxruntime import OnnxRuntimeRunner
from ffnet_deploy.runtimes.rung import Rung
from ffnet_deploy.runtimes.runner import TensorSpec
from ffnet_deploy.synthetic.feeds import street_feeds

if TYPE_CHECKING:
    from ffnet_deploy.runtimes.runner import Feeds

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "measurements" / "int8_cpu.json"
MODEL = "segmentation_ffnet46NS_CCC_mobile"
OURS, FP32, OPENVINO = "onnxruntime int8", "onnxruntime fp32", "openvino int8"
BEST_PYTORCH = "best of PyTorch"
RATIO = "over_int8"


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
        self.spans: Mapping[str, list[float]] = {}

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


def entries(space: Workspace) -> list[BenchEntry]:
    """Everything that takes turns, on the same inputs; calibrates and builds what is missing."""
    graph = current_graph(space, MODEL)
    try:
        current_calibration(graph)
    except ArtifactError:
        calibrate(space, MODEL, CalibrateOptions(space.root / "cityscapes"))
    build(space, MODEL, BuildOptions(("fp32", "int8"), "onnxruntime"))
    found = ladder(graph, ("onnxruntime",))
    ours = {rung.name: rung for rung in found.running}
    int8, source = ours[OURS], space.path_of(replace(graph.name, precision="int8-cpu"))
    openvino = replace(int8, runtime="openvino", path=source, size=source.stat().st_size)
    feeds, job = street_feeds(graph.shape, 4), RunSettings("compute", default_threads())
    return [
        *(BenchEntry(rung, feeds, job) for rung in (*pytorch_rungs(found.reference, None), ours[FP32], int8)),
        BenchEntry(replace(int8, variant="exact"), feeds, job, Exact),
        BenchEntry(openvino, feeds, job, OpenVino),
    ]


def limits(flags: Sequence[str], times: Mapping[str, float]) -> list[dict[str, Any]]:
    """What INT8 must be against others, and what it is.

    Args:
        flags: of the processor; without VNNI an integer product takes three instructions in place of one.
        times: time of each of ``FP32``, ``BEST_PYTORCH`` and ``OPENVINO`` over INT8's.
    """
    vnni = ratios.has_vnni(flags)
    asked = ((FP32, 2.5, vnni), (BEST_PYTORCH, 3.0, vnni), (OPENVINO, 1.0, True))
    return [
        {"against": name, "at_least": least, "found": times[name], "applies": applies, "met": times[name] >= least}
        for name, least, applies in asked
    ]


def measure(space: Workspace, plan: BenchPlan) -> dict[str, Any]:
    """Time everything, and say how sure it is."""
    found = ratios.measured(entries(space), plan)
    int8 = found.named(OURS)
    compared = {FP32: found.named(FP32), BEST_PYTORCH: found.best_pytorch, OPENVINO: found.named(OPENVINO)}
    facts = found.facts(MODEL)
    facts["environment"]["tools"] |= tool_versions("openvino")
    times = {name: ratios.ratio(item, int8).value for name, item in compared.items()}
    return {
        **facts,
        "marks": list(int8.rung.marks),
        "limits": limits(facts["environment"]["flags"], times),
        "rungs": [
            ratios.rung(item, entry.job.threads, RATIO, ratios.ratio(item, int8))
            for item, entry in zip(found.latencies, found.entries, strict=True)
        ],
    }


def main() -> None:
    """Measure, write, and hold INT8 to its limits."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--demo", type=Path, default=ROOT / "demo", help="workspace of make demo")
    ratios.arguments(parser, RESULTS)
    asked = parser.parse_args()
    result = measure(Workspace(asked.demo), ratios.plan_of(asked))
    write_json(asked.output, result)
    ratios.tell(result, RATIO, " x the time of INT8")
    held = result["limits"]
    ratios.hold(held, [f"at least {limit['at_least']:g} times as fast as {limit['against']}" for limit in held])


if __name__ == "__main__":
    main()

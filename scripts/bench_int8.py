"""INT8 on this CPU, in turns with what it is compared with: FP32, PyTorch eager and channels-last, and OpenVINO's INT8.

Needs the demo's workspace; ``calibrate`` and ``build --int8`` are done where they are missing. Each candidate has a
process of its own and the same number of threads; they take turns of a few runs, so that whatever else
the machine does meets all alike. OpenVINO gets the same Q/DQ graph as ONNX Runtime. Results go to
docs/measurements/int8_cpu.json with the CPU's flags: integer kernels are much faster with VNNI.
Ends with exit code 1 if INT8 is not at least 3 times as fast as the faster of PyTorch's two, or slower than OpenVINO's,
or on a CPU with VNNI not at least 2.5 times as fast as FP32.

Run: make bench-int8
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ffnet_deploy import pipeline
from ffnet_deploy.artifacts import Workspace, tool_versions, write_json
from ffnet_deploy.errors import ArtifactError
from ffnet_deploy.pipeline.calibrate import current_calibration
from ffnet_deploy.pipeline.current import current_graph, reference_weights, street_feeds
from ffnet_deploy.runtimes import default_threads
from ffnet_deploy.runtimes.base import Worker
from ffnet_deploy.runtimes.onnxruntime import OnnxRuntimeRunner
from ffnet_deploy.zoo.specs import find
from ffnet_deploy.zoo.weights import load

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "measurements" / "int8_cpu.json"
MODEL = "segmentation_ffnet46NS_CCC_mobile"
FLAGS = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "amx_int8")
VNNI = {"avx_vnni", "avx512_vnni"}

Feed = Mapping[str, np.ndarray]


class OnnxRuntime:
    """The engine as ``bench`` runs it."""

    def __init__(self, path: Path, threads: int) -> None:
        self._runner = OnnxRuntimeRunner(path, threads=threads)

    def time(self, feed: Feed, runs: int) -> list[float]:
        return self._runner.latencies([feed], runs)


class PyTorch:
    """The reference, contiguous or channels-last."""

    def __init__(self, weights: Path, threads: int, channels_last: bool) -> None:
        torch.set_num_threads(threads)
        self._format = torch.channels_last if channels_last else torch.contiguous_format
        self._module = load(find(MODEL), weights).module.to(memory_format=self._format)  # type: ignore[call-overload]

    def time(self, feed: Feed, runs: int) -> list[float]:
        image = torch.from_numpy(feed["image"]).to(memory_format=self._format)
        with torch.inference_mode():
            return [_timed(lambda: self._module(image)) for _ in range(runs)]


class OpenVino:
    """OpenVINO on the CPU with one stream."""

    def __init__(self, graph: Path, threads: int) -> None:
        import openvino

        core = openvino.Core()
        options = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
        self._request = core.compile_model(core.read_model(graph), "CPU", options).create_infer_request()

    def time(self, feed: Feed, runs: int) -> list[float]:
        return [_timed(lambda: self._request.infer({0: feed["image"]}, share_inputs=True)) for _ in range(runs)]


def _timed(run: Any) -> float:  # noqa: ANN401 - any call
    start = time.perf_counter_ns()
    run()
    return (time.perf_counter_ns() - start) / 1e6


def prepared(space: Workspace) -> None:
    """Calibrate and build where that has not been done."""
    graph = current_graph(space, MODEL)
    try:
        current_calibration(space, graph)
    except ArtifactError:
        pipeline.calibrate(space, MODEL, pipeline.CalibrateOptions(space.root / "cityscapes"))
    pipeline.build(space, MODEL, pipeline.BuildOptions(("fp32", "int8"), "onnxruntime"))


def missed(ratios: Mapping[str, float], flags: Collection[str]) -> list[str]:
    """Limits that this CPU should hold and does not.

    Args:
        ratios: of each candidate's median time to INT8's.
        flags: of the CPU.
    """
    pytorch = min(ratios["pytorch eager"], ratios["pytorch channels-last"])
    limits = [("the faster of PyTorch's two", pytorch, 3.0), ("openvino int8", ratios["openvino int8"], 1.0)]
    if VNNI & set(flags):
        limits.append(("onnxruntime fp32", ratios["onnxruntime fp32"], 2.5))
    return [
        f"INT8 is {ratio:.2f} times as fast as {name} (at least {least:g} was needed)"
        for name, ratio, least in limits
        if not ratio >= least
    ]


def main() -> None:
    """Time all candidates in turns; exit 1 if a limit is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--demo", type=Path, default=ROOT / "demo", help="workspace of make demo")
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--runs", type=int, default=3, help="of each candidate in a turn")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    space, threads = Workspace(arguments.demo), default_threads()
    prepared(space)
    graph = current_graph(space, MODEL)
    weights = reference_weights(space, graph)
    (feed,) = street_feeds(graph.shape, 1)
    int8 = space.graph(graph.stem, "int8-cpu")
    samples: dict[str, list[float]] = {}
    with ExitStack() as stack:

        def worker(name: str, *args: object) -> Worker:
            return stack.enter_context(Worker(name, *args))  # type: ignore[arg-type]

        candidates = {
            "onnxruntime fp32": worker("fp32", OnnxRuntime, space.engine(graph.stem, "fp32", "onnxruntime"), threads),
            "onnxruntime int8": worker("int8", OnnxRuntime, space.engine(graph.stem, "int8", "onnxruntime"), threads),
            "pytorch eager": worker("eager", PyTorch, weights, threads, False),
            "pytorch channels-last": worker("channels-last", PyTorch, weights, threads, True),
            "openvino int8": worker("openvino", OpenVino, int8, threads),
        }
        for turn in range(arguments.turns + 1):
            for name, candidate in candidates.items():
                found = candidate.call("time", feed, arguments.runs)
                if turn:  # the first is for warming up
                    samples.setdefault(name, []).extend(found)
    medians = {name: statistics.median(values) for name, values in samples.items()}
    ratios = {name: value / medians["onnxruntime int8"] for name, value in medians.items()}
    flags = Path("/proc/cpuinfo").read_text("utf-8").split("flags", 1)[-1].splitlines()[0].split()
    values = {
        "tools": tool_versions("torch", "onnxruntime-gpu", "openvino"),
        "model": MODEL,
        "threads": threads,
        "flags": [flag for flag in FLAGS if flag in flags],
        "median_ms": medians,
        "ratio_to_int8": ratios,
        "samples_ms": samples,
    }
    write_json(arguments.output, values)
    for name, ratio in ratios.items():
        print(f"{name:24}{medians[name]:9.1f} ms{ratio:7.2f} x the time of INT8")
    failed = missed(ratios, flags)
    if failed:
        sys.exit("\n".join(failed))


if __name__ == "__main__":
    main()

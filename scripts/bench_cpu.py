"""Latency on the CPU: ONNX Runtime FP32 against PyTorch, and ONNX Runtime's settings against each other.

segmentation_ffnet46NS_CCC_mobile with random weights at its native size; two threads unless the table says otherwise.
All take turns in one run, so that the machine's drift meets all alike. Writes docs/measurements/cpu_latency.json, from
which ``make docs`` fills docs/performance.md. Exit 1 if ONNX Runtime FP32 as ``build`` and ``bench`` use it is slower
than the faster of PyTorch's eager and channels-last. Run it on a machine that does nothing else; it says when that was
not so.

Run: make bench-cpu
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ffnet_deploy import artifacts, pipeline
from ffnet_deploy.bench import COMPUTE, Entry, Job, Latency, Plan, bench, speed_up
from ffnet_deploy.bench.doubts import of_machine, of_rung
from ffnet_deploy.graph.export import export
from ffnet_deploy.machine.load import Watch, other_work
from ffnet_deploy.pipeline.bench import pytorch_rungs
from ffnet_deploy.runtimes import REFERENCE, Rung
from ffnet_deploy.runtimes.onnxruntime import build
from ffnet_deploy.zoo.specs import find
from ffnet_deploy.zoo.weights import load_random

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "measurements" / "cpu_latency.json"
MODEL = "segmentation_ffnet46NS_CCC_mobile"
THREADS = 2
DEFAULT = Job(COMPUTE, THREADS)
SETTINGS = {
    "": DEFAULT,
    "spinning off": replace(DEFAULT, spinning=False),
    "arena off": replace(DEFAULT, arena=False),
    "spinning and arena off": replace(DEFAULT, spinning=False, arena=False),
    "1 thread": replace(DEFAULT, threads=1),
}
"""Of ONNX Runtime; the first is what the commands use."""


def entries(folder: Path, hw: tuple[int, int]) -> list[Entry]:
    """PyTorch's rungs, and one engine under every setting, on the same inputs."""
    spec = find(MODEL)
    shape = (1, 3, *hw)
    graph, engine = folder / "graph.onnx", folder / "engine.onnx"
    model = export(load_random(spec).module, spec, shape, opset=20, metadata={})
    graph.write_bytes(model.SerializeToString(deterministic=True))
    build(graph, engine)
    feeds = pipeline.street_feeds(shape, 4)
    ours = Rung("onnxruntime", "fp32", MODEL, shape, engine, engine.stat().st_size)
    theirs = pytorch_rungs(Rung(REFERENCE, "fp32", MODEL, shape), device=None)
    return [
        *(Entry(rung, feeds, DEFAULT) for rung in theirs),
        *(Entry(replace(ours, variant=name), feeds, job) for name, job in SETTINGS.items()),
    ]


def measure(plan: Plan, hw: tuple[int, int]) -> dict[str, Any]:
    """Time everything, and say how sure it is."""
    with tempfile.TemporaryDirectory() as folder:
        what = entries(Path(folder), hw)
        before = other_work()
        with Watch() as watch:
            found = bench(what, plan, progress=lambda done, total: print(f"{done} of {total}", end="\r", flush=True))
    torch = [item for item in found if item.rung.runtime == REFERENCE]
    best = min(torch, key=lambda item: item.median)
    doubts = [doubt for item in found for doubt in of_rung(item, COMPUTE, on_gpu=False)] + of_machine(before, watch)
    return {
        "created": artifacts.now(),
        "model": MODEL,
        "shape": [1, 3, *hw],
        "plan": asdict(plan),
        "environment": pipeline.environment(),
        "load": {"other_work_before": before, **watch.to_json()},
        "warnings": [doubt.to_json() for doubt in doubts],
        "best_pytorch": best.rung.name,
        "rungs": [_kept(item, entry.job, best) for item, entry in zip(found, what, strict=True)],
    }


def _kept(item: Latency, job: Job, best: Latency) -> dict[str, Any]:
    """What the page shows of a rung, with every sample."""
    over = None if item is best else speed_up(best.turns, item.turns)
    return {
        "rung": item.rung.name,
        "threads": job.threads,
        "spinning": job.spinning,
        "arena": job.arena,
        **item.to_json(),
        "samples_ms": [round(sample, 3) for sample in item.samples],
        "over_best_pytorch": best.median / item.median,
        "over_best_pytorch_interval": over.to_json() if over else None,
    }


def main() -> None:
    """Measure, write, and hold ONNX Runtime to PyTorch."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--iters", type=int, default=100, help="runs of each, at least")
    parser.add_argument("--min-seconds", type=float, default=10.0, help="seconds in runs of each, at least")
    parser.add_argument("--size", type=int, nargs=2, default=find(MODEL).input_hw, metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--output", type=Path, default=RESULTS, help="write there instead")
    arguments = parser.parse_args()
    height, width = arguments.size
    plan = Plan(arguments.iters, arguments.min_seconds, rounds=min(25, arguments.iters))
    result = measure(plan, (height, width))
    artifacts.write_json(arguments.output, result)
    for rung in result["rungs"]:
        print(f"{rung['rung']:45} {rung['median_ms']:8.2f} ms  {rung['over_best_pytorch']:.2f}x")
    for warning in result["warnings"]:
        print(f"warning: {warning['rung'] or ''} {warning['text']}")
    ours = next(rung for rung in result["rungs"] if rung["rung"] == "onnxruntime fp32")
    print(f"onnxruntime fp32 is {ours['over_best_pytorch']:.2f} times as fast as {result['best_pytorch']}")
    sys.exit(ours["over_best_pytorch"] < 1)


if __name__ == "__main__":
    main()

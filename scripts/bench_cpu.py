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
from dataclasses import replace
from pathlib import Path
from typing import Any

import ratios

from ffnet_deploy.artifacts.writing import write_json
from ffnet_deploy.bench.subject import RunSettings
from ffnet_deploy.bench.turns import BenchEntry, BenchPlan
from ffnet_deploy.graph.from_torch import export
from ffnet_deploy.ladder import pytorch_rungs
from ffnet_deploy.runtimes.onnxruntime import build
from ffnet_deploy.runtimes.rung import REFERENCE, Rung
from ffnet_deploy.synthetic.feeds import street_feeds
from ffnet_deploy.zoo.specs import find
from ffnet_deploy.zoo.weights import load_random

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "measurements" / "cpu_latency.json"
MODEL = "segmentation_ffnet46NS_CCC_mobile"
THREADS = 2
RATIO = "over_best_pytorch"
DEFAULT = RunSettings("compute", THREADS)
SETTINGS = {
    "": DEFAULT,
    "spinning off": replace(DEFAULT, spinning=False),
    "arena off": replace(DEFAULT, arena=False),
    "spinning and arena off": replace(DEFAULT, spinning=False, arena=False),
    "1 thread": replace(DEFAULT, threads=1),
}
"""Of ONNX Runtime; the first is what the commands use."""


def entries(folder: Path, hw: tuple[int, int]) -> list[BenchEntry]:
    """PyTorch's rungs, and one engine under every setting, on the same inputs."""
    spec = find(MODEL)
    shape = (1, 3, *hw)
    graph, engine = folder / "graph.onnx", folder / "engine.onnx"
    model = export(load_random(spec).module, spec, shape, opset=20, metadata={})
    graph.write_bytes(model.SerializeToString(deterministic=True))
    build(graph, engine)
    feeds = street_feeds(shape, 4)
    ours = Rung("onnxruntime", "fp32", MODEL, shape, engine, engine.stat().st_size)
    theirs = pytorch_rungs(Rung(REFERENCE, "fp32", MODEL, shape), device=None)
    return [
        *(BenchEntry(rung, feeds, DEFAULT) for rung in theirs),
        *(BenchEntry(replace(ours, variant=name), feeds, job) for name, job in SETTINGS.items()),
    ]


def measure(plan: BenchPlan, hw: tuple[int, int]) -> dict[str, Any]:
    """Time everything, and say how sure it is."""
    with tempfile.TemporaryDirectory() as folder:
        found = ratios.measured(entries(Path(folder), hw), plan)
    best = found.best_pytorch
    return {
        **found.facts(MODEL),
        "rungs": [
            {
                **ratios.rung(item, entry.job.threads, RATIO, ratios.ratio(best, item)),
                "spinning": entry.job.spinning,
                "arena": entry.job.arena,
            }
            for item, entry in zip(found.latencies, found.entries, strict=True)
        ],
    }


def main() -> None:
    """Measure, write, and hold ONNX Runtime to PyTorch."""
    parser = argparse.ArgumentParser(description=__doc__)
    ratios.arguments(parser, RESULTS)
    parser.add_argument("--size", type=int, nargs=2, default=find(MODEL).input_hw, metavar=("HEIGHT", "WIDTH"))
    asked = parser.parse_args()
    height, width = asked.size
    result = measure(ratios.plan_of(asked), (height, width))
    write_json(asked.output, result)
    ratios.tell(result, RATIO, "x")
    ours = next(rung for rung in result["rungs"] if rung["rung"] == "onnxruntime fp32")
    print(f"onnxruntime fp32 is {ours[RATIO]:.2f} times as fast as {result['best_pytorch']}")
    sys.exit(ours[RATIO] < 1)


if __name__ == "__main__":
    main()

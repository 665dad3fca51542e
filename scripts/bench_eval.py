"""How fast evaluation is: against a plain serial loop and against inference alone, interleaved; and its memory.

Four contenders with a process each take turns on the same images and the same cores: the network alone on inputs that
are ready; a serial loop as one would write it; ours, with the reference's label maps already on disk. Ratios count, not
times. Memory is that of whole evaluations, the reference's network included. Writes docs/measurements/bench_eval.json,
from which ``make docs`` fills docs/performance.md. Exit 1 if evaluation misses a limit that applies to this CPU.

Run: make bench-eval
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import ratios
from PIL import Image

from ffnet_deploy.artifacts.filenames import FileName
from ffnet_deploy.artifacts.values import Precision
from ffnet_deploy.artifacts.workspace import Workspace
from ffnet_deploy.artifacts.writing import write_json
from ffnet_deploy.data.cityscapes import LABEL_IDS, CityscapesSample, find_split
from ffnet_deploy.data.images import MEAN, STD
from ffnet_deploy.evaluate.result import EvaluationRun
from ffnet_deploy.evaluate.session import EvalOptions
from ffnet_deploy.machine.devices import default_threads
from ffnet_deploy.machine.environment import describe_environment
from ffnet_deploy.machine.load import other_work
from ffnet_deploy.machine.processor import peak_bytes
from ffnet_deploy.pipeline.build import BuildOptions, build
from ffnet_deploy.pipeline.calibrate import CalibrateOptions, calibrate
from ffnet_deploy.pipeline.evaluate import evaluate_cityscapes
from ffnet_deploy.pipeline.export import RANDOM, ExportOptions, export
from ffnet_deploy.runtimes.worker import Worker
from ffnet_deploy.synthetic.scenes import write_cityscapes

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "measurements" / "bench_eval.json"
MODEL = "segmentation_ffnet46NS_CCC_mobile_pre_down"
IMAGES = 8
MORE = 3
"""Times as many images has the set, and the evaluation whose memory is compared with that of half as many."""
PRECISIONS: tuple[Precision, ...] = ("fp32", "int8")


class Alone:
    """The network alone, on inputs that are ready."""

    def __init__(self, engine: Path, root: Path, threads: int) -> None:
        """Load the engine and prepare the inputs."""
        from ffnet_deploy.data.cityscapes import load
        from ffnet_deploy.data.images import normalise
        from ffnet_deploy.runtimes.onnxruntime import OnnxRuntimeRunner

        self._runner = OnnxRuntimeRunner(engine, threads=threads)
        self._feeds = [{"image": normalise(load(sample).image)} for sample in find_split(root).samples[:4]]

    def seconds(self, images: int) -> float:
        start = time.perf_counter()
        for i in range(images):
            self._runner(self._feeds[i % len(self._feeds)])
        return time.perf_counter() - start


class Serial:
    """The loop that one would write: one image after the other, one step after the other."""

    def __init__(self, engine: Path, root: Path, threads: int) -> None:
        """Load the engine."""
        import onnxruntime as ort
        import torch

        torch.set_num_threads(threads)
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = ort.InferenceSession(str(engine), options, providers=["CPUExecutionProvider"])
        self._samples = find_split(root).samples
        self._table = np.full(256, 255, np.uint8)
        self._table[list(LABEL_IDS)] = range(len(LABEL_IDS))
        self.matrix = np.zeros((19, 19), np.int64)

    def seconds(self, images: int) -> float:
        start = time.perf_counter()
        for i in range(images):
            self._one(self._samples[i % len(self._samples)])
        return time.perf_counter() - start

    def _one(self, sample: CityscapesSample) -> None:
        import torch
        from torch.nn import functional as F

        rgb = np.asarray(Image.open(str(sample.image)).convert("RGB"))
        image = (rgb.astype(np.float32) / 255 - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
        feed = np.ascontiguousarray(image.transpose(2, 0, 1)[None])
        logits = self._session.run(None, {"image": feed})[0]
        full = F.interpolate(torch.from_numpy(logits), size=rgb.shape[:2], mode="bilinear", align_corners=False)
        labels = full.argmax(dim=1)[0].numpy()
        truth = self._table[np.asarray(Image.open(str(sample.labels)))]
        counted = truth < 19
        pairs = 19 * truth[counted].astype(np.int64) + labels[counted]
        self.matrix += np.bincount(pairs, minlength=361).reshape(19, 19)


class Ours:
    """What ``eval`` does, with the reference's label maps on disk."""

    def __init__(self, workspace: Path, root: Path, threads: int, rung: str) -> None:
        """Remember what to evaluate."""
        self._workspace = Workspace(workspace)
        self._options = EvalOptions(root=root, only=(rung,), threads=threads)

    def evaluate(self, images: int) -> EvaluationRun:
        """Seconds of the loop and of its stages; the session's opening is not in them."""
        result = evaluate_cityscapes(self._workspace, MODEL, replace(self._options, limit=images))
        result.delivered()
        assert result.file.run
        return result.file.run

    def peak_bytes(self) -> int | None:
        """Of this process alone: what getrusage tells is inherited from the parent."""
        return peak_bytes()


def prepare(folder: Path, images: int) -> Path:
    """A set and a workspace with engines; returns the set's root."""
    root = folder / "cityscapes"
    write_cityscapes(root, "val", {"benchville": MORE * images}, seed=3)
    write_cityscapes(root, "train", {"trainville": images}, seed=3)
    workspace = Workspace(folder)
    demo = ROOT / "demo" / "weights" / "ffnet46NS_CCC_demo.pth"
    # The same network with the blur inside: trained weights give label maps like real ones, random ones give noise.
    weights: Path | str = demo if demo.exists() else RANDOM
    export(workspace, MODEL, ExportOptions(weights=weights, offline=True))
    calibrate(workspace, MODEL, CalibrateOptions(root))
    build(workspace, MODEL, BuildOptions(PRECISIONS, "onnxruntime"))
    evaluate_cityscapes(workspace, MODEL, EvalOptions(root=root, only=("onnxruntime",))).delivered()
    return root


def engine_of(folder: Path, precision: Precision) -> Path:
    """ONNX Runtime's engine of a precision."""
    return Workspace(folder).path_of(FileName(MODEL, precision=precision, runtime="onnxruntime"))


def measure(folder: Path, root: Path, images: int, rounds: int, threads: int, precision: Precision) -> dict[str, Any]:
    """Let the contenders take turns."""
    engine = engine_of(folder, precision)
    taken: dict[str, list[float]] = {"inference alone": [], "serial": [], "ours": []}
    stages: dict[str, list[float]] = {}
    with ExitStack() as stack:
        alone = stack.enter_context(Worker("inference alone", Alone, engine, root, threads))
        serial = stack.enter_context(Worker("the serial loop", Serial, engine, root, threads))
        ours = stack.enter_context(Worker("ours", Ours, folder, root, threads, f"onnxruntime {precision}"))
        for turn in range(rounds + 1):
            seconds = {
                "inference alone": alone.call("seconds", images),
                "serial": serial.call("seconds", images),
            }
            run: EvaluationRun = ours.call("evaluate", images)
            seconds["ours"] = run.seconds
            if turn == 0:
                continue  # warm-up
            for name, value in seconds.items():
                taken[name].append(value / images)
            for stage, value in run.stages_s.items():
                stages.setdefault(stage, []).append(value / images)
            print(
                f"round {turn}: " + ", ".join(f"{n} {1000 * v / images:.0f} ms" for n, v in seconds.items()), flush=True
            )
    ratio = [o / a for o, a in zip(taken["ours"], taken["inference alone"], strict=True)]
    faster = [s / o for s, o in zip(taken["serial"], taken["ours"], strict=True)]
    return {
        "ms_per_image": {name: 1000 * statistics.median(values) for name, values in taken.items()},
        "ours_over_inference_alone": statistics.median(ratio),
        "serial_over_ours": statistics.median(faster),
        "rounds": [{name: values[i] for name, values in taken.items()} for i in range(rounds)],
        "stages_ms_per_image": {stage: 1000 * statistics.median(values) for stage, values in stages.items()},
    }


def memory(folder: Path, root: Path, threads: int, counts: Sequence[int]) -> dict[str, int]:
    """Peak resident memory of an evaluation of so many images from nothing, in a process each."""
    peaks = {}
    for count in counts:
        # Label maps that are there would keep PyTorch, the largest part, out of the figure.
        shutil.rmtree(Workspace(folder).models / "reference")
        with Worker("memory", Ours, folder, root, threads, "onnxruntime fp32") as worker:
            worker.call("evaluate", count)
            peaks[str(count)] = worker.call("peak_bytes")
    return peaks


def limits(result: dict[str, Any]) -> list[dict[str, Any]]:
    """What evaluation must hold to, and what it did.

    Args:
        result: what is measured, with the processor's flags; INT8's limit is one for CPUs with VNNI.
    """
    vnni = ratios.has_vnni(result["environment"]["flags"])
    (few, few_peak), (many, many_peak) = result["peak_bytes"].items()
    most = (
        ("fp32: time over inference alone", 1.3, result["fp32"]["ours_over_inference_alone"]),
        ("peak memory on top of the engine, GiB", 2.5, (max(few_peak, many_peak) - result["engine_bytes"]) / 2**30),
        (f"peak memory of {many} images over that of {few}", 1.1, many_peak / few_peak),
    )
    faster = result["int8"]["serial_over_ours"]
    return [
        *(
            {"what": what, "limit": limit, "bound": "at most", "found": found, "applies": True, "met": found <= limit}
            for what, limit, found in most
        ),
        {
            "what": "int8: time of the serial loop over ours",
            "limit": 1.5,
            "bound": "at least",
            "found": faster,
            "applies": vnni,
            "met": faster >= 1.5,
        },
    ]


def main() -> None:
    """Measure, print, keep, and hold evaluation to its limits."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=IMAGES, help="of a round; the set has three times as many")
    parser.add_argument("--output", type=Path, default=RESULTS, help="write there instead")
    arguments = parser.parse_args()
    threads, images = default_threads(), arguments.images
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        root = prepare(folder, images)
        result: dict[str, Any] = {
            "model": MODEL,
            "images": images,
            "threads": threads,
            "other_work": other_work(),
            "environment": describe_environment().to_json(),
            "engine_bytes": engine_of(folder, "fp32").stat().st_size,
        }
        for precision in PRECISIONS:
            print(f"onnxruntime {precision}, {threads} threads", flush=True)
            result[precision] = measure(folder, root, images, arguments.rounds, threads, precision)
        result["peak_bytes"] = memory(folder, root, threads, (max(1, images // 2), MORE * images))
    result["limits"] = limits(result)
    write_json(arguments.output, result)
    held = result["limits"]
    ratios.hold(held, [f"{limit['what']}, {limit['bound']} {limit['limit']:g}" for limit in held])


if __name__ == "__main__":
    main()

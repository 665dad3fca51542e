"""What INT8 costs by method and dialect, on the demo's weights and on two copies of them that are hostile to INT8.

The copies (``scripts/hostile.py``) compute the same in FP32. Each is calibrated on 32 synthetic train scenes, without
and with the equalisation that ``calibrate`` does, and scored on the demo's val scenes: points of mIoU below FP32, and
share of equal labels. TensorRT's dialect is emulated; the CPU's runs in integer kernels, by the exact ones where this
CPU has faster ones that saturate. Results go to docs/measurements/int8_methods.json.
Ends with exit code 1 if the plain maximum loses less than 3 points on a hostile copy in both dialects, or if the
default method on the equalised graph drops more than 0.1 points or agrees in less than 99.5 % of the labels.

Run: make int8-methods (after make demo; about half an hour on two cores)
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import hostile
import numpy as np
import onnx
import torch
from torch.nn import functional as F

from ffnet_deploy.artifacts.filenames import FileName
from ffnet_deploy.artifacts.records import tool_versions
from ffnet_deploy.artifacts.workspace import Workspace
from ffnet_deploy.artifacts.writing import write_json
from ffnet_deploy.calibration.histograms import Histogram, limits
from ffnet_deploy.calibration.methods import DEFAULT_METHOD, METHODS
from ffnet_deploy.calibration.segments import cut, walk
from ffnet_deploy.data import cityscapes
from ffnet_deploy.data.images import blur_and_halve, normalise
from ffnet_deploy.graph.fp16 import rounded, to_fp16
from ffnet_deploy.graph.qdq import quantise, watched
from ffnet_deploy.graph.ranges import Limits
from ffnet_deploy.machine.devices import default_threads
from ffnet_deploy.metrics import confusion, iou
from ffnet_deploy.pipeline.calibrate import CalibrateOptions, calibrate
from ffnet_deploy.pipeline.export import ExportOptions, export
from ffnet_deploy.runtimes.onnxruntime import OnnxRuntimeRunner
from ffnet_deploy.synthetic.scenes import write_cityscapes

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "measurements" / "int8_methods.json"
MODEL = "segmentation_ffnet46NS_CCC_mobile"
CITIES = ("ahornstadt", "birkenau")
SEED = 7
SIZE = (1024, 2048)

UNCHANGED = "demo weights"
DIALECTS = ("tensorrt", "cpu")
LEAST_LOSS, MOST_DROP, LEAST_AGREEMENT = 3.0, 0.1, 99.5
COPIES: dict[str, Callable[[Mapping[str, torch.Tensor]], Mapping[str, torch.Tensor]]] = {
    UNCHANGED: dict,
    "scaled channels": hostile.scaled,
    "heavy tail": hostile.tailed,
}


class Scenes:
    """Val scenes in memory, and how labels of a graph compare with FP32 and with the truth."""

    def __init__(self, root: Path, count: int) -> None:
        samples = cityscapes.find_split(root).samples[:count]
        loaded = [cityscapes.load(sample, SIZE) for sample in samples]
        self.images = [blur_and_halve(normalise(item.image)) for item in loaded]
        self.truths = [item.truth for item in loaded]

    def labels(self, model: onnx.ModelProto) -> list[np.ndarray]:
        with OnnxRuntimeRunner(
            model.SerializeToString(), threads=default_threads(), spinning=False, exact=True
        ) as runner:
            return [_full_size(runner({"image": image})["logits"]) for image in self.images]

    def miou(self, labels: Iterable[np.ndarray]) -> float:
        matrix = sum(confusion(mine, truth, 19) for mine, truth in zip(labels, self.truths, strict=True))
        return float(100 * np.nanmean(iou(np.asarray(matrix))))


def _full_size(logits: np.ndarray) -> np.ndarray:
    full = F.interpolate(torch.from_numpy(logits), size=SIZE, mode="bilinear", align_corners=False)
    return full.argmax(dim=1)[0].to(torch.uint8).numpy()


def ranges(model: onnx.ModelProto, images: Iterable[np.ndarray]) -> dict[str, dict[str, Limits]]:
    """Ranges of every tensor by every method, of a graph as it is."""
    names = watched(model)
    pieces = cut(model, names, 64 << 20)
    threads = default_threads()
    runners = [OnnxRuntimeRunner(p.model.SerializeToString(), threads=threads, spinning=False) for p in pieces]
    histograms = {name: Histogram() for name in names}
    for image in images:
        for name, values in walk(pieces, runners, {"image": image}):
            histograms[name].add(values, name)
    by_name = {name: limits(histogram) for name, histogram in histograms.items()}
    return {method: {name: found[method] for name, found in by_name.items()} for method in METHODS}


def dialects(model: onnx.ModelProto, by_method: Mapping[str, Limits]) -> dict[str, onnx.ModelProto]:
    """What is run for each dialect."""
    return {
        "tensorrt": rounded(to_fp16(quantise(model, by_method, "tensorrt").model).model),
        "cpu": quantise(model, by_method, "cpu").model,
    }


def measure(space: Workspace, data: Path, scenes: Scenes, images: list[np.ndarray]) -> dict[str, Any]:
    """FP32's mIoU, and drop and agreement of every method, dialect and preparation.

    Args:
        space: holds the exported graph.
        data: root of the train scenes.
        scenes: to score on.
        images: the train scenes, ready for the network.
    """
    graph = onnx.load(space.path_of(FileName(MODEL)))
    reference = scenes.labels(graph)
    result: dict[str, Any] = {"fp32": scenes.miou(reference), "rows": []}
    calibration = calibrate(space, MODEL, CalibrateOptions(data, images=len(images)))
    prepared: dict[str, tuple[onnx.ModelProto, dict[str, dict[str, Limits]]]] = {
        "plain": (graph, ranges(graph, images)),
        "equalised": (
            calibration.equalised(graph).model,
            {method: calibration.limits(method) for method in METHODS},
        ),
    }
    for preparation, (model, found) in prepared.items():
        for method in METHODS:
            for dialect, made in dialects(model, found[method]).items():
                labels = scenes.labels(made)
                same = [float((mine == theirs).mean()) for mine, theirs in zip(labels, reference, strict=True)]
                row = {
                    "preparation": preparation,
                    "method": method,
                    "dialect": dialect,
                    "drop": result["fp32"] - scenes.miou(labels),
                    "agreement": 100 * float(np.mean(same)),
                }
                result["rows"].append(row)
                print("  ".join(f"{v:.3f}" if isinstance(v, float) else str(v) for v in row.values()), flush=True)
    return result


def exported(workspace: Path, checkpoint: Path, change: Callable[..., Mapping[str, torch.Tensor]]) -> Workspace:
    """A workspace with the FP32 graph of changed weights, verified against PyTorch as every export is."""
    state = change(torch.load(checkpoint, weights_only=True, map_location="cpu"))
    file = workspace / "weights.pth"
    torch.save(dict(state), file)
    space = Workspace(workspace)
    export(space, MODEL, ExportOptions(weights=file, offline=True))
    return space


def missed(measured: Mapping[str, Any]) -> list[str]:
    """What does not hold: hostile copies must hurt the plain maximum, and the default method must not be hurt."""
    found = []
    for name, values in measured.items():
        rows = {(row["preparation"], row["method"], row["dialect"]): row for row in values["rows"]}
        loss = max(rows["plain", "max", dialect]["drop"] for dialect in DIALECTS)
        if name != UNCHANGED and loss < LEAST_LOSS:
            found.append(f"{name}: the plain maximum loses {loss:.2f} points (at least {LEAST_LOSS:g} was needed)")
        for dialect in DIALECTS:
            row = rows["equalised", DEFAULT_METHOD, dialect]
            if not (row["drop"] <= MOST_DROP and row["agreement"] >= LEAST_AGREEMENT):
                found.append(
                    f"{name}, {DEFAULT_METHOD}, {dialect}: drop {row['drop']:.3f} points, agreement "
                    f"{row['agreement']:.3f} % ({MOST_DROP:g} and {LEAST_AGREEMENT:g} % are the limits)"
                )
    return found


def main() -> None:
    """Measure every copy; exit 1 if a limit is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--demo", type=Path, default=ROOT / "demo", help="workspace of make demo")
    parser.add_argument("--images", type=int, default=32, help="train scenes to calibrate on, an even number")
    parser.add_argument("--val", type=int, default=12, help="val scenes to score on")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    scenes = Scenes(arguments.demo / "cityscapes", arguments.val)
    measured: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "cityscapes"
        write_cityscapes(data, "train", dict.fromkeys(CITIES, arguments.images // 2), seed=SEED, size=SIZE)
        samples = cityscapes.find_split(data, "train").samples
        images = [blur_and_halve(normalise(cityscapes.load(sample, SIZE).image)) for sample in samples]
        for name, change in COPIES.items():
            print(name, flush=True)
            place = Path(folder) / name.replace(" ", "_")
            place.mkdir()
            checkpoint = arguments.demo / "weights" / "ffnet46NS_CCC_demo.pth"
            measured[name] = measure(exported(place, checkpoint, change), data, scenes, images)
    tools = tool_versions("torch", "onnx", "onnxruntime-gpu", "numpy")
    values = {"tools": tools, "model": MODEL, "images": len(images), "val": len(scenes.images), "weights": measured}
    write_json(arguments.output, values)
    failed = missed(measured)
    if failed:
        sys.exit("\n".join(failed))


if __name__ == "__main__":
    main()

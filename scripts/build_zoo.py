"""Build FP32, FP16 and INT8 engines of all 87 deployable models with TensorRT-RTX at their native size; resumable.

Each model has random weights and a process of its own; its files are deleted once they are measured, so that one
model's are on the disk at a time (``--keep`` keeps the engines, below engines/zoo). INT8's ranges come from two
synthetic scenes. A model that lacks one precision gets that one; then come those that older code made. Graphs are not
verified against PyTorch here: that is what ``make export-zoo`` does. Results go to docs/measurements/build_zoo.json
after every model. Exit 1 if any failed.

Run: make build-zoo
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from PIL import Image
from unverified import export

from ffnet_deploy.artifacts.filenames import FileName
from ffnet_deploy.artifacts.records import EngineRecord, GraphRecord, load_record, tool_versions
from ffnet_deploy.artifacts.values import GraphFindings, Precision
from ffnet_deploy.artifacts.workspace import Workspace
from ffnet_deploy.artifacts.writing import write_json
from ffnet_deploy.pipeline.build import BuildOptions, build
from ffnet_deploy.pipeline.calibrate import CalibrateOptions, calibrate
from ffnet_deploy.synthetic.scenes import draw_scene
from ffnet_deploy.zoo.specs import costs, deployable, find

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "measurements" / "build_zoo.json"
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")
GRAPHS: dict[Precision, int] = {"fp32": 1, "fp16": 2, "int8": 3}
"""How the graph of a precision is made, as a number that rises when its engines may change. FP16: 2 reads four
channels. INT8: 2 quantises by percentile 99.98, 3 equalises by the sizes of channels."""
SCENES = 2


def measure(name: str, precisions: Sequence[Precision], keep: Path | None) -> dict[str, Any]:
    """Build one model in a new process, and read what its records say."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--one", name, folder, *precisions]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no word"])[-1]
            return {"ok": False, "exit_code": done.returncode, "error": last}
        result: dict[str, Any] = {"ok": True}
        space = Workspace(Path(folder))
        for precision in precisions:
            engine = space.path_of(FileName(name, precision=precision, runtime="tensorrt-rtx"))
            record = load_record(engine, EngineRecord, remedy="make build-zoo")
            result[precision] = {
                "graph": GRAPHS[precision],
                "bytes": record.file.size,
                "seconds": record.file.seconds,
                "share": dict(record.found.share),
                "bytes_between_layers": record.found.bytes_between_layers,
            }
            if keep:
                keep.mkdir(parents=True, exist_ok=True)
                shutil.move(engine, keep / engine.name)
        if "fp16" in precisions:
            half = _found(space, name, "fp16")
            result["kept_fp32"] = len(half.kept_fp32)
            result["emulated"] = half.emulated and asdict(half.emulated)
        if "int8" in precisions:
            graph = _found(space, name, "int8")
            result["int8"] |= {"declined": dict(graph.declined), "emulated": graph.emulated and asdict(graph.emulated)}
        return result


def _found(space: Workspace, name: str, precision: Precision) -> GraphFindings:
    path = space.path_of(FileName(name, precision=precision))
    return load_record(path, GraphRecord, remedy="make build-zoo").found


def build_one(name: str, folder: Path, precisions: Sequence[Precision]) -> None:
    """Write the graph of a model, as export does but for the verification, and build its engines."""
    spec = find(name)
    workspace = Workspace(folder)
    export(workspace, name)
    if "int8" in precisions:
        scenes = folder / "scenes"
        scenes.mkdir()
        for seed in range(SCENES):
            Image.fromarray(draw_scene(*spec.input_hw, seed).image).save(scenes / f"{seed}.png", compress_level=1)
        calibrate(workspace, name, CalibrateOptions(scenes))
    build(workspace, name, BuildOptions(tuple(precisions), "tensorrt-rtx"))


def _never_built(model: Mapping[str, Any]) -> list[Precision]:
    return [precision for precision in PRECISIONS if precision not in model]


def _older(model: Mapping[str, Any]) -> list[Precision]:
    """Precisions that were built before the graphs were made as now."""
    return [precision for precision, now in GRAPHS.items() if model.get(precision, {}).get("graph", 1) != now]


def main() -> None:
    """Measure what is not measured yet with these versions."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--again", action="store_true", help="measure every model again")
    parser.add_argument("--keep", action="store_true", help="keep the engines")
    parser.add_argument(
        "--one", nargs="+", metavar="NAME FOLDER PRECISION", help="build one model there; for the sweep itself"
    )
    arguments = parser.parse_args()
    if arguments.one:
        build_one(arguments.one[0], Path(arguments.one[1]), [p for p in PRECISIONS if p in arguments.one[2:]])
        return
    tools = tool_versions("torch", "onnx", "onnxscript", "onnxruntime-gpu", "tensorrt-rtx", "numpy")
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    models = kept.get("models", {}) if kept.get("tools") == tools and not arguments.again else {}
    # The cheap ones first: a failure common to all shows at once. What was never built comes before what is only old.
    names = sorted(deployable(), key=lambda name: costs()[name].macs)
    for what, lacks in (("not built", _never_built), ("built by older code", _older)):
        left = [(name, found) for name in names if (found := lacks(models.get(name, {})))]
        for i, (name, lacking) in enumerate(left, start=1):
            known = {key: value for key, value in models.get(name, {}).items() if key not in ("error", "exit_code")}
            models[name] = known | measure(name, lacking, ROOT / "engines" / "zoo" if arguments.keep else None)
            write_json(RESULTS, {"tools": tools, "models": {n: models[n] for n in deployable() if n in models}})
            told = "ok" if models[name]["ok"] else models[name]["error"]
            print(f"{what}: {i} of {len(left)}  {name}  {' '.join(lacking)}  {told}", flush=True)
    failed = [name for name in names if not models[name]["ok"]]
    print(f"{len(names) - len(failed)} of {len(names)} build in FP32, FP16 and INT8")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()

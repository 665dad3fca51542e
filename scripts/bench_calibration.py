"""Memory and time of calibration at 1024x2048: peak resident memory with 8 and 64 images, and of the largest model.

Each run is a process of its own with random weights and synthetic train scenes, in a folder that is deleted; the peak
is what the kernel counted for that process. Results go to docs/measurements/calibration.json after every run.

Run: make bench-calibration (about 20 minutes and 1 GB of disk on two cores; ``--only`` runs one)
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from unverified import export

from ffnet_deploy.artifacts.filenames import FileName
from ffnet_deploy.artifacts.records import tool_versions
from ffnet_deploy.artifacts.workspace import Workspace
from ffnet_deploy.artifacts.writing import write_json
from ffnet_deploy.machine.devices import default_threads
from ffnet_deploy.pipeline.calibrate import CalibrateOptions, calibrate
from ffnet_deploy.synthetic.scenes import write_cityscapes

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "measurements" / "calibration.json"
SMALL, LARGE = "segmentation_ffnet46NS_CCC_mobile_pre_down", "segmentation_ffnet150_AAA"
RUNS = ((SMALL, 8), (SMALL, 64), (LARGE, 2))
SIZE = (1024, 2048)


def measured(folder: Path, name: str, images: int) -> None:
    """Calibrate in this process and print what it took, as JSON."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    options = CalibrateOptions(folder / "cityscapes", images=images)
    found = calibrate(Workspace(folder), name, options)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        json.dumps(
            {
                "peak_mb": peak / 1024,
                "before_mb": before / 1024,
                "seconds": found.file.seconds,
                "tensors": len(found.file.tensors),
            }
        )
    )


def child(*arguments: str) -> str:
    """Run one step of this script in a new process, and give what it prints."""
    return subprocess.run([sys.executable, __file__, *arguments], check=True, capture_output=True, text=True).stdout


def main() -> None:
    """Measure every run that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=[f"{name}:{images}" for name, images in RUNS], action="append")
    parser.add_argument("--step", nargs=3, metavar=("FOLDER", "NAME", "IMAGES"), help="for this script itself")
    arguments = parser.parse_args()
    if arguments.step:
        folder, name, images = arguments.step
        if images == "export":
            export(Workspace(Path(folder)), name)
        else:
            measured(Path(folder), name, int(images))
        return
    tools = tool_versions("onnx", "numpy", "onnxruntime-gpu")
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    runs: dict[str, Any] = kept.get("runs", {}) if kept.get("tools") == tools else {}
    wanted = [run for run in RUNS if not arguments.only or f"{run[0]}:{run[1]}" in arguments.only]
    with tempfile.TemporaryDirectory() as folder:
        count = max(images for _, images in wanted)
        write_cityscapes(Path(folder) / "cityscapes", "train", {"ahornstadt": count}, seed=11, size=SIZE)
        for name in dict.fromkeys(name for name, _ in wanted):
            child("--step", folder, name, "export")
        for name, images in wanted:
            runs[f"{name}:{images}"] = json.loads(child("--step", folder, name, str(images)))
            Workspace(Path(folder)).calibration(FileName(name)).unlink()
            write_json(RESULTS, {"tools": tools, "threads": default_threads(), "runs": runs})
            print(name, images, runs[f"{name}:{images}"], flush=True)
    few, many = runs.get(f"{SMALL}:8"), runs.get(f"{SMALL}:64")
    missed = [
        f"{key} takes {run['peak_mb']:.0f} MB" for key, run in runs.items() if run["peak_mb"] > 1024 * _limit(key)
    ]
    if few and many and many["peak_mb"] > 1.1 * few["peak_mb"]:
        missed.append(f"64 images take {many['peak_mb'] / few['peak_mb']:.2f} times the memory of 8")
    sys.exit("; ".join(missed) or 0)


def _limit(key: str) -> int:
    """GiB that a run may take."""
    return 8 if key.startswith(LARGE) else 4


if __name__ == "__main__":
    main()

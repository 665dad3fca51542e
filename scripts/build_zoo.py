"""Build FP32 and FP16 engines of all 87 deployable models with TensorRT-RTX at their native size; resumable.

Each model runs through the real command line with random weights, in processes of its own; its files are deleted once
they are measured, so that one model's are on the disk at a time (``--keep`` keeps the engines, below engines/zoo).
Results go to docs/measurements/build_zoo.json after every model. Exit 1 if any failed.

Run: make build-zoo
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ffnet_deploy.artifacts import tool_versions, write_json
from ffnet_deploy.zoo.specs import SPECS, deployable

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "measurements" / "build_zoo.json"
PRECISIONS = ("fp32", "fp16")


def run(*command: str) -> tuple[int, str, float]:
    """Exit code, end of stderr and seconds of one command."""
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "ffnet_deploy.cli", *command], check=False, capture_output=True, text=True
    )
    return done.returncode, done.stderr.strip()[-500:], round(time.monotonic() - started, 1)


def measure(name: str, keep: Path | None) -> dict[str, Any]:
    """Export one model, build its engines, and read what their records say."""
    with tempfile.TemporaryDirectory() as folder:
        space = ("--workspace", folder)
        code, error, _ = run("export", name, "--weights", "random", *space)
        if not code:
            code, error, _ = run("build", name, "--fp32", "--fp16", "--runtime", "tensorrt-rtx", *space)
        if code:
            return {"ok": False, "exit_code": code, "error": error}
        result: dict[str, Any] = {"ok": True}
        for precision in PRECISIONS:
            engine = Path(folder) / "engines" / f"{name}.{precision}.tensorrt-rtx.engine"
            record = json.loads(engine.with_name(f"{engine.name}.json").read_text())
            found = record["found"]
            result[precision] = {
                "bytes": record["size"],
                "seconds": record["seconds"],
                "share": found["share"],
                "bytes_between_layers": found["bytes_between_layers"],
            }
            if keep:
                keep.mkdir(parents=True, exist_ok=True)
                shutil.move(engine, keep / engine.name)
        half = json.loads((Path(folder) / "models" / f"{name}.fp16.onnx.json").read_text())
        result["kept_fp32"] = len(half["found"]["kept_fp32"])
        result["emulated"] = half["found"]["emulated"]
        return result


def main() -> None:
    """Measure what is not measured yet with these versions."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--again", action="store_true", help="measure every model again")
    parser.add_argument("--keep", action="store_true", help="keep the engines")
    arguments = parser.parse_args()
    tools = tool_versions("torch", "onnx", "onnxscript", "onnxruntime-gpu", "tensorrt-rtx", "numpy")
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    models = kept.get("models", {}) if kept.get("tools") == tools and not arguments.again else {}
    names = sorted(deployable(), key=lambda name: (SPECS[name].task, SPECS[name].output_stride == 4, len(name)))
    for i, name in enumerate(names, start=1):
        if not models.get(name, {}).get("ok"):
            models[name] = measure(name, ROOT / "engines" / "zoo" if arguments.keep else None)
            write_json(RESULTS, {"tools": tools, "models": {n: models[n] for n in deployable() if n in models}})
        print(f"{i:2} of {len(names)}  {name}  {'ok' if models[name]['ok'] else models[name]['error']}", flush=True)
    failed = [name for name in names if not models[name]["ok"]]
    print(f"{len(names) - len(failed)} of {len(names)} build in FP32 and FP16")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()

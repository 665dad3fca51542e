"""Export and verify all 87 deployable models at their native size with random weights; resumable.

Each model runs in a process of its own through the real command line; its files are deleted once they are measured.
Results go to docs/measurements/export_zoo.json after every model. Exit 1 if any failed.

Run: make export-zoo
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ffnet_deploy.artifacts.records import tool_versions
from ffnet_deploy.artifacts.writing import write_json
from ffnet_deploy.zoo.specs import SPECS, deployable

RESULTS = Path(__file__).parents[1] / "docs" / "measurements" / "export_zoo.json"


def measure(name: str) -> dict[str, Any]:
    """Export one model in a new process and read what its record says."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        command = ["export", name, "--weights", "random", "--workspace", folder]
        done = subprocess.run(
            [sys.executable, "-m", "ffnet_deploy.cli", *command], check=False, capture_output=True, text=True
        )
        seconds = round(time.monotonic() - started, 1)
        if done.returncode:
            return {"ok": False, "exit_code": done.returncode, "error": done.stderr.strip()[-500:], "seconds": seconds}
        record = json.loads((Path(folder) / "models" / f"{name}.onnx.json").read_text())
    return {"ok": True, "seconds": seconds, "bytes": record["file"]["size"], **record["found"]}


def main() -> None:
    """Measure what is not measured yet with these versions."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--again", action="store_true", help="measure every model again")
    again: bool = parser.parse_args().again
    tools = tool_versions("torch", "onnx", "onnxscript", "onnxruntime-gpu", "numpy")
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    models = kept.get("models", {}) if kept.get("tools") == tools and not again else {}
    # The cheap ones first: a failure common to all shows at once.
    names = sorted(deployable(), key=lambda name: (SPECS[name].task, SPECS[name].output_stride == 4, len(name)))
    for i, name in enumerate(names, start=1):
        if not models.get(name, {}).get("ok"):
            models[name] = measure(name)
            write_json(RESULTS, {"tools": tools, "models": {n: models[n] for n in deployable() if n in models}})
        result = models[name]
        print(f"{i:2} of {len(names)}  {name}  {'ok' if result['ok'] else result['error']}", flush=True)
    failed = [name for name in names if not models[name]["ok"]]
    print(f"{len(names) - len(failed)} of {len(names)} export and verify")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()

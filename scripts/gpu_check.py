"""What only a GPU can tell, one check after the other, each in a process of its own; see scripts/gpu_check.sh.

A check that fails, or whose library is missing, does not stop the others: its exit code and what it printed are kept.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ffnet_deploy.artifacts.records import now, tool_versions
from ffnet_deploy.artifacts.writing import write_json
from ffnet_deploy.machine.processor import describe

MODEL = "segmentation_ffnet46NS_CCC_mobile"
FULL = "segmentation_ffnet78S_dBBB_mobile"
LIMIT_S = 240
"""Of one check: a build that hangs must not take the others' time."""

BUFFERS = """
import numpy as np
from ffnet_deploy.runtimes import cuda
device = cuda.open_device(0)
print(type(device).__name__)
data = np.random.default_rng(0).standard_normal((3, 512, 1024)).astype(np.float32)
buffer = device.allocate(data.shape, "float32")
buffer.upload(data)
assert np.array_equal(buffer.download(), data)
print("round trip of", data.nbytes, "bytes is exact; an empty enqueue takes",
      device.milliseconds(lambda: None), "ms between two events")
device.close()
"""

CUDA_PROVIDER = """
import sys, time
import numpy as np, torch, onnxruntime as ort
if "CUDAExecutionProvider" not in ort.get_available_providers():
    sys.exit(f"ONNX Runtime {ort.__version__} has no CUDA provider here: {ort.get_available_providers()}")
ort.preload_dlls()
path = sys.argv[1]
options = {"use_tf32": "0", "cudnn_conv_algo_search": "EXHAUSTIVE"}
gpu = ort.InferenceSession(path, providers=[("CUDAExecutionProvider", options)])
assert gpu.get_providers()[0] == "CUDAExecutionProvider", gpu.get_providers()
cpu = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
image = np.random.default_rng(0).standard_normal(gpu.get_inputs()[0].shape).astype(np.float32)
a, b = gpu.run(None, {"image": image})[0], cpu.run(None, {"image": image})[0]
print("largest difference to the CPU", float(np.abs(a - b).max() / b.std()), "of the spread")
binding = gpu.io_binding()
binding.bind_ortvalue_input("image", ort.OrtValue.ortvalue_from_numpy(image, "cuda", 0))
binding.bind_output("logits", "cuda")
for _ in range(20):
    gpu.run_with_iobinding(binding)
samples = []
for _ in range(200):
    binding.synchronize_inputs()
    start = time.perf_counter()
    gpu.run_with_iobinding(binding)
    binding.synchronize_outputs()
    samples.append(1000 * (time.perf_counter() - start))
print("median of 200 runs, inputs on the device, host clock with synchronisation:", sorted(samples)[100], "ms")
"""


def commands(results: Path) -> list[tuple[str, list[str]]]:
    """(name, command line) of every check, in order."""
    cli = [sys.executable, "-m", "ffnet_deploy.cli"]
    checks = [("nvidia-smi", ["nvidia-smi", "-q"]), ("doctor", [*cli, "doctor"])]
    for model in (MODEL, FULL):
        checks.append((f"export {model}", [*cli, "export", model, "--weights", "random", "--offline"]))
        for runtime in ("tensorrt", "tensorrt-rtx"):
            portable = ["--portable"] if runtime == "tensorrt-rtx" else []
            build = [*cli, "build", model, "--fp32", "--fp16", "--runtime", runtime, *portable]
            checks.append((f"build {model} {runtime}", build))
        for mode in ("compute", "end-to-end", "cold"):
            file = results / f"gpu_{mode}_{model}.json"
            bench = [*cli, "bench", model, "--device", "0", "--mode", mode, "--json", str(file)]
            checks.append((f"bench {mode} {model}", bench))
        checks.append((f"verify {model}", [*cli, "verify", model]))
        checks.append((f"profile {model}", [*cli, "bench", model, "--device", "0", "--profile"]))
        provider = [sys.executable, "-c", CUDA_PROVIDER, f"models/{model}.onnx"]
        checks.append((f"ONNX Runtime's CUDA provider {model}", provider))
    checks.append(("device buffers, stream and events", [sys.executable, "-c", BUFFERS]))
    return checks


def check(command: list[str], folder: Path) -> dict[str, Any]:
    """Run one command in the workspace; its exit code, time and output."""
    started = time.monotonic()
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=LIMIT_S, check=False)
        code, out, err = done.returncode, done.stdout, done.stderr
    except FileNotFoundError as error:
        code, out, err = 127, "", str(error)
    except subprocess.TimeoutExpired:
        code, out, err = 124, "", f"still running after {LIMIT_S} s"
    return {
        "exit_code": code,
        "seconds": round(time.monotonic() - started, 1),
        "stdout": out[-6000:],
        "stderr": err[-3000:],
    }


def main() -> None:
    """Run every check, keeping the results after each: a call that is cut off loses one check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, help="folder for what the checks found")
    results: Path = parser.parse_args().results.resolve()
    results.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {
        "created": now(),
        "machine": describe().to_json(),
        "tools": tool_versions("torch", "onnx", "onnxruntime-gpu", "onnxruntime", "tensorrt", "tensorrt-rtx", "pycuda"),
        "checks": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        for name, command in commands(results):
            found["checks"][name] = check(command, Path(folder))
            write_json(results / "gpu_check.json", found)
            print(
                f"{found['checks'][name]['exit_code']:4}  {found['checks'][name]['seconds']:6.1f} s  {name}", flush=True
            )


if __name__ == "__main__":
    main()

"""What this machine can do: packages, driver, GPUs, and what each command may be asked for here."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec

from ffnet_deploy.machine.devices import visible_gpus
from ffnet_deploy.runtimes.rung import reason_not_here

_PACKAGES = {
    "torch": ("torch", "pip install torch==2.13.0"),
    "onnx": ("onnx", "pip install onnx"),
    "onnxscript": ("onnxscript", "pip install onnxscript"),
    "onnxruntime": ("onnxruntime-gpu", "pip install onnxruntime-gpu (or onnxruntime)"),
    "tensorrt_rtx": ("tensorrt-rtx", "pip install tensorrt-rtx"),
    "polygraphy": ("polygraphy", "pip install polygraphy"),
    "tensorrt": ("tensorrt", "pip install 'ffnet-deploy[gpu]'"),
    "pynvml": ("nvidia-ml-py", "pip install nvidia-ml-py (for clocks and memory of GPUs in benchmarks)"),
    "pycuda": ("pycuda", "pip install pycuda (needs a CUDA toolkit; torch serves without it)"),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the examination."""

    what: str
    found: str
    remedy: str = ""
    """The line that installs what is missing."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What was found, and what each command can do here."""

    findings: tuple[Finding, ...]
    abilities: tuple[Finding, ...]


def doctor() -> Diagnosis:
    """Examine this machine; loads no heavy library but ONNX Runtime."""
    findings = [Finding("python", platform.python_version())]
    for module, (package, remedy) in _PACKAGES.items():
        version = _version(module, package)
        findings.append(Finding(package, version or "not installed", "" if version else remedy))
    findings += [_providers(), _driver()]
    return Diagnosis(tuple(findings), tuple(_abilities()))


def _version(module: str, package: str) -> str | None:
    if find_spec(module) is None:
        return None
    for name in (package, package.removesuffix("-gpu")):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return "installed, version not known"


def _providers() -> Finding:
    if find_spec("onnxruntime") is None:
        return Finding("ONNX Runtime's providers", "none", "pip install onnxruntime-gpu")
    import onnxruntime

    return Finding("ONNX Runtime's providers", ", ".join(onnxruntime.get_available_providers()))


def _driver() -> Finding:
    count = visible_gpus()
    if count:
        return Finding("NVIDIA driver", f"shows {count} GPU{'s' if count > 1 else ''}")
    return Finding("NVIDIA driver", "shows no GPU", "NVIDIA's driver, or run on the machine with the GPU")


def _abilities() -> list[Finding]:
    rows = []
    needed = [name for name in ("torch", "onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
    rows.append(Finding("export", "no" if needed else "yes", f"missing: {', '.join(needed)}" if needed else ""))
    for runtime, module in (("tensorrt", "tensorrt"), ("tensorrt-rtx", "tensorrt_rtx"), ("onnxruntime", "onnxruntime")):
        absent = find_spec(module) is None
        reason = _PACKAGES[module][1] if absent else ""
        if runtime == "tensorrt" and not absent and not visible_gpus():
            absent, reason = True, "TensorRT builds on the machine with the GPU only"
        rows.append(Finding(f"build --runtime {runtime}", "no" if absent else "yes", reason))
        stop = reason_not_here(runtime)
        rows.append(Finding(f"bench, eval: {runtime}", "no" if stop else "yes", stop or ""))
    return rows

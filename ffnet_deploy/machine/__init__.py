"""What a figure rests on: processor, memory, clocks, GPUs, and what else runs."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

_FLAGS = ("avx2", "fma", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16", "asimddp", "i8mm")
"""Of the processor: those that decide which kernels a runtime takes."""
_CPUFREQ = Path("/sys/devices/system/cpu/cpu0/cpufreq")


def processor() -> str:
    """The processor's model, as the system names it."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def describe() -> dict[str, Any]:
    """The processor and its memory; None for what the system does not tell."""
    have = set((_cpuinfo("flags") or _cpuinfo("Features") or "").split())
    return {
        "processor": processor(),
        "flags": [flag for flag in _FLAGS if flag in have],
        "virtual": "hypervisor" in have,
        "cores_online": os.cpu_count(),
        "governor": _text(_CPUFREQ / "scaling_governor"),
        "most_mhz": _kilohertz(_CPUFREQ / "cpuinfo_max_freq"),
        "memory_bytes": _memory(),
    }


def megahertz() -> float | None:
    """The mean clock of the cores at this moment; None where the system does not tell."""
    clocks = [float(line.partition(":")[2]) for line in _lines("/proc/cpuinfo") if line.startswith("cpu MHz")]
    return sum(clocks) / len(clocks) if clocks else None


def peak_bytes() -> int | None:
    """The most memory that this process ever had resident."""
    for line in _lines("/proc/self/status"):
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return None


def _memory() -> int | None:
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    return None


def _cpuinfo(key: str) -> str | None:
    for line in _lines("/proc/cpuinfo"):
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return None


def _lines(path: str) -> list[str]:
    return (_text(Path(path)) or "").splitlines()


def _kilohertz(path: Path) -> float | None:
    text = _text(path)
    return int(text) / 1000 if text else None


def _text(path: Path) -> str | None:
    try:
        return path.read_text("utf-8").strip()
    except OSError:
        return None

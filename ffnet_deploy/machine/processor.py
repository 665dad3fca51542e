"""The processor, its memory and its clock."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ffnet_deploy.artifacts.values import Count, NotNegative, Size

_FLAGS = ("avx2", "fma", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16", "asimddp", "i8mm")
"""The instruction sets that decide which kernels a runtime takes."""
_CPUFREQ = Path("/sys/devices/system/cpu/cpu0/cpufreq")


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """The processor and its memory; None for what the system does not tell."""

    processor: str
    """The processor's model."""
    flags: tuple[str, ...]
    """Its instruction sets, as far as they decide which kernels a runtime takes."""
    virtual: bool
    """This is a virtual machine."""
    cores_online: Size | None
    """Cores of the whole machine."""
    governor: str | None
    """Linux' frequency governor."""
    most_mhz: NotNegative | None
    """The highest clock of a core."""
    memory_bytes: Count | None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "flags": list(self.flags)}


def processor() -> str:
    """The processor's model, as the system names it."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def describe() -> Hardware:
    """This machine's processor and memory."""
    have = set((_cpuinfo("flags") or _cpuinfo("Features") or "").split())
    return Hardware(
        processor=processor(),
        flags=tuple(flag for flag in _FLAGS if flag in have),
        virtual="hypervisor" in have,
        cores_online=os.cpu_count(),
        governor=_text(_CPUFREQ / "scaling_governor"),
        most_mhz=_kilohertz(_CPUFREQ / "cpuinfo_max_freq"),
        memory_bytes=_memory(),
    )


def megahertz() -> float | None:
    """The cores' mean clock at this moment; None where the system does not tell."""
    clocks = [float(line.partition(":")[2]) for line in _lines("/proc/cpuinfo") if line.startswith("cpu MHz")]
    return sum(clocks) / len(clocks) if clocks else None


def peak_bytes() -> int | None:
    """The most main memory that this process has held so far; None where the system does not tell."""
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
    """Megahertz, from a file that holds kilohertz."""
    text = _text(path)
    return int(text) / 1000 if text else None


def _text(path: Path) -> str | None:
    try:
        return path.read_text("utf-8").strip()
    except OSError:
        return None

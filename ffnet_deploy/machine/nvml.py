"""A GPU's state as NVIDIA's management library (NVML) tells it: name, clocks, power, temperature, memory.

The package ``nvidia-ml-py`` of the extra ``gpu`` reaches the library. Nothing here fails for want of the package, the
library, a GPU or a newer driver: a figure that the driver does not tell is None, and all others are still there.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

from ffnet_deploy.artifacts.values import Finite

_REASONS = {
    0x1: "idle",
    0x2: "application clocks",
    0x4: "software power cap",
    0x8: "hardware slow-down",
    0x10: "sync boost",
    0x20: "software thermal slow-down",
    0x40: "hardware thermal slow-down",
    0x80: "hardware power brake",
    0x100: "display clocks",
    0x200: "board limit",
    0x400: "reliability",
}
"""Bits of what keeps clocks below their maximum: nvmlClocksEventReason*, in older drivers nvmlClocksThrottleReason*."""
HARMLESS = ("idle", "application clocks", "display clocks")
"""Reasons that are no sign of trouble. Any other one made the GPU slower than it can be."""
# NVML's numbers of a clock's domain and of a temperature's sensor.
_SM, _MEMORY = 1, 2
_ON_DIE = 0
# A new name and the old one: CUDA 14 drops the old ones, and an old driver or package has no new ones.
_TEMPERATURE = ("nvmlDeviceGetTemperatureV", "nvmlDeviceGetTemperature")
_SLOWED_BY = ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons")


class Nvml(Protocol):
    """The module ``pynvml``, or a stand-in. Its functions are looked up by name, since each one may be absent."""

    NVMLError: type[Exception]


@dataclass(frozen=True, slots=True)
class GpuFacts:
    """What does not change while a GPU works; None for what the driver does not tell."""

    name: str | None
    """Its product name."""
    uuid: str | None
    driver: str | None
    """The driver's version."""
    most_sm_mhz: int | None
    """The highest clock of its processors."""
    most_memory_mhz: int | None
    power_limit_w: Finite | None
    memory_bytes: int | None
    """All its memory."""


@dataclass(frozen=True, slots=True)
class GpuSample:
    """What changes while a GPU works, at one moment; None for what the driver does not tell."""

    sm_mhz: int | None
    memory_mhz: int | None
    power_w: float | None
    temperature_c: int | None
    throttle_reasons: tuple[str, ...]
    """What keeps its clocks below their maximum; empty if nothing does, or if the driver does not tell."""
    used_bytes: int | None
    """Memory that all processes use on it."""


class Gpu:
    """One GPU."""

    def __init__(self, nvml: Nvml, handle: object) -> None:
        """Keep what NVML is asked with.

        Args:
            nvml: the initialised library.
            handle: its handle of the GPU.
        """
        self._nvml, self._handle = nvml, handle

    def describe(self) -> GpuFacts:
        """Ask for what does not change."""
        return GpuFacts(
            name=self._text("nvmlDeviceGetName"),
            uuid=self._text("nvmlDeviceGetUUID"),
            driver=_ask(self._nvml, "nvmlSystemGetDriverVersion"),
            most_sm_mhz=self._number("nvmlDeviceGetMaxClockInfo", _SM),
            most_memory_mhz=self._number("nvmlDeviceGetMaxClockInfo", _MEMORY),
            power_limit_w=_thousandth(self._number("nvmlDeviceGetEnforcedPowerLimit")),
            memory_bytes=self._memory("total"),
        )

    def sample(self) -> GpuSample:
        """Ask for what changes."""
        return GpuSample(
            sm_mhz=self._number("nvmlDeviceGetClockInfo", _SM),
            memory_mhz=self._number("nvmlDeviceGetClockInfo", _MEMORY),
            power_w=_thousandth(self._number("nvmlDeviceGetPowerUsage")),
            temperature_c=self._newer(_TEMPERATURE, _ON_DIE),
            throttle_reasons=throttle_reasons(self._newer(_SLOWED_BY) or 0),
            used_bytes=self.used_bytes(),
        )

    def used_bytes(self) -> int | None:
        """Memory that all processes use on it."""
        return self._memory("used")

    def _memory(self, field: str) -> int | None:
        found = _ask(self._nvml, "nvmlDeviceGetMemoryInfo", self._handle)
        return None if found is None else int(getattr(found, field))

    def _text(self, function: str) -> str | None:
        found = _ask(self._nvml, function, self._handle)
        return None if found is None else str(found)

    def _number(self, function: str, *args: int) -> int | None:
        found = _ask(self._nvml, function, self._handle, *args)
        return None if found is None else int(found)

    def _newer(self, functions: tuple[str, ...], *args: int) -> int | None:
        """The number that the first function tells, of those that the driver and the package have."""
        found = (self._number(function, *args) for function in functions)
        return next((number for number in found if number is not None), None)


def throttle_reasons(bits: int) -> tuple[str, ...]:
    """Names of the bits that are set."""
    return tuple(name for bit, name in _REASONS.items() if bits & bit)


def find(device: int | None) -> Gpu | None:
    """The GPU that CUDA calls ``device``; None for the CPU, and where NVML or CUDA has no such GPU."""
    nvml = None if device is None else _library()
    address = None if device is None or nvml is None else _bus_address(device)
    if nvml is None or address is None:
        return None
    handle = _ask(nvml, "nvmlDeviceGetHandleByPciBusId", address)
    return None if handle is None else Gpu(nvml, handle)


def used_bytes(device: int | None) -> int | None:
    """Memory that all processes use on a GPU; None for the CPU."""
    gpu = find(device)
    return gpu.used_bytes() if gpu else None


@cache
def _library() -> Nvml | None:
    """NVML, ready for questions; None without the package, the library, or a driver that answers."""
    try:
        import pynvml
    except ImportError:
        return None
    library: Nvml = pynvml
    try:
        pynvml.nvmlInit()
    except library.NVMLError:
        return None
    return library


def _ask(nvml: Nvml, function: str, *args: object) -> Any:  # noqa: ANN401 - pynvml has no types
    """What a function of NVML returns; None if the package or the driver lacks it, or cannot tell."""
    asked = getattr(nvml, function, None)
    if asked is None:
        return None
    try:
        return asked(*args)
    except (nvml.NVMLError, UnicodeDecodeError):
        return None


def _bus_address(device: int) -> bytes | None:
    """A GPU's address on the bus, which CUDA and NVML share: their numbers may differ, and CUDA may hide GPUs."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    number, text = ctypes.c_int(0), ctypes.create_string_buffer(32)
    if driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(number), device):
        return None
    return None if driver.cuDeviceGetPCIBusId(text, len(text), number) else text.value


def _thousandth(value: int | None) -> float | None:
    return None if value is None else value / 1000

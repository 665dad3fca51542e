"""A GPU's state as NVIDIA's management library tells it: names, clocks, power, temperature, what slows it down.

Written against NVML's documented C interface and not run yet: see docs/design.md. No package is needed, only the
driver's ``libnvidia-ml.so.1``.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

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
}
"""nvmlClocksThrottleReason*: bits of what keeps clocks below their maximum."""
HARMLESS = ("idle", "application clocks", "display clocks")
"""What is no sign of trouble; the rest is: the GPU was slower than it can be."""
_SM, _MEMORY = 1, 2


class _Memory(ctypes.Structure):
    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


class Gpu:
    """One GPU; what the driver does not tell is None."""

    def __init__(self, library: ctypes.CDLL, handle: ctypes.c_void_p) -> None:
        self._library, self._handle = library, handle

    def describe(self) -> dict[str, Any]:
        """What does not change: name, identity, driver, limits."""
        return {
            "name": self._string("nvmlDeviceGetName"),
            "uuid": self._string("nvmlDeviceGetUUID"),
            "driver": _driver(self._library),
            "most_sm_mhz": self._number("nvmlDeviceGetMaxClockInfo", _SM),
            "most_memory_mhz": self._number("nvmlDeviceGetMaxClockInfo", _MEMORY),
            "power_limit_w": _thousandth(self._number("nvmlDeviceGetEnforcedPowerLimit")),
            "memory_bytes": self._memory("total"),
        }

    def sample(self) -> dict[str, Any]:
        """What changes while it works."""
        reasons = self._number("nvmlDeviceGetCurrentClocksThrottleReasons", kind=ctypes.c_ulonglong)
        return {
            "sm_mhz": self._number("nvmlDeviceGetClockInfo", _SM),
            "memory_mhz": self._number("nvmlDeviceGetClockInfo", _MEMORY),
            "power_w": _thousandth(self._number("nvmlDeviceGetPowerUsage")),
            "temperature_c": self._number("nvmlDeviceGetTemperature", 0),
            "throttle_reasons": throttle_reasons(reasons or 0),
            "used_bytes": self.used_bytes(),
        }

    def used_bytes(self) -> int | None:
        """Memory that all processes use on it."""
        return self._memory("used")

    def _memory(self, field: str) -> int | None:
        value = _Memory()
        failed = self._library.nvmlDeviceGetMemoryInfo(self._handle, ctypes.byref(value))
        return None if failed else int(getattr(value, field))

    def _number(self, function: str, *args: int, kind: Any = ctypes.c_uint) -> int | None:  # noqa: ANN401
        value = kind(0)
        failed = getattr(self._library, function)(self._handle, *map(ctypes.c_uint, args), ctypes.byref(value))
        return None if failed else int(value.value)

    def _string(self, function: str) -> str | None:
        text = ctypes.create_string_buffer(96)
        failed = getattr(self._library, function)(self._handle, text, ctypes.c_uint(len(text)))
        return None if failed else text.value.decode()


def throttle_reasons(bits: int) -> list[str]:
    """Names of the bits that are set."""
    return [name for bit, name in _REASONS.items() if bits & bit]


def find(device: int | None) -> Gpu | None:
    """The GPU that CUDA calls ``device``; None for the CPU, or where the driver has no such library."""
    library = _library()
    address = None if device is None or library is None else _bus_address(device)
    if library is None or address is None:
        return None
    handle = ctypes.c_void_p()
    failed = library.nvmlDeviceGetHandleByPciBusId_v2(address, ctypes.byref(handle))
    return None if failed else Gpu(library, handle)


def used_bytes(device: int | None) -> int | None:
    """Memory that all processes use on a GPU; None for the CPU."""
    gpu = find(device)
    return gpu.used_bytes() if gpu else None


@cache
def _library() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
    return None if library.nvmlInit_v2() else library


def _bus_address(device: int) -> bytes | None:
    """CUDA may number GPUs otherwise than NVML, and hide some: the address on the bus is common to both."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    number, text = ctypes.c_int(0), ctypes.create_string_buffer(32)
    if driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(number), device):
        return None
    return None if driver.cuDeviceGetPCIBusId(text, len(text), number) else text.value


def _driver(library: ctypes.CDLL) -> str | None:
    text = ctypes.create_string_buffer(96)
    return None if library.nvmlSystemGetDriverVersion(text, ctypes.c_uint(len(text))) else text.value.decode()


def _thousandth(value: int | None) -> float | None:
    return None if value is None else value / 1000

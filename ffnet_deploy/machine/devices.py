"""The processor cores and GPUs that this process may use."""

from __future__ import annotations

import ctypes
import os

from ffnet_deploy.errors import MissingDependencyError


def default_threads() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def visible_gpus() -> int:
    """How many GPUs the NVIDIA driver offers to this process; 0 without a driver. Loads no framework."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return 0
    return count.value


def check_device(device: int | None) -> None:
    """Check that the GPU of ``--device`` is there.

    Raises:
        MissingDependencyError: there is no such GPU.
    """
    count = visible_gpus()
    if device is not None and not 0 <= device < count:
        have = f"GPUs 0 to {count - 1} are" if count > 1 else "GPU 0 is" if count else "no GPU is"
        raise MissingDependencyError(
            f"CUDA device {device} was asked for, and {have} visible here. Leave --device out."
        )

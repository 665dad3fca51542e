"""What an engine can be asked to be, and which runtime has which of it."""

from __future__ import annotations

from ffnet_deploy.artifacts.renewal import engine_flag
from ffnet_deploy.artifacts.values import EngineOptions
from ffnet_deploy.errors import UsageError

_HAS = {
    "tensorrt-rtx": {"gpus", "portable", "tf32", "batch"},
    "tensorrt": {"tf32", "level", "workspace_mb", "timing_cache", "hardware_compatible", "version_compatible", "batch"},
    "onnxruntime": {"batch"},
}
_WHY = {
    ("tensorrt-rtx", "timing_cache"): " (it would force a GPU at build time)",
    ("tensorrt", "gpus"): " (it builds for the GPU of this machine)",
    ("tensorrt", "portable"): " (--hardware-compatible comes nearest)",
}


def check(options: EngineOptions, runtime: str) -> None:
    """Check that a runtime has these options.

    Raises:
        UsageError: an option that the runtime does not have, or options that exclude each other.
    """
    for name in options.asked():
        if name not in _HAS[runtime]:
            others = [other for other, has in _HAS.items() if name in has]
            why = _WHY.get((runtime, name), "")
            raise UsageError(
                f"{runtime} has no {engine_flag(name)}{why}. "
                f"Leave it out, or build with --runtime {' or '.join(others)}."
            )
    if options.portable and options.gpus:
        raise UsageError("--portable means every GPU, --gpu some of them. Leave one of them out.")
    if options.level is not None and not 0 <= options.level <= 5:
        raise UsageError(
            f"--level {options.level} does not exist (0 to 5 were needed). Leave it out for the default, 3."
        )

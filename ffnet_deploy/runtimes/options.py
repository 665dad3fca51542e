"""What an engine can be asked to be, and which runtime has which of it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import NamedTuple

from ffnet_deploy.errors import UsageError


class BatchProfile(NamedTuple):
    """Batches that an engine of a dynamic graph takes: smallest, the one it is tuned for, largest."""

    smallest: int
    best: int
    largest: int

    @classmethod
    def parse(cls, text: str) -> BatchProfile:
        """Read ``MIN,OPT,MAX``.

        Raises:
            UsageError: not three whole numbers in order, 1 or more.
        """
        parts = text.split(",")
        if len(parts) != 3 or not all(part.strip().isdecimal() for part in parts):
            raise UsageError(
                f"--batch {text!r} is not MIN,OPT,MAX (three whole numbers were needed). Say: --batch 1,4,8"
            )
        profile = cls(*(int(part) for part in parts))
        if not 1 <= profile.smallest <= profile.best <= profile.largest:
            raise UsageError(
                f"--batch {text!r} is out of order (1 <= MIN <= OPT <= MAX was needed). Say: --batch 1,4,8"
            )
        return profile

    def __str__(self) -> str:
        return "-".join(map(str, self))


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """Beyond precision, which is the graph's. What a runtime does not have is refused, never ignored."""

    gpus: tuple[str, ...] = ()
    """``sm86``, ``sm89``: targets of a TensorRT-RTX engine."""
    portable: bool = False
    """Every target that TensorRT-RTX knows."""
    tf32: bool = False
    """Let FP32 convolutions round to TF32: faster, and no true FP32 any more."""
    level: int | None = None
    """TensorRT's optimisation level, 0 to 5."""
    workspace_mb: int | None = None
    """Scratch memory that TensorRT's tactics may use, MiB."""
    timing_cache: bool = False
    """Keep TensorRT's kernel timings for the next build, one file for each device and version."""
    hardware_compatible: bool = False
    """A TensorRT engine for Ampere and every later GPU."""
    version_compatible: bool = False
    """A TensorRT engine that later versions load too."""
    batch: BatchProfile | None = None

    @property
    def suffix(self) -> str:
        """What file names say of it."""
        if self.portable:
            return "-portable"
        return f"-{'+'.join(self.gpus)}" if self.gpus else ""

    def asked(self) -> dict[str, object]:
        """The options that differ from their defaults."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}

    def flags(self, runtime: str) -> list[str]:
        """The options that a runtime has, as they stand on the command line."""
        words = []
        for name, value in self.asked().items():
            if name not in _HAS[runtime]:
                continue
            if name == "gpus":
                words += [f"--gpu {gpu}" for gpu in self.gpus]
            elif name == "batch":
                words.append(f"--batch {','.join(map(str, self.batch or ()))}")
            else:
                words.append(_FLAGS[name] if value is True else f"{_FLAGS[name]} {value}")
        return words


_FLAGS = {
    "gpus": "--gpu", "portable": "--portable", "tf32": "--tf32", "level": "--level", "workspace_mb": "--workspace-mb",
    "timing_cache": "--timing-cache", "hardware_compatible": "--hardware-compatible",
    "version_compatible": "--version-compatible", "batch": "--batch",
}  # fmt: skip
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
    """Hold options to a runtime.

    Raises:
        UsageError: an option that the runtime does not have, or options that exclude each other.
    """
    for name in options.asked():
        if name not in _HAS[runtime]:
            others = [other for other, has in _HAS.items() if name in has]
            why = _WHY.get((runtime, name), "")
            raise UsageError(
                f"{runtime} has no {_FLAGS[name]}{why}. Leave it out, or build with --runtime {' or '.join(others)}."
            )
    if options.portable and options.gpus:
        raise UsageError("--portable means every GPU, --gpu some of them. Leave one of them out.")
    if options.level is not None and not 0 <= options.level <= 5:
        raise UsageError(
            f"--level {options.level} does not exist (0 to 5 were needed). Leave it out for the default, 3."
        )

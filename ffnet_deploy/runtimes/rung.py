"""One rung of the ladder: something that can run a model, here or elsewhere."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from ffnet_deploy.artifacts.values import Ends, Shape
from ffnet_deploy.machine.devices import visible_gpus

RUNTIMES = ("tensorrt", "tensorrt-rtx", "onnxruntime")
REFERENCE = "pytorch"
EMULATED = "onnx"
"""A graph scored on the CPU by rounding as its precision does; never timed."""


@dataclass(frozen=True, slots=True)
class Style:
    """How PyTorch runs a module; by default eagerly, in the layout that PyTorch prefers."""

    channels_last: bool = False
    """NHWC in memory, which suits some convolution kernels better."""
    compiled: bool = False
    """By ``torch.compile``, during the first run."""

    @property
    def words(self) -> str:
        """How names of rungs have it: ``channels-last compiled``."""
        return " ".join(
            word for word, has in (("channels-last", self.channels_last), ("compiled", self.compiled)) if has
        )


@dataclass(frozen=True, slots=True)
class Rung:
    """One step of the ladder: something that can, or could elsewhere, run the model."""

    runtime: str
    precision: str
    model: str
    shape: Shape
    """(N, 3, H, W) of the input ``image``."""
    path: Path | None = None
    """The engine; for the reference the weight file, None for random weights."""
    size: int | None = None
    """Bytes of the file."""
    sha256: str | None = None
    """Of the file; ``random-SEED`` for random weights."""
    marks: tuple[str, ...] = ()
    upsampling: str | None = None
    """Of the reference: ``bilinear`` where that is not the published one."""
    variant: str = ""
    """What its file name says besides: ``image labels``, ``b1-4-8``, ``portable``."""
    ends: Ends = field(default_factory=Ends)
    style: Style = Style()
    """Of the reference, and of PyTorch's other ways."""
    built_by: str | None = None
    """Version of TensorRT or TensorRT-RTX that alone can load it."""

    @property
    def name(self) -> str:
        """How tables and ``--only`` call it: ``onnxruntime fp32``, ``onnx fp16 emulated``."""
        return f"{self.runtime} {self.precision}{f' {self.variant}' if self.variant else ''}"


def reason_not_here(runtime: str) -> str | None:
    """Why this machine cannot run engines of a runtime; None if it can."""
    if runtime == "onnxruntime":
        return None if find_spec("onnxruntime") else "onnxruntime is not installed"
    if runtime in ("tensorrt", "tensorrt-rtx"):
        if not visible_gpus():
            return "needs an NVIDIA GPU; this machine has none that the driver shows"
        if not find_spec(runtime.replace("-", "_")):
            return f"{runtime} is not installed"
    return None

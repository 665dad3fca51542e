"""What can run a model, by name; each runtime's library is loaded only when it is opened."""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ffnet_deploy.artifacts import load_record
from ffnet_deploy.errors import EngineError, MissingDependencyError

if TYPE_CHECKING:
    import onnx

    from ffnet_deploy.runtimes.base import Runner

RUNTIMES = ("tensorrt", "tensorrt-rtx", "onnxruntime")
REFERENCE = "pytorch"
EMULATED = "onnx"
"""A graph scored on the CPU by rounding as its precision does; never timed."""


@dataclass(frozen=True, slots=True)
class Ends:
    """What an engine takes and gives."""

    image_in: bool = False
    """uint8 (N, H, W, 3), RGB, instead of normalised floats (N, 3, H, W)."""
    labels_out: bool = False
    """uint8 (N, H, W), train ids, instead of logits."""
    align_corners: bool = False
    """Of the up-sampling in front of the labels."""
    io: str = "fp32"
    """Type of floating inputs and outputs."""


@dataclass(frozen=True, slots=True)
class Rung:
    """One step of the ladder: something that can, or could elsewhere, run the model."""

    runtime: str
    precision: str
    model: str
    shape: tuple[int, int, int, int]
    """(N, 3, H, W) of the input ``image``."""
    path: Path | None = None
    """The engine; for the reference the weight file, None for random weights."""
    size: int | None = None
    """Bytes of the file."""
    marks: tuple[str, ...] = ()
    upsampling: str | None = None
    """Of the reference: ``bilinear`` where that is not the published one."""
    variant: str = ""
    """What its file name says besides: ``image labels``, ``b1-4-8``, ``portable``."""
    ends: Ends = Ends()
    built_by: str | None = None
    """Version of TensorRT or TensorRT-RTX that alone can load it."""

    @property
    def name(self) -> str:
        """How tables and ``--only`` call it: ``onnxruntime fp32``, ``onnx fp16 emulated``."""
        return f"{self.runtime} {self.precision}{f' {self.variant}' if self.variant else ''}"


def default_threads() -> int:
    """Cores that this process may use."""
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
    """Hold ``--device`` to the GPUs that are there.

    Raises:
        MissingDependencyError: there is no such GPU.
    """
    count = visible_gpus()
    if device is not None and not 0 <= device < count:
        have = f"GPUs 0 to {count - 1} are" if count > 1 else "GPU 0 is" if count else "no GPU is"
        raise MissingDependencyError(
            f"CUDA device {device} was asked for, and {have} visible here. Leave --device out."
        )


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


def warm_imports(runtime: str) -> None:
    """Import what a runtime needs, so that opening a rung of it is opening alone."""
    modules = {REFERENCE: "pytorch", "tensorrt-rtx": "tensorrt"}
    import_module(f"ffnet_deploy.runtimes.{modules.get(runtime, runtime)}")
    if runtime == REFERENCE:
        import_module("ffnet_deploy.zoo.weights")
    elif runtime.startswith("tensorrt"):
        import_module(runtime.replace("-", "_"))


def open_rung(rung: Rung, threads: int, device: int | None, spinning: bool = True, arena: bool = True) -> Runner:
    """A runner for ``rung``; close it after use.

    ``spinning`` and ``arena`` are settings of ONNX Runtime, see :class:`OnnxRuntimeRunner`.

    Raises:
        MissingDependencyError: this machine lacks the runtime or the device.
        EngineError: the runtime refuses the file.
        WeightsError: the reference's weights cannot be loaded.
    """
    if rung.runtime == REFERENCE:
        return _pytorch(rung, threads, device)
    assert rung.path is not None
    if rung.runtime == EMULATED:
        return _emulated(rung, threads, spinning)
    return _open(rung.runtime, rung.path, threads, device, spinning, arena)


def _pytorch(rung: Rung, threads: int, device: int | None) -> Runner:
    from ffnet_deploy.runtimes.pytorch import PyTorchRunner, Style
    from ffnet_deploy.zoo.specs import changed
    from ffnet_deploy.zoo.weights import load, load_random

    spec = changed(rung.model, rung.upsampling)
    loaded = load_random(spec) if rung.path is None else load(spec, rung.path)
    asked = rung.variant.split()
    style = Style(
        half=rung.precision == "fp16",
        channels_last="channels-last" in asked,
        compiled="compiled" in asked,
        image_in=rung.ends.image_in,
        labels_out=rung.ends.labels_out,
        align_corners=rung.ends.align_corners,
    )
    n, _, h, w = rung.shape
    # Known beforehand: a run to find it out would warm up what `bench --mode cold` wants cold.
    size = spec.output_hw(h, w)
    out = (n, spec.classes, *size) if size else (n, spec.classes)
    return PyTorchRunner(loaded.module, rung.shape, threads=threads, device=device, style=style, out=out)


def as_run(rung: Rung) -> onnx.ModelProto:
    """The FP32 graph by which a rung of runtime ``onnx`` is computed."""
    import onnx

    from ffnet_deploy.graph.fp16 import rounded

    assert rung.runtime == EMULATED
    assert rung.path is not None
    model = onnx.load(rung.path)
    # The exported graph has nothing to round.
    return model if rung.precision == "fp32" else rounded(model)


def _emulated(rung: Rung, threads: int, spinning: bool) -> Runner:
    from ffnet_deploy.runtimes.onnxruntime import OnnxRuntimeRunner

    # The exported graph is run node by node: what ONNX Runtime makes of it is another rung.
    optimised = rung.precision != "fp32"
    graph = as_run(rung).SerializeToString()
    return OnnxRuntimeRunner(graph, threads=threads, spinning=spinning, optimised=optimised, exact=optimised)


def _open(runtime: str, path: Path, threads: int, device: int | None, spinning: bool, arena: bool = True) -> Runner:
    reason = reason_not_here(runtime)
    if reason:
        raise MissingDependencyError(f"{path.name} cannot run here: {reason}. Run it on the machine it was built for.")
    if runtime == "onnxruntime":
        from ffnet_deploy.runtimes.onnxruntime import OnnxRuntimeRunner

        return OnnxRuntimeRunner(path, threads=threads, spinning=spinning, arena=arena)
    if runtime in ("tensorrt", "tensorrt-rtx"):
        from ffnet_deploy.runtimes.tensorrt import TensorRTRunner

        return TensorRTRunner("tensorrt" if runtime == "tensorrt" else "tensorrt-rtx", path, device=device or 0)
    raise EngineError(f"{path} is an engine of {runtime!r} ({', '.join(RUNTIMES)} are known). Update ffnet-deploy.")


def load_engine(path: str | Path, *, device: int | None = None, threads: int | None = None) -> Runner:
    """Load an engine that ``ffnet-deploy build`` made.

    Args:
        path: the engine file; its record ``PATH.json`` must lie beside it.
        device: GPU for TensorRT engines, 0 by default.
        threads: for ONNX Runtime on the CPU; all cores by default.

    Returns:
        A runner: ``runner({"image": array})`` gives ``{"logits": array}``; a context manager. The image is float32
        (N, 3, H, W), RGB/255 normalised by ImageNet's mean and std; ``runner.inputs`` has the exact shape.

    Raises:
        ArtifactError: no such file, no record, or the file is damaged.
        MissingDependencyError: this machine cannot run it.
        EngineError: the runtime refuses it.
    """
    path = Path(path)
    record = load_record(path, remedy="ffnet-deploy build")
    if record.kind != "engine" or record.runtime is None:
        raise EngineError(f"{path} is a {record.kind} (an engine was needed). Run: ffnet-deploy build {record.model}")
    return _open(record.runtime, path, threads or default_threads(), device, spinning=True)

"""Open what can run a model; each runtime is imported only then."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from ffnet_deploy.artifacts.records import EngineRecord, load_record
from ffnet_deploy.errors import EngineError, MissingDependencyError
from ffnet_deploy.machine.devices import default_threads
from ffnet_deploy.runtimes.rung import EMULATED, REFERENCE, RUNTIMES, Rung, reason_not_here

if TYPE_CHECKING:
    import onnx

    from ffnet_deploy.runtimes.pytorch import PyTorchRunner
    from ffnet_deploy.runtimes.runner import Runner
    from ffnet_deploy.runtimes.tensorrt import TensorRTRunner


def warm_imports(runtime: str) -> None:
    """Import what a runtime needs, so that opening a rung of it is opening alone."""
    modules = {REFERENCE: "pytorch", "tensorrt-rtx": "tensorrt"}
    import_module(f"ffnet_deploy.runtimes.{modules.get(runtime, runtime)}")
    if runtime == REFERENCE:
        import_module("ffnet_deploy.zoo.weights")
    elif runtime.startswith("tensorrt"):
        import_module(runtime.replace("-", "_"))


def open_rung(rung: Rung, threads: int, device: int | None, *, spinning: bool = True, arena: bool = True) -> Runner:
    """A runner for ``rung``; close it after use.

    ``spinning`` and ``arena`` are settings of ONNX Runtime, see :class:`OnnxRuntimeRunner`.

    Raises:
        MissingDependencyError: this machine lacks the runtime or the device.
        EngineError: the runtime refuses the file.
        WeightsError: the reference's weights cannot be loaded.
    """
    if rung.runtime == REFERENCE:
        return open_pytorch(rung, threads, device)
    assert rung.path is not None
    if rung.runtime == EMULATED:
        return _emulated(rung, threads, spinning)
    return _open(rung.runtime, rung.path, threads, device, spinning, arena)


def open_pytorch(rung: Rung, threads: int, device: int | None) -> PyTorchRunner:
    """The reference, or another of PyTorch's rungs.

    Raises:
        MissingDependencyError: there is no such device.
        WeightsError: the weights cannot be loaded.
    """
    from ffnet_deploy.runtimes.pytorch import PyTorchRunner
    from ffnet_deploy.zoo.specs import changed
    from ffnet_deploy.zoo.weights import load, load_random

    spec = changed(rung.model, rung.upsampling)
    loaded = load_random(spec) if rung.path is None else load(spec, rung.path)
    n, _, h, w = rung.shape
    # Known beforehand: a run to find it out would warm up what `bench --mode cold` wants cold.
    size = spec.output_hw(h, w)
    out = (n, spec.classes, *size) if size else (n, spec.classes)
    return PyTorchRunner(
        loaded.module,
        rung.shape,
        threads=threads,
        device=device,
        half=rung.precision == "fp16",
        style=rung.style,
        ends=rung.ends,
        out=out,
    )


def as_run(rung: Rung) -> onnx.ModelProto:
    """The FP32 graph by which a rung of runtime ``onnx`` is computed."""
    from ffnet_deploy.graph.fp16 import rounded
    from ffnet_deploy.graph.loading import load_graph

    assert rung.runtime == EMULATED
    assert rung.path is not None
    model = load_graph(rung.path)
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
        return open_tensorrt(runtime, path, device)
    raise EngineError(f"{path} is an engine of {runtime!r} ({', '.join(RUNTIMES)} are known). Update ffnet-deploy.")


def open_tensorrt(runtime: str, path: Path, device: int | None) -> TensorRTRunner:
    """An engine of TensorRT or TensorRT-RTX, by default on GPU 0.

    Raises:
        MissingDependencyError: the runtime or the GPU is absent.
        EngineError: the engine was built by another version or for another GPU.
    """
    from ffnet_deploy.runtimes.tensorrt import TensorRTRunner

    return TensorRTRunner("tensorrt" if runtime == "tensorrt" else "tensorrt-rtx", path, device=device or 0)


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
    record = load_record(path, EngineRecord, remedy="ffnet-deploy build")
    return _open(record.runtime, path, threads or default_threads(), device, spinning=True)

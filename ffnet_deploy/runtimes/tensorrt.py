"""TensorRT and TensorRT-RTX: one path from a graph to an engine, and the runner on a GPU.

Polygraphy picks between the two by an environment variable that it reads at import, so one process serves one of
them: use :class:`TensorRTBuilder` and :class:`TensorRTRunner` inside a ``Worker``. What runs on a GPU here has been
written against the API and not been run: see docs/design.md.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from ffnet_deploy.errors import EngineError, needs
from ffnet_deploy.runtimes.base import TensorSpec, check_feeds

if TYPE_CHECKING:
    import numpy as np

    from ffnet_deploy.runtimes.base import Feeds

Runtime = Literal["tensorrt", "tensorrt-rtx"]
_MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
_WORKSPACE_LINE = re.compile(r"^\[.*?\]\s*")


def _load(runtime: Runtime) -> Any:  # noqa: ANN401 - a module without types
    with needs(_MODULES[runtime]):
        return import_module(_MODULES[runtime])


class TensorRTBuilder:
    """Builds engines in this process; make it in a ``Worker``."""

    def __init__(self, runtime: Runtime) -> None:
        """Bind this process and its Polygraphy to one of the two runtimes.

        Raises:
            MissingDependencyError: it is not installed.
        """
        self._runtime = runtime
        self._trt = _load(runtime)
        os.environ["POLYGRAPHY_USE_TENSORRT_RTX"] = str(int(runtime == "tensorrt-rtx"))
        with needs("polygraphy"):
            from polygraphy.logger import G_LOGGER
        # Polygraphy prints; what it would say comes back in our errors.
        G_LOGGER.module_severity = {"": G_LOGGER.CRITICAL}

    def build(self, graph: Path, engine: Path) -> dict[str, Any]:
        """Build a strongly typed engine: the precision is the graph's, TF32 is off.

        Returns:
            ``layers``: how many of the parsed network's layers of each type compute in which precision.

        Raises:
            EngineError: the parser or the builder refuses the graph.
        """
        from polygraphy.backend.trt import network_from_onnx_path
        from polygraphy.exception import PolygraphyException

        try:
            builder, network, _parser = network_from_onnx_path(str(graph), strongly_typed=True)
        except PolygraphyException as error:
            raise EngineError(
                f"{graph} is refused by {self._runtime}'s parser ({_first(error)}). Export it again."
            ) from error
        config = self._config(builder, network)
        # TF32 is on by default, and an "FP32" engine would not be one.
        config.clear_flag(self._trt.BuilderFlag.TF32)
        config.profiling_verbosity = self._trt.ProfilingVerbosity.DETAILED
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise EngineError(f"{self._runtime} {self.version} could not build {graph.name}. Is the GPU's memory free?")
        with engine.open("wb") as file:
            file.write(memoryview(plan))
        return {"layers": _precisions(network)}

    @property
    def version(self) -> str:
        return str(self._trt.__version__)

    def _config(self, builder: Any, network: Any) -> Any:  # noqa: ANN401 - TensorRT's objects have no types
        if self._runtime == "tensorrt-rtx":
            from polygraphy.backend.tensorrt_rtx import CreateConfigRTX

            # Without a GPU the target is the default: compute capability 8.0, 8.6, 8.9, 12.0 and later.
            return CreateConfigRTX(use_gpu=False)(builder, network)
        from polygraphy.backend.trt import CreateConfig

        return CreateConfig()(builder, network)


def _precisions(network: Any) -> dict[str, dict[str, int]]:  # noqa: ANN401
    """Layer type to data type of its first input to count; what the builder makes of it is not known here."""
    found: dict[str, dict[str, int]] = {}
    for layer in (network.get_layer(i) for i in range(network.num_layers)):
        if layer.num_inputs and layer.get_input(0) is not None:
            kinds = found.setdefault(layer.type.name.lower(), {})
            kind = layer.get_input(0).dtype.name.lower()
            kinds[kind] = kinds.get(kind, 0) + 1
    return found


def _first(error: Exception) -> str:
    lines = [_WORKSPACE_LINE.sub("", line).strip() for line in str(error).splitlines()]
    return next((line for line in lines if line), type(error).__name__)


class TensorRTRunner:
    """Runs an engine on a GPU; make it in a ``Worker``."""

    def __init__(self, runtime: Runtime, engine: Path, *, device: int = 0) -> None:
        """Load an engine and give it a context, a stream and device buffers.

        Raises:
            MissingDependencyError: the runtime or a GPU is absent.
            EngineError: the engine was built by another version or for another GPU.
        """
        from ffnet_deploy.runtimes import cuda

        self._trt = _load(runtime)
        self._cuda = cuda.open_device(device)
        runtime_object = self._trt.Runtime(self._trt.Logger(self._trt.Logger.ERROR))
        self._engine = runtime_object.deserialize_cuda_engine(engine.read_bytes())
        if self._engine is None:
            raise EngineError(
                f"{engine} cannot be loaded by {runtime} {self._trt.__version__} on GPU {device} "
                "(an engine of the same version and for this GPU was needed). Build it again on this machine."
            )
        self._context = self._engine.create_execution_context()
        specs = [self._spec(self._engine.get_tensor_name(i)) for i in range(self._engine.num_io_tensors)]
        modes = {spec.name: self._engine.get_tensor_mode(spec.name) for spec in specs}
        self.inputs: Sequence[TensorSpec] = [spec for spec in specs if modes[spec.name] == self._trt.TensorIOMode.INPUT]
        self.outputs: Sequence[TensorSpec] = [
            spec for spec in specs if modes[spec.name] == self._trt.TensorIOMode.OUTPUT
        ]
        self._buffers = {spec.name: self._cuda.allocate(spec.shape, spec.dtype) for spec in specs}
        for name, buffer in self._buffers.items():
            self._context.set_tensor_address(name, buffer.address)

    def _spec(self, name: str) -> TensorSpec:
        dtype = self._trt.nptype(self._engine.get_tensor_dtype(name))
        return TensorSpec(name, tuple(self._engine.get_tensor_shape(name)), dtype.__name__)

    def __call__(self, feeds: Feeds) -> dict[str, np.ndarray]:
        check_feeds(feeds, self.inputs)
        for spec in self.inputs:
            self._buffers[spec.name].upload(feeds[spec.name])
        self._enqueue()
        return {spec.name: self._buffers[spec.name].download() for spec in self.outputs}

    def latencies(self, feeds: Sequence[Feeds], iters: int) -> list[float]:
        samples = []
        for feed in itertools.islice(itertools.cycle(feeds), iters):
            check_feeds(feed, self.inputs)
            for spec in self.inputs:
                self._buffers[spec.name].upload(feed[spec.name])
            samples.append(self._cuda.milliseconds(self._enqueue))
        return samples

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(self._cuda.stream):
            raise EngineError("TensorRT could not enqueue the engine. Is the GPU's memory free?")

    def close(self) -> None:
        self._buffers.clear()
        del self._context, self._engine
        self._cuda.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

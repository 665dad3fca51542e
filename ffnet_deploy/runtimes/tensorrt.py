"""TensorRT and TensorRT-RTX: one path from a graph to an engine, and the runner on a GPU.

Polygraphy picks between the two by an environment variable that it reads at import, so one process serves one of
them: use :class:`TensorRTBuilder` and :class:`TensorRTRunner` inside a ``Worker``. What runs on a GPU here has been
written against the API and not been run: see docs/design-limits.md.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from ffnet_deploy.artifacts.renewal import next_step
from ffnet_deploy.artifacts.values import EngineFindings, EngineOptions
from ffnet_deploy.artifacts.writing import write_bytes
from ffnet_deploy.errors import EngineError, FFNetDeployError, UsageError, needs
from ffnet_deploy.foreign import load_json, reason
from ffnet_deploy.runtimes.engine_layers import NODE, LayerTime, parse_log, summary
from ffnet_deploy.runtimes.runner import TensorSpec, check_feeds

if TYPE_CHECKING:
    import numpy as np

    from ffnet_deploy.runtimes.cuda import Buffer
    from ffnet_deploy.runtimes.runner import Feeds


TensorRTKind = Literal["tensorrt", "tensorrt-rtx"]
_MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}


def _load(runtime: TensorRTKind) -> Any:  # noqa: ANN401 - a module without types
    with needs(_MODULES[runtime]):
        return import_module(_MODULES[runtime])


@contextmanager
def _told(what: str, step: str) -> Iterator[None]:
    """Turn what TensorRT's, Polygraphy's or torch's bindings raise in the block into an error of ours.

    Raises:
        EngineError: it names what was done, and the next step.
    """
    try:
        yield
    except (FFNetDeployError, OSError, MemoryError):
        raise
    except Exception as error:  # untyped
        raise EngineError(f"{what} ({type(error).__name__}: {reason(error)}). {step}") from error


class TensorRTBuilder:
    """Builds engines in this process; make it in a ``Worker``."""

    def __init__(self, runtime: TensorRTKind) -> None:
        """Bind this process and its Polygraphy to one of the two runtimes.

        Raises:
            MissingDependencyError: it is not installed.
        """
        self._runtime = runtime
        self._trt = _load(runtime)
        os.environ["POLYGRAPHY_USE_TENSORRT_RTX"] = str(int(runtime == "tensorrt-rtx"))
        self.report: Callable[[str, int, int | None], None] = lambda _what, _done, _total: None
        self._messages: list[str] = []
        self._logger = self._collector()

    def build(
        self, graph: Path, engine: Path, macs: Mapping[str, int], options: EngineOptions | None = None
    ) -> EngineFindings:
        """Build a strongly typed engine: the precision is the graph's, TF32 is off unless it was asked for.

        Args:
            graph: ONNX file.
            engine: gets the plan.
            macs: multiply-accumulates of the graph's convolutions and Gemms, by node name.
            options: beyond precision.

        Returns:
            What is really in the engine, see :func:`ffnet_deploy.runtimes.engine_layers.summary`. Empty where the
            builder does not tell, as TensorRT without RTX.

        Raises:
            EngineError: the parser or the builder refuses the graph.
            OSError: the engine cannot be written.
        """
        self._messages.clear()
        with _told(f"{self._runtime} {self.version} could not build {graph.name}", "Report this."):
            self._write_plan(graph, engine, options or EngineOptions())
        return summary(parse_log(self._messages), macs)

    def _write_plan(self, graph: Path, engine: Path, options: EngineOptions) -> None:
        builder = self._trt.Builder(self._logger)
        flag = getattr(self._trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
        # By the flag's name: its number has changed between versions.
        network = builder.create_network(0 if flag is None else 1 << int(flag))
        self._parse(graph, network)
        cache = self._timing_cache(engine, options)
        config = self._config(builder, network, options, cache)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            why = self._last_error() or "it gives no reason"
            raise EngineError(f"{self._runtime} {self.version} could not build {graph.name} ({why}). Report this.")
        with engine.open("wb") as file:
            file.write(memoryview(plan))
        if cache:
            write_bytes(cache, bytes(config.get_timing_cache().serialize()))

    @property
    def version(self) -> str:
        return str(self._trt.__version__)

    def _parse(self, graph: Path, network: Any) -> None:  # noqa: ANN401 - TensorRT's objects have no types
        parser = self._trt.OnnxParser(network, self._logger)
        if not parser.parse_from_file(str(graph)) or not network.num_layers:
            errors = (parser.get_error(i) for i in range(parser.num_errors))
            why = "; ".join(f"{e.node_name() or e.node_operator()}: {e.desc()}" for e in errors) or "it has no layers"
            one_line = " ".join(why.split())
            raise EngineError(f"{graph} is refused by {self._runtime}'s parser ({one_line}). {next_step(graph)}")

    def _config(self, builder: Any, network: Any, options: EngineOptions, cache: Path | None) -> Any:  # noqa: ANN401
        """The builder's configuration, by Polygraphy."""
        common = {
            "profiles": self._profiles(network, options),
            "profiling_verbosity": self._trt.ProfilingVerbosity.DETAILED,
            "progress_monitor": self._monitor(),
        }
        with needs("polygraphy"):
            from polygraphy.logger import G_LOGGER

            # Polygraphy prints; what matters of it comes back in our errors.
            G_LOGGER.module_severity = {"": G_LOGGER.CRITICAL}
            if self._runtime == "tensorrt-rtx":
                from polygraphy.backend.tensorrt_rtx import CreateConfigRTX

                create = CreateConfigRTX(compute_capabilities=self._targets(options), **common)
            else:
                from polygraphy.backend.trt import CreateConfig

                ampere = self._trt.HardwareCompatibilityLevel.AMPERE_PLUS
                pools = {self._trt.MemoryPoolType.WORKSPACE: (options.workspace_mb or 0) << 20}
                create = CreateConfig(
                    builder_optimization_level=options.level,
                    memory_pool_limits=pools if options.workspace_mb else None,
                    load_timing_cache=str(cache) if cache and cache.exists() else None,
                    hardware_compatibility_level=ampere if options.hardware_compatible else None,
                    version_compatible=options.version_compatible,
                    **common,
                )
        config = create(builder, network)
        # TF32 is on by default, and an "FP32" engine would not be one.
        if not options.tf32:
            config.clear_flag(self._trt.BuilderFlag.TF32)
        return config

    def _profiles(self, network: Any, options: EngineOptions) -> list[Any] | None:  # noqa: ANN401
        if options.batch is None:
            return None
        from polygraphy.backend.trt import Profile

        profile = Profile()
        for tensor in (network.get_input(i) for i in range(network.num_inputs)):
            profile.add(tensor.name, *((batch, *tuple(tensor.shape)[1:]) for batch in options.batch))
        return [profile]

    def _targets(self, options: EngineOptions) -> list[tuple[int, int]] | None:
        """Compute capabilities of a TensorRT-RTX engine; None is its default: 8.0, 8.6, 8.9, 12.0 and later."""
        known = [name.lower() for name in self._trt.ComputeCapability.__members__ if name.startswith("SM")]
        wanted = known if options.portable else list(options.gpus)
        for name in wanted:
            if name not in known:
                raise UsageError(
                    f"--gpu {name} is no target of {self._runtime} {self.version} ({', '.join(known)} are). "
                    "Name one of them, or build with TensorRT on the machine with that GPU."
                )
        return [(int(name[2:-1]), int(name[-1])) for name in wanted] or None

    def _timing_cache(self, engine: Path, options: EngineOptions) -> Path | None:
        """One file for each GPU and version: another's timings would be wrong, and are refused by TensorRT."""
        if not options.timing_cache:
            return None
        import torch

        gpu = torch.cuda.get_device_name().replace(" ", "-")
        return engine.parent / f"{gpu}-{self._runtime}-{self.version}.timing.cache"

    def _monitor(self) -> Any:  # noqa: ANN401
        """TensorRT's progress monitor: tells the outermost phase's steps."""
        builder = self

        class Monitor(self._trt.IProgressMonitor):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                super().__init__()
                self._steps: dict[str, int] = {}

            def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
                if parent is None:
                    self._steps[phase] = steps
                    builder.report(phase, 0, steps)

            def step_complete(self, phase: str, step: int) -> bool:
                if phase in self._steps:
                    builder.report(phase, step + 1, self._steps[phase])
                return True

            def phase_finish(self, phase: str) -> None:
                self._steps.pop(phase, None)

        return Monitor()

    def _collector(self) -> Any:  # noqa: ANN401
        """A logger that keeps every message and prints none."""
        trt, messages = self._trt, self._messages

        class Collector(trt.ILogger):  # type: ignore[misc, name-defined]
            def log(self, severity: Any, message: str) -> None:  # noqa: ANN401
                messages.append(f"{severity.name}: {message}" if severity <= trt.ILogger.ERROR else message)

        return Collector()

    def _last_error(self) -> str | None:
        errors = [m for m in self._messages if m.startswith(("ERROR: ", "INTERNAL_ERROR: "))]
        return " ".join(errors[-1].split()) if errors else None


class TensorRTRunner:
    """Runs an engine on a GPU; make it in a ``Worker``."""

    parallel = False

    def __init__(self, runtime: TensorRTKind, engine: Path, *, device: int = 0) -> None:
        """Load an engine and give it a context, a stream and device buffers.

        Raises:
            MissingDependencyError: the runtime or a GPU is absent.
            EngineError: the engine was built by another version or for another GPU.
        """
        self._trt = _load(runtime)
        self._told = partial(_told, f"{engine} fails on GPU {device}", "Free the GPU's memory, or build it again.")
        with self._told():
            self._open(runtime, engine, device)

    def _open(self, runtime: TensorRTKind, engine: Path, device: int) -> None:
        from ffnet_deploy.runtimes import cuda

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
        self._buffers: dict[str, Buffer] = {}
        self.spans: dict[str, list[float]] = {"enqueue": [], "upload": [], "download": []}
        self._allocate(1)

    def _allocate(self, batch: int) -> None:
        """Buffers for a batch; it matters for engines that take several alone."""
        for spec in self.inputs:
            self._context.set_input_shape(spec.name, tuple(side or batch for side in spec.shape))
        for spec in (*self.inputs, *self.outputs):
            shape = tuple(side or batch for side in spec.shape)
            self._buffers[spec.name] = self._cuda.allocate(shape, spec.dtype)
            self._context.set_tensor_address(spec.name, self._buffers[spec.name].address)
        self._batch = batch

    def _upload(self, feeds: Feeds) -> None:
        check_feeds(feeds, self.inputs)
        batch = len(feeds[self.inputs[0].name])
        if batch != self._batch and None in self.inputs[0].shape:
            self._allocate(batch)
        start = time.perf_counter_ns()
        for spec in self.inputs:
            self._buffers[spec.name].upload(feeds[spec.name])
        self._keep("upload", start)

    def _keep(self, span: str, start: int) -> None:
        self.spans[span].append((time.perf_counter_ns() - start) / 1e6)

    def _spec(self, name: str) -> TensorSpec:
        dtype = self._trt.nptype(self._engine.get_tensor_dtype(name))
        shape = tuple(None if side < 0 else side for side in self._engine.get_tensor_shape(name))
        return TensorSpec(name, shape, dtype.__name__)

    def __call__(self, feeds: Feeds) -> dict[str, np.ndarray]:
        with self._told():
            self._upload(feeds)
            self._enqueue()
            self._cuda.wait()
            start = time.perf_counter_ns()
            outputs = {spec.name: self._buffers[spec.name].download() for spec in self.outputs}
            self._keep("download", start)
        return outputs

    def latencies(self, feeds: Sequence[Feeds], iters: int) -> list[float]:
        samples = []
        with self._told():
            for feed in itertools.islice(itertools.cycle(feeds), iters):
                self._upload(feed)
                samples.append(self._cuda.milliseconds(self._enqueue))
        return samples

    def profile(self, feeds: Sequence[Feeds], runs: int) -> list[LayerTime]:
        """Time every layer of the engine, in the order that the engine lists them.

        Raises:
            EngineError: a run fails, or the engine inspector tells of no layers.
        """
        with self._told():
            return self._profiled(feeds, runs)

    def _profiled(self, feeds: Sequence[Feeds], runs: int) -> list[LayerTime]:
        times: dict[str, list[float]] = {}

        class Times(self._trt.IProfiler):  # type: ignore[misc, name-defined]
            def report_layer_time(self, layer: str, milliseconds: float) -> None:
                times.setdefault(layer, []).append(milliseconds)

        # Attached after a plain run, in which the engine allocates.
        self(feeds[0])
        self._context.profiler = Times()
        for feed in itertools.islice(itertools.cycle(feeds), runs):
            self(feed)
        kinds = self._layers()
        return [
            LayerTime(
                name=name,
                kind=str(kinds.get(name, {}).get("LayerType", "")),
                samples=tuple(samples),
                precision=None,
                bytes=None,
                nodes=tuple(NODE.findall(str(kinds.get(name, {}).get("Metadata", "")))),
            )
            for name, samples in times.items()
        ]

    def _layers(self) -> dict[str, dict[str, Any]]:
        """What the engine inspector tells of every layer, by name; engines are built with DETAILED verbosity."""
        text = self._engine.create_engine_inspector().get_engine_information(self._trt.LayerInformationFormat.JSON)
        layers = load_json(text)["Layers"]
        return {layer["Name"]: layer for layer in layers if isinstance(layer, dict)}

    def _enqueue(self) -> None:
        start = time.perf_counter_ns()
        if not self._context.execute_async_v3(self._cuda.stream):
            raise EngineError("TensorRT could not enqueue the engine. Free the GPU's memory, or build it again.")
        self._keep("enqueue", start)

    def close(self) -> None:
        self._buffers.clear()
        self.__dict__.pop("_context", None)
        self.__dict__.pop("_engine", None)
        self._cuda.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        # After an error of the GPU closing fails too, and would hide it.
        with suppress(Exception) if error else nullcontext():
            self.close()

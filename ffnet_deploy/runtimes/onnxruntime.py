"""ONNX Runtime on the CPU: optimised graphs, their runner, and time by layer."""

from __future__ import annotations

import itertools
import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Self

from ffnet_deploy.artifacts.renewal import next_step
from ffnet_deploy.artifacts.values import EngineFindings
from ffnet_deploy.errors import EngineError, needs
from ffnet_deploy.foreign import load_json, reason
from ffnet_deploy.runtimes.engine_layers import LayerTime
from ffnet_deploy.runtimes.runner import TensorSpec, check_feeds

with needs("onnxruntime"):
    import onnxruntime as ort

    # What belongs to no session goes to a logger of its own, which prints; errors come as exceptions too.
    ort.set_default_logger_severity(4)

if TYPE_CHECKING:
    import numpy as np

    from ffnet_deploy.runtimes.runner import Feeds

_DTYPES = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(uint8)": "uint8", "tensor(int64)": "int64"}
_FATAL_ONLY = 4
"""What ONNX Runtime logs: its errors come as exceptions too, and are reported by us."""
_NO_MEMORY = ("bad_alloc", "bad allocation", "Failed to allocate memory")
"""In what ONNX Runtime says where it gets no memory."""
_ITS_SOURCE = re.compile(r"/onnxruntime_src/\S+\s")
"""Places in its own source code, on the machine where it was compiled."""
_BLOCK = 1 << 16
_INEXACT = ("WeightBiasQuantization",)
"""Optimisers that change results: this one quantises filters and biases that an INT8 graph has kept float."""


class OnnxRuntimeRunner:
    """Runs a graph with ONNX Runtime on the CPU."""

    parallel = True
    spans: Mapping[str, list[float]] = MappingProxyType({})

    def __init__(
        self,
        model: Path | bytes,
        *,
        threads: int,
        spinning: bool = True,
        arena: bool = True,
        optimised: bool = True,
        exact: bool = False,
        shared: bool = False,
    ) -> None:
        """Load a graph.

        Args:
            model: a file, or a serialised ModelProto.
            threads: inside an operator; operators run one after the other.
            spinning: idle threads burn their core between operators: faster alone, slower beside other work.
            arena: keep a run's memory for the next run, instead of asking the system for it again: faster, and many
                sessions together keep a lot.
            optimised: False runs the graph node by node as it stands.
            exact: integer convolutions without the 16-bit sums that saturate on CPUs without VNNI (slower there).
            shared: take memory from one arena of the process, not from one of its own: for many sessions in turn,
                which would each keep what their largest run took.

        Raises:
            EngineError: ONNX Runtime refuses the graph.
        """
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _FATAL_ONLY
        options.enable_cpu_mem_arena = arena
        options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
        if not optimised:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        if shared:
            _share_an_arena()
            options.add_session_config_entry("session.use_env_allocators", "1")
        if exact:
            options.add_session_config_entry("session.x64quantprecision", "1")
        self._session = _session(model, options)
        # Not of the model itself, whose bytes would stay as long as the runner.
        self._told = partial(_told, _named(model))
        self.inputs: Sequence[TensorSpec] = [_tensor(node) for node in self._session.get_inputs()]
        self.outputs: Sequence[TensorSpec] = [_tensor(node) for node in self._session.get_outputs()]

    def __call__(self, feeds: Feeds) -> dict[str, np.ndarray]:
        check_feeds(feeds, self.inputs)
        names = [spec.name for spec in self.outputs]
        with self._told():
            return dict(zip(names, self._session.run(names, dict(feeds)), strict=True))

    def latencies(self, feeds: Sequence[Feeds], iters: int) -> list[float]:
        for feed in feeds:
            check_feeds(feed, self.inputs)
        samples = []
        with self._told():
            for feed in itertools.islice(itertools.cycle(feeds), iters):
                start = time.perf_counter_ns()
                self._session.run(None, dict(feed))
                samples.append((time.perf_counter_ns() - start) / 1e6)
        return samples

    def close(self) -> None:
        self.__dict__.pop("_session", None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def build(graph: Path, engine: Path) -> EngineFindings:
    """Write the graph as ONNX Runtime optimises it, and tell what is in it.

    A graph of integers is first put in the operators that ONNX Runtime has fast integer kernels for. Only what holds on
    every CPU is baked in; the blocked layout that suits this one is chosen again at each load.

    Raises:
        ArtifactError: the graph is no sound one.
        EngineError: ONNX Runtime refuses the graph.
        OSError: the engine cannot be written.
    """
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(engine)
    options.log_severity_level = _FATAL_ONLY
    ready = _ready(graph)
    try:
        _session(ready, options)
    except EngineError:
        # It says the same of a full disk as of a graph that it cannot write down.
        if engine.exists():
            _check_room(engine)
        raise
    return EngineFindings(layers=_count_nodes(engine))


def _check_room(file: Path) -> None:
    """Write a little more at the end of a file.

    Raises:
        OSError: there is no room.
    """
    with file.open("ab") as end:
        end.write(bytes(_BLOCK))


def _ready(graph: Path) -> Path | bytes:
    # Only building needs them.
    from ffnet_deploy.graph.integers import in_fast_operators
    from ffnet_deploy.graph.loading import load_graph

    model = load_graph(graph)
    integers = any(node.op_type == "QuantizeLinear" for node in model.graph.node)
    return in_fast_operators(model).SerializeToString() if integers else graph


def _count_nodes(path: Path) -> dict[str, int]:
    from ffnet_deploy.graph.loading import parsed

    return dict(Counter(node.op_type for node in parsed(path).graph.node).most_common())


@cache
def _share_an_arena() -> None:
    """Once for the process, and only sessions that ask for it use it."""
    memory = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    ort.create_and_register_allocator(memory, ort.OrtArenaCfg({"arena_extend_strategy": 1}))


def _session(model: Path | bytes, options: ort.SessionOptions) -> ort.InferenceSession:
    source = str(model) if isinstance(model, Path) else model
    try:
        return ort.InferenceSession(
            source,
            options,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=list(_INEXACT),
            # A second try would print, and would forget which optimisers are disabled.
            enable_fallback=0,
        )
    except Exception as error:  # ONNX Runtime's bindings raise untyped exceptions
        _check_memory(_named(model), error)
        step = next_step(model) if isinstance(model, Path) else "Export it again."
        raise EngineError(
            f"{_named(model)} is refused by ONNX Runtime {ort.__version__} ({_first(error)}). {step}"
        ) from error


def _first(error: Exception) -> str:
    return _ITS_SOURCE.sub("", reason(error))


def _check_memory(graph: str, error: Exception) -> None:
    """Raise an error that says so if memory was what ONNX Runtime lacked."""
    if isinstance(error, MemoryError) or any(words in str(error) for words in _NO_MEMORY):
        raise EngineError(
            f"{graph} needs more memory than ONNX Runtime {ort.__version__} could get. Free some, or use a graph with "
            "a smaller batch or size."
        ) from error


def _named(model: Path | bytes) -> str:
    return str(model) if isinstance(model, Path) else "The graph"


@contextmanager
def _told(graph: str) -> Iterator[None]:
    """Turn what goes wrong in a run into an error of ours."""
    try:
        yield
    except Exception as error:  # ONNX Runtime's bindings raise untyped exceptions
        _check_memory(graph, error)
        raise EngineError(
            f"{graph} fails in ONNX Runtime {ort.__version__} ({_first(error)}). Report this with the graph."
        ) from error


def _tensor(node: ort.NodeArg) -> TensorSpec:
    # A symbolic batch has a name in place of a number.
    shape = tuple(side if isinstance(side, int) else None for side in node.shape)
    # No feed of ours fits another type, and the check of feeds names it.
    return TensorSpec(node.name, shape, _DTYPES.get(node.type, node.type))


def integer_product(side: int, threads: int) -> Callable[[], object]:
    """The product of two square matrices, uint8 by int8, as its integer kernels compute it; to be timed."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    # Any numbers take as long; ones overflow nothing.
    left, right = np.ones((side, side), np.uint8), np.ones((side, side), np.int8)
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["left", "right"], ["product"])],
        "product",
        [helper.make_tensor_value_info("left", TensorProto.UINT8, left.shape)],
        [helper.make_tensor_value_info("product", TensorProto.INT32, left.shape)],
        [numpy_helper.from_array(right, "right")],
    )
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    session = _session(model.SerializeToString(), options)
    return lambda: session.run(None, {"left": left})


_PRECISIONS = {"float": "fp32", "float16": "fp16", "uint8": "int8", "int8": "int8"}
_WARM_UP_RUNS = 2


def profile(model: Path, feeds: Sequence[Feeds], runs: int, *, threads: int) -> list[LayerTime]:
    """Time every node of a graph as ONNX Runtime optimised it, in the order of execution.

    The profiler slows what it times a little: these are shares, for latency use ``latencies``.

    Raises:
        EngineError: ONNX Runtime refuses the graph.
    """
    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _FATAL_ONLY
        options.enable_profiling = True
        options.profile_file_prefix = f"{folder}/profile"
        session = _session(model, options)
        with _told(_named(model)):
            for feed in itertools.islice(itertools.cycle(feeds), runs + _WARM_UP_RUNS):
                session.run(None, dict(feed))
        events = load_json(Path(session.end_profiling()).read_bytes())
    nodes = sorted((e for e in events if e["cat"] == "Node"), key=lambda event: int(event["ts"]))
    each = len(nodes) // (runs + _WARM_UP_RUNS)
    return [_layer(nodes[i + _WARM_UP_RUNS * each :: each]) for i in range(each)]


def _layer(events: Sequence[dict[str, Any]]) -> LayerTime:
    """One node from its events, one a run."""
    first = events[0]
    known = first["args"]
    types = [next(iter(tensor)) for tensor in known["input_type_shape"]]
    # A convolution computes in the wider of its input's and its filter's type; behind a quantised input are scales.
    ends = types[:2] if known["op_name"] in ("Conv", "FusedConv", "Gemm", "FusedGemm") else types[:1]
    if known["op_name"] == "QLinearConcat":
        ends = types[2:3]  # the result's scale and zero point come first
    widest = next((kind for kind in ("float", "float16") if kind in ends), next(iter(ends), ""))
    return LayerTime(
        name=first["name"].removesuffix("_kernel_time"),
        kind=known["op_name"],
        samples=tuple(event["dur"] / 1000 for event in events),
        precision=_PRECISIONS.get(widest, widest or None),
        bytes=sum(int(known[part]) for part in ("activation_size", "parameter_size", "output_size")),
    )

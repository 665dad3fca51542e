"""Time by layer, with PyTorch's names, next to what this machine could do at best."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from ffnet_deploy.bench.profiled import LayerTiming, Peaks
from ffnet_deploy.bench.samples import percentile
from ffnet_deploy.bench.subject import RunSettings
from ffnet_deploy.graph.facts import macs_by_node
from ffnet_deploy.graph.names import module_of, nodes_of
from ffnet_deploy.runtimes.opening import open_tensorrt
from ffnet_deploy.runtimes.rung import Rung

if TYPE_CHECKING:
    import onnx
    import torch

    from ffnet_deploy.runtimes.engine_layers import LayerTime
    from ffnet_deploy.runtimes.runner import Feeds


_SIDE = 2048
"""Of the square matrices whose product measures the peak: they fit no cache, and fill every vector unit."""
_COPIED = 1 << 28
"""Bytes of the copy that measures memory: far more than any cache."""
_PEAK_S = 1.0


class Profiler:
    """A rung whose layers are timed; make it in a ``Worker``."""

    def __init__(self, rung: Rung, feeds: Sequence[Feeds], job: RunSettings) -> None:
        self._rung, self._feeds, self._job = rung, feeds, job

    def layers(self, runs: int) -> list[LayerTime]:
        """Time every layer.

        Raises:
            EngineError, MissingDependencyError: the engine cannot be loaded.
        """
        assert self._rung.path is not None
        if self._rung.runtime == "onnxruntime":
            from ffnet_deploy.runtimes.onnxruntime import profile

            return profile(self._rung.path, self._feeds, runs, threads=self._job.threads)
        with open_tensorrt(self._rung.runtime, self._rung.path, self._job.device) as runner:
            return runner.profile(self._feeds, runs)


class PeakMeter:
    """Measures peaks; make it in a ``Worker``, whose threads are all its own."""

    def __init__(self, threads: int, device: int | None) -> None:
        """Set PyTorch's threads; ``device`` is a CUDA device, None for the CPU."""
        import torch

        torch.set_num_threads(threads)
        torch.backends.cuda.matmul.allow_tf32 = False
        self._threads = threads
        self._device = torch.device("cpu" if device is None else f"cuda:{device}")

    def measure(self) -> Peaks:
        """The best of a second each; FP16 on a GPU only, since CPUs here compute it in FP32, and INT8 on a CPU only."""
        import torch

        on_gpu = self._device.type == "cuda"
        kinds = {"fp32": torch.float32} | ({"fp16": torch.float16} if on_gpu else {})
        source = torch.ones(_COPIED // 4, device=self._device)
        target = torch.empty_like(source)
        copied = self._best(lambda: target.copy_(source))
        products = {name: self._product(kind) for name, kind in kinds.items()}
        return Peaks(products | ({} if on_gpu else {"int8": self._integer_product()}), 2 * _COPIED / copied)

    def _product(self, kind: torch.dtype) -> float:
        import torch

        left, right = (torch.rand(_SIDE, _SIDE, device=self._device).to(kind) for _ in range(2))
        return _SIDE**3 / self._best(lambda: left @ right)

    def _integer_product(self) -> float:
        # PyTorch's own is private, and what is held to this peak runs in ONNX Runtime.
        from ffnet_deploy.runtimes.onnxruntime import integer_product

        return _SIDE**3 / self._best(integer_product(_SIDE, self._threads))

    def _best(self, work: Callable[[], object]) -> float:
        import torch

        seconds: list[float] = []
        until = time.monotonic() + _PEAK_S
        while len(seconds) < 3 or time.monotonic() < until:
            start = time.perf_counter()
            work()
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)
            seconds.append(time.perf_counter() - start)
        return min(seconds)


def named(
    times: Sequence[LayerTime], model: onnx.ModelProto, peaks: Peaks | None, precisions: Mapping[str, str] | None = None
) -> list[LayerTiming]:
    """Give layers PyTorch's names, their work, and their share of the machine's peak.

    Args:
        times: of every layer, in the order of execution.
        model: the exported graph, whose nodes are called after modules.
        peaks: of the device that the layers ran on; None where they were not measured.
        precisions: found in the engine when it was built, by node; where the runtime's profiler does not tell.
    """
    macs = macs_by_node(model)
    operators = {node.name: node.op_type for node in model.graph.node}
    by_name = nodes_of(model, [item.name for item in times])
    layers = []
    for item, guessed in zip(times, by_name, strict=True):
        nodes = guessed if item.nodes is None else tuple(node for node in item.nodes if node in operators)
        told = {precision for node in nodes if (precision := (precisions or {}).get(node))}
        precision = item.precision or (told.pop() if len(told) == 1 else None)
        median = percentile(item.samples, 50)
        work = sum(macs.get(node, 0) for node in nodes)
        bound, share = _roofline(median, work, item.bytes, precision, peaks)
        layers.append(
            LayerTiming(
                name=item.name,
                module=module_of(nodes, item.name, operators),
                nodes=nodes,
                kind=item.kind,
                precision=precision,
                median_ms=median,
                samples_ms=item.samples,
                macs=work,
                bytes=item.bytes,
                bound=bound,
                roofline=share,
            )
        )
    return layers


def _roofline(
    median: float, macs: int, moved: int | None, precision: str | None, peaks: Peaks | None
) -> tuple[str | None, float | None]:
    """Which peak bounds a layer and how near it came.

    Nothing where the bytes or all peaks are not known; the memory's share, and no bound, where only the peak of its
    precision is not.
    """
    if peaks is None or moved is None or not median:
        return None, None
    peak = peaks.macs_per_s.get(precision or "")
    moving = 1000 * moved / peaks.bytes_per_s
    if macs and peak is None:
        return None, moving / median
    computing = 1000 * macs / peak if peak else 0.0
    return ("compute" if computing > moving else "memory"), max(computing, moving) / median

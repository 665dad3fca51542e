"""What is timed, inside its own process: a rung with its inputs, driven as the mode says."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from ffnet_deploy.bench.options import Mode
from ffnet_deploy.bench.result import Resources
from ffnet_deploy.bench.samples import Turn, median_or_none
from ffnet_deploy.machine import nvml
from ffnet_deploy.machine.processor import peak_bytes
from ffnet_deploy.runtimes.opening import open_rung, warm_imports
from ffnet_deploy.runtimes.rung import Rung

if TYPE_CHECKING:
    from ffnet_deploy.runtimes.runner import Feeds, Runner


_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class RunSettings:
    """How a rung is run."""

    mode: Mode
    threads: int
    """Of all its runners together."""
    device: int | None = None
    """CUDA device, None for the CPU."""
    concurrency: int = 1
    """Runners that work at the same time; ``throughput`` only."""
    spinning: bool = True
    """Of the idle threads of ONNX Runtime and of PyTorch."""
    arena: bool = True
    """Whether ONNX Runtime keeps the memory of a run for the next one."""


class Subject:
    """One rung, open, with its inputs; make it in a ``Worker``."""

    def __init__(self, rung: Rung, feeds: Sequence[Feeds], job: RunSettings) -> None:
        """Open the rung.

        Args:
            rung: what to time.
            feeds: taken in turn. ``end-to-end``: uint8 images (N, H, W, 3); else what the rung takes.
            job: the mode and its settings.

        Raises:
            EngineError, MissingDependencyError, WeightsError: it cannot be opened.
        """
        self._feeds, self._job, self._taken = list(feeds), job, 0
        self._before = nvml.used_bytes(job.device)
        # A runner belongs to the thread that opened it: CUDA contexts and PyTorch's thread count are its thread's.
        self._lanes = [ThreadPoolExecutor(1) for _ in range(job.concurrency)]
        share = max(1, job.threads // job.concurrency)
        self._runners = [lane.submit(self._open, rung, share).result() for lane in self._lanes]

    def _open(self, rung: Rung, threads: int) -> Runner:
        job = self._job
        if job.mode == "end-to-end" and not (rung.ends.image_in and rung.ends.labels_out):
            # What the rung leaves to us is PyTorch's work on this thread.
            import torch

            torch.set_num_threads(threads)
        return open_rung(rung, threads, job.device, spinning=job.spinning, arena=job.arena)

    def run(self, runs: int) -> Turn:
        """Time ``runs`` runs, all lanes together."""
        if self._job.mode == "throughput":
            return self._throughput(runs)
        first = self._taken % len(self._feeds)
        feeds = self._feeds[first:] + self._feeds[:first]
        self._taken += runs
        timed = self._latencies if self._job.mode == "compute" else self._end_to_end
        start = time.perf_counter()
        samples = self._lanes[0].submit(timed, feeds, runs).result()
        return Turn(tuple(samples), time.perf_counter() - start)

    def _latencies(self, feeds: Sequence[Feeds], runs: int) -> list[float]:
        return self._runners[0].latencies(feeds, runs)

    def _end_to_end(self, feeds: Sequence[Feeds], runs: int) -> list[float]:
        samples = []
        for feed in itertools.islice(itertools.cycle(feeds), runs):
            start = time.perf_counter_ns()
            labels(self._runners[0], feed["image"])
            samples.append((time.perf_counter_ns() - start) / 1e6)
        return samples

    def _throughput(self, runs: int) -> Turn:
        """Lanes take the next run whenever they are free; a run is from host arrays to host arrays."""
        lanes = len(self._lanes)
        left, lock, ready = iter(range(runs)), threading.Lock(), threading.Barrier(lanes + 1)

        def work(runner: Runner) -> list[float]:
            samples: list[float] = []
            ready.wait()
            while True:
                with lock:
                    number = next(left, None)
                if number is None:
                    return samples
                start = time.perf_counter_ns()
                runner(self._feeds[(self._taken + number) % len(self._feeds)])
                samples.append((time.perf_counter_ns() - start) / 1e6)

        pending = [lane.submit(work, runner) for lane, runner in zip(self._lanes, self._runners, strict=True)]
        ready.wait()
        start = time.perf_counter()
        samples = [sample for lane in pending for sample in lane.result()]
        seconds = time.perf_counter() - start
        self._taken += runs
        return Turn(tuple(samples), seconds)

    def resources(self) -> Resources:
        """Peak memory of this process, growth of the device's used memory, and medians of enqueue and transfers."""
        after = nvml.used_bytes(self._job.device)
        grown = None if self._before is None or after is None else after - self._before
        spans = self._runners[0].spans
        enqueue, upload, download = (median_or_none(spans.get(name, ())) for name in ("enqueue", "upload", "download"))
        return Resources(peak_bytes(), grown, enqueue, upload, download)


def labels(runner: Runner, image: np.ndarray) -> np.ndarray:
    """From host images to host labels, by what the runner does not do itself.

    Args:
        runner: of a rung with any ends.
        image: uint8 (N, H, W, 3).

    Returns:
        uint8 (N, H, W) train ids, or int64 (N,) classes.
    """
    dtype = runner.inputs[0].dtype
    outputs = runner({"image": image if dtype == "uint8" else _network_input(image, dtype)})
    return outputs["labels"] if "labels" in outputs else _label_map(outputs["logits"], image.shape[1:3])


def _network_input(image: np.ndarray, dtype: str) -> np.ndarray:
    import torch

    from ffnet_deploy.runtimes.pytorch import normalised

    return normalised(torch.from_numpy(image)).numpy().astype(dtype, copy=False)


def _label_map(logits: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    import torch

    from ffnet_deploy.runtimes.pytorch import labelled

    return labelled(torch.from_numpy(logits), (size[0], size[1]), align_corners=False).numpy()


class ColdStart:
    """A rung from nothing to its second result; make it in a new ``Worker`` each time."""

    def __init__(self, rung: Rung, feeds: Sequence[Feeds], job: RunSettings) -> None:
        """Load the runtime and the rung, and keep how long each took.

        Raises:
            EngineError, MissingDependencyError, WeightsError: it cannot be opened.
        """
        self._feeds = feeds
        import_ms, _ = _milliseconds(lambda: warm_imports(rung.runtime))
        load_ms, self._runner = _milliseconds(
            lambda: open_rung(rung, job.threads, job.device, spinning=job.spinning, arena=job.arena)
        )
        self._spent = {"import": import_ms, "load": load_ms}

    def run(self) -> dict[str, float]:
        """Milliseconds of ``import``, ``load``, ``first`` and ``second`` run, and ``to_first``: the first three."""
        first, _ = _milliseconds(lambda: self._runner(self._feeds[0]))
        second, _ = _milliseconds(lambda: self._runner(self._feeds[1 % len(self._feeds)]))
        to_first = sum(self._spent.values()) + first
        return {**self._spent, "first": first, "second": second, "to_first": to_first}

    def resources(self) -> Resources:
        """Peak memory of this process."""
        return Resources(peak_host_bytes=peak_bytes())


def _milliseconds(work: Callable[[], _T]) -> tuple[float, _T]:
    start = time.perf_counter_ns()
    result = work()
    return (time.perf_counter_ns() - start) / 1e6, result

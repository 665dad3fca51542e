"""What the machine does while something is measured: other processes' work, its clocks, its GPU."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from ffnet_deploy.artifacts.values import Finite
from ffnet_deploy.machine import nvml
from ffnet_deploy.machine.nvml import Gpu, GpuFacts, GpuSample
from ffnet_deploy.machine.processor import megahertz

_EVERY_S = 0.5


@dataclass(frozen=True, slots=True)
class Extent:
    """How far a figure went while it was watched."""

    min: Finite
    mean: Finite
    max: Finite

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Extent | None:
        """Of the values that are known; None if none is."""
        known = [value for value in values if value is not None]
        return cls(min(known), sum(known) / len(known), max(known)) if known else None


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuLoad(GpuFacts):
    """A GPU, and what it did while it was watched; None for what the driver does not tell."""

    sm_mhz: Extent | None
    """Clock of its processors."""
    memory_mhz: Extent | None
    power_w: Extent | None
    temperature_c: Extent | None
    used_bytes: Extent | None
    """Memory that all processes used on it."""
    throttle_reasons: tuple[str, ...]
    """Everything that kept its clocks below their maximum at any time, sorted."""

    @classmethod
    def of(cls, gpu: Gpu, samples: Sequence[GpuSample]) -> GpuLoad:
        """Sum up the samples of a GPU."""
        return cls(
            **asdict(gpu.describe()),
            sm_mhz=Extent.of(sample.sm_mhz for sample in samples),
            memory_mhz=Extent.of(sample.memory_mhz for sample in samples),
            power_w=Extent.of(sample.power_w for sample in samples),
            temperature_c=Extent.of(sample.temperature_c for sample in samples),
            used_bytes=Extent.of(sample.used_bytes for sample in samples),
            throttle_reasons=tuple(sorted(_reasons(samples))),
        )


@dataclass(frozen=True, slots=True)
class Load:
    """What the machine did just before a measurement and during it."""

    other_work_before: Finite
    """Share of all cores that other processes took just before, 0..1."""
    other_work: Finite
    """The same during the measurement: the mean."""
    most_other_work: Finite
    """The same: the largest share in half a second."""
    mhz: Extent | None
    """The cores' mean clock; None where the system does not tell."""
    gpu: GpuLoad | None
    """None if the CPU did the work, or where NVML has no such GPU."""

    @property
    def throttled(self) -> tuple[str, ...]:
        """What slowed the GPU down at any time, sorted."""
        return tuple(sorted(set(self.gpu.throttle_reasons) - set(nvml.HARMLESS))) if self.gpu else ()


def other_work(seconds: float = 0.5) -> float:
    """Share of all cores that is busy while this process sleeps, 0..1; 0 where the system does not tell."""
    before = _busy_and_total()
    time.sleep(seconds)
    after = _busy_and_total()
    if before is None or after is None or after[1] == before[1]:
        return 0.0
    return (after[0] - before[0]) / (after[1] - before[1])


class Watch:
    """Samples the machine in the background while its block runs; ask for ``found`` after it."""

    def __init__(self, device: int | None = None) -> None:
        """Prepare.

        Args:
            device: a CUDA device that is to be watched too; None for the CPU alone.
        """
        self._gpu = nvml.find(device)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._others: list[float] = []
        self._clocks: list[float] = []
        self._gpu_samples: list[GpuSample] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()
        if not self._clocks:
            # Shorter than the time between two samples.
            self._sample()

    def found(self, before: float) -> Load:
        """All that was seen.

        Args:
            before: what ``other_work`` told just before.
        """
        return Load(
            other_work_before=before,
            other_work=sum(self._others) / len(self._others) if self._others else 0.0,
            most_other_work=max(self._others, default=0.0),
            mhz=Extent.of(self._clocks),
            gpu=None if self._gpu is None else GpuLoad.of(self._gpu, self._gpu_samples),
        )

    def _watch(self) -> None:
        before, ours = _busy_and_total(), _our_ticks()
        while not self._stop.wait(_EVERY_S):
            after, now = _busy_and_total(), _our_ticks()
            if before and after and after[1] > before[1]:
                # The reading may miss a process that ends meanwhile. The next sample then has its ticks.
                own = max(0, now - ours)
                self._others.append(max(0.0, (after[0] - before[0] - own) / (after[1] - before[1])))
            before, ours = after, now
            self._sample()

    def _sample(self) -> None:
        clock = megahertz()
        if clock is not None:
            self._clocks.append(clock)
        if self._gpu:
            self._gpu_samples.append(self._gpu.sample())


def _reasons(samples: Iterable[GpuSample]) -> set[str]:
    return {reason for sample in samples for reason in sample.throttle_reasons}


def _busy_and_total() -> tuple[int, int] | None:
    try:
        ticks = [int(word) for word in Path("/proc/stat").read_text("utf-8").split("\n", 1)[0].split()[1:9]]
    except (OSError, ValueError):
        return None
    idle = ticks[3] + ticks[4]  # Waiting for a disk is no work.
    return sum(ticks) - idle, sum(ticks)


def _our_ticks() -> int:
    """Processor time of this process and all its descendants; of those that ended, if something waited for them."""
    found = 0
    waiting = [os.getpid()]
    while waiting:
        process = Path(f"/proc/{waiting.pop()}")
        try:
            # The name in parentheses may hold spaces.
            fields = (process / "stat").read_text("utf-8").rpartition(")")[2].split()
            for children in process.glob("task/*/children"):
                waiting += map(int, children.read_text("utf-8").split())
        except (OSError, ValueError):
            # The process ended meanwhile.
            continue
        # Its own time in user and system mode, and that of its children that ended.
        found += sum(map(int, fields[11:15]))
    return found

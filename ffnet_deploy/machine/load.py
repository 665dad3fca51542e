"""What else the machine does while something is measured, and what its clocks and its GPU do meanwhile."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ffnet_deploy import machine
from ffnet_deploy.machine import nvml

_EVERY_S = 0.5


def other_work(seconds: float = 0.5) -> float:
    """Share of all cores that is busy while this process sleeps, 0..1; 0 where the system does not tell."""
    before = _busy_and_total()
    time.sleep(seconds)
    after = _busy_and_total()
    if before is None or after is None or after[1] == before[1]:
        return 0.0
    return (after[0] - before[0]) / (after[1] - before[1])


class Watch:
    """Samples the machine in the background; leave it, then read ``to_json``."""

    def __init__(self, device: int | None = None) -> None:
        """Prepare; ``device`` is a CUDA device, None for the CPU."""
        self._gpu = nvml.find(device)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._others: list[float] = []
        self._clocks: list[float] = []
        self._gpu_samples: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def others(self) -> float:
        """Mean share of all cores that other processes took, 0..1."""
        return sum(self._others) / len(self._others) if self._others else 0.0

    @property
    def most_others(self) -> float:
        """The largest share that others took in half a second, 0..1."""
        return max(self._others, default=0.0)

    @property
    def throttled(self) -> list[str]:
        """What slowed the GPU down at any time."""
        seen = {reason for sample in self._gpu_samples for reason in sample["throttle_reasons"]}
        return sorted(seen - set(nvml.HARMLESS))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "other_work": self.others,
            "most_other_work": self.most_others,
            "mhz": _extent(self._clocks),
            "gpu": self._gpu_json(),
        }

    def _gpu_json(self) -> dict[str, Any] | None:
        if self._gpu is None:
            return None
        names = ("sm_mhz", "memory_mhz", "power_w", "temperature_c", "used_bytes")
        columns = {name: [s[name] for s in self._gpu_samples if s[name] is not None] for name in names}
        return {
            **self._gpu.describe(),
            **{name: _extent(values) for name, values in columns.items()},
            "throttle_reasons": sorted({r for s in self._gpu_samples for r in s["throttle_reasons"]}),
        }

    def _watch(self) -> None:
        before, ours = _busy_and_total(), _our_ticks()
        while not self._stop.wait(_EVERY_S):
            after, now = _busy_and_total(), _our_ticks()
            if before and after and after[1] > before[1]:
                # A process that ends while its tree is read may be missed: its ticks come with the next sample.
                own = max(0, now - ours)
                self._others.append(max(0.0, (after[0] - before[0] - own) / (after[1] - before[1])))
            before, ours = after, now
            clock = machine.megahertz()
            if clock is not None:
                self._clocks.append(clock)
            if self._gpu:
                self._gpu_samples.append(self._gpu.sample())


def _extent(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    return {"min": min(values), "mean": sum(values) / len(values), "max": max(values)}


def _busy_and_total() -> tuple[int, int] | None:
    try:
        ticks = [int(word) for word in Path("/proc/stat").read_text("utf-8").split("\n", 1)[0].split()[1:9]]
    except (OSError, ValueError):
        return None
    idle = ticks[3] + ticks[4]  # waiting for a disk is no work
    return sum(ticks) - idle, sum(ticks)


def _our_ticks() -> int:
    """Processor time of this process and of all that go back to it, those included that ended and were waited for."""
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
            # It ended meanwhile.
            continue
        # Its own in user and system mode, and the same of its children that ended.
        found += sum(map(int, fields[11:15]))
    return found

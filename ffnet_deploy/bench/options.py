"""What a benchmark can be asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from ffnet_deploy.errors import UsageError
from ffnet_deploy.machine.devices import check_device

Mode = Literal["compute", "end-to-end", "throughput", "cold"]
MODES: tuple[Mode, ...] = get_args(Mode)
_MOST_THREADS = 256
_MOST_CONCURRENCY = 64


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """What ``bench`` can be asked for."""

    mode: Mode = "compute"
    iters: int | None = None
    """Runs of each rung, at least; starts in mode ``cold``. None is 200, and 5."""
    min_seconds: float = 3.0
    concurrency: int | None = None
    """None is 1; given in mode ``throughput`` only."""
    device: int | None = None
    threads: int | None = None
    """None is all cores."""

    @property
    def cold(self) -> bool:
        """Whether starts are timed, each in a new process, and not runs."""
        return self.mode == "cold"

    @property
    def runs(self) -> int:
        """``iters``, or the mode's default."""
        return self.iters if self.iters is not None else 5 if self.cold else 200

    def check(self) -> None:
        """Refuse what makes no sense, before anything is loaded.

        Raises:
            UsageError: it does not.
            MissingDependencyError: there is no such GPU.
        """
        if self.runs < 1:
            raise UsageError(f"--iters {self.iters} measures nothing (1 or more was needed). Leave it out for 200.")
        if not (math.isfinite(self.min_seconds) and self.min_seconds >= 0):
            raise UsageError(f"--min-seconds {self.min_seconds} is no time (0 or more was needed). Leave it out for 3.")
        if self.mode not in MODES:
            raise UsageError(f"--mode {self.mode} is not known ({', '.join(MODES)} are). Name one of them.")
        if self.concurrency is not None and self.mode != "throughput":
            raise UsageError(
                f"--concurrency does not go with --mode {self.mode}. Say --mode throughput, or leave it out."
            )
        for flag, value, most in (
            ("--concurrency", self.concurrency, _MOST_CONCURRENCY),
            ("--threads", self.threads, _MOST_THREADS),
        ):
            if value is not None and not 1 <= value <= most:
                raise UsageError(f"{flag} {value} makes no sense (1 to {most} were needed). Leave it out.")
        check_device(self.device)

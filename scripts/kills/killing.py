"""One command, killed at a random moment and run again."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, NoReturn

from kills.state import accepts, orphans, state

if TYPE_CHECKING:
    from _typeshed import HasFileno

MOST_S = 300.0
"""A run that takes longer hangs."""
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_EVENTS = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink")


@dataclass(frozen=True)
class Scenario:
    """A command that writes, and the folder that it runs in."""

    name: str
    run: Callable[[], object]
    """Runs in the folder, in a process of its own."""
    prepare: Callable[[Path], object] = lambda _folder: None
    """Fills an empty folder with what the command needs."""
    share: int = 1
    """Of the kills, next to the other scenarios."""
    accepts: Callable[[Path], bool] = accepts
    """Whether a reader takes a file for whole."""


@dataclass
class Row:
    """A line of the table."""

    kills: int = 0
    late: int = 0
    """Kills that came when the command had ended."""
    accepted: list[str] = field(default_factory=list)
    unequal: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    @property
    def faults(self) -> list[str]:
        return [*self.accepted, *self.unequal, *self.left]


@dataclass(frozen=True)
class Kill:
    """When to kill: after some seconds, or at the n-th file operation."""

    after_s: float | None = None
    operation: int | None = None

    def __str__(self) -> str:
        return f"after {self.after_s:.3f} s" if self.operation is None else f"at file operation {self.operation}"


@dataclass(frozen=True)
class Whole:
    """What a run gives that is not killed."""

    before: Mapping[str, str]
    after: Mapping[str, str]
    varying: frozenset[str]
    """Files that are not the same in two runs; only that they are accepted is checked."""
    seconds: float
    operations: int


class KillTest:
    """The kills of one scenario."""

    def __init__(self, scenario: Scenario, folder: Path) -> None:
        self._scenario, self._template, self._scratch = scenario, folder / "template", folder / "scratch"
        self._log, self._count = folder / "log", folder / "count"
        self._scratch.mkdir(parents=True)
        # Apart, too: a process that has computed with threads must not be forked.
        if self._run(command=partial(scenario.prepare, self._scratch)):
            raise RuntimeError(f"{scenario.name} cannot be prepared: {self._log.read_text('utf-8', 'replace')}")
        self._scratch.rename(self._template)
        self._whole = self._measured()

    def _measured(self) -> Whole:
        before = state(self._template)
        runs, seconds = [], 0.0
        for _ in range(2):
            self._copy()
            started = time.monotonic()
            if code := self._run():
                raise RuntimeError(f"{self._scenario.name} ends with {code}: {self._log.read_text('utf-8', 'replace')}")
            seconds = time.monotonic() - started
            runs.append(state(self._scratch))
        varying = frozenset(name for name in runs[0] if runs[0][name] != runs[1].get(name))
        return Whole(before, runs[0], varying, seconds, int(self._count.read_text("ascii")))

    def __call__(self, seed: int, row: Row) -> None:
        """One kill, and one run after it."""
        rng = Random(f"{self._scenario.name}/{seed}")  # noqa: S311 - the same at every run
        by_time = seed % 2 == 0 or not self._whole.operations
        kill = (
            Kill(after_s=rng.uniform(0, self._whole.seconds))
            if by_time
            else Kill(operation=rng.randint(1, self._whole.operations))
        )
        where = f"{self._scenario.name} --seed {seed}, killed {kill}"
        self._copy()
        row.kills += 1
        row.late += self._run(kill) != -signal.SIGKILL
        row.accepted += [f"{where}: {name}" for name in self._half_written()]
        if code := self._run():
            last = (self._log.read_text("utf-8", "replace").splitlines() or [""])[-1]
            row.unequal.append(f"{where}: again ends with {code}: {last}")
            return
        self._compare(where, row)

    def _half_written(self) -> list[str]:
        found = []
        for name, digest in state(self._scratch).items():
            whole = digest in (self._whole.before.get(name), self._whole.after.get(name))
            if not whole and name not in self._whole.varying and self._scenario.accepts(self._scratch / name):
                found.append(name)
        return found

    def _compare(self, where: str, row: Row) -> None:
        now, after = state(self._scratch), self._whole.after
        row.left += [f"{where}: {name} is left" for name in sorted(now.keys() - after.keys())]
        row.unequal += [f"{where}: {name} is missing" for name in sorted(after.keys() - now.keys())]
        for name in sorted(now.keys() & after.keys()):
            same = (
                self._scenario.accepts(self._scratch / name)
                if name in self._whole.varying
                else now[name] == after[name]
            )
            if not same:
                row.unequal.append(f"{where}: {name} differs")

    def _copy(self) -> None:
        shutil.rmtree(self._scratch, ignore_errors=True)
        # Links: what a command writes is renamed into place, so the template stays as it is.
        shutil.copytree(self._template, self._scratch)

    def _run(self, kill: Kill | None = None, command: Callable[[], object] | None = None) -> int:
        """Run in a process of its own; gives its exit code, negative for a signal."""
        pid = os.fork()
        if not pid:
            self._child(kill, command or self._scenario.run)
        deadline = time.monotonic() + (kill.after_s if kill and kill.after_s is not None else MOST_S)
        while not (ended := os.waitpid(pid, os.WNOHANG))[0] and time.monotonic() < deadline:
            time.sleep(0.002)
        if not ended[0]:
            os.kill(pid, signal.SIGKILL)
            ended = os.waitpid(pid, 0)
            if kill is None:
                raise TimeoutError(f"{self._scenario.name} does not end")
        if left := orphans(pid, 10.0):
            raise RuntimeError(f"{self._scenario.name} killed {kill}: its processes live on: {left}")
        return os.waitstatus_to_exitcode(ended[1])

    def _child(self, kill: Kill | None, command: Callable[[], object]) -> NoReturn:
        code, counted = 70, [0]
        try:
            os.setsid()
            log = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(log, 1)
            os.dup2(log, 2)
            # Those of the parent may be no files at all, as in a test.
            sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))  # noqa: SIM115
            os.chdir(self._scratch)
            counted = _counting(self._scratch, kill.operation if kill else None)
            command()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(bool(end.code))
        except BaseException:
            traceback.print_exc()
            raise
        finally:
            if kill is None:
                self._count.write_text(str(counted[0]), "ascii")
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)


def _counting(folder: Path, last: int | None) -> list[int]:
    """Count what this process does to files below a folder; at operation ``last`` it kills itself."""
    counted, inside, fsync = [0], str(folder), os.fsync

    def one() -> None:
        counted[0] += 1
        if counted[0] == last:
            os.kill(os.getpid(), signal.SIGKILL)

    def heard(event: str, args: tuple[object, ...]) -> None:
        if event == "open":
            path, _, flags = args
            if not isinstance(path, str | bytes) or not isinstance(flags, int) or not flags & _WRITING:
                return
            if os.path.abspath(os.fsdecode(path)).startswith(inside):  # noqa: PTH100 - hot, and no file
                one()
        elif event in _EVENTS:
            one()

    def synced(fd: int | HasFileno) -> None:
        one()
        fsync(fd)

    sys.addaudithook(heard)
    os.fsync = synced
    return counted

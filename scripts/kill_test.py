"""Kill every command that writes at random moments, and check what it leaves.

Each run is a process of its own with the real command line. Half of the kills come after a random time, half at a random
file operation. After a kill no file counts that is half-written; the same command again ends well, with the files and
numbers of a run that was never killed, and leaves no temporary files.

Run: make kill-test
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random

from kill_state import accepts, orphans, state

MOST_S = 300.0
"""A run that takes longer hangs."""
_FAST = Path("/dev/shm")  # noqa: S108 - a folder below it is made with a random name
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_EVENTS = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink")


@dataclass(frozen=True)
class Scenario:
    """A command that writes, and the folder that it runs in."""

    name: str
    run: Callable[[], None]
    """Runs in the folder, in a process of its own."""
    prepare: Callable[[Path], None] = lambda _folder: None
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
            same = self._scenario.accepts(self._scratch / name) if name in self._whole.varying else now[name] == after[name]
            if not same:
                row.unequal.append(f"{where}: {name} differs")

    def _copy(self) -> None:
        shutil.rmtree(self._scratch, ignore_errors=True)
        # Links: what a command writes is renamed into place, so the template stays as it is.
        shutil.copytree(self._template, self._scratch)

    def _run(self, kill: Kill | None = None, command: Callable[[], None] | None = None) -> int:
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

    def _child(self, kill: Kill | None, command: Callable[[], None]) -> None:
        code, counted = 70, [0]
        try:
            os.setsid()
            log = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(log, 1)
            os.dup2(log, 2)
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
            writes = isinstance(path, str | bytes) and isinstance(flags, int) and flags & _WRITING
            if writes and os.path.abspath(os.fsdecode(path)).startswith(inside):  # noqa: PTH100 - hot, and no file
                one()
        elif event in _EVENTS:
            one()

    def synced(handle: int) -> None:
        one()
        fsync(handle)

    sys.addaudithook(heard)
    os.fsync = synced
    return counted


def test(scenarios: Sequence[Scenario], kills: int, folder: Path, first: int = 0) -> dict[str, Row]:
    """Kill each scenario its share of times, and print the table as it grows."""
    total = sum(scenario.share for scenario in scenarios)
    rows = {}
    print(f"{'command':<24}{'kills':>7}{'too late':>10}{'half-written':>14}{'unequal':>9}{'left over':>11}", flush=True)
    for scenario in scenarios:
        row, started = Row(), time.monotonic()
        rows[scenario.name] = row
        one = KillTest(scenario, folder / scenario.name.replace(" ", "-"))
        for seed in range(first, first + max(1, round(kills * scenario.share / total))):
            one(seed, row)
        seconds = time.monotonic() - started
        cells = f"{row.kills:>7}{row.late:>10}{len(row.accepted):>14}{len(row.unequal):>9}{len(row.left):>11}{seconds:>8.0f} s"
        print(f"{scenario.name:<24}{cells}", flush=True)
        shutil.rmtree(folder / scenario.name.replace(" ", "-"))
    return rows


def main() -> None:
    """Read the arguments and kill."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="over all commands")
    parser.add_argument("--only", action="append", help="these commands alone, each with its share of all kills")
    parser.add_argument("--seed", type=int, default=0, help="of the first kill of each command")
    asked = parser.parse_args()
    # Late: commands of its own are heavy.
    from kill_commands import scenarios

    chosen = [scenario for scenario in scenarios() if not asked.only or scenario.name in asked.only]
    if not chosen:
        parser.error("no such command")
    with tempfile.TemporaryDirectory(dir=_FAST if _FAST.is_dir() else None) as folder:
        rows = test(chosen, asked.kills, Path(folder), asked.seed)
    faults = [fault for row in rows.values() for fault in row.faults]
    print(*faults, f"{sum(row.kills for row in rows.values())} kills, {len(faults)} faults", sep="\n")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()

"""Kill every command that writes at random moments, and check what it leaves.

Each run is a process of its own with the real command line. Half of the kills come after a random time, half at a
random file operation. After a kill no file counts that is half-written; the same command again ends well, with the
files and numbers of a run that was never killed, and leaves no temporary files.

Run: make kill-test
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from kills.killing import KillTest, Row, Scenario

_FAST = Path("/dev/shm")  # noqa: S108 - a folder below it is made with a random name


def kill(scenarios: Sequence[Scenario], kills: int, folder: Path, first: int = 0) -> dict[str, Row]:
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
        counts = f"{row.kills:>7}{row.late:>10}{len(row.accepted):>14}{len(row.unequal):>9}{len(row.left):>11}"
        print(f"{scenario.name:<24}{counts}{time.monotonic() - started:>8.0f} s", flush=True)
        shutil.rmtree(folder / scenario.name.replace(" ", "-"))
    return rows


def main() -> None:
    """Read the arguments and kill."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="over all commands")
    parser.add_argument("--only", action="append", help="these commands alone, each with its share of all kills")
    parser.add_argument("--seed", type=int, default=0, help="of the first kill of each command")
    asked = parser.parse_args()
    # A process that has computed with threads must not be forked: its children would wait for threads they lack.
    torch.set_num_threads(1)
    # Late: it imports all that a command could need, so that the runs do not have to.
    from kills.commands import scenarios

    chosen = [scenario for scenario in scenarios() if not asked.only or scenario.name in asked.only]
    if not chosen:
        parser.error("no such command")
    with tempfile.TemporaryDirectory(dir=_FAST if _FAST.is_dir() else None) as folder:
        rows = kill(chosen, asked.kills, Path(folder), asked.seed)
    faults = [fault for row in rows.values() for fault in row.faults]
    print(*faults, f"{sum(row.kills for row in rows.values())} kills, {len(faults)} faults", sep="\n")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()

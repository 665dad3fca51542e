"""Fuzz every reader: damaged files must give the same result, or exactly one line that says what is wrong.

Damage and seeds are fixed: the same call damages the same bytes. Every fault is printed with how to repeat it.

Run: make fuzz
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fuzz import lines, ours, pictures, sets, weights
from fuzz.judge import Verdict
from fuzz.reader import Reader
from fuzz.workers import verdicts

READERS: dict[str, Reader] = {
    reader.name: reader for module in (ours, pictures, sets, weights, lines) for reader in module.READERS
}
_FAST = Path("/dev/shm")  # noqa: S108 - a folder below it is made with a random name
_KINDS = ("same", "refused", "other", "unsealed")


def run(reader: Reader, seeds: range, folder: Path) -> list[Verdict]:
    """Judge some inputs of a reader."""
    started = time.monotonic()
    found = list(verdicts(reader, seeds, folder / reader.name))
    counts = Counter(verdict.kind if not verdict.fault else "fault" for verdict in found)
    cells = "".join(f"{counts[kind]:>9}" for kind in (*_KINDS, "fault"))
    print(f"{reader.name:<24}{len(found):>7}{cells}{time.monotonic() - started:>8.1f} s", flush=True)
    return found


def shares(inputs: int) -> dict[str, int]:
    """How many inputs each reader gets."""
    total = sum(reader.share for reader in READERS.values())
    return {name: max(1, round(inputs * reader.share / total)) for name, reader in READERS.items()}


def tell(found: dict[str, list[Verdict]]) -> int:
    """Print each kind of fault once, and how to repeat it; returns how many inputs had one."""
    faults = [(name, verdict) for name, all_of in found.items() for verdict in all_of if verdict.fault]
    like: dict[tuple[str, str, str], list[Verdict]] = {}
    for name, verdict in faults:
        alike = "" if verdict.kind.endswith("result") else verdict.detail.partition(": ")[0]
        like.setdefault((name, verdict.kind, alike), []).append(verdict)
    for (name, kind, _), some in sorted(like.items()):
        first = some[0]
        print(f"\n{name}: {kind}, {len(some)} inputs: {first.detail}\n    {first.what}")
        print(f"    again: make fuzz FUZZ='--reader {name} --seed {first.seed}'")
    print(f"\n{sum(map(len, found.values()))} inputs, {len(faults)} faults of {len(like)} kinds")
    return len(faults)


def main() -> None:
    """Read the arguments and fuzz."""
    parser = argparse.ArgumentParser(
        prog="fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inputs", type=int, default=10_000, help="over all readers")
    parser.add_argument("--reader", choices=sorted(READERS), action="append", help="these alone, each with all inputs")
    parser.add_argument("--seed", type=int, help="one input of each reader alone")
    parser.add_argument("--first", type=int, default=0, help="seed of the first input")
    parser.add_argument("--jobs", type=int, default=2, help="readers at a time")
    asked = parser.parse_args()
    counts = dict.fromkeys(asked.reader, asked.inputs) if asked.reader else shares(asked.inputs)
    first, one = (asked.first, False) if asked.seed is None else (asked.seed, True)
    print(f"{'reader':<24}{'inputs':>7}{''.join(f'{kind:>9}' for kind in (*_KINDS, 'fault'))}")
    with (
        tempfile.TemporaryDirectory(dir=_FAST if _FAST.is_dir() else None) as folder,
        ThreadPoolExecutor(asked.jobs) as pool,
    ):
        jobs = {
            name: pool.submit(run, READERS[name], range(first, first + (1 if one else count)), Path(folder))
            for name, count in counts.items()
        }
        found = {name: job.result() for name, job in jobs.items()}
    sys.exit(bool(tell(found)))


if __name__ == "__main__":
    main()

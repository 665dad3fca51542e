"""Keep processors busy: processes that compute without a pause, as another user's work would.

Run: python scripts/load.py 2 --seconds 600   (ended by Ctrl-C or a kill before that)
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time


def burn(until: float) -> None:
    """Compute in a plain loop until ``time.monotonic()`` is ``until``, or the parent is gone."""
    parent = multiprocessing.parent_process()
    while time.monotonic() < until and (parent is None or parent.is_alive()):
        for _ in range(1_000_000):
            pass


def run(processes: int, seconds: float) -> None:
    """Burn with ``processes`` processes for ``seconds``; they end with this one."""
    until = time.monotonic() + seconds
    started = [multiprocessing.Process(target=burn, args=(until,), daemon=True) for _ in range(processes)]
    for process in started:
        process.start()
    for process in started:
        process.join()


def main() -> None:
    """Read the arguments and burn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("processes", type=int, nargs="?", default=2)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="left out: until it is stopped")
    arguments = parser.parse_args()
    try:
        run(arguments.processes, arguments.seconds)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()

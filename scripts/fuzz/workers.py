"""Processes that judge inputs: what hangs, crashes or takes all memory ends one of them and not the harness."""

from __future__ import annotations

import faulthandler
import multiprocessing
import resource
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

from fuzz.judge import SLOW_S, Verdict, judged, made, whole_of
from fuzz.reader import Reader

_BATCH = 200
"""Inputs for each process: some readers keep handles of every file that they have read."""
_ROOM = 4 << 30
"""Of address space beyond what the process has: more than a reader may take, so that the machine stays usable."""
_MAKING_S = 180.0


def verdicts(reader: Reader, seeds: Sequence[int], folder: Path, slow_s: float = SLOW_S) -> Iterator[Verdict]:
    """Judge inputs one after the other.

    Args:
        reader: which one.
        seeds: of the inputs.
        folder: to work in.
        slow_s: an input that takes longer is a fault.
    """
    left = list(seeds)
    while left:
        batch = left[:_BATCH]
        for verdict in _judged_apart(reader, batch, folder, slow_s):
            left.pop(0)
            yield verdict


def _judged_apart(reader: Reader, seeds: Sequence[int], folder: Path, slow_s: float) -> Iterator[Verdict]:
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(
        target=_work, args=(reader, seeds, folder, theirs), daemon=True
    )
    process.start()
    theirs.close()
    try:
        if not ours.poll(_MAKING_S):
            raise TimeoutError(f"{reader.name}: its whole files take too long")
        _raise_if_failed(reader, ours)
        for seed in seeds:
            verdict = _next(ours, process, seed, slow_s)
            yield verdict
            if verdict.kind in ("slow", "died", "memory"):
                # Its process is gone, or too large to tell by how much the next input makes it grow.
                return
    finally:
        process.kill()
        process.join()
        ours.close()


def _raise_if_failed(reader: Reader, ours: Connection) -> None:
    try:
        failed = ours.recv()
    except EOFError:
        failed = "its process ended"
    if failed:
        raise RuntimeError(f"{reader.name}: whole files are not read: {failed}")


def _next(ours: Connection, process: multiprocessing.process.BaseProcess, seed: int, slow_s: float) -> Verdict:
    what = "not known"
    try:
        # What is done comes before what becomes of it.
        what = ours.recv()
        if not ours.poll(slow_s):
            return Verdict(seed, what, "slow", f"more than {slow_s:g} s")
        verdict: Verdict = ours.recv()
    except EOFError:
        process.join()
        return Verdict(seed, what, "died", f"exit code {process.exitcode}")
    return verdict


def _work(reader: Reader, seeds: Sequence[int], folder: Path, theirs: Connection) -> None:
    template, scratch = folder / "whole", folder / "scratch"
    # A crash is told by the parent.
    faulthandler.disable()
    try:
        if not template.exists():
            made(reader, template)
        whole = whole_of(reader, template, scratch)
    except Exception as error:  # noqa: BLE001 - told to the parent, which raises it
        theirs.send(repr(error))
        return
    theirs.send("")
    size = int(Path("/proc/self/statm").read_text("ascii").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + _ROOM, size + _ROOM))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for seed in seeds:
        theirs.send(judged(reader, seed, template, scratch, whole, theirs.send))

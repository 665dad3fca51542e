"""How PyTorch's threads wait for each other: asleep beside other work, spinning only where a clock runs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

_NAME, _ASLEEP = "OMP_WAIT_POLICY", "PASSIVE"
_ours: set[str] = set()


def wait_asleep() -> None:
    """Let OpenMP's waiting threads sleep, here and in processes started from here. A policy that the user set is kept.

    Call it before PyTorch is imported, whose OpenMP reads the environment once. Threads that spin hold a core that
    another process could use, and then wait for a thread of their own that has none.
    """
    if _NAME not in os.environ:
        os.environ[_NAME] = _ASLEEP
        _ours.add(_NAME)


@contextmanager
def threads_spin(wanted: bool = True) -> Iterator[None]:
    """Let processes that are started inside have OpenMP's own policy, as a program has that asks for none.

    Args:
        wanted: False changes nothing.
    """
    taken = {name: os.environ.pop(name) for name in _ours if name in os.environ} if wanted else {}
    try:
        yield
    finally:
        os.environ.update(taken)

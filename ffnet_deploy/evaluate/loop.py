"""The loop over a set: some images in work at a time, results in order, what is done kept on disk."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager
from threading import BoundedSemaphore, Event, Lock
from typing import Protocol, TypeVar

from ffnet_deploy.evaluate.journal import Journal, Line

T = TypeVar("T")
R = TypeVar("R")


class Stopwatch:
    """Seconds that all threads together spent in each stage, waiting included."""

    def __init__(self) -> None:
        self._lock = Lock()
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - start
            with self._lock:
                self.seconds[stage] += spent


class Lanes:
    """How much goes on at once: images in work, and networks that compute at the same time."""

    def __init__(self, images: int, networks: int) -> None:
        """Lanes for ``images`` at a time, of which ``networks`` may be in a network."""
        self.images = images
        self.networks = networks
        self.network = BoundedSemaphore(networks)


class HasName(Protocol):
    """A sample: all that the loop needs is a name."""

    @property
    def name(self) -> str: ...


Done = TypeVar("Done", bound=Line)
Sample = TypeVar("Sample", bound=HasName)


def run(
    work: Callable[[Sequence[Sample]], Sequence[Done]],
    samples: Sequence[Sample],
    *,
    batch: int,
    lanes: Lanes,
    journal: Journal[Done] | None = None,
    told: Callable[[Done, int, int], None] | None = None,
) -> list[Done]:
    """Work through a set.

    Args:
        work: gives the results of at most ``batch`` samples; called from several threads.
        samples: the set, in order.
        batch: samples at a time.
        lanes: how much goes on at once.
        journal: holds what an interrupted run has done, and gets each result as it comes.
        told: after each result: (it, how many are done, how many there are).

    Returns:
        One result for each sample, in the set's order, whatever the order in which they were done.

    Raises:
        The error of the first sample that has one; results before it are in the journal.
    """
    done: dict[str, Done] = dict(journal.done) if journal else {}
    missing = [sample for sample in samples if sample.name not in done]
    count = len(samples) - len(missing)
    for results in ordered(work, [missing[at : at + batch] for at in range(0, len(missing), batch)], lanes.images):
        for result in results:
            done[result.name] = result
            count += 1
            if journal:
                journal.add(result)
            if told:
                told(result, count, len(samples))
    return [done[sample.name] for sample in samples]


def ordered(work: Callable[[T], R], items: Sequence[T], lanes: int) -> Iterator[R]:
    """Results of ``work`` in the order of ``items``, ``lanes`` of them in work; at most as many more wait to be taken.

    When one fails, or the caller stops, those in work are finished and no other is begun.
    """
    stopped = Event()
    failures: list[BaseException] = []

    def attempt(item: T) -> R:
        if stopped.is_set():
            raise CancelledError
        try:
            return work(item)
        except BaseException as error:
            failures.append(error)
            stopped.set()
            raise

    def result_of(future: Future[R]) -> R:
        try:
            return future.result()
        except CancelledError:
            # An item that was taken before the failing one, but begun after it.
            raise failures[0] from None

    with ThreadPoolExecutor(lanes, thread_name_prefix="evaluate") as pool:
        waiting: deque[Future[R]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(attempt, item))
                if len(waiting) >= 2 * lanes:
                    yield result_of(waiting.popleft())
            while waiting:
                yield result_of(waiting.popleft())
        finally:
            stopped.set()
            pool.shutdown(wait=True, cancel_futures=True)

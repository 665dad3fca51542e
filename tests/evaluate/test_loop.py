"""Several images in work at a time: results in order, the first failure counts, and nothing is begun after it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from ffnet_deploy.artifacts.reading import parse
from ffnet_deploy.errors import DataError
from ffnet_deploy.evaluate.journal import Journal
from ffnet_deploy.evaluate.loop import Lanes, Stopwatch, ordered, run


@dataclass(frozen=True)
class Picture:
    name: str


@dataclass(frozen=True)
class Done:
    name: str
    thread: str = ""

    def facts(self) -> Done:
        return self


def pictures(count: int) -> list[Picture]:
    return [Picture(f"{i:02d}") for i in range(count)]


def done_by(thread: Callable[[], str] = lambda: "") -> Callable[[Sequence[Picture]], list[Done]]:
    return lambda some: [Done(item.name, thread()) for item in some]


# --- ordered --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lanes", [1, 2, 5])
@pytest.mark.parametrize("count", [0, 1, 3, 20])
def test_results_come_in_order_whatever_takes_longer(lanes: int, count: int) -> None:
    def work(item: int) -> int:
        time.sleep(0.004 if item % 3 == 0 else 0)
        return item * item

    assert list(ordered(work, range(count), lanes)) == [i * i for i in range(count)]


def test_as_many_are_in_work_as_there_are_lanes() -> None:
    together = threading.Barrier(3, timeout=20)
    # Each waits for two others: with fewer in work this would never end.
    assert list(ordered(lambda _: together.wait() >= 0, range(6), 3)) == [True] * 6


def test_never_more_are_in_work_than_there_are_lanes() -> None:
    lock, now, most = threading.Lock(), 0, 0

    def work(_item: int) -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.002)
        with lock:
            now -= 1

    assert len(list(ordered(work, range(30), 3))) == 30
    assert 1 <= most <= 3


def test_no_more_is_computed_ahead_than_twice_the_lanes() -> None:
    begun: list[int] = []

    def work(item: int) -> int:
        begun.append(item)
        return item

    results = ordered(work, range(100), 2)
    assert next(results) == 0
    time.sleep(0.05)
    assert len(begun) <= 4
    results.close()  # type: ignore[attr-defined]


def test_the_error_of_the_first_failing_item_is_raised() -> None:
    failed = threading.Event()

    def work(item: int) -> int:
        if item == 2:
            failed.set()
            raise DataError("2 is damaged. Copy it again.")
        if item == 1:
            # It fails after its successor has.
            assert failed.wait(20)
            raise DataError("1 is damaged. Copy it again.")
        return item

    with pytest.raises(DataError, match=r"^1 is damaged"):
        list(ordered(work, range(10), 3))


def test_nothing_is_begun_after_a_failure() -> None:
    begun: list[int] = []
    release = threading.Event()

    def work(item: int) -> int:
        begun.append(item)
        if item == 1:
            raise DataError("1 is damaged. Copy it again.")
        if item == 0:
            # The first item is in work for long; meanwhile the second has failed.
            assert release.wait(20)
        return item

    threading.Timer(0.1, release.set).start()
    with pytest.raises(DataError):
        list(ordered(work, range(50), 2))
    assert sorted(begun) == [0, 1]


def test_those_in_work_are_finished_before_a_failure_is_raised() -> None:
    finished: list[int] = []
    both = threading.Barrier(2, timeout=20)

    def work(item: int) -> None:
        both.wait()
        if item == 0:
            raise DataError("0 is damaged. Copy it again.")
        time.sleep(0.05)
        finished.append(item)

    with pytest.raises(DataError):
        list(ordered(work, range(2), 2))
    assert finished == [1]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, RuntimeError])
def test_a_caller_that_stops_ends_the_work(kind: type[BaseException]) -> None:
    begun: list[int] = []

    def work(item: int) -> int:
        begun.append(item)
        return item

    def stops() -> None:
        for result in ordered(work, range(1000), 2):
            if result == 5:
                raise kind

    before = threading.active_count()
    with pytest.raises(kind):
        stops()
    assert threading.active_count() == before
    count = len(begun)
    assert count <= 5 + 2 * 2 + 1
    time.sleep(0.02)
    assert len(begun) == count


def test_an_interrupt_in_the_work_goes_through() -> None:
    def work(item: int) -> int:
        if item == 1:
            raise KeyboardInterrupt
        return item

    with pytest.raises(KeyboardInterrupt):
        list(ordered(work, range(10), 2))


# --- run ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "batch"), [(1, 1), (7, 1), (7, 3), (6, 3), (2, 5)])
def test_every_sample_has_one_result_in_its_place(count: int, batch: int) -> None:
    sizes: list[int] = []

    def work(some: Sequence[Picture]) -> list[Done]:
        sizes.append(len(some))
        return [Done(item.name) for item in some]

    told: list[tuple[str, int, int]] = []
    samples = pictures(count)
    found = run(work, samples, batch=batch, lanes=Lanes(2, 1), told=lambda d, n, of: told.append((d.name, n, of)))
    assert [item.name for item in found] == [item.name for item in samples]
    assert sum(sizes) == count
    assert max(sizes) <= batch
    assert len(sizes) == -(-count // batch)
    assert told == [(item.name, i + 1, count) for i, item in enumerate(samples)]


def test_work_is_spread_over_threads_of_its_own() -> None:
    found = run(done_by(lambda: threading.current_thread().name), pictures(8), batch=1, lanes=Lanes(2, 1))
    assert all(item.thread.startswith("evaluate") for item in found)


def journal(folder: Path, *, resume: bool = False) -> Journal[Done]:
    return Journal(folder, {"of": "a test"}, lambda text: parse(Done, text), resume=resume)


def test_only_what_the_journal_lacks_is_computed_and_the_order_stays(tmp_path: Path) -> None:
    samples = pictures(7)
    with journal(tmp_path) as kept:
        run(done_by(), samples[1:5:2], batch=1, lanes=Lanes(1, 1), journal=kept)
    computed: list[str] = []
    told: list[int] = []

    def work(some: Sequence[Picture]) -> list[Done]:
        computed.extend(item.name for item in some)
        return [Done(item.name) for item in some]

    with journal(tmp_path, resume=True) as kept:
        found = run(work, samples, batch=2, lanes=Lanes(1, 1), journal=kept, told=lambda _d, n, _of: told.append(n))
    assert [item.name for item in found] == [item.name for item in samples]
    assert computed == ["00", "02", "04", "05", "06"]
    assert told == [3, 4, 5, 6, 7]


def test_results_before_the_first_failure_are_in_the_journal(tmp_path: Path) -> None:
    def work(some: Sequence[Picture]) -> list[Done]:
        if some[0].name == "04":
            raise DataError("04 is damaged. Copy it again.")
        return [Done(item.name) for item in some]

    with pytest.raises(DataError), journal(tmp_path) as kept:
        run(work, pictures(9), batch=1, lanes=Lanes(3, 1), journal=kept)
    with journal(tmp_path, resume=True) as kept:
        assert sorted(kept.done) == ["00", "01", "02", "03"]


# --- stopwatch ------------------------------------------------------------------------------------------------------


def test_the_stopwatch_adds_up_over_threads_and_after_errors() -> None:
    watch = Stopwatch()

    def work(_item: int) -> None:
        with watch("sleep"):
            time.sleep(0.02)

    list(ordered(work, range(4), 4))
    with pytest.raises(ZeroDivisionError), watch("fail"):
        _ = 1 / 0
    assert watch.seconds["sleep"] >= 4 * 0.02
    assert set(watch.seconds) == {"sleep", "fail"}

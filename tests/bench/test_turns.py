"""Turns against a script, and small real benchmarks, each rung in a process of its own."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Self, cast

import onnx
import pytest
from support.fakes import SMALL, SMALL_SHAPE, Surroundings, WorkerHere, street_feeds
from support.graphs import filled

from ffnet_deploy.artifacts.workspace import Workspace
from ffnet_deploy.bench import turns as module
from ffnet_deploy.bench.options import BenchOptions
from ffnet_deploy.bench.result import PHASES, Resources
from ffnet_deploy.bench.samples import Turn, percentile, phases, speed_up
from ffnet_deploy.bench.subject import ColdStart, RunSettings, Subject
from ffnet_deploy.bench.turns import BenchEntry, BenchPlan, Latency, cold_starts, take_turns
from ffnet_deploy.errors import EngineError
from ffnet_deploy.ladder import device_in_use, facts_of
from ffnet_deploy.machine import load, threads
from ffnet_deploy.pipeline.bench import bench
from ffnet_deploy.runtimes.onnxruntime import build
from ffnet_deploy.runtimes.rung import EMULATED, REFERENCE, Rung
from ffnet_deploy.runtimes.worker import Worker

if TYPE_CHECKING:
    from ffnet_deploy.runtimes.runner import Feeds

RUNG = Rung("onnxruntime", "fp32", SMALL, SMALL_SHAPE)
JOB = RunSettings("compute", threads=1)
POLICY = "OMP_WAIT_POLICY"
QUICK = BenchPlan(iters=5, min_seconds=0.0, rounds=5, warm_up_s=0.0, most_warm_up_s=0.0)


def turn(*samples: float) -> Turn:
    return Turn(samples, sum(samples) / 1000)


# --- turns ----------------------------------------------------------------------------------------------------------


class ScriptedWorker:
    """Stands in for a worker process: numbers its runs, and notes who ran how often."""

    log: list[tuple[str, int]]
    milliseconds: dict[str, float]

    def __init__(self, what: str, make: object, rung: Rung, feeds: object, job: RunSettings) -> None:
        assert make is Subject
        assert feeds == [f"feeds of {rung.name}"]
        assert job is JOB
        assert rung.name in what
        self._rung, self._runs = rung, 0

    def call(self, method: str, *args: int) -> Turn | Resources:
        if method == "resources":
            return Resources(peak_host_bytes=7)
        assert method == "run"
        (runs,) = args
        self.log.append((self._rung.name, runs))
        base = self.milliseconds[self._rung.name]
        samples = [base + (self._runs + i) / 1000 for i in range(runs)]
        self._runs += runs
        return turn(*samples)

    def __enter__(self) -> Self:
        self.log.append((self._rung.name, 0))
        return self

    def __exit__(self, *_: object) -> None:
        self.log.append((self._rung.name, -1))


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, int]]]:
    log: list[tuple[str, int]] = []
    monkeypatch.setattr(ScriptedWorker, "log", log, raising=False)
    monkeypatch.setattr(ScriptedWorker, "milliseconds", {"a fp32": 100.0, "b fp32": 250.0}, raising=False)
    monkeypatch.setattr(module, "Worker", ScriptedWorker)
    yield log  # noqa: PT022 - the patches go after the test


def _scripted(plan: BenchPlan) -> list[Latency]:
    rungs = [Rung(name, "fp32", SMALL, SMALL_SHAPE) for name in ("a", "b")]
    feeds: list[list[Feeds]] = [[f"feeds of {rung.name}"] for rung in rungs]  # type: ignore[list-item]
    entries = [BenchEntry(rung, mine, JOB) for rung, mine in zip(rungs, feeds, strict=True)]
    return take_turns(entries, plan)


def test_rungs_take_turns_there_and_back_and_the_first_run_of_a_turn_does_not_count(
    script: list[tuple[str, int]],
) -> None:
    plan = BenchPlan(iters=7, min_seconds=0.0, rounds=3, warm_up_s=0.0)
    a, b = _scripted(plan)
    warm_up = [("a fp32", 1)] * 10 + [("b fp32", 1)] * 10
    turns = [("a fp32", 4), ("b fp32", 4), ("b fp32", 4), ("a fp32", 4), ("a fp32", 4), ("b fp32", 4)]
    assert script[2:-2] == warm_up + turns
    assert {name for name, runs in script if runs == -1} == {"a fp32", "b fp32"}
    # Runs 0 to 9 warm up; of the turns, runs 10, 14 and 18 are not counted.
    counted = (11, 12, 13, 15, 16, 17, 19, 20, 21)
    assert a.samples == pytest.approx([100 + n / 1000 for n in counted])
    assert b.samples == pytest.approx([250 + n / 1000 for n in counted])
    assert [len(item.turns) for item in (a, b)] == [3, 3]
    assert a.resources == Resources(peak_host_bytes=7)


def test_rungs_run_as_long_as_the_runs_and_the_seconds_ask(script: list[tuple[str, int]]) -> None:
    for item in _scripted(BenchPlan(iters=3, min_seconds=2.0, rounds=4, warm_up_s=0.0)):
        assert len(item.samples) >= 3
        assert sum(item.samples) >= 2000
        assert len(item.turns) >= 4
    script.clear()
    for item in _scripted(BenchPlan(iters=40, min_seconds=0.1, rounds=4, warm_up_s=0.0)):
        assert len(item.samples) >= 40


def test_a_rung_that_never_settles_is_timed_all_the_same_and_says_so(
    script: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = iter(range(10_000_000))

    def slower(_: ScriptedWorker, method: str, *args: int) -> Turn | Resources:
        return turn(*(1.3 ** next(slow) for _ in range(args[0]))) if method == "run" else Resources()

    with monkeypatch.context() as forged:
        forged.setattr(ScriptedWorker, "call", slower)
        a, _ = _scripted(BenchPlan(iters=1, min_seconds=0.0, warm_up_s=0.0, most_warm_up_s=0.0))
    assert (a.warm_up.settled, a.warm_up.runs) == (False, 10)
    steady, _ = _scripted(QUICK)
    assert steady.warm_up.settled
    assert script


def test_every_rung_is_started_once_in_every_round(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[str] = []

    class Start:
        """Stands in for a worker process that starts a rung."""

        def __init__(self, what: str, make: object, *_: object) -> None:
            assert make is ColdStart
            started.append(what.removeprefix("the cold start of "))

        def call(self, method: str) -> dict[str, float] | Resources:
            return {"to_first": float(len(started))} if method == "run" else Resources(peak_host_bytes=len(started))

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None:
            started.append("")

    monkeypatch.setattr(module, "Worker", Start)
    told: list[tuple[int, int]] = []
    entries = [BenchEntry(Rung(name, "fp32", SMALL, SMALL_SHAPE), [], JOB) for name in ("a", "b")]
    a, b = cold_starts(entries, 2, progress=lambda done, total: told.append((done, total)))
    # Each process has ended before the next one starts.
    assert started == ["a fp32", "", "b fp32", "", "a fp32", "", "b fp32", ""]
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert ([s["to_first"] for s in a.starts], [s["to_first"] for s in b.starts]) == ([1, 5], [3, 7])
    assert (a.resources.peak_host_bytes, b.resources.peak_host_bytes) == (5, 7)


# --- how idle threads wait ------------------------------------------------------------------------------------------


@pytest.fixture
def asleep(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting threads of this process sleep, as in every command."""
    # Set and deleted, so that it is as before after the test.
    monkeypatch.setenv(POLICY, "")
    monkeypatch.delenv(POLICY)
    monkeypatch.setattr(threads, "_ours", set())
    threads.wait_asleep()


@pytest.mark.usefixtures("asleep")
@pytest.mark.parametrize(("spinning", "seen"), [(True, None), (False, "PASSIVE")])
def test_threads_of_a_worker_spin_unless_they_are_to_sleep(spinning: bool, seen: str | None) -> None:
    entry = BenchEntry(RUNG, [], replace(JOB, spinning=spinning), cast("type[Subject]", Surroundings))
    with ExitStack() as stack:
        (worker,) = module._started([entry], stack)
        assert worker.call("variable", POLICY) == seen
    assert os.environ[POLICY] == "PASSIVE"


@pytest.mark.usefixtures("asleep")
@pytest.mark.parametrize(("spinning", "seen"), [(True, None), (False, "PASSIVE")])
def test_so_do_those_of_a_start(monkeypatch: pytest.MonkeyPatch, spinning: bool, seen: str | None) -> None:
    found: list[str | None] = []

    class Start(WorkerHere):
        def __init__(self, *_: object) -> None:
            found.append(os.environ.get(POLICY))

        def call(self, method: str, *_: object) -> object:
            return {"to_first": 1.0} if method == "run" else Resources()

    monkeypatch.setattr(module, "Worker", Start)
    cold_starts([BenchEntry(RUNG, [], replace(JOB, spinning=spinning))] * 2, 1)
    assert found == [seen, seen]
    assert os.environ[POLICY] == "PASSIVE"


@pytest.mark.parametrize("spinning", [True, False])
def test_a_plan_says_how_threads_wait(monkeypatch: pytest.MonkeyPatch, built: Path, spinning: bool) -> None:
    told: list[bool] = []

    def noted(entries: Sequence[BenchEntry], *_: object, **__: object) -> list[Latency]:
        told.extend(entry.job.spinning for entry in entries)
        raise EngineError("Enough.")

    monkeypatch.setattr(module, "take_turns", noted)
    monkeypatch.setattr(load, "other_work", lambda: 0.0)
    with pytest.raises(EngineError, match="Enough"):
        bench(Workspace(built), None, BenchOptions(threads=1), plan=BenchPlan(1, spinning=spinning))
    assert len(told) >= 3
    assert set(told) == {spinning}


# --- where rungs run ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("runtime", "asked", "found"),
    [
        ("onnxruntime", None, None),
        ("onnxruntime", 1, None),
        (EMULATED, 1, None),
        (REFERENCE, None, None),
        (REFERENCE, 1, 1),
        # TensorRT has no CPU: it takes the first GPU.
        ("tensorrt", None, 0),
        ("tensorrt-rtx", None, 0),
        ("tensorrt-rtx", 1, 1),
    ],
)
def test_the_device_that_is_told_is_the_one_that_a_rung_runs_on(
    runtime: str, asked: int | None, found: int | None
) -> None:
    from ffnet_deploy.graph.current import Graph
    from ffnet_deploy.pipeline.bench import _entries

    rung = replace(RUNG, runtime=runtime)
    assert facts_of(rung, asked).device == ("cpu" if found is None else f"cuda:{found}")
    assert device_in_use([RUNG, rung], asked) == found
    graph = cast("Graph", SimpleNamespace(shape=SMALL_SHAPE))
    first, second = _entries([RUNG, rung], graph, RunSettings("compute", 1, asked))
    # What is asked of NVML is asked of that device too.
    assert (first.job.device, second.job.device) == (None, found)


# --- real ones ------------------------------------------------------------------------------------------------------


@pytest.fixture
def rung(small_engine: Path) -> Rung:
    return replace(RUNG, path=small_engine, size=small_engine.stat().st_size)


REFERENCE_RUNG = Rung(REFERENCE, "fp32", SMALL, SMALL_SHAPE)


def test_a_real_benchmark_has_every_sample_of_every_rung_in_order(rung: Rung) -> None:
    rungs = [replace(REFERENCE_RUNG, variant="channels-last"), rung]
    found = take_turns([BenchEntry(r, street_feeds(SMALL_SHAPE), JOB) for r in rungs], QUICK)
    assert [item.rung for item in found] == rungs
    for item in found:
        assert [len(turn.samples) for turn in item.turns] == [1] * 5
        assert all(0.1 < sample < 60_000 for sample in item.samples)
        assert min(item.samples) <= item.median <= percentile(item.samples, 99) == max(item.samples)
        assert (item.resources.peak_host_bytes or 0) > 30e6
        assert item.resources.device_bytes is None


def _convolutions(count: int, folder: Path) -> Path:
    """An engine of so many equal convolutions, a few milliseconds each."""
    name = [f"c{i}" for i in range(count)] + ["logits"]
    nodes = "".join(f"{name[i + 1]} = Conv<pads = [1, 1, 1, 1]>({name[i]}, w)\n" for i in range(count))
    head = "net (float[1,3,64,128] image) => (float[1,16,64,128] logits) <float[16,3,3,3] w0, float[16,16,3,3] w>"
    onnx.save(filled(f"{head} {{ c0 = Conv<pads = [1, 1, 1, 1]>(image, w0)\n{nodes} }}"), folder / "graph.onnx")
    build(folder / "graph.onnx", folder / f"{count}.onnx")
    return folder / f"{count}.onnx"


def test_the_same_engine_twice_is_as_fast_as_itself_and_one_with_twice_the_work_is_not(tmp_path: Path) -> None:
    once, double = (replace(RUNG, path=_convolutions(count, tmp_path)) for count in (4, 8))
    rungs = [once, replace(once, variant="again"), replace(double, variant="larger")]
    # Other work comes and goes: many short turns, which it disturbs alike.
    plan = BenchPlan(iters=60, min_seconds=0.0, rounds=30, warm_up_s=0.1, most_warm_up_s=0.5)
    first, again, twice = take_turns([BenchEntry(r, street_feeds(r.shape), JOB) for r in rungs], plan)
    same, other = speed_up(first.turns, again.turns), speed_up(first.turns, twice.turns)
    assert same
    assert other
    # Equal within 5 %, as far as the samples can tell; and they can tell what is not, whatever else goes on here.
    assert same.low <= 1.05
    assert same.high >= 0.95
    assert other.high < 1


def test_a_cold_start_tells_its_phases(rung: Rung) -> None:
    entries = [BenchEntry(r, street_feeds(SMALL_SHAPE, 1), JOB) for r in (REFERENCE_RUNG, rung)]
    told: list[tuple[int, int]] = []
    reference, engine = cold_starts(entries, 1, progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 2), (2, 2)]
    for item in (reference, engine):
        for start in item.starts:
            assert start["to_first"] == pytest.approx(start["import"] + start["load"] + start["first"])
            assert min(start.values()) > 0
        assert list(phases(item.starts)) == list(PHASES)
    # Importing PyTorch takes a second or so; were it imported before the clock starts, it would take none.
    assert reference.starts[0]["import"] > 100


def test_a_rung_that_cannot_be_opened_ends_the_benchmark(tmp_path: Path) -> None:
    broken = tmp_path / "engine.onnx"
    broken.write_bytes(b"no graph")
    with pytest.raises(EngineError, match="refused by ONNX Runtime"):
        take_turns([BenchEntry(replace(RUNG, path=broken), [], JOB)], QUICK)


def test_a_killed_worker_is_one_clear_line(rung: Rung, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process of the second turn's rung is killed between two calls."""
    real, calls = Worker.call, iter(range(1000))

    def kill(self: Worker, method: str, *args: object) -> object:
        if next(calls) == 14:
            assert self._process.pid
            os.kill(self._process.pid, signal.SIGKILL)
        return real(self, method, *args)

    monkeypatch.setattr(Worker, "call", kill)
    with pytest.raises(EngineError, match=r"benchmark of onnxruntime fp32 was killed by SIGKILL\. Was there enough"):
        take_turns([BenchEntry(rung, street_feeds(SMALL_SHAPE), JOB)], QUICK)

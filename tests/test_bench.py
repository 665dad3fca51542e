"""Percentiles and intervals against hand-computed ones, turns against a script, and small real benchmarks."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Self, cast

import numpy as np
import pytest
import torch
from fakes import SMALL, SMALL_SHAPE, FakeRunner, small_graph, street_feeds

from ffnet_deploy import bench as module
from ffnet_deploy.bench import COMPUTE, END_TO_END, THROUGHPUT, Entry, Job, Latency, Plan, Turn, WarmUp, bench, cold
from ffnet_deploy.bench import subject as subjects
from ffnet_deploy.bench.doubts import of_machine, of_rung
from ffnet_deploy.bench.samples import Interval, median_ms, speed_up
from ffnet_deploy.bench.subject import ColdStart, Subject
from ffnet_deploy.data.images import normalise
from ffnet_deploy.data.scenes import draw_scene
from ffnet_deploy.errors import EngineError
from ffnet_deploy.machine.load import Watch
from ffnet_deploy.pipeline import BenchOptions
from ffnet_deploy.pipeline.ladder import device_in_use, rung_json
from ffnet_deploy.runtimes import EMULATED, REFERENCE, Ends, Rung, open_rung
from ffnet_deploy.runtimes.base import Worker
from ffnet_deploy.runtimes.onnxruntime import build
from ffnet_deploy.runtimes.pytorch import PyTorchRunner, Style, labelled, normalised

if TYPE_CHECKING:
    from ffnet_deploy.runtimes.base import Feeds

RUNG = Rung("onnxruntime", "fp32", SMALL, SMALL_SHAPE)
JOB = Job(COMPUTE, threads=1)
QUICK = Plan(iters=5, min_seconds=0.0, rounds=5, warm_up_s=0.0, most_warm_up_s=0.0)


def turn(*samples: float) -> Turn:
    return Turn(samples, sum(samples) / 1000)


def latency(samples: list[float]) -> Latency:
    return Latency(RUNG, (turn(*samples),))


# --- percentiles ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "p", "position"),
    [
        # trtexec: the sample that int((1 - p / 100) * count) samples lie above, without interpolation.
        (1, 50, 1),
        (1, 99, 1),
        (2, 50, 1),
        (3, 50, 2),
        (4, 50, 2),
        (5, 50, 3),
        (5, 90, 5),
        (20, 99, 20),
        (99, 99, 99),
        (100, 99, 99),
        (200, 50, 100),
        (200, 95, 190),
        (200, 99, 198),
        (200, 0, 1),
        (200, 100, 200),
        pytest.param(10, 90, 9),
        pytest.param(200, 90, 180),
    ],
)
def test_percentiles_of_1_to_n(count: int, p: float, position: int) -> None:
    samples = [float(n) for n in range(1, count + 1)]
    assert latency(samples[::-1]).percentile(p) == position


def test_samples_keep_their_order_and_the_summary_does_not_need_it() -> None:
    found = latency([4.0, 1.0, 3.0, 2.0, 10.0])
    assert found.median == 3.0
    result = found.to_json()
    assert result["samples_ms"] == [4.0, 1.0, 3.0, 2.0, 10.0]
    assert result["turns"] == [{"runs": 5, "seconds": 0.02}]
    assert (result["min_ms"], result["median_ms"], result["max_ms"], result["mean_ms"]) == (1.0, 3.0, 10.0, 4.0)
    # Deviations 0, 3, 1, 2, 6: their squares' mean is 10.
    assert result["coefficient_of_variation"] == pytest.approx(10**0.5 / 4)
    assert found.images_per_s == pytest.approx(250)


# --- the interval of a speed-up -------------------------------------------------------------------------------------


def _drifting(scale: float, seed: int, turns: int = 30, noise: float = 0.02) -> list[Turn]:
    """A rung on a machine that slows by half and recovers, the same way for all rungs."""
    random = np.random.default_rng(seed)
    drift = 1 + 0.5 * np.sin(np.linspace(0, np.pi, turns))
    return [turn(*(scale * drift[i] * random.normal(10, 10 * noise, 8))) for i in range(turns)]


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
def test_the_interval_holds_the_true_ratio_through_drift(scale: float) -> None:
    found = speed_up(_drifting(scale, 1), _drifting(1.0, 2))
    assert found
    assert found.low < scale < found.high
    assert found.high / found.low < 1.1


def test_rounds_are_drawn_together() -> None:
    """Turn by turn the ratio is exactly 2, though each rung alone varies by a factor of ten."""
    walk = [float(value) for value in np.random.default_rng(0).uniform(1, 10, 20)]
    found = speed_up([turn(2 * value) for value in walk], [turn(value) for value in walk])
    assert found == Interval(2.0, 2.0)


def test_resampled_medians_are_those_of_a_slow_loop() -> None:
    from ffnet_deploy.bench import samples

    turns = _drifting(1.0, 3, turns=7)
    counts = np.array([[1] * 7, [7, 0, 0, 0, 0, 0, 0], [0, 2, 1, 0, 3, 0, 1]])
    slow = [median_ms([turns[i] for i in range(7) for _ in range(count[i])]) for count in counts]
    assert samples._medians(turns, counts).tolist() == slow


def test_throughput_is_compared_by_the_wall_clock() -> None:
    overlapping = [Turn((10.0, 10.0), 0.010)] * 6
    alone = [Turn((10.0, 10.0), 0.020)] * 6
    assert speed_up(alone, overlapping, by_wall_clock=True) == Interval(2.0, 2.0)
    assert speed_up(alone, overlapping) == Interval(1.0, 1.0)


def test_four_turns_are_too_few_for_an_interval() -> None:
    assert speed_up([turn(1.0)] * 4, [turn(1.0)] * 4) is None
    assert speed_up([turn(1.0)] * 5, [turn(1.0)] * 5) is not None


# --- turns ----------------------------------------------------------------------------------------------------------


class ScriptedWorker:
    """Stands in for a worker process: numbers its runs, and notes who ran how often."""

    log: list[tuple[str, int]]
    milliseconds: dict[str, float]

    def __init__(self, what: str, make: object, rung: Rung, feeds: object, job: Job) -> None:
        assert make is Subject
        assert feeds == [f"feeds of {rung.name}"]
        assert job is JOB
        assert rung.name in what
        self._rung, self._runs = rung, 0

    def call(self, method: str, *args: int) -> Turn | dict[str, object]:
        if method == "facts":
            return {"peak_host_bytes": 7}
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


def _scripted(plan: Plan) -> list[Latency]:
    rungs = [Rung(name, "fp32", SMALL, SMALL_SHAPE) for name in ("a", "b")]
    feeds: list[list[Feeds]] = [[f"feeds of {rung.name}"] for rung in rungs]  # type: ignore[list-item]
    entries = [Entry(rung, mine, JOB) for rung, mine in zip(rungs, feeds, strict=True)]
    return bench(entries, plan)


def test_rungs_take_turns_there_and_back_and_the_first_run_of_a_turn_does_not_count(
    script: list[tuple[str, int]],
) -> None:
    plan = Plan(iters=7, min_seconds=0.0, rounds=3, warm_up_s=0.0)
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
    assert a.facts == {"peak_host_bytes": 7}


def test_rungs_run_as_long_as_the_runs_and_the_seconds_ask(script: list[tuple[str, int]]) -> None:
    for item in _scripted(Plan(iters=3, min_seconds=2.0, rounds=4, warm_up_s=0.0)):
        assert len(item.samples) >= 3
        assert sum(item.samples) >= 2000
        assert len(item.turns) >= 4
    script.clear()
    for item in _scripted(Plan(iters=40, min_seconds=0.1, rounds=4, warm_up_s=0.0)):
        assert len(item.samples) >= 40


def test_a_rung_that_never_settles_is_timed_all_the_same_and_says_so(
    script: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = iter(range(10_000_000))

    def slower(_: ScriptedWorker, method: str, *args: int) -> Turn | dict[str, object]:
        return turn(*(1.3 ** next(slow) for _ in range(args[0]))) if method == "run" else {}

    with monkeypatch.context() as forged:
        forged.setattr(ScriptedWorker, "call", slower)
        a, _ = _scripted(Plan(iters=1, min_seconds=0.0, warm_up_s=0.0, most_warm_up_s=0.0))
    assert a.warm_up
    assert (a.warm_up.settled, a.warm_up.runs) == (False, 10)
    steady, _ = _scripted(QUICK)
    assert steady.warm_up
    assert steady.warm_up.settled
    assert script


# --- what is doubtful -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("samples", "facts", "mode", "on_gpu", "kinds"),
    [
        ([10.0, 10.1], {}, COMPUTE, False, set()),
        ([10.0, 14.0], {}, COMPUTE, False, {"unstable"}),
        ([10.0, 10.8], {}, COMPUTE, False, set()),
        ([10.0, 10.8], {}, COMPUTE, True, {"unstable"}),
        # Runs of several lanes overlap: how long one of them takes is no figure of this mode.
        ([10.0, 14.0], {}, THROUGHPUT, False, set()),
        ([10.0], {"enqueue_ms": 7.9}, COMPUTE, True, set()),
        ([10.0], {"enqueue_ms": 8.1}, COMPUTE, True, {"launch-bound"}),
        ([10.0], {"enqueue_ms": None}, COMPUTE, True, set()),
        ([10.0], {"upload_ms": 5.1, "download_ms": 1.0}, END_TO_END, True, {"transfer-bound"}),
        ([10.0], {"upload_ms": 1.0, "download_ms": 6.0}, END_TO_END, True, {"transfer-bound"}),
        ([10.0], {"upload_ms": 4.0, "download_ms": 4.0}, END_TO_END, True, set()),
        ([10.0], {"upload_ms": 9.0}, COMPUTE, True, set()),
    ],
)
def test_what_is_doubtful(
    samples: list[float], facts: dict[str, float], mode: str, on_gpu: bool, kinds: set[str]
) -> None:
    item = replace(latency(samples), facts=facts, warm_up=WarmUp(1.0, 5, True, 10.0))
    assert {doubt.kind for doubt in of_rung(item, mode, on_gpu)} == kinds


def test_other_work_is_told_and_so_is_what_did_not_settle() -> None:
    item = replace(latency([1.0]), warm_up=WarmUp(10.0, 5, False, 10.0))
    (doubt,) = of_rung(item, COMPUTE, False)
    assert (doubt.kind, doubt.rung) == ("not-settled", "onnxruntime fp32")
    assert "10 s" in doubt.text
    quiet = Watch()
    assert of_machine(0.05, quiet) == []
    (busy,) = of_machine(0.5, quiet)
    assert (busy.kind, busy.rung) == ("other-work", None)
    assert "50 %" in busy.text


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
    from ffnet_deploy.pipeline.bench import _entries
    from ffnet_deploy.pipeline.current import Graph

    rung = replace(RUNG, runtime=runtime)
    assert rung_json(rung, asked)["device"] == ("cpu" if found is None else f"cuda:{found}")
    assert device_in_use([RUNG, rung], asked) == found
    graph = cast("Graph", SimpleNamespace(shape=SMALL_SHAPE))
    first, second = _entries([RUNG, rung], graph, BenchOptions(device=asked), 1)
    # What is asked of NVML is asked of that device too.
    assert (first.job.device, second.job.device) == (None, found)


# --- real ones ------------------------------------------------------------------------------------------------------


def _engine(folder: Path, data: bytes) -> Path:
    (folder / "graph.onnx").write_bytes(data)
    build(folder / "graph.onnx", folder / "engine.onnx")
    return folder / "engine.onnx"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _engine(tmp_path_factory.mktemp("bench"), small_graph())


@pytest.fixture(scope="module")
def rung(engine: Path) -> Rung:
    return replace(RUNG, path=engine, size=engine.stat().st_size)


REFERENCE_RUNG = Rung(REFERENCE, "fp32", SMALL, SMALL_SHAPE)


def test_a_real_benchmark_has_every_sample_of_every_rung_in_order(rung: Rung) -> None:
    rungs = [replace(REFERENCE_RUNG, variant="channels-last"), rung]
    found = bench([Entry(r, street_feeds(SMALL_SHAPE), JOB) for r in rungs], QUICK)
    assert [item.rung for item in found] == rungs
    for item in found:
        assert [len(turn.samples) for turn in item.turns] == [1] * 5
        assert all(0.1 < sample < 60_000 for sample in item.samples)
        assert min(item.samples) <= item.median <= item.percentile(99) == max(item.samples)
        assert item.facts["peak_host_bytes"] > 30e6
        assert item.facts["device_bytes"] is None


def test_the_same_engine_twice_is_as_fast_as_itself_and_one_with_twice_the_work_is_not(
    rung: Rung, tmp_path_factory: pytest.TempPathFactory
) -> None:
    from ffnet_deploy.graph.export import export
    from ffnet_deploy.zoo.specs import find
    from ffnet_deploy.zoo.weights import load_random

    wide = (1, 3, 64, 256)
    graph = export(load_random(find(SMALL)).module, find(SMALL), wide, opset=20, metadata={})
    larger = _engine(tmp_path_factory.mktemp("larger"), graph.SerializeToString())
    rungs = [rung, replace(rung, variant="again"), replace(rung, variant="larger", path=larger, shape=wide)]
    # Other work comes and goes: many short turns, which it disturbs alike.
    plan = Plan(iters=60, min_seconds=0.0, rounds=30, warm_up_s=0.1, most_warm_up_s=0.5)
    first, again, twice = bench([Entry(r, street_feeds(r.shape), JOB) for r in rungs], plan)
    same, other = speed_up(first.turns, again.turns), speed_up(first.turns, twice.turns)
    assert same
    assert other
    # Equal within 5 %, as far as the samples can tell; and they can tell what is not, whatever else goes on here.
    assert same.low <= 1.05
    assert same.high >= 0.95
    assert other.high < 1


@pytest.mark.parametrize("mode", [COMPUTE, THROUGHPUT])
def test_inputs_are_taken_in_turn_over_all_calls(rung: Rung, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    seen: list[float] = []

    def note(image: np.ndarray) -> np.ndarray:
        seen.append(float(image[0, 0, 0, 0]))
        return image[:, :1]

    class Noting(FakeRunner):
        def latencies(self, feeds: list[Feeds], iters: int) -> list[float]:  # type: ignore[override]
            return [float(self(feeds[i % len(feeds)])["logits"].size) for i in range(iters)]

    runner = Noting(note)
    seen.clear()
    monkeypatch.setattr(subjects, "open_rung", lambda *_: runner)
    feeds: list[Feeds] = [{"image": np.full(SMALL_SHAPE, n, np.float32)} for n in range(4)]
    subject = Subject(rung, feeds, replace(JOB, mode=mode))
    for runs in (1, 2, 6):
        assert len(subject.run(runs).samples) == runs
    assert seen == [0, 1, 2, 3, 0, 1, 2, 3, 0]


def test_concurrent_runners_share_the_work_and_the_threads(rung: Rung) -> None:
    subject = Subject(rung, street_feeds(SMALL_SHAPE), Job(THROUGHPUT, threads=3, concurrency=2))
    done = subject.run(9)
    assert len(done.samples) == 9
    assert max(done.samples) / 1000 <= done.seconds <= sum(done.samples) / 1000 + 1
    assert len(subject._runners) == 2
    assert subject._runners[0] is not subject._runners[1]


def test_from_host_image_to_host_labels_all_rungs_say_the_same(rung: Rung) -> None:
    image = np.stack([draw_scene(64, 128, 5).image])
    both = replace(REFERENCE_RUNG, ends=Ends(image_in=True, labels_out=True))
    maps = []
    for one in (REFERENCE_RUNG, both, rung):
        with open_rung(one, 1, None) as runner:
            maps.append(subjects.labels(runner, image))
    for found in maps:
        assert (str(found.dtype), found.shape) == ("uint8", (1, 64, 128))
        assert (found == maps[0]).mean() > 0.999
    assert len(np.unique(maps[0])) > 1


def test_what_is_done_around_an_engine_keeps_to_its_threads(rung: Rung, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def noting(*arguments: object) -> np.ndarray:
        seen.append(torch.get_num_threads())
        return real(*arguments)

    real: Callable[..., np.ndarray] = subjects._label_map
    monkeypatch.setattr(subjects, "_label_map", noting)
    images: list[Feeds] = [{"image": np.stack([draw_scene(64, 128, 5).image])}]
    for threads in (3, 1):
        Subject(rung, images, Job(END_TO_END, threads)).run(1)
    assert seen == [3, 1]


def test_from_host_image_to_the_class_of_a_classifier() -> None:
    name = "classification_ffnet46NS_CBX_mobile"
    shape = (1, 3, 64, 64)
    image = np.stack([draw_scene(64, 64, 5).image])
    plain = Rung(REFERENCE, "fp32", name, shape)
    classes = []
    for one in (plain, replace(plain, ends=Ends(image_in=True, labels_out=True))):
        with open_rung(one, 1, None) as runner:
            assert runner.outputs[0].shape == runner(_fed(runner, image))[runner.outputs[0].name].shape
            classes.append(subjects.labels(runner, image))
    assert [(str(found.dtype), found.shape) for found in classes] == [("int64", (1,))] * 2
    assert classes[0] == classes[1]


def _fed(runner: object, image: np.ndarray) -> Feeds:
    uint8 = getattr(runner, "inputs")[0].dtype == "uint8"  # noqa: B009 - the union of runners has no common type
    return {"image": image if uint8 else normalise(image[0])}


def test_torch_normalises_and_labels_as_numpy_does() -> None:
    image = draw_scene(64, 128, 7).image
    assert np.allclose(normalised(torch.from_numpy(image[None])).numpy(), normalise(image), atol=1e-6)
    logits = torch.randn(2, 19, 4, 8)
    found = labelled(logits, (8, 16), align_corners=True)
    full = torch.nn.functional.interpolate(logits, size=(8, 16), mode="bilinear", align_corners=True)
    assert torch.equal(found, full.argmax(1).byte())
    assert torch.equal(labelled(torch.eye(3), (1, 1), align_corners=False), torch.arange(3))


@pytest.mark.parametrize("style", [Style(channels_last=True), Style(half=True), Style(half=True, channels_last=True)])
def test_every_style_computes_the_same_network(style: Style) -> None:
    from ffnet_deploy.zoo.specs import find
    from ffnet_deploy.zoo.weights import load_random

    (feed,) = street_feeds(SMALL_SHAPE, 1)
    with PyTorchRunner(load_random(find(SMALL)).module, SMALL_SHAPE) as plain:
        wanted = plain(feed)["logits"]
    with PyTorchRunner(load_random(find(SMALL)).module, SMALL_SHAPE, style=style) as runner:
        assert runner.outputs == plain.outputs
        found = runner(feed)["logits"]
        assert len(runner.latencies([feed], 2)) == 2
    assert found.dtype == np.float32
    assert np.abs(found - wanted).max() < (0.05 if style.half else 1e-4) * wanted.std()
    assert not style.half or not np.array_equal(found, wanted)


def test_a_cold_start_tells_its_phases(rung: Rung) -> None:
    entries = [Entry(r, street_feeds(SMALL_SHAPE, 1), JOB) for r in (REFERENCE_RUNG, rung)]
    told: list[tuple[int, int]] = []
    reference, engine = cold(entries, 2, progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    for item in (reference, engine):
        for start in item.starts:
            assert start["to_first"] == pytest.approx(start["import"] + start["load"] + start["first"])
            assert min(start.values()) > 0
        assert set(item.to_json()["phases"]) == {"import", "load", "first", "second", "to_first"}
    # Importing PyTorch takes a second or so; were it imported before the clock starts, it would take none.
    assert reference.median("import") > 100


def test_a_start_in_this_process_is_not_cold_but_works(rung: Rung) -> None:
    start = ColdStart(rung, street_feeds(SMALL_SHAPE, 1), JOB)
    assert start.run()["first"] > 0
    assert start.facts()["peak_host_bytes"] > 0


def test_a_rung_that_cannot_be_opened_ends_the_benchmark(tmp_path: Path) -> None:
    broken = tmp_path / "engine.onnx"
    broken.write_bytes(b"no graph")
    with pytest.raises(EngineError, match="refused by ONNX Runtime"):
        bench([Entry(replace(RUNG, path=broken), [], JOB)], QUICK)


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
        bench([Entry(rung, street_feeds(SMALL_SHAPE), JOB)], QUICK)

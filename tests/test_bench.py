"""Percentiles against hand-computed ones, turns against a script, and one tiny real benchmark."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pytest
from fakes import SMALL, SMALL_SHAPE, small_graph, street_feeds

from ffnet_deploy import bench as module
from ffnet_deploy.bench import Latency, bench
from ffnet_deploy.errors import EngineError
from ffnet_deploy.runtimes import REFERENCE, Rung, open_rung
from ffnet_deploy.runtimes.onnxruntime import build

if TYPE_CHECKING:
    from ffnet_deploy.runtimes.base import Feeds

RUNG = Rung("onnxruntime", "fp32", SMALL, SMALL_SHAPE)


def latency(samples: list[float]) -> Latency:
    return Latency(RUNG, tuple(samples))


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
    assert (result["min_ms"], result["median_ms"], result["max_ms"], result["mean_ms"]) == (1.0, 3.0, 10.0, 4.0)
    # Deviations 0, 3, 1, 2, 6: their squares' mean is 10.
    assert result["coefficient_of_variation"] == pytest.approx(10**0.5 / 4)
    assert result["rung"] == "onnxruntime fp32"


# --- turns ----------------------------------------------------------------------------------------------------------


class ScriptedWorker:
    """Stands in for a worker process: numbers its runs, and notes who ran how often."""

    log: list[tuple[str, int]]
    milliseconds: dict[str, float]

    def __init__(self, what: str, make: object, rung: Rung, threads: int, device: int | None) -> None:
        assert make is open_rung
        assert (threads, device) == (3, None)
        assert rung.name in what
        self._rung, self._runs = rung, 0

    def call(self, method: str, feeds: object, iters: int) -> list[float]:
        assert method == "latencies"
        assert feeds == [f"feeds of {self._rung.name}"]
        self.log.append((self._rung.name, iters))
        base = self.milliseconds[self._rung.name]
        samples = [base + (self._runs + i) / 1000 for i in range(iters)]
        self._runs += iters
        return samples

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
    monkeypatch.setattr(module, "_WARM_UP_S", 0.0)
    yield log  # noqa: PT022 - the patches go after the test


def test_rungs_take_turns_of_half_a_second_and_the_first_run_of_a_turn_does_not_count(
    script: list[tuple[str, int]],
) -> None:
    rungs = [Rung(name, "fp32", SMALL, SMALL_SHAPE) for name in ("a", "b")]
    told: list[tuple[int, int]] = []
    feeds: list[list[Feeds]] = [[f"feeds of {rung.name}"] for rung in rungs]  # type: ignore[list-item]
    a, b = bench(rungs, feeds, iters=7, threads=3, progress=lambda done, total: told.append((done, total)))
    warm_up = [("a fp32", 1)] * 3 + [("b fp32", 1)] * 3
    turns = [("a fp32", 6), ("b fp32", 3), ("a fp32", 3), ("b fp32", 3), ("b fp32", 3), ("b fp32", 2)]
    assert script[2:-2] == warm_up + turns
    assert {name for name, runs in script if runs == -1} == {"a fp32", "b fp32"}
    # Runs 0 to 2 warm up; of the turns, runs 3 and 9 of one and 3, 6, 9 and 12 of the other are not counted.
    assert a.samples == pytest.approx([100 + n / 1000 for n in (4, 5, 6, 7, 8, 10, 11)])
    assert b.samples == pytest.approx([250 + n / 1000 for n in (4, 5, 7, 8, 10, 11, 13)])
    assert [item.rung for item in (a, b)] == rungs
    done = [n for n, _ in told]
    assert done == sorted(done)
    assert told[-1] == (14, 14)


# --- a real one -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench")
    (folder / "graph.onnx").write_bytes(small_graph())
    build(folder / "graph.onnx", folder / "engine.onnx")
    return folder / "engine.onnx"


def test_a_real_benchmark_has_every_sample_of_every_rung_in_order(engine: Path) -> None:
    rungs = [
        Rung(REFERENCE, "fp32", SMALL, SMALL_SHAPE),
        Rung("onnxruntime", "fp32", SMALL, SMALL_SHAPE, engine, engine.stat().st_size),
    ]
    found = bench(rungs, [street_feeds(SMALL_SHAPE)] * 2, iters=5, threads=1)
    assert [item.rung for item in found] == rungs
    for item in found:
        assert len(item.samples) == 5
        assert all(0.1 < sample < 60_000 for sample in item.samples)
        assert min(item.samples) <= item.median <= item.percentile(99) == max(item.samples)


def test_a_rung_that_cannot_be_opened_ends_the_benchmark(tmp_path: Path) -> None:
    engine = tmp_path / "engine.onnx"
    engine.write_bytes(b"no graph")
    with pytest.raises(EngineError, match="refused by ONNX Runtime"):
        bench([Rung("onnxruntime", "fp32", SMALL, SMALL_SHAPE, engine)], [[]], iters=1, threads=1)

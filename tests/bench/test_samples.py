"""Percentiles, summaries and intervals against hand-computed ones; and what is doubtful about them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from support.fakes import SMALL, SMALL_SHAPE

from ffnet_deploy.artifacts.values import Interval
from ffnet_deploy.bench.doubts import of_machine, of_rung
from ffnet_deploy.bench.figures import rungs_of
from ffnet_deploy.bench.options import BenchOptions, Mode
from ffnet_deploy.bench.result import Resources, RungLatency, TurnFacts, WarmUp
from ffnet_deploy.bench.samples import Turn, median_ms, percentile, speed_up
from ffnet_deploy.bench.turns import Latency
from ffnet_deploy.machine.load import Watch
from ffnet_deploy.runtimes.rung import REFERENCE, Rung

RUNG = Rung("onnxruntime", "fp32", SMALL, SMALL_SHAPE)
SETTLED = WarmUp(1.0, 5, True, 10.0)


def turn(*samples: float) -> Turn:
    return Turn(samples, sum(samples) / 1000)


def latency(samples: list[float]) -> Latency:
    return Latency(RUNG, (turn(*samples),), SETTLED, Resources())


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
    assert percentile(samples[::-1], p) == position


def test_samples_keep_their_order_and_the_summary_does_not_need_it() -> None:
    found = latency([4.0, 1.0, 3.0, 2.0, 10.0])
    assert found.median == 3.0
    reference = replace(found, rung=replace(RUNG, runtime=REFERENCE))
    _, result = rungs_of([reference, found], BenchOptions())
    assert isinstance(result, RungLatency)
    assert result.samples_ms == (4.0, 1.0, 3.0, 2.0, 10.0)
    assert result.turns == (TurnFacts(runs=5, seconds=0.02),)
    assert (result.min_ms, result.median_ms, result.max_ms, result.mean_ms) == (1.0, 3.0, 10.0, 4.0)
    # Deviations 0, 3, 1, 2, 6: their squares' mean is 10.
    assert result.coefficient_of_variation == pytest.approx(10**0.5 / 4)
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


# --- what is doubtful -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("samples", "facts", "mode", "on_gpu", "kinds"),
    [
        ([10.0, 10.1], {}, "compute", False, set()),
        ([10.0, 14.0], {}, "compute", False, {"unstable"}),
        ([10.0, 10.8], {}, "compute", False, set()),
        ([10.0, 10.8], {}, "compute", True, {"unstable"}),
        # Runs of several lanes overlap: how long one of them takes is no figure of this mode.
        ([10.0, 14.0], {}, "throughput", False, set()),
        ([10.0], {"enqueue_ms": 7.9}, "compute", True, set()),
        ([10.0], {"enqueue_ms": 8.1}, "compute", True, {"launch-bound"}),
        ([10.0], {"enqueue_ms": None}, "compute", True, set()),
        ([10.0], {"upload_ms": 5.1, "download_ms": 1.0}, "end-to-end", True, {"transfer-bound"}),
        ([10.0], {"upload_ms": 1.0, "download_ms": 6.0}, "end-to-end", True, {"transfer-bound"}),
        ([10.0], {"upload_ms": 4.0, "download_ms": 4.0}, "end-to-end", True, set()),
        ([10.0], {"upload_ms": 9.0}, "compute", True, set()),
    ],
)
def test_what_is_doubtful(
    samples: list[float], facts: dict[str, Any], mode: Mode, on_gpu: bool, kinds: set[str]
) -> None:
    item = replace(latency(samples), resources=Resources(**facts))
    assert {doubt.kind for doubt in of_rung(item, mode, on_gpu)} == kinds


def test_other_work_is_told_and_so_is_what_did_not_settle() -> None:
    item = replace(latency([1.0]), warm_up=WarmUp(10.0, 5, False, 10.0))
    (doubt,) = of_rung(item, "compute", False)
    assert (doubt.kind, doubt.rung) == ("not-settled", "onnxruntime fp32")
    assert "10 s" in doubt.text
    quiet = Watch()
    assert of_machine(quiet.found(0.05)) == []
    (busy,) = of_machine(quiet.found(0.5))
    assert (busy.kind, busy.rung) == ("other-work", None)
    assert "50 %" in busy.text

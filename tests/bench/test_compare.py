"""Two benchmarks side by side: what is compared, what is refused, and the gate."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.benchmarks import ENVIRONMENT, benchmark, rung, starts

from ffnet_deploy.bench.compare import compare
from ffnet_deploy.errors import GateError, UsageError
from ffnet_deploy.machine.load import Extent, GpuLoad, Load
from ffnet_deploy.report import latency

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def written(name: str, *rungs: dict[str, Any], **changed: Any) -> Path:
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(benchmark(*rungs, **changed)))
        return path

    return written


def test_the_same_twice_differs_in_nothing(write: Write) -> None:
    result = compare(write("a"), write("b"), 1.0)
    assert [(row.rung, row.slowdown, row.other_file) for row in result.rungs] == [
        ("pytorch fp32", 1.0, False),
        ("onnxruntime fp32", 1.0, False),
    ]
    for row in result.rungs:
        assert row.interval
        assert row.interval.low <= 1.0 <= row.interval.high
    assert (result.differences, result.failure) == ((), None)
    assert "nothing else differs" in latency.comparison(result)


@pytest.mark.parametrize(
    ("mode", "figures"),
    # By the wall clock six of sixteen runs count 1.2 times.
    [("compute", (10.0, 12.0)), ("throughput", (100 / 1.075, 1000 / 12 / 1.075)), ("cold", (10.0, 12.0))],
)
def test_slower_is_above_1_in_every_mode(write: Write, mode: str, figures: tuple[float, float]) -> None:
    made = starts if mode == "cold" else rung
    before, after = (
        write(name, made("pytorch fp32", 30.0), made("onnxruntime fp32", ms), mode=mode)
        for name, ms in (("a", 10.0), ("b", 12.0))
    )
    result = compare(before, after, 1.05)
    row = result.rungs[1]
    assert (row.before, row.after) == pytest.approx(figures)
    assert row.slowdown == pytest.approx(1.2)
    if mode == "cold":
        assert row.interval is None
    else:
        assert row.interval
        assert row.interval.low <= 1.2 <= row.interval.high
    assert isinstance(result.failure, GateError)
    assert "onnxruntime fp32 takes 1.200 of the time" in str(result.failure)
    assert "pytorch fp32" not in str(result.failure)
    assert compare(before, after, 1.25).failure is None
    assert compare(before, after).failure is None
    assert compare(after, before, 1.0).failure is None


def test_what_differs_is_told(write: Write) -> None:
    after = replace(
        ENVIRONMENT, processor="another", tools={"torch": "2.14", "numpy": np.__version__}, load_average=(9.0, 9.0, 9.0)
    )
    unknown: dict[str, Any] = dict.fromkeys(GpuLoad.__dataclass_fields__)
    gpu = GpuLoad(
        **{**unknown, "name": "a GPU", "sm_mhz": Extent(1, 2, 3), "throttle_reasons": ("idle", "reliability")}
    )
    result = compare(
        write("a"),
        write(
            "b",
            rung("pytorch fp32", 20.0),
            rung("onnxruntime fp32", 10.0, sha256="b"),
            rung("tensorrt fp16", 1.0, precision="fp16"),
            environment=asdict(after),
            threads=8,
            load=asdict(Load(0.0, 0.0, 0.0, None, gpu)),
        ),
    )
    found = {d.what: (d.before, d.after) for d in result.differences if d.after != "None"}
    assert found == {
        "threads": ("2", "8"),
        "processor": ("one", "another"),
        "tools.torch": ("2.13", "2.14"),
        "tools.onnx": ("1.23", "-"),
        "gpu.name": ("-", "a GPU"),
        "gpu.sm_mhz.min": ("-", "1.0"),
        "gpu.sm_mhz.mean": ("-", "2.0"),
        "gpu.sm_mhz.max": ("-", "3.0"),
        "gpu.throttle_reasons": ("-", "idle reliability"),
    }
    assert (result.only_in_a, result.only_in_b) == ((), ("tensorrt fp16",))
    assert [row.other_file for row in result.rungs] == [False, True]
    text = latency.comparison(result)
    for words in ("only in B: tensorrt fp16", "another", "tools.torch"):
        assert words in text


def test_what_either_says_against_its_figures_stays_said(write: Write) -> None:
    noisy = {"kind": "unstable", "rung": "onnxruntime fp32", "text": "its runs vary"}
    busy = {"kind": "other-work", "rung": None, "text": "other work took 50 %"}
    result = compare(write("a", warnings=[noisy]), write("b", warnings=[busy]))
    told = json.loads(json.dumps(result.to_json()))["warnings"]
    assert told == [{"file": "A", **noisy}, {"file": "B", **busy}]
    foot = latency.comparison(result).splitlines()[-3:]
    assert foot == [
        "",
        "Warning of A: onnxruntime fp32: its runs vary.",
        "Warning of B: other work took 50 %.",
    ]


def test_a_rung_that_is_gone_does_not_pass_the_gate(write: Write) -> None:
    both, one = write("a"), write("b", rung("pytorch fp32", 20.0))
    failure = compare(both, one, 1.0).failure
    assert isinstance(failure, GateError)
    assert str(failure).startswith("only in A: onnxruntime fp32 (")
    assert compare(both, one).failure is None
    assert compare(one, both, 1.0).failure is None
    slower = compare(both, write("c", rung("pytorch fp32", 40.0)), 1.5).failure
    assert "takes 2.000 of the time" in str(slower)
    assert "only in A: onnxruntime fp32" in str(slower)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"mode": "end-to-end"}, "different modes (compute and end-to-end)"),
        ({"model": "another"}, "different models (a_model and another)"),
        ({"shape": [8, 3, 64, 128]}, "different input shapes ((1, 3, 64, 128) and (8, 3, 64, 128))"),
    ],
)
def test_what_does_not_belong_together_is_refused(write: Write, changed: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError) as refused:
        compare(write("a"), write("b", **changed))
    assert says in str(refused.value)


@pytest.mark.parametrize("limit", [0.0, -1.0, float("nan"), float("inf")])
def test_a_gate_that_is_none_is_refused(write: Write, limit: float) -> None:
    with pytest.raises(UsageError, match="ratio above 0"):
        compare(write("a"), write("b"), limit)

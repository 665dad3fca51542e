"""Two benchmarks side by side: what is compared, what is refused, and the gate."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ffnet_deploy import pipeline
from ffnet_deploy.errors import ArtifactError, GateError, UsageError
from ffnet_deploy.report import latency

Write = Callable[..., Path]


def rung(name: str, ms: float, *, turns: int = 8, sha256: str = "a") -> dict[str, Any]:
    """A rung whose runs all take ``ms``, but for every third."""
    samples = [ms if i % 3 else 1.2 * ms for i in range(2 * turns)]
    halves = [samples[2 * i : 2 * i + 2] for i in range(turns)]
    return {
        "rung": name,
        "sha256": sha256,
        "median_ms": ms,
        "images_per_s": 1000 / ms,
        "samples_ms": samples,
        "turns": [{"runs": 2, "seconds": sum(half) / 1000} for half in halves],
        "phases": {"to_first": {"median_ms": ms}},
    }


def benchmark(*rungs: dict[str, Any], **changed: Any) -> dict[str, Any]:
    return {
        "schema": pipeline.BENCH_SCHEMA,
        "command": "bench",
        "model": "a_model",
        "mode": "compute",
        "shape": [1, 3, 64, 128],
        "threads": 2,
        "concurrency": 1,
        "iters": 16,
        "min_seconds": 0.0,
        "marks": [],
        "graph_sha256": "g",
        "weights_sha256": "w",
        "rungs": list(rungs) or [rung("pytorch fp32", 20.0), rung("onnxruntime fp32", 10.0)],
        "warnings": [],
        "load": {"gpu": None},
        "environment": {"processor": "one", "load_average": [1, 2, 3], "tools": {"torch": "2.13", "onnx": "1.23"}},
        "error": None,
        **changed,
    }


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def written(name: str, *rungs: dict[str, Any], **changed: Any) -> Path:
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(benchmark(*rungs, **changed)))
        return path

    return written


def test_the_same_twice_differs_in_nothing(write: Write) -> None:
    result = pipeline.compare(write("a"), write("b"), 1.0)
    assert [(row.rung, row.slowdown, row.other_file) for row in result.rows] == [
        ("pytorch fp32", 1.0, False),
        ("onnxruntime fp32", 1.0, False),
    ]
    for row in result.rows:
        assert row.interval
        assert row.interval[0] <= 1.0 <= row.interval[1]
    assert (result.differences, result.failure) == ([], None)
    assert "nothing else differs" in latency.comparison(result)


@pytest.mark.parametrize(
    ("mode", "figures"), [("compute", (10.0, 12.0)), ("throughput", (100.0, 1000 / 12)), ("cold", (10.0, 12.0))]
)
def test_slower_is_above_1_in_every_mode(write: Write, mode: str, figures: tuple[float, float]) -> None:
    before, after = (
        write(name, rung("pytorch fp32", 30.0), rung("onnxruntime fp32", ms), mode=mode)
        for name, ms in (("a", 10.0), ("b", 12.0))
    )
    result = pipeline.compare(before, after, 1.05)
    row = result.rows[1]
    assert (row.before, row.after) == pytest.approx(figures)
    assert row.slowdown == pytest.approx(1.2)
    if mode == "cold":
        assert row.interval is None
    else:
        assert row.interval
        assert row.interval[0] <= 1.2 <= row.interval[1]
    assert isinstance(result.failure, GateError)
    assert "onnxruntime fp32 takes 1.200 of the time" in str(result.failure)
    assert "pytorch fp32" not in str(result.failure)
    assert pipeline.compare(before, after, 1.25).failure is None
    assert pipeline.compare(before, after).failure is None
    assert pipeline.compare(after, before, 1.0).failure is None


def test_what_differs_is_told(write: Write) -> None:
    after = benchmark()["environment"] | {"processor": "another", "tools": {"torch": "2.14"}, "load_average": [9, 9, 9]}
    result = pipeline.compare(
        write("a"),
        write(
            "b",
            rung("onnxruntime fp32", 10.0, sha256="b"),
            rung("tensorrt fp16", 1.0),
            environment=after,
            threads=8,
            load={"gpu": {"name": "a GPU", "sm_mhz": {"min": 1, "mean": 2, "max": 3}}},
        ),
    )
    found = {d.what: (d.before, d.after) for d in result.differences}
    assert found == {
        "threads": ("2", "8"),
        "processor": ("one", "another"),
        "tools.torch": ("2.13", "2.14"),
        "tools.onnx": ("1.23", "-"),
        "gpu.name": ("-", "a GPU"),
        "gpu.sm_mhz.min": ("-", "1"),
        "gpu.sm_mhz.mean": ("-", "2"),
        "gpu.sm_mhz.max": ("-", "3"),
    }
    assert result.alone == {"A": ["pytorch fp32"], "B": ["tensorrt fp16"]}
    assert [row.other_file for row in result.rows] == [True]
    text = latency.comparison(result)
    for words in ("only in A: pytorch fp32", "only in B: tensorrt fp16", "another", "tools.torch"):
        assert words in text


def test_what_either_says_against_its_figures_stays_said(write: Write) -> None:
    noisy = {"kind": "unstable", "rung": "onnxruntime fp32", "text": "its runs vary"}
    busy = {"kind": "other-work", "rung": None, "text": "other work took 50 %"}
    result = pipeline.compare(write("a", warnings=[noisy]), write("b", warnings=[busy]))
    assert result.to_json()["warnings"] == [{"file": "A", **noisy}, {"file": "B", **busy}]
    foot = latency.comparison(result).splitlines()[-3:]
    assert foot == [
        "",
        "Warning of A: onnxruntime fp32: its runs vary.",
        "Warning of B: other work took 50 %.",
    ]


def test_a_rung_that_is_gone_does_not_pass_the_gate(write: Write) -> None:
    both, one = write("a"), write("b", rung("onnxruntime fp32", 10.0))
    failure = pipeline.compare(both, one, 1.0).failure
    assert isinstance(failure, GateError)
    assert str(failure).startswith("only in A: pytorch fp32 (")
    assert pipeline.compare(both, one).failure is None
    assert pipeline.compare(one, both, 1.0).failure is None
    slower = pipeline.compare(both, write("c", rung("onnxruntime fp32", 20.0)), 1.5).failure
    assert "takes 2.000 of the time" in str(slower)
    assert "only in A: pytorch fp32" in str(slower)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"mode": "end-to-end"}, "different modes (compute and end-to-end)"),
        ({"model": "another"}, "different models (a_model and another)"),
        ({"shape": [8, 3, 64, 128]}, "different input shapes ([1, 3, 64, 128] and [8, 3, 64, 128])"),
        ({"rungs": [rung("tensorrt fp16", 1.0)]}, "no rung in common"),
        ({"mode": "profile"}, "of mode 'profile'"),
    ],
)
def test_what_does_not_belong_together_is_refused(write: Write, changed: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError) as refused:
        pipeline.compare(write("a"), write("b", **changed))
    assert says in str(refused.value)


@pytest.mark.parametrize("limit", [0.0, -1.0, float("nan"), float("inf")])
def test_a_gate_that_is_none_is_refused(write: Write, limit: float) -> None:
    with pytest.raises(UsageError, match="ratio above 0"):
        pipeline.compare(write("a"), write("b"), limit)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "no JSON"),
        ("{", "no JSON"),
        (b"\xff\xfe", "no JSON"),
        ("[]", "no result of ffnet-deploy"),
        ('{"a": 1}', "no result of ffnet-deploy"),
        ('{"command": "eval cityscapes", "rungs": []}', "a result of 'eval cityscapes'"),
        (json.dumps(benchmark(schema=1)), "schema 1 (2 was needed)"),
        (json.dumps({"schema": 2, "command": "bench", "error": {"message": "No GPU."}}), "no figures (No GPU.)"),
        (json.dumps(benchmark(rungs=[{"rung": "x"}])), "is damaged"),
        (json.dumps(benchmark(rungs=["x"])), "is damaged"),
        (json.dumps(benchmark(rungs=7)), "is damaged"),
        (json.dumps(benchmark(shape=[])), "is damaged"),
        (json.dumps(benchmark(environment=None)), "is damaged"),
        (json.dumps(benchmark(warnings=None)), "is damaged"),
        (json.dumps(benchmark(warnings=[{"kind": "unstable"}])), "is damaged"),
        (json.dumps(benchmark(rung("a", 1.0) | {"median_ms": 0.0})), "a figure of 0.0"),
        (json.dumps(benchmark(rung("a", 1.0) | {"samples_ms": [1.0]})), "turns that do not fit"),
        (json.dumps(benchmark(rung("a", 1.0) | {"samples_ms": ["x"] * 16})), "is damaged"),
    ],
)
def test_a_file_that_is_no_benchmark_is_one_clear_line(
    write: Write, tmp_path: Path, content: str | bytes, says: str
) -> None:
    strange = tmp_path / "strange.json"
    strange.write_bytes(content if isinstance(content, bytes) else content.encode())
    for files in ((strange, write("a")), (write("a"), strange)):
        with pytest.raises(ArtifactError) as refused:
            pipeline.compare(*files)
        assert says in str(refused.value)
        assert str(strange) in str(refused.value)
        assert "\n" not in str(refused.value)


def test_a_file_that_is_not_there(write: Write, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"cannot be read \(No such file"):
        pipeline.compare(write("a"), tmp_path / "none.json")
    with pytest.raises(ArtifactError, match="cannot be read"):
        pipeline.compare(tmp_path, write("a"))

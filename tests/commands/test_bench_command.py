"""What the real ``bench`` command gives and refuses; each mode's whole result is in bench/test_result.py."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from support.cli_runner import NAME, SIZE, STEM, Cli, link_workspace, rewrite
from support.fakes import WorkerHere

from ffnet_deploy.bench import turns
from ffnet_deploy.pipeline import export


@pytest.fixture
def workspace(built: Path, tmp_path: Path) -> Path:
    """A copy of ``built`` to change; files are linked and only ever replaced."""
    return link_workspace(built, tmp_path)


def test_bench_times_what_runs_and_lists_the_rest(run: Cli, built: Path, tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    result = run("bench", NAME, "--iters", "5", "--min-seconds", "0", "--json", file, "--workspace", built)
    assert result.code == 0, result.err
    assert "onnxruntime fp32" in result.out
    assert "not run: tensorrt-rtx fp16: needs an NVIDIA GPU" in result.out
    assert "untrained" in result.out
    values = json.loads(file.read_text())
    assert [rung["rung"] for rung in values["rungs"]] == [
        "pytorch fp32",
        "pytorch fp32 channels-last",
        "onnxruntime fp32",
    ]
    assert [len(rung["samples_ms"]) for rung in values["rungs"]] == [5, 5, 5]
    assert values["rungs"][0]["speed_up"] == 1.0
    assert {s["rung"] for s in values["skipped"]} == {"tensorrt-rtx fp32", "tensorrt-rtx fp16"}
    assert values["error"] is None
    assert values["environment"]["tools"]["torch"]


def test_nothing_besides_the_reference_exits_4_with_its_result(
    run: Cli, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "Worker", WorkerHere)
    for file in (workspace / "engines").glob("*onnxruntime*"):
        file.unlink()
    result = run("bench", "--iters", "2", "--min-seconds", "0", "--json", "-", "--workspace", workspace)
    assert result.code == 4
    values = json.loads(result.out)
    assert values["rungs"][0]["median_ms"] > 0
    assert values["error"]["exit_code"] == 4
    assert "ffnet-deploy build" in result.err


def test_a_damaged_engine_is_refused(run: Cli, workspace: Path) -> None:
    engine = workspace / "engines" / f"{STEM}.fp32.onnxruntime.onnx"
    data = bytearray(engine.read_bytes())
    data[len(data) // 2] ^= 1
    rewrite(engine, bytes(data))
    result = run("bench", "--iters", "1", "--workspace", workspace)
    assert result.code == 3
    assert f"ffnet-deploy build {NAME} --fp32 --runtime onnxruntime" in result.err


def test_engines_of_an_older_graph_are_stale(run: Cli, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # What another opset makes: the exporter itself takes long.
    graph = onnx.load(workspace / "models" / f"{STEM}.onnx")
    graph.opset_import[0].version = 21
    monkeypatch.setattr(export, "_exported", lambda *_: graph)
    assert run("export", NAME, "--weights", "random", *SIZE, "--opset", "21", "--workspace", workspace).code == 0
    result = run("bench", "--iters", "1", "--workspace", workspace)
    assert result.code == 3
    assert "stale" in result.err
    assert "ffnet-deploy build" in result.err


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--iters", "0"), "1 or more"),
        (("--iters", "0", "--mode", "cold"), "1 or more"),
        (("--min-seconds", "-1"), "0 or more"),
        (("--min-seconds", "nan"), "0 or more"),
        (("--concurrency", "2"), "--mode throughput"),
        (("--concurrency", "1", "--mode", "cold"), "--mode throughput"),
        (("--concurrency", "0", "--mode", "throughput"), "1 to 64"),
        (("--threads", "0"), "1 to 256"),
        (("--mode", "fast"), "end-to-end"),
        (("--profile", "--mode", "cold"), "--profile does not go with --mode cold"),
        (("--profile", "--concurrency", "2"), "--mode throughput"),
    ],
)
def test_bench_refuses_what_makes_no_sense(run: Cli, built: Path, args: tuple[str, ...], says: str) -> None:
    result = run("bench", *args, "--workspace", built)
    assert result.code == 2
    assert says in result.err
    assert not result.out


def test_json_to_nowhere_is_refused_before_anything_is_timed(run: Cli, built: Path, tmp_path: Path) -> None:
    result = run("bench", "--json", tmp_path / "none" / "a.json", "--workspace", built)
    assert result.code == 2
    assert "in no folder that exists" in result.err
    assert not result.out

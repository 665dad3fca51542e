"""The real ``bench`` and ``compare`` commands: what they refuse, that every table names its mode, and the gate."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import Cli, link_workspace


@pytest.fixture
def workspace(built: Path, tmp_path: Path) -> Path:
    """A copy of ``built`` to change."""
    return link_workspace(built, tmp_path)


QUICK = ("--iters", "5", "--min-seconds", "0", "--threads", "1")


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


@pytest.mark.parametrize(
    ("mode", "says"),
    [
        ("end-to-end", "host image to host labels"),
        ("throughput", "images/s"),
        ("cold", "from a new process"),
    ],
)
def test_every_table_names_its_mode(run: Cli, built: Path, tmp_path: Path, mode: str, says: str) -> None:
    file = tmp_path / "bench.json"
    iters = ("--iters", "1") if mode == "cold" else ("--iters", "5")
    result = run("bench", "--mode", mode, *QUICK, *iters, "--json", file, "--workspace", built)
    assert result.code == 0, result.err
    assert f"mode {mode}, " in result.out
    assert says in result.out
    assert "best PyTorch: pytorch fp32" in result.out
    assert "not run: tensorrt-rtx fp16" in result.out
    assert json.loads(file.read_text())["mode"] == mode


def test_a_profile_names_pytorchs_modules(run: Cli, built: Path) -> None:
    result = run("bench", "--profile", "--iters", "2", "--threads", "1", "--workspace", built)
    assert result.code == 0, result.err
    assert "mode profile, " in result.out
    assert "backbone_model.layer1.0.conv1" in result.out
    assert "peaks measured in this run" in result.out


def test_engines_with_their_own_ends_are_timed_end_to_end(run: Cli, workspace: Path) -> None:
    made = run("build", "--runtime", "onnxruntime", "--image-in", "--labels-out", "--workspace", workspace)
    assert made.code == 0, made.err
    result = run("bench", "--mode", "end-to-end", *QUICK, "--json", "-", "--workspace", workspace)
    assert result.code == 0, result.err
    names = {rung["rung"] for rung in json.loads(result.out)["rungs"]}
    assert names >= {"onnxruntime fp32", "onnxruntime fp32 image labels"}


def test_two_benchmarks_are_compared(run: Cli, built: Path, tmp_path: Path) -> None:
    file, slower = tmp_path / "a.json", tmp_path / "b.json"
    assert run("bench", *QUICK, "--json", file, "--workspace", built).code == 0
    values = json.loads(file.read_text())
    for rung in values["rungs"]:
        rung["median_ms"] *= 1.5
    slower.write_text(json.dumps(values))
    same = run("compare", file, file, "--max-slowdown", "1.0")
    assert same.code == 0
    assert "nothing else differs" in same.out
    gated = run("compare", file, slower, "--max-slowdown", "1.4", "--json", "-")
    assert gated.code == 1
    assert "at most 1.4 was allowed" in gated.err
    told = json.loads(gated.out)
    assert [round(rung["slowdown"], 6) for rung in told["rungs"]] == [1.5, 1.5, 1.5]
    assert told["error"]["exit_code"] == 1
    slower.write_text(json.dumps(values | {"mode": "cold"}))
    assert run("compare", file, slower).code in (2, 3)
    refused = run("compare", file, tmp_path / "none.json", "--json", "-")
    assert refused.code == 3
    assert json.loads(refused.out)["command"] == "compare"


def test_json_to_nowhere_is_refused_before_anything_is_timed(run: Cli, built: Path, tmp_path: Path) -> None:
    result = run("bench", "--json", tmp_path / "none" / "a.json", "--workspace", built)
    assert result.code == 2
    assert "in no folder that exists" in result.err
    assert not result.out

"""A workspace of an older version: one line that names the command which makes the file again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.cli_runner import NAME, STEM, Cli, link_workspace

from ffnet_deploy.artifacts.records import record_path
from ffnet_deploy.artifacts.workspace import Workspace

BENCH = ("bench", "--iters", "1", "--min-seconds", "0")


def old_record(kind: str, **changes: Any) -> dict[str, Any]:
    """A record as version 0.1 wrote it."""
    sources: dict[str, Any] = {"weights": {"file": None, "sha256": "random-0"}}
    if kind == "engine":
        exported = {"file": f"{STEM}.onnx", "sha256": "0" * 64}
        sources = {"graph": exported, "exported": exported}
    return {
        "kind": kind,
        "model": NAME,
        "precision": "fp32",
        "sha256": "0" * 64,
        "size": 1,
        "sources": sources,
        "options": {"command": f"ffnet-deploy build {NAME}", "shape": [1, 3, 64, 128], "contract": [512, 1024]},
        "found": {},
        "marks": ["untrained"],
        "runtime": "onnxruntime" if kind == "engine" else None,
        "seconds": 1.0,
        "tools": {"ffnet-deploy": "0.1.0"},
        "created": "2026-11-25T13:43:27.818421+00:00",
        "schema": 1,
        **changes,
    }


def put(path: Path, values: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_text(json.dumps(values))


@pytest.fixture
def space(built: Path, tmp_path: Path) -> Workspace:
    return Workspace(link_workspace(built, tmp_path))


@pytest.mark.parametrize("command", [("build",), ("build", NAME), BENCH, ("verify",), ("calibrate", "--data", ".")])
def test_an_old_graph(run: Cli, space: Workspace, command: tuple[str, ...]) -> None:
    graph = space.models / f"{STEM}.onnx"
    put(record_path(graph), old_record("graph"))
    result = run(*command, "--workspace", space.root)
    assert (result.code, result.out) == (3, "")
    assert result.err == (
        f"error: {graph} was made by another version of ffnet-deploy. "
        f"Run: ffnet-deploy export {NAME} --workspace {space.root}\n"
    )


def test_an_old_engine(run: Cli, space: Workspace) -> None:
    engine = space.engines / f"{STEM}.fp32.onnxruntime.onnx"
    put(record_path(engine), old_record("engine"))
    result = run(*BENCH, NAME, "--workspace", space.root)
    assert (result.code, result.out) == (3, "")
    assert result.err == (
        f"error: {engine} was made by another version of ffnet-deploy. "
        f"Run: ffnet-deploy build {NAME} --workspace {space.root}\n"
    )


def test_an_old_calibration(run: Cli, space: Workspace) -> None:
    calibration = space.root / "calibration" / f"{STEM}.json"
    put(calibration, {"schema": 2, "command": "calibrate", "kind": "calibration", "model": NAME, "tensors": {}})
    result = run("build", NAME, "--int8", "--runtime", "onnxruntime", "--workspace", space.root)
    assert (result.code, result.out) == (3, "")
    assert result.err == (
        f"error: {calibration} was made by another version of ffnet-deploy. "
        f"Run: ffnet-deploy calibrate {NAME} --data DIR --workspace {space.root}\n"
    )


def test_inspect_says_that_a_file_is_of_another_version(run: Cli, space: Workspace) -> None:
    engine = space.engines / f"{STEM}.fp16.tensorrt-rtx.engine"
    put(record_path(engine), old_record("engine", precision="fp16"))
    result = run("inspect", engine, "--json", "-", "--workspace", space.root)
    assert result.code == 0, result.err
    assert "was made by another version of ffnet-deploy" in json.loads(result.out)["current"]


def test_an_old_benchmark(run: Cli, tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    rewritten = {"schema": 2, "command": "bench", "mode": "compute", "model": STEM, "rungs": []}
    put(file, rewritten)
    result = run("compare", file, file)
    assert (result.code, result.out) == (3, "")
    assert result.err == f"error: {file} has schema 2 (3 was needed). Measure again.\n"


def test_an_old_evaluation(run: Cli, tmp_path: Path) -> None:
    file = tmp_path / "eval.json"
    put(file, {"schema": 2, "command": "eval cityscapes", "model": STEM, "rungs": [], "images": []})
    result = run("eval", "merge", file)
    assert (result.code, result.out) == (3, "")
    assert result.err == (
        f"error: {file} holds no result of eval of this version (schema 2 instead of 3). "
        "Evaluate that shard again with --json.\n"
    )

"""A workspace of an older version: one line that names the command which makes the file again."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from support.cli_runner import NAME, STEM, Cli, link_workspace

from ffnet_deploy.artifacts.records import RECORD_SCHEMA, read_record, record_path
from ffnet_deploy.artifacts.workspace import Workspace
from ffnet_deploy.errors import ArtifactError
from ffnet_deploy.graph.current import current_graph
from ffnet_deploy.ladder import ladder
from ffnet_deploy.zoo.specs import find
from ffnet_deploy.zoo.weights import load_random

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
        f"Run: ffnet-deploy export {NAME} --height 64 --width 128 --allow-size --workspace {space.root}\n"
    )


def test_an_old_engine(run: Cli, space: Workspace) -> None:
    engine = space.engines / f"{STEM}.fp32.onnxruntime.onnx"
    put(record_path(engine), old_record("engine"))
    result = run(*BENCH, NAME, "--workspace", space.root)
    assert (result.code, result.out) == (3, "")
    assert result.err == (
        f"error: {engine} was made by another version of ffnet-deploy. "
        f"Run: ffnet-deploy build {NAME} --fp32 --runtime onnxruntime --workspace {space.root}\n"
    )


def refusal(space: Workspace) -> str:
    """What stands in the way of every command; empty if nothing does."""
    try:
        ladder(current_graph(space, NAME))
    except ArtifactError as error:
        return str(error)
    return ""


def test_the_commands_that_errors_name_renew_the_workspace(run: Cli, space: Workspace) -> None:
    weights = space.weights / find(NAME).weights_file
    weights.parent.mkdir(parents=True)
    torch.save(load_random(find(NAME)).module.state_dict(), weights)
    graph, engine = space.models / f"{STEM}.onnx", space.engines / f"{STEM}.fp32.onnxruntime.onnx"
    # No command reads the graph that another engine was made from: it is made again with that engine.
    for file in (graph, space.models / f"{STEM}.fp16.onnx"):
        put(record_path(file), old_record("graph"))
    put(record_path(engine), old_record("engine"))
    for other in space.engines.glob("*.engine*"):
        other.unlink()
    done = []
    while found := re.search(r"Run: ffnet-deploy (.*)$", refusal(space)):
        done.append(found[1])
        assert len(set(done)) == len(done), done
        assert run(*shlex.split(found[1])).code == 0, done
    assert [command.partition(" ")[0] for command in done] == ["export", "build"]
    assert refusal(space) == ""
    for file in (graph, engine):
        assert read_record(file, remedy="").schema == RECORD_SCHEMA


def test_an_old_calibration(run: Cli, space: Workspace) -> None:
    calibration = space.root / "calibration" / f"{STEM}.json"
    put(calibration, {"schema": 3, "command": "calibrate", "kind": "calibration", "model": NAME, "tensors": {}})
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
    rewritten = {"schema": 3, "command": "bench", "mode": "compute", "model": STEM, "rungs": []}
    put(file, rewritten)
    result = run("compare", file, file)
    assert (result.code, result.out) == (3, "")
    assert result.err == f"error: {file} has schema 3 (4 was needed). Measure again.\n"


def test_an_old_evaluation(run: Cli, tmp_path: Path) -> None:
    file = tmp_path / "eval.json"
    put(file, {"schema": 3, "command": "eval cityscapes", "model": STEM, "rungs": [], "images": []})
    result = run("eval", "merge", file)
    assert (result.code, result.out) == (3, "")
    assert result.err == (
        f"error: {file} holds no result of eval of this version (schema 3 instead of 4). "
        "Evaluate that shard again with --json.\n"
    )

"""The real ``inspect`` command: what a file is, what is in it, and whether it is current."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from support.cli_runner import STEM, Cli, link_workspace, rewrite


@pytest.fixture
def workspace(built: Path, tmp_path: Path) -> Path:
    """A copy of ``built`` to change; files are linked and only ever replaced."""
    return link_workspace(built, tmp_path)


def test_inspect_an_engine(run: Cli, built: Path) -> None:
    file = built / "engines" / f"{STEM}.fp16.tensorrt-rtx.engine"
    result = run("inspect", file, "--json", "-", "--workspace", built)
    assert result.code == 0
    values = json.loads(result.out)
    assert (values["kind"], values["current"], values["bytes"]) == ("engine", "yes", file.stat().st_size)
    assert values["record"]["found"]["share"] == {"fp16": 1.0}
    assert values["error"] is None
    plain = run("inspect", file, "--workspace", built)
    assert "backbone_model.layer1.0.conv1/Conv" in plain.out
    assert "untrained, off contract" in plain.out


def test_inspect_a_graph(run: Cli, built: Path) -> None:
    values = json.loads(run("inspect", built / "models" / f"{STEM}.onnx", "--json", "-", "--workspace", built).out)
    assert (values["kind"], values["current"]) == ("graph", "yes")
    assert values["facts"]["inputs"] == {"image": "float (1, 3, 64, 128)"}
    assert values["facts"]["operators"]["Conv"] == 63


def test_inspect_weights(run: Cli, tmp_path: Path) -> None:
    torch.save({"a.weight": torch.zeros(2, 3), "b": torch.zeros(4, dtype=torch.float64)}, tmp_path / "w.pth")
    values = json.loads(run("inspect", tmp_path / "w.pth", "--json", "-", "--workspace", tmp_path).out)
    assert values["kind"] == "weights"
    assert (values["facts"]["tensors"], values["facts"]["values"]) == (2, 10)
    assert values["facts"]["types"] == ["float32", "float64"]


def test_inspect_says_what_is_damaged_and_what_is_stale(run: Cli, workspace: Path) -> None:
    engine = workspace / "engines" / f"{STEM}.fp32.tensorrt-rtx.engine"
    half = workspace / "models" / f"{STEM}.fp16.onnx"
    rewrite(engine, engine.read_bytes()[:-1])
    damaged = json.loads(run("inspect", engine, "--json", "-", "--workspace", workspace).out)
    assert damaged["current"].startswith("no: ")
    assert "damaged or half-written" in damaged["current"]
    graph = workspace / "models" / f"{STEM}.onnx"
    rewrite(graph, graph.read_bytes() + b"\x00")
    stale = json.loads(run("inspect", half, "--json", "-", "--workspace", workspace).out)
    assert stale["current"].startswith("no: ")
    assert "ffnet-deploy" in stale["current"]


@pytest.mark.parametrize("content", [None, b"", b"no graph at all"])
def test_inspect_what_is_nothing_of_ours(run: Cli, tmp_path: Path, content: bytes | None) -> None:
    for ending in ("onnx", "engine", "pth", "txt"):
        file = tmp_path / f"file.{ending}"
        if content is not None:
            file.write_bytes(content)
        result = run("inspect", file, "--json", "-", "--workspace", tmp_path)
        assert result.code == 3, (ending, result)
        assert len(result.err.strip().splitlines()) == 1
        assert json.loads(result.out)["error"]["exit_code"] == 3

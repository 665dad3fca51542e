"""The command that an error names, run as it is printed and from another folder, renews what was broken."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import onnx
import pytest
import torch
from support.cli_runner import NAME, SIZE, STEM, Cli, Result, link_workspace, rewrite
from support.graphs import put_graph

from ffnet_deploy.artifacts.records import EngineRecord, GraphRecord, load_record
from ffnet_deploy.artifacts.workspace import Workspace
from ffnet_deploy.graph.current import current_graph
from ffnet_deploy.ladder import ladder
from ffnet_deploy.zoo.specs import find
from ffnet_deploy.zoo.weights import load_random

BENCH = ("bench", "--iters", "1", "--min-seconds", "0")


def printed(result: Result) -> list[str]:
    """The words of the command that an error ends with."""
    assert result.code == 3, result
    *_, last = result.err.splitlines()
    found = re.fullmatch(r"error: .* Run: (?P<command>ffnet-deploy .*)", last)
    assert found, last
    program, *words = shlex.split(found["command"])
    assert program == "ffnet-deploy"
    return words


def rungs_in(space: Workspace) -> set[str]:
    """What ``bench`` finds there without an error."""
    found = ladder(current_graph(space, None))
    return {rung.name for rung in found.running} | {item.rung.name for item in found.skipped}


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Another folder, in which commands are run from now on."""
    folder = tmp_path / "another folder"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    rewrite(path, bytes(data))


def test_a_damaged_graph(run: Cli, tmp_path: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = elsewhere / "a path with spaces" / "w.pth"
    weights.parent.mkdir()
    torch.save(load_random(find(NAME), seed=3).module.state_dict(), weights)
    space = Workspace(tmp_path / "some workspace")
    asked = ("--opset", "18", "--weights", "a path with spaces/w.pth", *SIZE)
    assert run("export", NAME, *asked, "--workspace", space.root).code == 0
    graph = space.models / f"{STEM}.onnx"
    before = load_record(graph, GraphRecord, remedy="")
    flip(graph)
    monkeypatch.chdir(tmp_path)
    words = printed(run("build", "--runtime", "onnxruntime", "--workspace", space.root))
    assert printed(run(*BENCH, "--workspace", space.root)) == words
    renewed = run(*words)
    assert renewed.code == 0, renewed.err
    after = load_record(graph, GraphRecord, remedy="")
    assert (after.file.sha256, after.options, after.weights) == (before.file.sha256, before.options, before.weights)
    assert after.options.opset == 18
    built = run("build", "--runtime", "onnxruntime", "--workspace", space.root)
    assert built.code == 0, built.err


def test_a_damaged_engine(run: Cli, built: Path, tmp_path: Path, elsewhere: Path) -> None:
    space = Workspace(link_workspace(built, tmp_path / "some workspace"))
    asked = ("--fp16", "--keep-fp32", "head.layers.3*", "--runtime", "tensorrt-rtx", "--portable")
    assert run("build", NAME, *asked, "--workspace", space.root).code == 0
    engine = space.engines / f"{STEM}.fp16.tensorrt-rtx-portable.engine"
    before = load_record(engine, EngineRecord, remedy="")
    flip(engine)
    renewed = run(*printed(run(*BENCH, "--workspace", space.root)))
    assert renewed.code == 0, renewed.err
    after = load_record(engine, EngineRecord, remedy="")
    assert (after.options, after.engine, after.graph) == (before.options, before.engine, before.graph)
    assert after.options.keep_fp32 == ("head.layers.3*",)
    assert "tensorrt-rtx fp16 portable" in rungs_in(space)
    assert not list(elsewhere.iterdir())


def test_a_calibration_and_an_engine_of_an_older_graph(
    run: Cli, quantised: Path, tmp_path: Path, elsewhere: Path
) -> None:
    space = Workspace(link_workspace(quantised, tmp_path / "some workspace"))
    for file in space.engines.glob("*tensorrt*"):
        file.unlink()
    graph = space.models / f"{STEM}.onnx"
    model = onnx.load(graph)
    model.doc_string = "exported again"
    graph.unlink()
    put_graph(space, model.SerializeToString())
    build = ("build", "--int8", "--runtime", "onnxruntime", "--workspace", space.root)
    words = printed(run(*build))
    assert words[:2] == ["calibrate", NAME]
    renewed = run(*words)
    assert renewed.code == 0, renewed.err
    again = run(*build)
    assert again.code == 0, again.err
    # The other engine is of the older graph still: it is renewed by the command that its error names.
    stale = printed(run(*BENCH, "--workspace", space.root))
    assert stale[:2] == ["build", NAME]
    assert run(*stale).code == 0
    assert rungs_in(space) == {"onnxruntime fp32", "onnxruntime int8"}
    assert not list(elsewhere.iterdir())

"""The real ``build`` command: what it builds and names, what it refuses, and builds that are killed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.cli_runner import NAME, SIZE, STEM, Cli, link_workspace, rewrite, started
from support.fakes import WorkerHere

from ffnet_deploy.artifacts.values import EngineFindings
from ffnet_deploy.artifacts.workspace import Workspace
from ffnet_deploy.artifacts.writing import replacing
from ffnet_deploy.bench import turns
from ffnet_deploy.graph.current import current_graph
from ffnet_deploy.ladder import Ladder, ladder
from ffnet_deploy.pipeline import build as story
from ffnet_deploy.runtimes import tensorrt
from ffnet_deploy.synthetic.scenes import draw_scene

RTX = ("--runtime", "tensorrt-rtx")


@pytest.fixture
def workspace(built: Path, tmp_path: Path) -> Path:
    """A copy of ``built`` to change; files are linked and only ever replaced."""
    return link_workspace(built, tmp_path)


def record_of(workspace: Path, name: str) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((workspace / "engines" / f"{name}.json").read_text())
    return values


def ladder_of(workspace: Path) -> Ladder:
    return ladder(current_graph(Workspace(workspace), None))


def rungs_in(workspace: Path) -> set[str]:
    """Names of the rungs besides the reference, whether or not they run here."""
    found = ladder_of(workspace)
    return {rung.name for rung in found.running} | {item.rung.name for item in found.skipped}


def test_build_names_the_model_and_builds_what_was_asked(built: Path) -> None:
    # Other tests evaluate in this workspace too, which leaves an empty folder.
    files = {p.name for p in (built / "engines").iterdir() if p.is_file() and p.suffix != ".json"}
    assert files == {
        f"{STEM}.fp32.tensorrt-rtx.engine",
        f"{STEM}.fp16.tensorrt-rtx.engine",
        f"{STEM}.fp32.onnxruntime.onnx",
    }
    half = json.loads((built / "engines" / f"{STEM}.fp16.tensorrt-rtx.engine.json").read_text())
    assert half["marks"] == ["untrained", "off contract"]
    assert half["found"]["share"] == {"fp16": 1.0}
    assert half["found"]["precision"]["backbone_model.layer1.0.conv1/Conv"] == "fp16"
    full = json.loads((built / "engines" / f"{STEM}.fp32.tensorrt-rtx.engine.json").read_text())
    assert full["found"]["share"] == {"fp32": 1.0}
    assert half["file"]["size"] < 0.6 * full["file"]["size"]


def test_build_without_a_name_says_which_model(run: Cli, workspace: Path) -> None:
    result = run("build", "--runtime", "onnxruntime", "--workspace", workspace)
    assert result.code == 0
    assert result.err.strip() == f"model: {STEM} (exported last)"


def test_onnxruntime_has_no_fp16_engine(run: Cli, built: Path) -> None:
    result = run("build", "--fp16", "--runtime", "onnxruntime", "--workspace", built)
    assert result.code == 4
    assert "--runtime tensorrt-rtx" in result.err


def test_tensorrt_asked_for_by_name_is_not_replaced(run: Cli, workspace: Path) -> None:
    result = run("build", "--runtime", "tensorrt", "--workspace", workspace)
    assert result.code == 4
    assert "pip install" in result.err
    assert not list((workspace / "engines").glob("*.tensorrt.*"))


def test_a_truncated_graph_is_refused(run: Cli, workspace: Path) -> None:
    graph = workspace / "models" / f"{STEM}.onnx"
    rewrite(graph, graph.read_bytes()[:-1])
    result = run("build", "--workspace", workspace)
    assert result.code == 3
    assert "ffnet-deploy export" in result.err


def test_targets_stand_in_the_file_name_and_share_one_precision(run: Cli, workspace: Path) -> None:
    result = run("build", "--fp16", *RTX, "--gpu", "sm86", "--gpu", "sm89", "--workspace", workspace)
    assert result.code == 0, result.err
    name = f"{STEM}.fp16.tensorrt-rtx-sm86+sm89.engine"
    assert name in result.out
    assert "100 % fp16" in result.out
    record = record_of(workspace, name)
    assert record["found"]["share"] == {"fp16": 1.0}
    assert record["engine"]["gpus"] == ["sm86", "sm89"]
    assert "tensorrt-rtx fp16 sm86+sm89" in rungs_in(workspace)


def test_a_portable_engine(run: Cli, workspace: Path) -> None:
    assert run("build", *RTX, "--portable", "--workspace", workspace).code == 0
    record = record_of(workspace, f"{STEM}.fp32.tensorrt-rtx-portable.engine")
    assert record["found"]["share"] == {"fp32": 1.0}


REFUSED: list[tuple[tuple[str, ...], int, str]] = [
    ((*RTX, "--gpu", "sm90"), 2, "sm86"),
    ((*RTX, "--gpu", "sm86", "--portable"), 2, "Leave one of them out"),
    ((*RTX, "--level", "3"), 2, "tensorrt-rtx has no --level"),
    ((*RTX, "--timing-cache"), 2, "would force a GPU"),
    (("--runtime", "onnxruntime", "--tf32"), 2, "onnxruntime has no --tf32"),
    ((*RTX, "--batch", "1,4,8"), 2, "--dynamic-batch"),
    ((*RTX, "--batch", "4,1"), 2, "--batch 1,4,8"),
    ((*RTX, "--io", "fp16"), 2, "Add --fp16"),
    ((*RTX, "--keep-fp32", "*"), 2, "Add --fp16"),
    ((*RTX, "--fp16", "--keep-fp32", "no.such.node"), 2, "names no node"),
    (
        (*RTX, "--fp16", "--io", "fp16", "--labels-out"),
        2,
        "--io fp16 works only for engines with float inputs and outputs",
    ),
    ((*RTX, "--align-corners"), 2, "Add --labels-out"),
    (("--runtime", "onnxruntime", "--fp16"), 4, "--runtime tensorrt-rtx"),
    ((*RTX, "--method", "mse"), 2, "Add --int8"),
    ((*RTX, "--keep-fp16", "*"), 2, "Add --int8"),
    ((*RTX, "--int8"), 3, "ffnet-deploy calibrate"),
]


@pytest.mark.parametrize(("args", "code", "says"), REFUSED)
def test_what_a_build_refuses_leaves_the_workspace_alone(
    run: Cli, built: Path, args: tuple[str, ...], code: int, says: str
) -> None:
    # Not what lies deeper: evaluations of other tests keep their own there.
    before = sorted((p, p.stat().st_mtime_ns) for p in built.glob("*/*.*"))
    result = run("build", *args, "--workspace", built)
    assert result.code == code, result.err
    assert says in result.err
    assert "Traceback" not in result.err
    assert sorted((p, p.stat().st_mtime_ns) for p in built.glob("*/*.*")) == before


def test_half_ends_and_kept_nodes_are_seen_by_inspect(run: Cli, workspace: Path) -> None:
    args = ("--fp16", "--io", "fp16", "--keep-fp32", "head.layers.3*", *RTX)
    result = run("build", *args, "--workspace", workspace)
    assert result.code == 0, result.err
    engine = workspace / "engines" / f"{STEM}.fp16.tensorrt-rtx.engine"
    record = record_of(workspace, engine.name)
    assert record["options"]["ends"]["io"] == "fp16"
    assert set(record["found"]["share"]) == {"fp16", "fp32"}
    assert sum(record["found"]["share"].values()) == pytest.approx(1)
    kept = {node for node, precision in record["found"]["precision"].items() if precision == "fp32"}
    assert kept == {"head.layers.3.last_layer.0/Conv", "head.layers.3.last_layer.3/Conv"}
    graph = run("inspect", workspace / "models" / f"{STEM}.fp16.onnx", "--workspace", workspace)
    assert graph.code == 0
    assert "float16 (1, 3, 64, 128)" in graph.out
    assert "asked for by 'head.layers.3*'" in graph.out
    assert "head.layers.3.last_layer.3/Conv" in graph.out


@pytest.mark.parametrize(
    ("flags", "ends"),
    [(("--image-in",), "image"), (("--labels-out",), "labels"), (("--image-in", "--labels-out"), "image.labels")],
)
def test_ends_stand_in_the_file_name_and_in_the_ladder(
    run: Cli, workspace: Path, flags: tuple[str, ...], ends: str
) -> None:
    result = run("build", "--runtime", "onnxruntime", *flags, "--workspace", workspace)
    assert result.code == 0, result.err
    name = f"{STEM}.{ends}.fp32.onnxruntime.onnx"
    assert record_of(workspace, name)["options"]["ends"]["labels_out"] == ("--labels-out" in flags)
    rung = f"onnxruntime fp32 {ends.replace('.', ' ')}"
    assert rung in rungs_in(workspace)


def test_a_graph_for_any_batch_needs_a_profile_and_runs(
    run: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = run("export", NAME, "--weights", "random", *SIZE, "--dynamic-batch", "--workspace", tmp_path)
    assert made.code == 0, made.err
    assert f"{STEM}.bdynamic.onnx" in made.out
    refused = run("build", *RTX, "--workspace", tmp_path)
    assert refused.code == 2
    assert refused.err.rstrip().endswith("--batch 1,4,8")
    assert not (tmp_path / "engines").exists()
    result = run("build", "--batch", "1,2,3", "--workspace", tmp_path)
    assert result.code == 0, result.err
    files = {p.name for p in (tmp_path / "engines").iterdir() if p.suffix != ".json"}
    assert files == {f"{STEM}.b1-2-3.fp32.tensorrt-rtx.engine", f"{STEM}.b1-2-3.fp32.onnxruntime.onnx"}
    monkeypatch.setattr(turns, "Worker", WorkerHere)
    timed = run("bench", "--iters", "1", "--min-seconds", "0", "--json", "-", "--workspace", tmp_path)
    assert timed.code == 0, timed.err
    assert {s["rung"] for s in json.loads(timed.out)["skipped"]} == {"tensorrt-rtx fp32 b1-2-3"}
    streets = tmp_path / "streets"
    streets.mkdir()
    for seed in range(2):
        Image.fromarray(draw_scene(64, 128, seed).image).save(streets / f"{seed}.png")
    assert run("calibrate", "--data", streets, "--workspace", tmp_path).code == 0
    int8 = run("build", "--int8", "--runtime", "onnxruntime", "--batch", "1,2,3", "--workspace", tmp_path)
    assert int8.code == 0, int8.err
    verified = run("verify", "--workspace", tmp_path)
    assert verified.code == 0, verified.err
    for precision in ("fp32", "int8"):
        assert re.search(rf"^onnxruntime {precision} b1-2-3 .* yes$", verified.out, flags=re.MULTILINE)


# --- bad ends -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "says"),
    [
        ({"precision": {"a/Conv": "fp32"}, "share": {"fp32": 1.0}}, "built a/Conv fp32"),
        ({"precision": {"a/Conv": "fp16"}, "share": {"fp16": 0.9, "unknown": 0.1}}, "10.0 % of the work"),
        ({}, "did not tell what it built"),
    ],
)
def test_fp16_asked_and_something_else_found_is_an_error(
    run: Cli, workspace: Path, monkeypatch: pytest.MonkeyPatch, found: dict[str, Any], says: str
) -> None:
    def forged(_runtime: str, _graph: Path, engine: Path, *_: object) -> EngineFindings:
        engine.write_bytes(b"a plan")
        return EngineFindings(**found)

    monkeypatch.setattr(story, "_run_builder", forged)
    for file in (workspace / "engines").glob("*tensorrt-rtx*"):
        file.unlink()
    result = run("build", "--fp16", *RTX, "--workspace", workspace)
    assert result.code == 3
    assert says in result.err
    assert not list((workspace / "engines").glob("*tensorrt-rtx*"))


class KilledBuilder:
    """Stands in for TensorRT's builder and is killed while it builds, as for memory."""

    def __init__(self, runtime: str) -> None:
        self.runtime = runtime

    def build(self, _graph: Path, engine: Path, *_: object) -> None:
        engine.write_bytes(b"half a plan")
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_builder_that_is_killed_is_one_clear_line(run: Cli, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt, "TensorRTBuilder", KilledBuilder)
    for file in (workspace / "engines").glob("*tensorrt-rtx*"):
        file.unlink()
    result = run("build", *RTX, "--workspace", workspace)
    assert result.code == 3
    assert "SIGKILL" in result.err
    assert "memory" in result.err
    assert len([line for line in result.err.splitlines() if line.startswith("error: ")]) == 1
    assert "Traceback" not in result.err
    assert not list((workspace / "engines").glob("*tensorrt-rtx*"))
    assert not list((workspace / "engines").glob(".*"))


def test_two_builds_of_one_engine_at_once(run: Cli, workspace: Path) -> None:
    engine = workspace / "engines" / f"{STEM}.fp32.tensorrt-rtx.engine"
    before = engine.read_bytes()
    with replacing(engine) as part:
        part.write_bytes(before)
        result = run("build", *RTX, "--workspace", workspace)
        assert result.code == 3
        assert f"{engine} is being written by another process" in result.err
        assert part.read_bytes() == before
    assert engine.read_bytes() == before
    assert not list(engine.parent.glob(".*"))


def _wait_for(folder: Path, pattern: str, process: subprocess.Popen[str]) -> None:
    """Until a file appears: the command is in the middle of writing it."""
    deadline = time.monotonic() + 60
    while not list(folder.glob(pattern)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_an_interrupted_build_leaves_nothing_that_counts(
    run: Cli, workspace: Path, number: signal.Signals, code: int
) -> None:
    for file in (workspace / "engines").glob("*"):
        file.unlink()
    process = started(workspace, "build", "--fp32", "--runtime", "tensorrt-rtx")
    _wait_for(workspace, "engines/.*.ffnet-part", process)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, (out, err)
    assert "Traceback" not in err
    assert not [p for p in (workspace / "engines").iterdir() if not p.name.endswith(".ffnet-part")]
    nothing = ladder_of(workspace).nothing_ran()
    assert nothing
    assert nothing.exit_code == 4
    # The next build works, over what was left.
    assert run("build", "--fp32", "--runtime", "tensorrt-rtx", "--workspace", workspace).code == 0
    assert not list((workspace / "engines").glob(".*"))

"""The real command line, from a name to scores, at small sizes with random weights."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from commands import NAME, SIZE, STEM, Cli, link_workspace, rewrite, started
from PIL import Image

from ffnet_deploy import artifacts, pipeline
from ffnet_deploy.data.scenes import draw_scene


@pytest.fixture
def workspace(built: Path, tmp_path: Path) -> Path:
    """A copy of ``built`` to change; files are linked and only ever replaced."""
    return link_workspace(built, tmp_path)


def test_export_says_what_it_made(run: Cli, tmp_path: Path) -> None:
    result = run("export", NAME, "--weights", "random", *SIZE, "--batch", "2", "--workspace", tmp_path)
    assert result.code == 0
    assert f"{STEM}.b2.onnx" in result.out
    assert "untrained, off contract" in result.out
    record = json.loads((tmp_path / "models" / f"{STEM}.b2.onnx.json").read_text())
    assert record["options"]["shape"] == [2, 3, 64, 128]
    assert record["found"]["verification"]["equal"] > 0.999
    assert record["sources"]["weights"]["sha256"] == "random-0"


def test_build_names_the_model_and_builds_what_was_asked(built: Path) -> None:
    files = {p.name for p in (built / "engines").iterdir() if p.suffix != ".json"}
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
    assert half["size"] < 0.6 * full["size"]


def test_build_without_a_name_says_which_model(run: Cli, workspace: Path) -> None:
    result = run("build", "--runtime", "onnxruntime", "--workspace", workspace)
    assert result.code == 0
    assert result.err.strip() == f"model: {STEM} (exported last)"


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


def test_nothing_besides_the_reference_exits_4_with_its_result(run: Cli, workspace: Path) -> None:
    for file in (workspace / "engines").glob("*onnxruntime*"):
        file.unlink()
    result = run("bench", "--iters", "2", "--min-seconds", "0", "--json", "-", "--workspace", workspace)
    assert result.code == 4
    values = json.loads(result.out)
    assert values["rungs"][0]["median_ms"] > 0
    assert values["error"]["exit_code"] == 4
    assert "ffnet-deploy build" in result.err


USAGE: list[tuple[tuple[str, ...], str]] = [
    (("models", "segmentation_ffnet46NS_CCC_mobiles"), NAME),
    (("models", "no such thing"), "ffnet-deploy models"),
    (("export", "segmentation_ffnet86S_BC_mobile"), "segmentation_ffnet86S_BCC_mobile"),
    (("export", f"{NAME}_pre_down", "--height", "512", "--width", "1024"), "halved twice"),
    (("export", f"{NAME}_pre_down", "--height", "512", "--width", "1024"), f"export {NAME}, which takes 512x1024"),
    (("export", NAME, "--height", "1024", "--width", "2048"), "--allow-size"),
    (("export", NAME, "--height", "32", "--width", "64", "--allow-size"), "64x64"),
    (("export", NAME, "--opset", "11"), "18 to 23"),
    (("export", NAME, "--batch", "0"), "1 or more"),
    (("export", "segmentation_ffnet150_AAA_train"), "export segmentation_ffnet150_AAA"),
    (("calibrate",), "--data"),
    (("build", "--runtime", "openvino"), "tensorrt-rtx"),
    (("bench", "--iters", "0"), "1 or more"),
    (("weights", "fetch"), "--all"),
    (("weights", "fetch", NAME, "--all"), "--all"),
]


@pytest.mark.parametrize(("args", "says"), USAGE)
def test_usage_errors_exit_2_and_say_what_to_do(run: Cli, tmp_path: Path, args: tuple[str, ...], says: str) -> None:
    result = run(*args, "--workspace", tmp_path)
    assert result.code == 2
    assert says in result.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("args", [("build",), ("build", NAME), ("bench",), ("eval", "cityscapes", "--root", ".")])
def test_without_a_graph_the_next_step_is_export(run: Cli, tmp_path: Path, args: tuple[str, ...]) -> None:
    result = run(*args, "--workspace", tmp_path)
    assert result.code == 3
    assert "Run: ffnet-deploy export" in result.err


def test_onnxruntime_has_no_fp16_engine(run: Cli, built: Path) -> None:
    result = run("build", "--fp16", "--runtime", "onnxruntime", "--workspace", built)
    assert result.code == 4
    assert "--runtime tensorrt-rtx" in result.err


def test_tensorrt_asked_for_by_name_is_not_replaced(run: Cli, workspace: Path) -> None:
    result = run("build", "--runtime", "tensorrt", "--workspace", workspace)
    assert result.code == 4
    assert "pip install" in result.err
    assert not list((workspace / "engines").glob("*.tensorrt.*"))


def test_export_without_weights_offline(run: Cli, tmp_path: Path) -> None:
    result = run("export", NAME, "--offline", "--workspace", tmp_path)
    assert result.code == 3
    assert f"ffnet-deploy weights fetch {NAME}" in result.err
    assert "--weights random" in result.err
    assert len(result.err.strip().splitlines()) == 1


def test_a_damaged_engine_is_refused(run: Cli, workspace: Path) -> None:
    engine = workspace / "engines" / f"{STEM}.fp32.onnxruntime.onnx"
    data = bytearray(engine.read_bytes())
    data[len(data) // 2] ^= 1
    rewrite(engine, bytes(data))
    result = run("bench", "--iters", "1", "--workspace", workspace)
    assert result.code == 3
    assert f"ffnet-deploy build {NAME} --fp32 --runtime onnxruntime" in result.err


def test_a_truncated_graph_is_refused(run: Cli, workspace: Path) -> None:
    graph = workspace / "models" / f"{STEM}.onnx"
    rewrite(graph, graph.read_bytes()[:-1])
    result = run("build", "--workspace", workspace)
    assert result.code == 3
    assert "ffnet-deploy export" in result.err


def test_engines_of_an_older_graph_are_stale(run: Cli, workspace: Path) -> None:
    assert run("export", NAME, "--weights", "random", *SIZE, "--opset", "21", "--workspace", workspace).code == 0
    result = run("bench", "--iters", "1", "--workspace", workspace)
    assert result.code == 3
    assert "stale" in result.err
    assert "ffnet-deploy build" in result.err


def test_a_workspace_that_cannot_be_written(run: Cli, tmp_path: Path) -> None:
    # Tests may run as root, whom no permission stops; a file where a folder should be stops everyone.
    (tmp_path / "models").write_text("in the way")
    result = run("export", NAME, "--weights", "random", *SIZE, "--workspace", tmp_path)
    assert result.code == 3
    assert "--workspace DIR" in result.err
    assert len(result.err.strip().splitlines()) == 1


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
    _wait_for(workspace, "engines/.*.part", process)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, (out, err)
    assert "Traceback" not in err
    assert not [p for p in (workspace / "engines").iterdir() if not p.name.endswith(".part")]
    assert run("bench", "--iters", "1", "--min-seconds", "0", "--workspace", workspace).code == 4
    # The next build works, over what was left.
    assert run("build", "--fp32", "--runtime", "tensorrt-rtx", "--workspace", workspace).code == 0
    assert not list((workspace / "engines").glob(".*"))


# In the middle of loading libraries, of exporting, of verifying, or thereabouts.
@pytest.mark.parametrize("delay", [1.0, 2.5, 4.0])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_an_interrupted_export_leaves_nothing_that_counts(
    tmp_path: Path, number: signal.Signals, code: int, delay: float
) -> None:
    process = started(tmp_path, "export", NAME, "--weights", "random", *SIZE)
    time.sleep(delay)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    if process.returncode == 0:
        pytest.skip("the export was quicker than the signal")
    if process.returncode == -number and not (out or err):
        # On a busy machine the signal comes before the interpreter is up and anyone could handle it.
        assert not list(tmp_path.iterdir())
        return
    assert process.returncode == code, (out, err)
    assert "Traceback" not in err
    assert not list(tmp_path.glob("models/*.onnx"))


def test_models_lists_and_shows_a_card(run: Cli, tmp_path: Path) -> None:
    everything = run("models", "--workspace", tmp_path)
    assert everything.code == 0
    assert len(everything.out.strip().splitlines()) == 94 + 2
    card = run("models", f"{NAME}_pre_down", "--workspace", tmp_path)
    assert "blur inside    yes" in card.out
    assert "absent" in card.out


def test_names_complete_in_the_shell(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "_FFNET_DEPLOY_COMPLETE": "complete_bash",
        "COMP_WORDS": "ffnet-deploy export segmentation_ffnet46NS",
        "COMP_CWORD": "2",
    }
    program = Path(sys.executable).with_name("ffnet-deploy")
    done = subprocess.run([program], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert NAME in done.stdout.split()


def test_the_root_script_is_the_same_program() -> None:
    script = Path(__file__).parents[1] / "cli.py"
    done = subprocess.run([sys.executable, script, "--version"], capture_output=True, text=True, check=True)
    from ffnet_deploy import __version__

    assert done.stdout.strip() == __version__


def test_load_engine_from_python(built: Path) -> None:
    import numpy as np

    import ffnet_deploy

    with ffnet_deploy.load_engine(built / "engines" / f"{STEM}.fp32.onnxruntime.onnx") as runner:
        outputs: dict[str, Any] = runner({"image": np.zeros((1, 3, 64, 128), np.float32)})
    assert outputs["logits"].shape == (1, 19, 16, 32)


def test_weights_fetch_from_a_folder_then_export(run: Cli, tmp_path: Path) -> None:
    import torch

    from ffnet_deploy.zoo.specs import find
    from ffnet_deploy.zoo.weights import load_random

    mirror = tmp_path / "mirror"
    mirror.mkdir()
    file = find(NAME).weights_file
    torch.save(load_random(find(NAME), seed=5).module.state_dict(), mirror / Path(file).name)
    fetched = run("weights", "fetch", NAME, "--from", mirror, "--workspace", tmp_path)
    assert fetched.code == 0, fetched.err
    assert (tmp_path / "models" / "weights" / file).is_file()
    result = run("export", NAME, *SIZE, "--offline", "--workspace", tmp_path)
    assert result.code == 0, result.err
    assert "untrained" not in result.out
    # The weights change behind the graph's back: everything after it refuses.
    torch.save(load_random(find(NAME), seed=6).module.state_dict(), tmp_path / "models" / "weights" / file)
    stale = run("build", "--workspace", tmp_path)
    assert stale.code == 3
    assert f"ffnet-deploy export {NAME}" in stale.err
    mismatch = run("export", NAME, *SIZE, "--offline", "--workspace", tmp_path)
    assert mismatch.code == 3
    assert "SHA256SUMS" in mismatch.err


# --- precision, targets, ends, batches ------------------------------------------------------------------------------

RTX = ("--runtime", "tensorrt-rtx")


def record_of(workspace: Path, name: str) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((workspace / "engines" / f"{name}.json").read_text())
    return values


def rungs_in(workspace: Path) -> set[str]:
    """Names of the rungs besides the reference, whether or not they run here."""
    space = artifacts.Workspace(workspace)
    found = pipeline.ladder(space, pipeline.current_graph(space, None))
    return {rung.name for rung in found.running} | {item.rung.name for item in found.skipped}


def test_targets_stand_in_the_file_name_and_share_one_precision(run: Cli, workspace: Path) -> None:
    result = run("build", "--fp16", *RTX, "--gpu", "sm86", "--gpu", "sm89", "--workspace", workspace)
    assert result.code == 0, result.err
    name = f"{STEM}.fp16.tensorrt-rtx-sm86+sm89.engine"
    assert name in result.out
    assert "100 % fp16" in result.out
    record = record_of(workspace, name)
    assert record["found"]["share"] == {"fp16": 1.0}
    assert record["options"]["gpus"] == ["sm86", "sm89"]
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
    ((*RTX, "--fp16", "--io", "fp16", "--labels-out"), 2, "--io fp16 is for engines with float ends"),
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
    before = sorted((p, p.stat().st_mtime_ns) for p in built.rglob("*.*"))
    result = run("build", *args, "--workspace", built)
    assert result.code == code, result.err
    assert says in result.err
    assert "Traceback" not in result.err
    assert sorted((p, p.stat().st_mtime_ns) for p in built.rglob("*.*")) == before


def test_half_ends_and_kept_nodes_are_seen_by_inspect(run: Cli, workspace: Path) -> None:
    args = ("--fp16", "--io", "fp16", "--keep-fp32", "head.layers.3*", *RTX)
    result = run("build", *args, "--workspace", workspace)
    assert result.code == 0, result.err
    engine = workspace / "engines" / f"{STEM}.fp16.tensorrt-rtx.engine"
    record = record_of(workspace, engine.name)
    assert record["options"]["io"] == "fp16"
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
    assert record_of(workspace, name)["options"]["labels_out"] == ("--labels-out" in flags)
    rung = f"onnxruntime fp32 {ends.replace('.', ' ')}"
    assert rung in rungs_in(workspace)


def test_a_graph_for_any_batch_needs_a_profile_and_runs(run: Cli, tmp_path: Path) -> None:
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
    assert re.search(r"^onnxruntime int8 b1-2-3 .* yes$", verified.out, flags=re.MULTILINE)


def test_bilinear_up_sampling_marks_what_it_makes(run: Cli, tmp_path: Path) -> None:
    args = ("--weights", "random", *SIZE, "--upsampling", "bilinear", "--workspace", tmp_path)
    result = run("export", NAME, *args)
    assert result.code == 0, result.err
    assert f"{NAME}.bilinear@64x128.onnx" in result.out
    assert "bilinear up-sampling in place of nearest" in result.out
    refused = run("export", "segmentation_ffnet34_ABB", *args)
    assert refused.code == 2
    assert "up-samples bilinearly as published" in refused.err


# --- inspect and doctor ---------------------------------------------------------------------------------------------


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
    import torch

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


def test_doctor_names_each_package_and_what_is_missing(run: Cli) -> None:
    result = run("doctor")
    assert result.code == 0
    for what in ("python", "torch", "onnx", "onnxscript", "onnxruntime", "tensorrt-rtx", "polygraphy", "pycuda"):
        assert what in result.out
    missing = [line for line in result.out.splitlines() if "not installed" in line]
    assert all("pip install" in line for line in missing if "bench, eval" not in line)
    assert "build --runtime tensorrt-rtx" in result.out
    assert "bench, eval: onnxruntime" in result.out


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
    # The package's `build` is the function; its module is found by name.
    module = sys.modules["ffnet_deploy.pipeline.build"]

    def forged(_runtime: str, _graph: Path, engine: Path, *_: object) -> dict[str, Any]:
        engine.write_bytes(b"a plan")
        return found

    monkeypatch.setattr(module, "_run_builder", forged)
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
    from ffnet_deploy.runtimes import tensorrt

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
    with artifacts.replacing(engine) as part:
        part.write_bytes(before)
        result = run("build", *RTX, "--workspace", workspace)
        assert result.code == 3
        assert f"{engine} is being written by another process" in result.err
        assert part.read_bytes() == before
    assert engine.read_bytes() == before
    assert not list(engine.parent.glob(".*"))

"""The real command line, from a name to scores, at small sizes with random weights."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ffnet_deploy import cli
from ffnet_deploy.data.scenes import write_cityscapes

NAME = "segmentation_ffnet46NS_CCC_mobile"
SIZE = ("--allow-size", "--height", "64", "--width", "128")
STEM = f"{NAME}@64x128"


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


class Cli:
    """Runs ``ffnet-deploy`` in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys

    def __call__(self, *args: str | Path) -> Result:
        self._monkeypatch.setattr(sys, "argv", ["ffnet-deploy", *map(str, args)])
        self._capsys.readouterr()
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        captured = self._capsys.readouterr()
        return Result(code, captured.out, captured.err)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(monkeypatch, capsys)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a graph and FP32 and FP16 engines; tests must not change it."""
    folder = tmp_path_factory.mktemp("built")
    for command in (("export", NAME, "--weights", "random", *SIZE), ("build", "--fp32", "--fp16")):
        subprocess.run(
            [sys.executable, "-m", "ffnet_deploy.cli", *command], cwd=folder, check=True, capture_output=True
        )
    return folder


@pytest.fixture
def workspace(built: Path, tmp_path: Path) -> Path:
    """A copy of ``built`` to change; files are linked and only ever replaced."""
    for file in built.glob("*/*.*"):
        (tmp_path / file.parent.name).mkdir(exist_ok=True)
        os.link(file, tmp_path / file.parent.name / file.name)
    return tmp_path


@pytest.fixture(scope="module")
def streets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A custom set whose images the 64x128 model sees at half size."""
    root = tmp_path_factory.mktemp("streets")
    write_cityscapes(root, "val", {"eichenfurt": 2, "lindenhafen": 1}, seed=3, size=(128, 256))
    return root


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
    result = run("bench", NAME, "--iters", "5", "--json", file, "--workspace", built)
    assert result.code == 0, result.err
    assert "onnxruntime fp32" in result.out
    assert "not run: tensorrt-rtx fp16: needs an NVIDIA GPU" in result.out
    assert "untrained" in result.out
    values = json.loads(file.read_text())
    assert [rung["rung"] for rung in values["rungs"]] == ["pytorch fp32", "onnxruntime fp32"]
    assert [len(rung["samples_ms"]) for rung in values["rungs"]] == [5, 5]
    assert values["rungs"][0]["speed_up"] == 1.0
    assert {s["rung"] for s in values["skipped"]} == {"tensorrt-rtx fp32", "tensorrt-rtx fp16"}
    assert values["error"] is None
    assert values["environment"]["tools"]["torch"]


def test_eval_scores_and_reuses_the_reference(run: Cli, workspace: Path, streets: Path) -> None:
    first = run("eval", "cityscapes", "--root", streets, "--json", "-", "--workspace", workspace)
    assert first.code == 0, first.err
    values = json.loads(first.out)
    assert values["set"] == "custom set, 3 images"
    assert values["protocol"] == {"size": [128, 256], "downsample": "blur", "align_corners": False}
    reference, engine = values["rungs"]
    assert reference["agreement"] == 100.0
    assert engine["agreement"] > 99.9
    assert abs(engine["drop"]) < 0.05
    assert len(engine["iou"]) == 19
    assert not values["reference_reused"]
    assert "custom set, 3 images" in first.err  # with `-` the tables go to stderr

    again = run("eval", "cityscapes", "--root", streets, "--json", "-", "--workspace", workspace)
    assert json.loads(again.out)["reference_reused"]
    assert json.loads(again.out)["rungs"] == values["rungs"]

    other = run("eval", "cityscapes", "--root", streets, "--align-corners", "--json", "-", "--workspace", workspace)
    assert not json.loads(other.out)["reference_reused"]


def test_eval_takes_its_root_from_the_environment(
    run: Cli, built: Path, streets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("eval", "cityscapes", "--workspace", built).code == 2
    monkeypatch.setenv("CITYSCAPES_DATASET", str(streets))
    assert run("eval", "cityscapes", "--only", "onnxruntime", "--workspace", built).code == 0


def test_a_missed_gate_prints_the_result_and_exits_1(run: Cli, built: Path, streets: Path) -> None:
    result = run("eval", "cityscapes", "--root", streets, "--max-drop", "-1", "--workspace", built)
    assert result.code == 1
    assert "onnxruntime fp32" in result.out
    assert "at most -1 was allowed" in result.err
    assert run("eval", "cityscapes", "--root", streets, "--max-drop", "0.5", "--workspace", built).code == 0


def test_nothing_besides_the_reference_exits_4_with_its_result(run: Cli, workspace: Path) -> None:
    for file in (workspace / "engines").glob("*onnxruntime*"):
        file.unlink()
    result = run("bench", "--iters", "2", "--json", "-", "--workspace", workspace)
    assert result.code == 4
    values = json.loads(result.out)
    assert values["rungs"][0]["median_ms"] > 0
    assert values["error"]["exit_code"] == 4
    assert "ffnet-deploy build" in result.err


@pytest.mark.parametrize(
    ("only", "code", "says"),
    [
        ("openvino fp32", 2, "there are: "),
        ("tensorrt-rtx fp16", 4, "needs an NVIDIA GPU"),
    ],
)
def test_only_asks_by_name(run: Cli, built: Path, streets: Path, only: str, code: int, says: str) -> None:
    result = run("eval", "cityscapes", "--root", streets, "--only", only, "--json", "-", "--workspace", built)
    assert result.code == code
    assert says in result.err
    error = json.loads(result.out)["error"]
    assert error["exit_code"] == code
    assert error["message"] in result.err


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
    (("build", "--int8"), "--fp16"),
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


def _rewrite(file: Path, data: bytes) -> None:
    """Replace a linked file by new bytes without touching the other name of it."""
    file.unlink()
    file.write_bytes(data)


def test_a_damaged_engine_is_refused(run: Cli, workspace: Path) -> None:
    engine = workspace / "engines" / f"{STEM}.fp32.onnxruntime.onnx"
    data = bytearray(engine.read_bytes())
    data[len(data) // 2] ^= 1
    _rewrite(engine, bytes(data))
    result = run("bench", "--iters", "1", "--workspace", workspace)
    assert result.code == 3
    assert f"ffnet-deploy build {NAME} --fp32 --runtime onnxruntime" in result.err


def test_a_truncated_graph_is_refused(run: Cli, workspace: Path) -> None:
    graph = workspace / "models" / f"{STEM}.onnx"
    _rewrite(graph, graph.read_bytes()[:-1])
    result = run("build", "--workspace", workspace)
    assert result.code == 3
    assert "ffnet-deploy export" in result.err


def test_engines_of_an_older_graph_are_stale(run: Cli, workspace: Path) -> None:
    assert run("export", NAME, "--weights", "random", *SIZE, "--opset", "21", "--workspace", workspace).code == 0
    result = run("bench", "--iters", "1", "--workspace", workspace)
    assert result.code == 3
    assert "stale" in result.err
    assert "ffnet-deploy build" in result.err


def test_an_image_damaged_in_the_middle_of_the_set(run: Cli, built: Path, tmp_path: Path) -> None:
    write_cityscapes(tmp_path, "val", {"eichenfurt": 3}, seed=3, size=(128, 256))
    broken = sorted(tmp_path.glob("leftImg8bit/val/*/*.png"))[1]
    broken.write_bytes(broken.read_bytes()[:2000])
    result = run("eval", "cityscapes", "--root", tmp_path, "--json", "-", "--workspace", built)
    assert result.code == 3
    assert str(broken) in result.err
    assert "rungs" not in json.loads(result.out)


def test_images_of_another_size(run: Cli, built: Path, tmp_path: Path) -> None:
    write_cityscapes(tmp_path, "val", {"eichenfurt": 1}, seed=3, size=(64, 128))
    result = run("eval", "cityscapes", "--root", tmp_path, "--workspace", built)
    assert result.code == 3
    assert "128x256 was needed" in result.err


def test_label_ids_outside_the_table(run: Cli, built: Path, tmp_path: Path) -> None:
    write_cityscapes(tmp_path, "val", {"eichenfurt": 1}, seed=3, size=(128, 256))
    labels = next(tmp_path.glob("gtFine/val/*/*.png"))
    Image.new("L", (256, 128), 77).save(labels)
    result = run("eval", "cityscapes", "--root", tmp_path, "--workspace", built)
    assert result.code == 3
    assert "[77]" in result.err


def test_a_workspace_that_cannot_be_written(run: Cli, tmp_path: Path) -> None:
    # Tests may run as root, whom no permission stops; a file where a folder should be stops everyone.
    (tmp_path / "models").write_text("in the way")
    result = run("export", NAME, "--weights", "random", *SIZE, "--workspace", tmp_path)
    assert result.code == 3
    assert "--workspace DIR" in result.err
    assert len(result.err.strip().splitlines()) == 1


def _started(folder: Path, *args: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "ffnet_deploy.cli", *args]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


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
    process = _started(workspace, "build", "--fp32", "--runtime", "tensorrt-rtx")
    _wait_for(workspace, "engines/.*.part", process)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, (out, err)
    assert "Traceback" not in err
    assert not [p for p in (workspace / "engines").iterdir() if not p.name.endswith(".part")]
    assert run("bench", "--iters", "1", "--workspace", workspace).code == 4
    # The next build works, over what was left.
    assert run("build", "--fp32", "--runtime", "tensorrt-rtx", "--workspace", workspace).code == 0
    assert not list((workspace / "engines").glob(".*"))


# In the middle of loading libraries, of exporting, of verifying, or thereabouts.
@pytest.mark.parametrize("delay", [1.0, 2.5, 4.0])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_an_interrupted_export_leaves_nothing_that_counts(
    tmp_path: Path, number: signal.Signals, code: int, delay: float
) -> None:
    process = _started(tmp_path, "export", NAME, "--weights", "random", *SIZE)
    time.sleep(delay)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    if process.returncode == 0:
        pytest.skip("the export was quicker than the signal")
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


@pytest.fixture(autouse=True)
def _plain_stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    """Progress bars are for terminals; with ``pytest -s`` on one they would mix with what is tested."""
    monkeypatch.setattr(cli, "_on_terminal", lambda: False)

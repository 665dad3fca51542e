"""The program as a whole: usage errors, the zoo as a list, this machine, completion, the root script, Python."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from support.cli_runner import NAME, STEM, Cli

import ffnet_deploy

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


def test_models_lists_and_shows_a_card(run: Cli, tmp_path: Path) -> None:
    everything = run("models", "--workspace", tmp_path)
    assert everything.code == 0
    *rows, empty, here, card_of = everything.out.strip().splitlines()
    assert len(rows) == 94 + 2
    assert (empty, here[:6], card_of) == ("", "here: ", "One model's contract: ffnet-deploy models NAME")
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
    script = Path(__file__).parents[2] / "cli.py"
    done = subprocess.run([sys.executable, script, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ffnet_deploy.__version__


def test_load_engine_from_python(built: Path) -> None:
    with ffnet_deploy.load_engine(built / "engines" / f"{STEM}.fp32.onnxruntime.onnx") as runner:
        outputs = runner({"image": np.zeros((1, 3, 64, 128), np.float32)})
    assert outputs["logits"].shape == (1, 19, 16, 32)


def test_doctor_names_each_package_and_what_is_missing(run: Cli) -> None:
    result = run("doctor")
    assert result.code == 0
    for what in ("python", "torch", "onnx", "onnxscript", "onnxruntime", "tensorrt-rtx", "polygraphy", "pycuda"):
        assert what in result.out
    packages = result.out.partition("\n\n")[0].splitlines()
    missing = [after for line, after in pairwise(packages) if "not installed" in line]
    assert all("to install: pip install" in line for line in missing)
    assert len(missing) == sum("not installed" in line for line in packages)
    assert "build --runtime tensorrt-rtx" in result.out
    assert "bench, eval: onnxruntime" in result.out

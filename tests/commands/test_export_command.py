"""The real ``export`` command at small sizes: what it makes, what it refuses, and what a killed one leaves."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import onnx
import pytest
import torch
from support.cli_runner import NAME, SIZE, STEM, Cli, started_telling

from ffnet_deploy.pipeline import export as story
from ffnet_deploy.zoo.specs import find
from ffnet_deploy.zoo.weights import load_random


def test_export_says_what_it_made(run: Cli, tmp_path: Path) -> None:
    result = run("export", NAME, "--weights", "random", *SIZE, "--batch", "2", "--workspace", tmp_path)
    assert result.code == 0
    assert f"{STEM}.b2.onnx" in result.out
    assert "untrained, off contract" in result.out
    record = json.loads((tmp_path / "models" / f"{STEM}.b2.onnx.json").read_text())
    assert record["options"]["shape"] == [2, 3, 64, 128]
    assert record["found"]["verification"]["equal"] > 0.999
    assert record["weights"]["sha256"] == "random-0"


def test_export_without_weights_offline(run: Cli, tmp_path: Path) -> None:
    result = run("export", NAME, "--offline", "--workspace", tmp_path)
    assert result.code == 3
    assert f"ffnet-deploy weights fetch {NAME}" in result.err
    assert "--weights random" in result.err
    assert len(result.err.strip().splitlines()) == 1


def test_a_workspace_that_cannot_be_written(
    run: Cli, built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = onnx.load(built / "models" / f"{STEM}.onnx")
    monkeypatch.setattr(story, "_exported", lambda *_: graph)
    # Tests may run as root, whom no permission stops; a file where a folder should be stops everyone.
    (tmp_path / "models").write_text("in the way")
    result = run("export", NAME, "--weights", "random", *SIZE, "--workspace", tmp_path)
    assert result.code == 3
    assert "--workspace DIR" in result.err
    assert len(result.err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "lines",
    [("loading weights",), ("exporting", "running the network"), ("verifying against PyTorch", "running the network")],
    ids=["libraries", "export", "verification"],
)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_an_interrupted_export_leaves_nothing_that_counts(
    built: Path, tmp_path: Path, number: signal.Signals, code: int, lines: tuple[str, ...]
) -> None:
    exported = built / "models" / f"{STEM}.onnx" if "exporting" not in lines else None
    process = started_telling(tmp_path, "export", NAME, "--weights", "random", *SIZE, exported=exported)
    assert process.stderr
    for line in lines:
        assert any(said.strip() == line for said in process.stderr), line
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, (out, err)
    assert "Traceback" not in err
    assert not list(tmp_path.glob("models/*.onnx"))


def test_weights_fetch_from_a_folder_then_export(run: Cli, tmp_path: Path) -> None:
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


def test_bilinear_upsampling_marks_what_it_makes(run: Cli, tmp_path: Path) -> None:
    args = ("--weights", "random", *SIZE, "--upsampling", "bilinear", "--workspace", tmp_path)
    result = run("export", NAME, *args)
    assert result.code == 0, result.err
    assert f"{NAME}.bilinear@64x128.onnx" in result.out
    assert "bilinear up-sampling in place of nearest" in result.out
    refused = run("export", "segmentation_ffnet34_ABB", *args)
    assert refused.code == 2
    assert "upsamples bilinearly as published" in refused.err

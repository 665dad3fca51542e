"""Evaluations that are killed, cut short or not delivered, and what ``eval --resume`` makes of them."""

from __future__ import annotations

import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.cli_runner import Cli, link_workspace, started
from support.evaluations import ONE, found, journals, scored

from ffnet_deploy.synthetic.scenes import write_cityscapes


@pytest.fixture
def workspace(built: Path, tmp_path: Path) -> Path:
    """A copy of ``built`` to change."""
    return link_workspace(built, tmp_path / "workspace")


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough images to be killed in the middle of them."""
    root = tmp_path_factory.mktemp("many")
    write_cityscapes(root, "val", {"eichenfurt": 24}, seed=5, size=(128, 256))
    return root


def killed(workspace: Path, root: Path, *args: str, lines: int = 3) -> Path:
    """Start an evaluation, kill it when its journal has some lines, and give the journal."""
    process = started(workspace, "eval", "cityscapes", "--root", str(root), *args)
    deadline = time.monotonic() + 120
    while not (files := journals(workspace)) or files[0].read_bytes().count(b"\n") < lines:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    return files[0]


def test_a_killed_run_goes_on_and_ends_with_the_same_numbers(run: Cli, built: Path, many: Path, tmp_path: Path) -> None:
    args = ("--threads", "1", "--align-corners", "auto")
    unbroken = scored(run, link_workspace(built, tmp_path / "unbroken"), many, *args)
    workspace = link_workspace(built, tmp_path / "broken")
    journal = killed(workspace, many, *args)
    # As if the kill had come in the middle of a line.
    journal.write_bytes(journal.read_bytes()[:-5])
    lines = journal.read_bytes().count(b"\n")
    assert 0 < lines < 24
    resumed = scored(run, workspace, many, *args, "--resume")
    assert resumed["run"]["images_taken_over"] == lines
    assert found(resumed) == found(unbroken)
    # The result is in the user's hands: nothing is left to resume.
    assert not journals(workspace)
    assert scored(run, workspace, many, *args, "--resume")["run"]["images_taken_over"] == 0


def stopped(run: Cli, workspace: Path, root: Path, *args: str | Path) -> Path:
    """A journal with the first four images: a run whose result has no place to go, and then a cut."""
    refused = run("eval", "cityscapes", "--root", root, "--json", "/dev/full", "--workspace", workspace, *args)
    assert refused.code == 3, refused
    (journal,) = journals(workspace)
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:4]))
    return journal


def test_without_resume_everything_is_computed(run: Cli, workspace: Path, streets: Path) -> None:
    stopped(run, workspace, streets, *ONE)
    assert scored(run, workspace, streets, *ONE)["run"]["images_taken_over"] == 0


def test_other_evaluations_neither_use_nor_lose_what_was_done(run: Cli, workspace: Path, streets: Path) -> None:
    journal = stopped(run, workspace, streets, *ONE)
    for other in (
        ("--limit", "2"), ("--shard", "1/2"), ("--downsample", "area"), ("--align-corners", "true"),
        ("--save-predictions", str(workspace / "out")), ("--only", "onnx fp16 emulated"),
    ):  # fmt: skip
        assert scored(run, workspace, streets, *ONE, *other, "--resume")["run"]["images_taken_over"] == 0
        assert journals(workspace) == [journal]
    # How many threads there are, and how many images are in work, changes no result.
    assert scored(run, workspace, streets, *ONE, "--images-at-once", "3", "--resume")["run"]["images_taken_over"] == 4


def test_images_that_changed_since_are_computed_again(run: Cli, workspace: Path, streets: Path, tmp_path: Path) -> None:
    root = tmp_path / "set"
    # With the files' times: to the journal it is the same set in another place.
    shutil.copytree(streets, root)
    stopped(run, workspace, streets, *ONE)
    first = min(root.glob("leftImg8bit/val/*/*.png"))
    Image.fromarray(255 - np.asarray(Image.open(first))).save(first)
    resumed = scored(run, workspace, root, *ONE, "--resume")
    assert resumed["run"]["images_taken_over"] == 3
    assert found(resumed) == found(scored(run, workspace, root, *ONE))
    assert resumed["set"]["sha256"] != scored(run, workspace, streets, *ONE)["set"]["sha256"]


def test_predictions_that_are_gone_are_made_again(run: Cli, workspace: Path, streets: Path, tmp_path: Path) -> None:
    out = tmp_path / "predictions"
    stopped(run, workspace, streets, *ONE, "--save-predictions", out)
    written = {path: path.read_bytes() for path in sorted(out.rglob("*.png"))}
    assert len(written) == 2 * 7
    for path in (*sorted(out.glob("onnxruntime-fp32/*/*"))[:1], *sorted(out.glob("pytorch-fp32/*/*"))[1:2]):
        path.unlink()
    resumed = scored(run, workspace, streets, *ONE, "--save-predictions", out, "--resume")
    assert resumed["run"]["images_taken_over"] == 2
    assert {path: path.read_bytes() for path in sorted(out.rglob("*.png"))} == written


def test_a_result_that_cannot_be_delivered_is_not_lost(run: Cli, workspace: Path, streets: Path) -> None:
    # A place that only the writer refuses, when all is computed.
    refused = run("eval", "cityscapes", "--root", streets, *ONE, "--json", "/dev/full", "--workspace", workspace)
    assert refused.code == 3, refused
    assert len(journals(workspace)) == 1
    again = scored(run, workspace, streets, *ONE, "--resume")
    assert again["run"]["images_taken_over"] == 7

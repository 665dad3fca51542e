"""Results of an interrupted run are offered where they still hold, and nowhere else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from support.cli_runner import Cli, link_workspace
from support.evaluations import ONE
from support.seals import resealed

from ffnet_deploy.artifacts.workspace import Workspace
from ffnet_deploy.errors import DataError
from ffnet_deploy.evaluate import session
from ffnet_deploy.evaluate.outcome import Evaluation
from ffnet_deploy.evaluate.result import EVAL_SCHEMA
from ffnet_deploy.evaluate.session import EvalOptions
from ffnet_deploy.pipeline.evaluate import evaluate_cityscapes
from ffnet_deploy.synthetic.scenes import write_cityscapes

SAID = "of an interrupted run are kept"


def drawn(root: Path, seed: int) -> Path:
    write_cityscapes(root, "val", {"eichenfurt": 3}, seed=seed, size=(128, 256))
    return root


def damage_last(root: Path) -> bytes:
    """Cut the last label file short; gives it as it was."""
    last = max(root.glob("gtFine/val/*/*_labelIds.png"))
    whole = last.read_bytes()
    last.write_bytes(whole[:100])
    return whole


@pytest.fixture
def interrupted(built: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A workspace where an evaluation failed at the last of three images, and the set, mended since."""
    space, root = link_workspace(built, tmp_path / "workspace"), drawn(tmp_path / "set", seed=1)
    whole = damage_last(root)
    with pytest.raises(DataError):
        evaluate(space, root)
    max(root.glob("gtFine/val/*/*_labelIds.png")).write_bytes(whole)
    return space, root


def evaluate(space: Path, root: Path, *, resume: bool = False) -> tuple[Evaluation, list[str]]:
    told: list[str] = []
    options = EvalOptions(root, only=("onnxruntime fp32",), threads=1, resume=resume)
    return evaluate_cityscapes(Workspace(space), None, options, tell=told.append), told


def test_another_set_with_the_same_names_has_nothing_left_over(
    run: Cli, interrupted: tuple[Path, Path], tmp_path: Path
) -> None:
    space, _ = interrupted
    other = drawn(tmp_path / "other", seed=2)
    _, told = evaluate(space, other)
    assert told == []
    # It has a journal of the same name, which a third set must not see either.
    third = drawn(tmp_path / "third", seed=3)
    result = run("eval", "cityscapes", "--root", third, *ONE, "--workspace", space)
    assert result.code == 0
    assert SAID not in result.err


def test_damaged_lines_are_left_out_and_that_is_said(interrupted: tuple[Path, Path]) -> None:
    space, root = interrupted
    (journal,) = space.glob("engines/unfinished/*")
    first, second = journal.read_bytes().splitlines()
    # Counts of another number of rungs, with a checksum that fits: never a traceback, now or later.
    values = json.loads(second)
    values.update(equal=values["equal"][:1], confusion=values["confusion"][:1])
    journal.write_bytes(b"\n".join([first[:-20], b"{}", resealed(values).encode(), b""]))
    found, told = evaluate(space, root, resume=True)
    assert told == ["3 results of an interrupted run are damaged and left out: their images are evaluated again"]
    assert found.file.run
    assert found.file.run.images_taken_over == 0


def test_what_another_layout_left_is_no_damage(interrupted: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    space, root = interrupted
    (journal,) = space.glob("engines/unfinished/*")
    before = journal.read_bytes()
    monkeypatch.setattr(session, "EVAL_SCHEMA", EVAL_SCHEMA + 1)
    assert evaluate(space, root, resume=True)[1] == []
    assert journal.read_bytes() == before


def test_the_same_set_has(run: Cli, interrupted: tuple[Path, Path], tmp_path: Path) -> None:
    space, root = interrupted
    # As it was when it was interrupted, in another place: files keep their times, and so do the results.
    shutil.copytree(root, tmp_path / "copy")
    copy = link_workspace(space, tmp_path / "again")
    (copy / "engines" / "unfinished").mkdir()
    for journal in space.glob("engines/unfinished/*"):
        shutil.copy(journal, copy / "engines" / "unfinished")
    said = f"2 of 3 images {SAID}: stop this and add --resume to go on from there"
    result = run("eval", "cityscapes", "--root", tmp_path / "copy", *ONE, "--workspace", copy)
    assert result.code == 0
    assert said in result.err.splitlines()
    found, told = evaluate(space, root, resume=True)
    assert told == []
    assert found.file.run
    assert found.file.run.images_taken_over == 2

"""The kill harness finds what a careless command leaves behind; and a few kills of a real command."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from kill_test import kill
from kills import killing
from kills.killing import KillTest, Row, Scenario
from kills.state import accepts, orphans, state
from support.mirror import CONTENTS, MODELS

from ffnet_deploy import cli
from ffnet_deploy.artifacts.writing import write_bytes

FILE = b"whole file" * 100


def a_thousand(path: Path) -> bool:
    """A reader that takes whatever is there."""
    return path.name == "file" and path.exists()


def carefully() -> None:
    write_bytes(Path("file"), FILE)


def in_place() -> None:
    with Path("file").open("wb") as file:
        for at in range(0, len(FILE), 100):
            file.write(FILE[at : at + 100])
            file.flush()
            os.fsync(file.fileno())


def and_a_scrap() -> None:
    """Each run has a temporary file of another name, and takes only its own away."""
    scrap = Path(f"{os.getpid()}.tmp")
    scrap.write_bytes(b"")
    carefully()
    scrap.unlink()


def if_nothing_is_there() -> None:
    """What an earlier run has begun is taken for done."""
    try:
        handle = os.open("file", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    except FileExistsError:
        return
    os.fsync(handle)
    os.write(handle, FILE)
    os.fsync(handle)


def once() -> None:
    """A lock file that a killed run leaves stops all later ones."""
    with Path("lock").open("x"):
        carefully()
    Path("lock").unlink()


def killed(run: Callable[[], object], folder: Path, kills: int = 5, *, readable: bool = False) -> Row:
    reads = a_thousand if readable else accepts
    return kill([Scenario("a command", run, accepts=reads)], kills, folder)["a command"]


def test_a_careful_command_has_no_faults(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = killed(carefully, tmp_path, readable=True)
    assert (row.kills, row.faults) == (5, [])
    assert row.late < 5
    assert capsys.readouterr().out.split()[:2] == ["command", "kills"]
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_written_in_place_is_found_half_written(tmp_path: Path) -> None:
    row = killed(in_place, tmp_path, readable=True)
    assert row.accepted
    assert "a command --seed" in row.accepted[0]
    assert not row.unequal


def test_what_is_left_over_is_found(tmp_path: Path) -> None:
    row = killed(and_a_scrap, tmp_path)
    assert row.left
    assert ".tmp is left" in row.left[0]


def test_a_second_run_that_ends_otherwise_is_found(tmp_path: Path) -> None:
    # Of so many kills some come between the two calls, however fast the machine is.
    unequal = killed(if_nothing_is_there, tmp_path, 30).unequal
    assert unequal
    assert "file differs" in unequal[0]


def test_a_second_run_that_fails_is_found(tmp_path: Path) -> None:
    row = killed(once, tmp_path)
    assert "again ends with 70: FileExistsError" in row.unequal[0]


def test_a_command_that_fails_without_a_kill_is_no_test(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="a command ends with 3"):
        KillTest(Scenario("a command", partial(sys.exit, 3)), tmp_path)


def test_processes_that_live_on_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(killing, "orphans", lambda session, _wait: orphans(session, 0.1))

    def start_another() -> None:
        subprocess.Popen(["sleep", "2"])

    with pytest.raises(RuntimeError, match=r"its processes live on: .*sleep"):
        KillTest(Scenario("a command", start_another), tmp_path)


def test_times_do_not_count(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"created": "now", "n": 1, "file": {"seconds": 2.0}}')
    before = state(tmp_path)
    (tmp_path / "a.json").write_text('{"created": "then", "n": 1, "file": {"seconds": 3.0}}')
    assert state(tmp_path) == before
    (tmp_path / "a.json").write_text('{"created": "then", "n": 2, "file": {"seconds": 3.0}}')
    assert state(tmp_path) != before


def test_a_real_command_outlives_kills(tmp_path: Path) -> None:
    """As ``make kill-test``, on the command that takes least."""

    def fetch() -> None:
        sys.argv = ["ffnet-deploy", "weights", "fetch", MODELS[0], "--from", "source"]
        cli.main()

    def prepare(folder: Path) -> None:
        (folder / "source").mkdir()
        for name, data in CONTENTS.items():
            (folder / "source" / name).write_bytes(data)

    row = kill([Scenario("weights fetch", fetch, prepare)], 3, tmp_path)["weights fetch"]
    assert (row.kills, row.faults) == (3, [])

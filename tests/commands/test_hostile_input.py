"""Paths, names and outputs that the system or a terminal refuses: one line, a next step, and never exit code 1."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from support.cli_runner import Cli
from support.fakes import small_graph
from support.graphs import put_graph

from ffnet_deploy.artifacts.workspace import Workspace
from ffnet_deploy.synthetic.scenes import write_cityscapes

LONG = "a" * 5000
MODEL = "segmentation_ffnet46NS_CCC_mobile"
COMMANDS: dict[str, Sequence[str]] = {
    "weights": ("export", MODEL, "--weights"),
    "data": ("calibrate", "--data"),
    "images": ("verify", "--images"),
    "root": ("eval", "cityscapes", "--root"),
    "imagenet": ("eval", "imagenet", "--root"),
    "merge": ("eval", "merge"),
    "compare": ("compare", __file__),
    "inspect": ("inspect",),
    "from": ("weights", "fetch", MODEL, "--from"),
    "workspace": ("build", "--workspace"),
    "predictions": ("eval", "cityscapes", "--root", ".", "--save-predictions"),
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace with a graph, which is the current folder."""
    put_graph(Workspace(tmp_path), small_graph())
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
@pytest.mark.parametrize(
    "path", [LONG, "loop/x", "\x1b[31mred\nRun: b", os.fsdecode(b"k\xf6ln")], ids=["long", "loop", "escapes", "bytes"]
)
def test_a_path_that_cannot_be_used_is_one_line(run: Cli, here: Path, command: Sequence[str], path: str) -> None:
    (here / "loop").symlink_to("loop")
    result = run(*command, path)
    assert result.code in (2, 3), result.err
    lines = result.err.splitlines()
    assert lines[-1].lower().startswith("error: "), result.err
    assert "Traceback" not in result.err
    assert len(lines[-1]) <= 510
    assert not [c for c in result.err if not (c.isprintable() or c == "\n")]
    if path is LONG and "cannot be used" in result.err:
        assert " characters) cannot be used (File name too long). Check its name" in result.err


@pytest.mark.parametrize("path", [LONG, "loop/x", "absent/x", "."], ids=["long", "loop", "absent", "folder"])
def test_a_result_that_would_have_no_place_is_refused_before_any_work(run: Cli, here: Path, path: str) -> None:
    (here / "loop").symlink_to("loop")
    result = run("bench", "--json", path)
    assert result.code in (2, 3), result.err
    assert result.out == ""
    assert re.search(r"Name another|or name another", result.err)


def program(*args: str, **options: object) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "ffnet_deploy.cli", *args]
    return subprocess.run(command, check=False, stderr=subprocess.PIPE, **options)  # type: ignore[call-overload, no-any-return]


def test_a_full_disk_behind_the_output_is_an_error() -> None:
    with Path("/dev/full").open("wb") as full:
        done = program("models", stdout=full)
    assert (done.returncode, done.stderr.decode()) == (
        3,
        "error: Not all could be written (No space left on device). Free the disk, or write to another place.\n",
    )


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    done = program("models", stdout=write)
    os.close(write)
    assert (done.returncode, done.stderr) == (128 + 13, b"")


def test_output_that_is_closed_is_no_traceback() -> None:
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m ffnet_deploy.cli models >&-"], check=False, capture_output=True
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_what_the_system_refuses_replaces_an_older_result(run: Cli, here: Path) -> None:
    (here / "r.json").write_text('{"command": "verify", "rungs": []}')
    result = run("verify", "--images", LONG, "--json", here / "r.json")
    assert result.code == 3
    error = json.loads((here / "r.json").read_text())["error"]
    assert error["exit_code"] == 3
    assert "(File name too long)" in error["message"]


def test_a_terminal_of_few_characters_is_no_error(here: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = program("inspect", "öl.onnx", stdout=subprocess.PIPE, env=environment, cwd=here)
    assert done.returncode == 3
    assert done.stderr.startswith(rb"error: \xf6l.onnx does not exist")


def test_a_city_that_is_no_utf8_is_scored_and_gone_on_with(run: Cli, here: Path) -> None:
    write_cityscapes(here, "val", {"eichenfurt": 1, "koeln": 1}, seed=3, size=(128, 256))
    for kind in ("leftImg8bit", "gtFine"):
        (here / kind / "val" / "koeln").rename(here / kind / "val" / os.fsdecode(b"k\xf6ln"))
    command = ("eval", "cityscapes", "--root", here, "--json", here / "a.json", "--save-predictions", here / "out")
    assert run("build", "--runtime", "onnxruntime", "--workspace", here).code == 0
    first = run(*command)
    assert first.code == 0, first.err
    assert r"k\xf6ln/koeln_000000_000019" in (here / "a.json").read_text().encode().decode("unicode_escape")
    second = run(*command)
    assert second.code == 0, second.err
    assert second.out.split("\n\n")[0] == first.out.split("\n\n")[0]

"""The help of every command, and the widths of what is read in a terminal."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from support.cli_runner import Cli

from ffnet_deploy import cli
from ffnet_deploy.commands.grouped import GroupedCommand

WIDEST = 80


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command that does something, and how it is called."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


ROOT = typer.main.get_command(cli.app)
COMMANDS = dict(commands(ROOT))
PAGES = [(), ("eval",), ("weights",), *COMMANDS]


def help_of(run: Cli, path: tuple[str, ...]) -> str:
    result = run(*path, "--help")
    assert result.code == 0, result.err
    return result.out


@pytest.fixture(autouse=True)
def _terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of 80 columns; and the program is not a module of pytest's."""
    for variable in ("COLUMNS", "TERMINAL_WIDTH"):
        monkeypatch.setenv(variable, str(WIDEST))
    monkeypatch.setattr(sys.modules["__main__"], "__package__", None)


def test_every_command_is_here() -> None:
    assert {" ".join(path) for path in COMMANDS} == {
        "models", "export", "calibrate", "build", "bench", "compare", "verify", "inspect", "doctor", "demo",
        "weights fetch", "eval cityscapes", "eval imagenet", "eval merge",
    }  # fmt: skip


def sections(text: str) -> dict[str, str]:
    """The groups of a help page by their titles."""
    found: dict[str, list[str]] = {}
    title = ""
    for line in text.splitlines():
        if line and not line.startswith(" ") and line.endswith(":"):
            title = line.removesuffix(":")
        found.setdefault(title, []).append(line)
    return {name: "\n".join(lines[1:]) for name, lines in found.items() if name}


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_option_stands_in_a_group(run: Cli, path: tuple[str, ...]) -> None:
    command = COMMANDS[path]
    assert isinstance(command, GroupedCommand)
    starts = {
        name: [line.split()[:1] for line in text.splitlines()] for name, text in sections(help_of(run, path)).items()
    }
    for param in command.params:
        record = param.get_help_record(typer.Context(command))
        assert record, param.name
        usual = "Arguments" if param.param_type_name == "argument" else "Options"
        wanted = getattr(param, "rich_help_panel", None) or usual
        # The group that was asked for, and no other.
        assert [name for name, words in starts.items() if record[0].split()[:1] in words] == [wanted], record


@pytest.mark.parametrize("path", PAGES, ids=" ".join)
def test_no_usage_line_has_doubled_brackets(run: Cli, path: tuple[str, ...]) -> None:
    text = help_of(run, path)
    assert text.strip().startswith("Usage: ffnet-deploy")
    assert "[[" not in text
    assert "]]" not in text


@pytest.mark.parametrize("path", PAGES, ids=" ".join)
def test_nothing_is_cut_off(run: Cli, path: tuple[str, ...]) -> None:
    # What may be given several times has dots in the usage line; dots elsewhere stand for words that are missing.
    text = re.sub(r"(?<=[]}])\.\.\.", "", help_of(run, path))
    assert [line for line in text.splitlines() if "..." in line or "…" in line] == []


WITHOUT_A_DEFAULT = {
    "--json": "Also write",
    "--data": "Required.",
    "--root": "Required.",
}
"""Options that have none, and what their help says."""


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_option_with_a_default_shows_it(run: Cli, path: tuple[str, ...]) -> None:
    text = " ".join(help_of(run, path).split())
    command = COMMANDS[path]
    for param in command.params:
        record = param.get_help_record(typer.Context(command))
        assert record, param.name
        assert " ".join(record[1].split()) in text
        if param.param_type_name == "argument" or param.is_flag:
            continue
        if param.opts[0] in WITHOUT_A_DEFAULT:
            assert param.default is None
            assert WITHOUT_A_DEFAULT[param.opts[0]] in record[1]
        else:
            assert re.search(r"\[.*default: .+\]$", record[1]), record


@pytest.mark.parametrize("path", PAGES, ids=" ".join)
def test_no_line_of_help_is_wider_than_a_terminal(run: Cli, path: tuple[str, ...]) -> None:
    assert [line for line in help_of(run, path).splitlines() if len(line) > WIDEST] == []


@pytest.mark.parametrize("path", [("models",), ("models", "segmentation_ffnet46NS_CCC_mobile"), ("doctor",)])
def test_no_line_of_a_list_is_wider_than_a_terminal(run: Cli, tmp_path: Path, path: tuple[str, ...]) -> None:
    workspace = () if path == ("doctor",) else ("--workspace", tmp_path)
    result = run(*path, *workspace)
    assert result.code == 0, result.err
    wide = [line for line in result.out.splitlines() if len(line) > WIDEST]
    # A path is not broken.
    assert [line for line in wide if not re.fullmatch(r"  weights +models/weights/\S+", line)] == []

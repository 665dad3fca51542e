"""Generated parts of the pages are current, links lead somewhere, and what pages name exists."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer

from ffnet_deploy.cli import app

ROOT = Path(__file__).parents[1]
FOLDERS = ("", "docs", "models", "engines", "calibration", ".github/ISSUE_TEMPLATE")
PAGES = sorted(page for folder in FOLDERS for page in (ROOT / folder).glob("*.md"))
FENCE = re.compile(r"^```[^\n]*\n(.*?)^```", flags=re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"^    (.*)$", flags=re.MULTILINE)
INLINE = re.compile(r"`([^`\n]+)`")


def _make_docs() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_docs", ROOT / "scripts" / "make_docs.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MAKE_DOCS = _make_docs()


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return FENCE.sub("", page.read_text("utf-8"))


def code(page: Path) -> Iterator[str]:
    """Lines of fenced and indented blocks, and what stands in backticks."""
    for block in FENCE.findall(page.read_text("utf-8")):
        yield from block.splitlines()
    yield from INDENTED.findall(prose(page))
    yield from INLINE.findall(prose(page))


def anchors(page: Path) -> set[str]:
    """What links to a page's headings end with, as GitHub makes it of them."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", prose(page), flags=re.MULTILINE):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", text).strip().replace(" ", "-")
        number = 0
        while (name := f"{slug}-{number}" if number else slug) in found:
            number += 1
        found.add(name)
    return found


def walk(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:  # click's own types
    """Every command and group of the command line by its words."""
    yield path, command
    for name, sub in getattr(command, "commands", {}).items():
        yield from walk(sub, (*path, name))


COMMANDS = dict(walk(typer.main.get_command(app)))


def wrong_in(line: str) -> str | None:
    """What a line of code says of ``ffnet-deploy`` that is not so; None if nothing."""
    if not (found := re.match(r"(?:\$ )?ffnet-deploy ([a-z].*)", line)):
        return None
    words = found[1].partition("#")[0].split()
    path: tuple[str, ...] = ()
    while words and (*path, words[0]) in COMMANDS:
        path = (*path, words.pop(0))
    command = COMMANDS[path]
    if getattr(command, "commands", None) and words and re.fullmatch(r"[a-z-]+", words[0]):
        return f"{line}: no command {words[0]}"
    known = {option for param in command.params for option in param.opts} | {"--help"}
    asked = {word.partition("=")[0] for word in words if word.startswith("--")}
    return f"{line}: no {', '.join(sorted(asked - known))}" if asked - known else None


@pytest.mark.parametrize("page", MAKE_DOCS.PAGES)
def test_generated_parts_are_current(page: str) -> None:
    assert MAKE_DOCS.filled(page) == (ROOT / page).read_text("utf-8"), "run: make docs"


def test_every_command_has_its_help_on_the_page() -> None:
    runnable = {" ".join(path) for path, command in COMMANDS.items() if not getattr(command, "commands", None)}
    assert set(MAKE_DOCS.COMMANDS) == {"", *runnable}


def test_every_room_is_on_the_map() -> None:
    package = ROOT / "ffnet_deploy"
    folders = {f"{path.parent.name}/" for path in package.glob("*/__init__.py")}
    files = {path.name for path in package.glob("*.py") if path.name != "__init__.py"}
    assert set(MAKE_DOCS.ROOMS) == folders | files


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    lost = []
    for target, anchor in re.findall(r"\]\((?!\w+:)([^)#\s]*)(?:#([^)\s]+))?\)", prose(page)):
        file = page.parent / target if target else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            lost.append(f"{target}#{anchor}")
    assert lost == []


def test_named_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text("utf-8"), flags=re.MULTILINE))
    lines = [text.partition("#")[0].split() for page in PAGES for text in code(page) if text.startswith("make ")]
    named = {word for words in lines for word in words[1:]}
    assert named
    assert named <= targets


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_named_commands_and_options_exist(page: Path) -> None:
    assert [wrong for line in code(page) if (wrong := wrong_in(line))] == []


def test_wrong_commands_would_be_seen() -> None:
    assert wrong_in("ffnet-deploy eval cityscapes NAME --root DIR  # a comment") is None
    assert wrong_in("ffnet-deploy measure")
    assert wrong_in("$ ffnet-deploy eval imagnet --root DIR")
    assert wrong_in("ffnet-deploy export NAME --nonsense")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_named_files_exist(page: Path) -> None:
    """Modules are named from the package's folder, everything else from the project's root."""
    named = [text for text in INLINE.findall(prose(page)) if re.fullmatch(r"(?!\w+:)[\w./-]+", text)]
    files = [n for n in named if n.endswith((".py", ".sh", ".tsv")) or n.startswith(("scripts/", "tests/", "docs/"))]
    homes = (ROOT, ROOT / "ffnet_deploy", ROOT / "docs")
    assert [name for name in files if not any((home / name).exists() for home in homes)] == []

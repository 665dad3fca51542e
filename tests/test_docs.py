"""Generated parts of the pages are current, links lead somewhere, and what pages name exists."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


def _make_docs() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_docs", ROOT / "scripts" / "make_docs.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MAKE_DOCS = _make_docs()


@pytest.mark.parametrize("page", MAKE_DOCS.PAGES)
def test_generated_parts_are_current(page: str) -> None:
    assert MAKE_DOCS.filled(page) == (ROOT / page).read_text("utf-8"), "run: make docs"


@pytest.mark.parametrize("page", [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")], ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text("utf-8"))
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_named_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), flags=re.MULTILINE))
    pages = "\n".join(page.read_text("utf-8") for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")))
    named = set(re.findall(r"`make ([a-z-]+)`", pages)) | set(
        re.findall(r"^    make ([a-z-]+)", pages, flags=re.MULTILINE)
    )
    assert named
    assert named <= targets


def test_named_files_exist() -> None:
    pages = "\n".join(page.read_text("utf-8") for page in (ROOT / "README.md", *ROOT.glob("docs/*.md")))
    named = set(re.findall(r"`((?:scripts|tests|docs)/[\w./-]+)`", pages))
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []

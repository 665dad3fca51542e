"""Folders: links are followed once, what leads nowhere or is no file is refused, clutter is passed over."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ffnet_deploy.data.folders import entries, is_clutter, listed, pictures_below, pictures_of
from ffnet_deploy.errors import DataError


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


@pytest.mark.parametrize(
    "name", [".DS_Store", "._a.png", "Thumbs.db", "DESKTOP.INI", "@eaDir", "__MACOSX", "$RECYCLE.BIN", "#recycle"]
)
def test_what_systems_leave_is_clutter(name: str) -> None:
    assert is_clutter(name)


def test_clutter_and_other_files_are_passed_over_at_every_depth(tmp_path: Path) -> None:
    touch(tmp_path / "b.PNG", tmp_path / "a" / "c.jpg", tmp_path / "a" / "deep" / "d.webp")
    touch(
        tmp_path / "README.md", tmp_path / "@eaDir" / "e.png", tmp_path / "a" / "Thumbs.db", tmp_path / ".f" / "g.png"
    )
    found = [path.relative_to(tmp_path).as_posix() for path in pictures_below(tmp_path)]
    assert found == ["a/c.jpg", "a/deep/d.webp", "b.PNG"]
    assert [path.name for path in pictures_of(listed(tmp_path))] == ["b.PNG"]


def test_links_to_folders_count_once_and_loops_end(tmp_path: Path) -> None:
    touch(tmp_path / "far" / "a.png", tmp_path / "set" / "b.png")
    for name in ("city", "again"):
        (tmp_path / "set" / name).symlink_to(tmp_path / "far")
    (tmp_path / "far" / "loop").symlink_to(tmp_path / "set")
    assert [path.relative_to(tmp_path).as_posix() for path in pictures_below(tmp_path / "set")] == [
        "set/again/a.png",
        "set/b.png",
    ]


@pytest.mark.parametrize("name", ["gone", "gone.png"])
def test_a_link_that_leads_nowhere_is_no_empty_folder(tmp_path: Path, name: str) -> None:
    touch(tmp_path / "a.png")
    (tmp_path / name).symlink_to(tmp_path / "absent")
    with pytest.raises(DataError, match=rf"{name} is a link that leads nowhere .* Restore or remove it\."):
        list(pictures_below(tmp_path))
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to(tmp_path / name)
    with pytest.raises(DataError, match="leads nowhere"):
        entries(tmp_path)


def test_a_pipe_is_no_picture(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a\.png is no file"):
        pictures_of(listed(tmp_path))


def test_a_picture_of_a_kind_that_is_not_read_is_not_passed_over(tmp_path: Path) -> None:
    touch(tmp_path / "a.png", tmp_path / "b.HEIC")
    with pytest.raises(DataError, match=r"b\.HEIC is a picture of a kind that is not read .* Convert such files"):
        pictures_of(listed(tmp_path))

"""Damage to folder trees: odd names, clutter, links, loops, pipes, and what is gone or of another kind."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from random import Random

from fuzz.damage import FOREIGN, Change

_CLUTTER = ("Thumbs.db", ".DS_Store", "._a.png", "desktop.ini", "__MACOSX", "@eaDir", ".hidden", "lost+found")
_ODD = (
    "\udcf6\udcff.png", "a\nb.png", "\x1b[31mred.png", "x" * 240 + ".png", " .png", "-.png", "a\tb.json", ".png",
    "\u202e.png", "n01440764", "0", "999", "1000", "\udcff", "x.onnx", "y.onnx.json", "z.engine", "val.txt", "a.PNG",
    "b.heic", "c.parquet", "val-00000-of-99999.parquet", "\u0663", "\u00b2",
)  # fmt: skip
_PIPES = 0.01
"""Rarely: a reader that waits for a pipe costs the whole time limit."""


def damaged_tree(rng: Random, root: Path) -> Change:
    """Something below a folder is new, gone, moved, or became another kind of thing."""
    entries = sorted(Path(where, name) for where, below, files in os.walk(root) for name in (*below, *files))
    folders = [root, *(entry for entry in entries if entry.is_dir() and not entry.is_symlink())]
    where, name = rng.choice(folders), rng.choice((rng.choice(_CLUTTER), rng.choice(_ODD), rng.choice(_ODD)))
    victim = rng.choice(entries)
    if rng.random() < _PIPES:
        _remove(victim)
        os.mkfifo(victim)
        return Change(f"{_told(victim, root)} became a pipe", "other")
    if rng.random() < 0.25:
        became = _replaced(rng, victim)
        # A link that leads nowhere is a loss: it may not go unnoticed.
        return Change(f"{_told(victim, root)} became {became}", "same" if became.startswith("a link") else "other")
    new = where / name
    if os.path.lexists(new) or new.is_relative_to(victim):
        return Change("nothing", "same")
    return Change(f"{_told(new, root)} is {_added(rng, new, victim)} ({_told(victim, root)})", "other")


def _added(rng: Random, new: Path, victim: Path) -> str:
    draw = rng.randrange(6)
    if draw == 0:
        new.write_bytes(rng.choice(FOREIGN))
        return "a new file"
    if draw == 1 and victim.is_file():
        shutil.copyfile(victim, new)
        return "a copy"
    if draw == 2:
        victim.rename(new)
        return "a new name"
    if draw == 3:
        new.symlink_to(rng.choice(("..", ".", new.parent)))
        return "a link to a folder above"
    if draw == 4:
        new.symlink_to(rng.choice(("nowhere", new.name, victim)))
        return "a link to nothing, to itself or to a thing"
    new.mkdir()
    return "a new folder"


def _replaced(rng: Random, victim: Path) -> str:
    _remove(victim)
    became = rng.choice(("an empty folder", "a link to nothing", "a link to itself", "an empty file", "nothing"))
    if became == "an empty folder":
        victim.mkdir()
    elif became == "an empty file":
        victim.touch()
    elif became.startswith("a link"):
        victim.symlink_to("nowhere" if became.endswith("nothing") else victim.name)
    return became


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _told(path: Path, root: Path) -> str:
    return ascii(str(path.relative_to(root)))

"""What the harness knows of a reader: how to make its files, how to read them, and what may come out."""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from fuzz.damage import Allowed, Change, damaged_bytes, damaged_json, is_sealed
from fuzz.trees import damaged_tree


def finite(value: Any) -> bool:  # noqa: ANN401 - whatever readers give
    """Whether no number in a result is infinite or NaN."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, np.ndarray):
        return bool(np.isfinite(value).all())
    if dataclasses.is_dataclass(value):
        return all(finite(getattr(value, field.name)) for field in dataclasses.fields(value))
    if isinstance(value, Mapping):
        return all(map(finite, value.values()))
    return all(map(finite, value)) if isinstance(value, list | tuple) else True


def among(found: dict[str, Any], whole: dict[str, Any]) -> bool:
    """Whether every part of a result is the whole files' too."""
    return all(name in whole and whole[name] == value for name, value in found.items())


@dataclass(frozen=True)
class Reader:
    """Files and what reads them."""

    name: str
    make: Callable[[Path], None]
    """Fills an empty folder with whole files."""
    read: Callable[[Path], Any]
    """Gives what is in them; raises ``FFNetDeployError`` if something is wrong."""
    targets: tuple[str, ...] = ()
    """Patterns of the files to damage."""
    allowed: Allowed = "same"
    """After damage to bytes of files that are not JSON."""
    trees: float = 0.0
    """Share of the inputs that damage the tree instead of a file."""
    alone: bool = False
    """Take all other files away first."""
    agrees: Callable[[Any, Any], bool] = operator.eq
    """Whether a result is as good as the whole files'."""
    fits: Callable[[Any], bool] = finite
    """Whether a result that may be another one makes sense."""
    writes: tuple[str, ...] = ()
    """Patterns of the files that reading may change."""
    share: float = 1.0
    """Of the inputs, next to the other readers."""
    change: Callable[[Random, Path], Change] | None = None
    """Damage of its own kind."""

    def damage(self, rng: Random, folder: Path) -> Change:
        """Damage something below the folder."""
        if self.change is not None:
            return self.change(rng, folder)
        if rng.random() < self.trees:
            return damaged_tree(rng, folder)
        files = sorted({path for pattern in self.targets for path in folder.glob(pattern) if path.is_file()})
        path = rng.choice(files)
        if self.alone:
            for other in files:
                if other != path:
                    other.unlink()
        change = self._damaged(rng, path)
        return change._replace(what=f"{path.relative_to(folder)}: {change.what}")

    def _damaged(self, rng: Random, path: Path) -> Change:
        data = path.read_bytes()
        is_json = path.suffix == ".json"
        if is_json and rng.random() < 0.7:
            data, change = damaged_json(rng, data)
        else:
            allowed = self.allowed
            if is_json and allowed == "same":
                allowed = "same" if is_sealed(data) else "unsealed"
            data, what = damaged_bytes(rng, data)
            change = Change(what, allowed)
        path.write_bytes(data)
        return change

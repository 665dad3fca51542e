"""Every place in a JSON value, and what may go wrong there."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

Path = tuple[str | int, ...]
GONE = "gone"


class Damage(NamedTuple):
    """One changed place, and whether a reader took it: the error's text, or None."""

    place: str
    value: str
    error: str | None


def places(value: Any, maps: Sequence[str] = (), path: Path = ()) -> Iterator[Path]:
    """Every field; of lists the first and the last item, and of ``maps``, whose keys are data, the first."""
    if path:
        yield path
    if isinstance(value, dict):
        for key in list(value)[: 1 if set(path[-2:]) & set(maps) else None]:
            yield from places(value[key], maps, (*path, key))
    elif isinstance(value, list) and value:
        for at in sorted({0, len(value) - 1}):
            yield from places(value[at], maps, (*path, at))


def wrong_values(true: Any) -> list[Any]:
    """Values that stand for what may go wrong with one."""
    found: list[Any] = [{"a": {}}, [[]], "yes" if isinstance(true, bool) else True]
    if isinstance(true, int | float) and not isinstance(true, bool):
        found += [float("nan"), float("inf"), -1, "1", None]
    if isinstance(true, int) and not isinstance(true, bool):
        found.append(1.5)
    if isinstance(true, str):
        found += [5, float("nan")]
    return found


def damaged(text: str, error_of: Callable[[str], str | None], maps: Sequence[str] = ()) -> Iterator[Damage]:
    """Change one place at a time.

    Args:
        text: JSON.
        maps: names of the objects whose keys are data.
        error_of: what a reader says of a text; None if it takes it.
    """
    whole = json.loads(text)
    for path in places(whole, maps):
        true = whole
        for step in path:
            true = true[step]
        for value in (*wrong_values(true), *([GONE] if isinstance(path[-1], str) else [])):
            values = json.loads(text)
            owner = values
            for step in path[:-1]:
                owner = owner[step]
            if value is GONE:
                del owner[path[-1]]
            else:
                owner[path[-1]] = value
            yield Damage(".".join(map(str, path)), str(value), error_of(json.dumps(values)))

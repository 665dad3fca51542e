"""Pages that describe JSON field by field, next to what was really written."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

KINDS: dict[str, type | tuple[type, ...]] = {
    "string": str, "integer": int, "number": (int, float), "boolean": bool, "array": list, "object": dict,
}  # fmt: skip
"""The words by which pages name types."""


def walk(value: Any, maps: Collection[str], path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value with its path as pages write it: ``x[]`` for what a list holds, ``*`` for keys that are data.

    Args:
        value: plain JSON values.
        maps: paths of the objects whose keys are data.
        path: of ``value`` itself.
    """
    yield path, value
    if isinstance(value, dict):
        for key, inner in value.items():
            name = "*" if path in maps else key
            yield from walk(inner, maps, f"{path}.{name}" if path else name)
    elif isinstance(value, list):
        for item in value:
            yield from walk(item, maps, f"{path}[]")


def fields_of(value: Any, maps: Collection[str]) -> set[str]:
    """Every field as pages have it: a list of objects as ``x[]`` alone, any other list as ``x``."""
    found = set()
    for path, item in walk(value, maps):
        if isinstance(item, list) and any(isinstance(inner, dict) for inner in item):
            found.add(f"{path}[]")
        elif path and not path.endswith("[]"):
            found.add(path)
    return found


def check_types(value: Any, maps: Collection[str], types: Mapping[str, str]) -> None:
    """Assert that every value has the type that its page names.

    Args:
        value: plain JSON values.
        maps: as in :func:`walk`.
        types: the page's words by path: ``string``, ``number or null``, ``array of objects``.
    """
    for path, item in walk(value, maps):
        said = types.get(path, "").strip()
        if said and not path.endswith("[]"):
            word = said.split()[0]
            fits = isinstance(item, KINDS[word]) and isinstance(item, bool) == (word == "boolean")
            assert fits or (item is None and "null" in said), (path, said, item)

"""JSON that we write and read again: with a checksum of its own, so that what was changed since is not believed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from ffnet_deploy.artifacts.reading import json_object, parse
from ffnet_deploy.artifacts.writing import hash_json, json_text
from ffnet_deploy.foreign import load_json

_T = TypeVar("_T")
_CHECKSUM = "checksum"


def sealed(values: Mapping[str, object]) -> dict[str, Any]:
    """Plain JSON values, and as the last one their ``checksum``: SHA-256, hex, whatever the order of keys.

    Args:
        values: of one JSON object. A checksum in it is made anew.
    """
    # As a reader has them: a key that is a number becomes text.
    plain: dict[str, Any] = load_json(json_text(values))
    plain.pop(_CHECKSUM, None)
    return {**plain, _CHECKSUM: hash_json(plain)}


def unsealed(text: bytes | str) -> dict[str, Any]:
    """The values of a sealed JSON object, without the checksum.

    Raises:
        ValueError: no JSON object, a key twice, no checksum, or one that does not fit.
    """
    values = json_object(text, unique_keys=True)
    try:
        fits = values.pop(_CHECKSUM, None) == hash_json(values)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not fits:
        raise ValueError("it was changed since it was written: its checksum does not fit")
    return values


def parse_sealed(kind: type[_T], text: bytes | str) -> _T:
    """A value of a dataclass from a sealed JSON object.

    Raises:
        ValueError: as :func:`ffnet_deploy.artifacts.reading.parse` and :func:`unsealed`.
    """
    # The type first: its message names the place.
    value = parse(kind, text)
    unsealed(text)
    return value

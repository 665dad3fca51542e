"""JSON files into typed values: checked against the type, with one line that says what is wrong."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar, cast

from ffnet_deploy.errors import ErrorFacts
from ffnet_deploy.foreign import load_json

if TYPE_CHECKING:
    from pydantic import TypeAdapter, ValidationError

_T = TypeVar("_T")


def parse(kind: type[_T], text: bytes | str) -> _T:
    """A value of a dataclass from JSON; keys that the class does not have are passed over.

    Raises:
        ValueError: no JSON, or not of that type; the message is one line and names the place.
    """
    from pydantic import ValidationError

    try:
        return cast("_T", _adapter(cast("Hashable", kind)).validate_json(text, strict=True))
    except ValidationError as error:
        raise ValueError(_first(error)) from error


def schema_of(text: bytes | str) -> tuple[object, object]:
    """``schema`` and ``command`` of a JSON object, whatever else it holds; None where there is none.

    Raises:
        ValueError: it is no JSON object.
    """
    values = json_object(text)
    return values.get("schema"), values.get("command")


def json_object(text: bytes | str, *, unique_keys: bool = False) -> dict[str, Any]:
    """The values of a JSON object.

    Args:
        text: JSON.
        unique_keys: as for :func:`ffnet_deploy.foreign.load_json`.

    Raises:
        ValueError: as there, or it is JSON of another kind.
    """
    values = load_json(text, unique_keys=unique_keys)
    if not isinstance(values, dict):
        raise ValueError(f"it holds a {type(values).__name__} and no object")  # noqa: TRY004 - as for all other damage
    return values


@cache
def _adapter(kind: Hashable) -> TypeAdapter[Any]:
    # Imported late: it takes a tenth of a second, and --help needs none of it.
    from pydantic import TypeAdapter

    return TypeAdapter(cast("Any", kind))


def _first(error: ValidationError) -> str:
    found = error.errors(include_url=False, include_context=False)
    first = found[0]
    where = ".".join(str(part) for part in first["loc"]) or "the file"
    more = f", and {len(found) - 1} more" if len(found) > 1 else ""
    return f"{where}: {first['msg'].lower()}{more}"


@dataclass(frozen=True, slots=True)
class _WithoutResult:
    error: ErrorFacts
    rungs: None = None


def error_without_result(text: bytes) -> str | None:
    """The error message in the JSON of a command that ended without a result; None for any other text."""
    try:
        return parse(_WithoutResult, text).error.message
    except ValueError:
        return None

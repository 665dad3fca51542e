"""What comes from elsewhere: text of files, servers and other tools, and JSON that is not trusted."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from typing import Any, NoReturn

_SHOWN_AS_THEY_ARE = ("Zs",)
"""Kinds of characters that are printed though Python calls them not printable: spaces of other widths."""


def shown(text: object) -> str:
    r"""Text for one line of a terminal: whatever could move the cursor, break the line or hide something is escaped.

    A byte of a file name that is no UTF-8 becomes ``\xf6``, the escape character ``\x1b``, a line break ``\n``.
    What was escaped once stays as it is.
    """
    whole = str(text)
    return whole if whole.isprintable() else "".join(map(_escaped, whole))


def _escaped(character: str) -> str:
    if character.isprintable() or unicodedata.category(character) in _SHOWN_AS_THEY_ARE:
        return character
    code = ord(character)
    # Python's stand-in for a byte of a file name that is no UTF-8.
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else character.encode("unicode_escape").decode()


def whole_number(text: str) -> int | None:
    """A number of up to nine digits; None for any other text."""
    return int(text) if re.fullmatch(r"[0-9]{1,9}", text) else None


def load_json(text: bytes | str, *, unique_keys: bool = False) -> Any:  # noqa: ANN401 - what JSON holds
    """Any JSON value.

    Args:
        text: JSON.
        unique_keys: refuse an object that has a key twice; else the later one counts.

    Raises:
        ValueError: no JSON, nested too deeply, or with NaN or infinite numbers; the message is one line.
    """
    try:
        return json.loads(
            text, parse_constant=_refuse, parse_float=_finite, object_pairs_hook=_unique if unique_keys else None
        )
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"it has the number {constant}")


def reason(error: BaseException) -> str:
    """What an exception of another library says, in one line: the first that is not empty, else what it is called."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _refuse(text[:20])


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("it has a key twice")
    return values

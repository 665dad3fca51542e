"""A checksum that no change survives, whatever the order of keys and the way that numbers and text are written."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest

from ffnet_deploy.artifacts.sealing import parse_sealed, sealed, unsealed

VALUES: dict[str, Any] = {
    "b": [1, 0.1, -0.0, 1e-300, True, None],
    "a": {"z": "\u00f6 \U0001f600", "y": (1, 2)},
    "c": {5: 1, 10: 2},
}
PLAIN = {"a": {"y": [1, 2], "z": "ö 😀"}, "b": [1, 0.1, 0.0, 1e-300, True, None], "c": {"5": 1, "10": 2}}


def test_what_is_sealed_is_the_same_in_any_order() -> None:
    values = sealed(VALUES)
    assert list(values) == ["b", "a", "c", "checksum"]
    assert len(values["checksum"]) == 64
    for text in (
        json.dumps(values),
        json.dumps(values, indent=3, ensure_ascii=False),
        json.dumps(dict(reversed(values.items()))),
        json.dumps(values, sort_keys=True).encode("utf-16"),
    ):
        assert unsealed(text) == PLAIN
    assert sealed(values) == values


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("0.1", "0.2"),
        ("1e-300", "2e-300"),
        ("-0.0", "0.0"),
        ("true", "1"),
        ("null", "0"),
        ('"10"', '"11"'),
        ("[1,", "["),
    ],
)
def test_a_change_is_seen(old: str, new: str) -> None:
    text = json.dumps(sealed(VALUES))
    assert old in text
    with pytest.raises(ValueError, match="its checksum does not fit"):
        unsealed(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "Expecting value"),
        ("[]", "it holds a list and no object"),
        ("{}", "its checksum does not fit"),
        ('{"checksum": null}', "its checksum does not fit"),
        ('{"a": 1, "a": 1}', "a key twice"),
        ('{"a": NaN}', "it has the number NaN"),
        ('{"a": ' + "[" * 100_000, "it is nested too deeply"),
        ('{"a": ' + "9" * 5000 + "}", "4300 digits"),
        (b"\xff\xfe\x00", ""),
    ],
    ids=["empty", "list", "none", "null", "key twice", "NaN", "deep", "digits", "no text"],
)
def test_what_is_not_sealed_is_one_line(text: str | bytes, says: str) -> None:
    with pytest.raises(ValueError, match=says or ".") as caught:
        unsealed(text)
    assert "\n" not in str(caught.value)


@dataclass(frozen=True)
class One:
    a: int


def test_a_value_comes_back() -> None:
    assert parse_sealed(One, json.dumps(sealed({"a": 5, "later": 6}))) == One(5)
    with pytest.raises(ValueError, match=r"^a: field required"):
        parse_sealed(One, json.dumps(sealed({"b": 5})))
    with pytest.raises(ValueError, match="its checksum does not fit"):
        parse_sealed(One, '{"a": 5}')

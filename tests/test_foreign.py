"""Text that came from elsewhere cannot move the cursor, break a line or hide; JSON that is hostile is refused."""

from __future__ import annotations

import pytest

from ffnet_deploy.errors import DataError
from ffnet_deploy.foreign import load_json, shown


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("plain, 80 % – ünïcödé 日本", "plain, 80 % – ünïcödé 日本"),
        ("\x1b[31mred\x07", r"\x1b[31mred\x07"),
        ("Run: a\nRun: b\r\x85\u2028", r"Run: a\nRun: b\r\x85\u2028"),
        ("k\udcf6ln", r"k\xf6ln"),
        ("\u202egnp.exe\u200b", r"\u202egnp.exe\u200b"),
        ("a\u00a0b", "a\u00a0b"),
        ("a\tb\0", r"a\tb\x00"),
    ],
)
def test_what_a_terminal_would_act_on_is_escaped_once(text: str, line: str) -> None:
    assert shown(text) == shown(shown(text)) == line


def test_every_error_is_one_line_of_bounded_length() -> None:
    assert str(DataError("a\n\x1b[2Jb is no file. Name another.")) == r"a\n\x1b[2Jb is no file. Name another."
    long = str(DataError(f"{'found ' * 200}. Run: ffnet-deploy export NAME"))
    assert len(long) <= 500
    assert long.startswith("found found")
    command = f"Run: ffnet-deploy export NAME --weights {'w' * 300}"
    assert str(DataError(f"{'found ' * 200}. {command}")).endswith(f" {command}")
    name = "n" * 600
    assert (
        str(DataError(f"{name} is no file (why). Name another."))
        == f"{name[:58]}...{name[:58]} is no file (why). Name another."
    )
    assert long.endswith("Run: ffnet-deploy export NAME")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[" * 200_000, "nested too deeply"),
        ('{"a":' * 200_000, "nested too deeply"),
        ("[NaN]", "the number NaN"),
        ("[-Infinity]", "the number -Infinity"),
        ("[1e999]", "the number 1e999"),
        ("1" * 5000, "4300 digits"),
        (b"{\xff\xff}", "decode"),
        ("", "Expecting value"),
    ],
)
def test_hostile_json_is_a_value_error_of_one_line(text: str | bytes, says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        load_json(text)
    assert "\n" not in str(caught.value)


def test_json_comes_back_as_it_was() -> None:
    assert load_json('{"a": [1, 2.5, null, "\\u00f6"]}') == {"a": [1, 2.5, None, "ö"]}

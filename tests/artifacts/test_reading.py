"""JSON into typed values, or one line that says what is wrong and where."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from ffnet_deploy.artifacts.reading import parse, schema_of
from ffnet_deploy.artifacts.values import BatchProfile, Count, Finite, Interval, NotNegative, Percent, Positive, Share


@dataclass(frozen=True)
class Inner:
    size: Count
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outer:
    inner: Inner
    text: str
    optional: float | None = None


def test_values_come_with_their_types() -> None:
    found = parse(Outer, '{"inner": {"size": 3, "names": ["a"]}, "text": "b", "more": {"is": "passed over"}}')
    assert found == Outer(Inner(3, ("a",)), "b")
    assert parse(Outer, b'{"inner": {"size": 0}, "text": "", "optional": 2}') == Outer(Inner(0), "", 2.0)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"inner": {"size": "3"}, "text": "b"}', "inner.size: input should be a valid integer"),
        ('{"inner": {"size": 3.0}, "text": "b"}', "inner.size: input should be a valid integer"),
        ('{"inner": {"size": true}, "text": "b"}', "inner.size: input should be a valid integer"),
        ('{"inner": {"size": -1}, "text": "b"}', "inner.size: input should be greater than or equal to 0"),
        ('{"inner": {"size": 1, "names": ["a", 5]}, "text": "b"}', "inner.names.1: input should be a valid string"),
        ('{"inner": 5, "text": "b"}', "inner: input should be an object"),
        ('{"text": 5}', "inner: field required, and 1 more"),
        ("[]", "the file: input should be an object"),
        ("{", "the file: invalid json: eof while parsing an object at line 1 column 1"),
    ],
)
def test_one_line_says_what_is_wrong_and_where(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        parse(Outer, text)
    assert str(caught.value) == says


def test_depth_is_bounded() -> None:
    for text in ("[" * 100_000, '{"a":' * 100_000, '{"inner": ' + "[" * 100_000):
        with pytest.raises(ValueError, match=r"^(the file|inner): ") as caught:
            parse(Outer, text)
        assert "\n" not in str(caught.value)
        with pytest.raises(ValueError, match=r"^it is nested too deeply$"):
            schema_of(text)


RANGES = (
    (Finite, ("-1e300", "0"), ()),
    (Positive, ("1e-300",), ("0", "-1")),
    (NotNegative, ("0", "1e300"), ("-1e-9",)),
    (Share, ("0", "1"), ("-0.001", "1.001")),
    (Percent, ("0", "100"), ("-0.001", "100.1")),
)


@pytest.mark.parametrize(
    ("kind", "good", "bad"), RANGES, ids=["finite", "positive", "not negative", "share", "percent"]
)
def test_figures_have_ranges_and_are_never_nan_or_infinite(
    kind: type[float], good: tuple[str, ...], bad: tuple[str, ...]
) -> None:
    assert [parse(kind, text) for text in good] == [float(text) for text in good]
    for text in (*bad, "NaN", "Infinity", "-Infinity", "1e999", '"1"', "null", "true"):
        with pytest.raises(ValueError, match=r"^the file: "):
            parse(kind, text)


def test_small_values_are_read_too() -> None:
    assert parse(Interval, '{"low": -1.5, "high": 2}') == Interval(-1.5, 2.0)
    found = parse(BatchProfile, "[1, 4, 8]")
    assert (found, str(found)) == (BatchProfile(1, 4, 8), "1,4,8")


def test_the_schema_is_read_before_all_else() -> None:
    assert schema_of('{"schema": 2, "command": "build", "what": {}}') == (2, "build")
    assert schema_of(b"{}") == (None, None)
    for text, says in (("[]", "a list"), ("null", "a NoneType"), ("5", "a int"), ('"a"', "a str")):
        with pytest.raises(ValueError, match=f"^it holds {says} and no object$"):
            schema_of(text)
    with pytest.raises(ValueError, match="Expecting value"):
        schema_of("")

"""Damage to files: bytes and JSON values, drawn from a seeded generator."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from random import Random
from typing import Any, Literal, NamedTuple

from ffnet_deploy.artifacts.writing import hash_json

Allowed = Literal["same", "unsealed", "other"]
"""What a reader may give: the same as of the whole file; or another result too, where nothing in the file could tell
(``unsealed``: a file of ours, which ought to have a checksum), or where the change is a change (``other``)."""

_DEEP, _LONG, _AGAIN = "@deep@", "@long@", "@again@"
_RAW = {f'"{_DEEP}"': "[" * 100_000 + "]" * 100_000, f'"{_LONG}"': "9" * 5000}
_VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1.5, 1e308, float("nan"), 10**30, "", "\u001b[31m", "a\nb", _DEEP, _LONG, [], {}, [[]], {"a": 1},
)  # fmt: skip
_SEAL = "checksum"
_NUMBERS = (b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"\x80\0\0\0", b"\0\0\0\x80")


class Change(NamedTuple):
    """What was done to a file."""

    what: str
    allowed: Allowed


def _foreign() -> tuple[bytes, ...]:
    """Files of other kinds."""
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("a/b.txt", b"text")
    array = (
        b"\x93NUMPY\x01\x00v\x00{'descr': '<f8', 'fortran_order': False, 'shape': (1,), }".ljust(127) + b"\n" + bytes(8)
    )
    pickled = b"\x80\x02cos\nsystem\nq\x00X\x04\x00\x00\x00trueq\x01\x85q\x02Rq\x03."
    return (
        b"", b"\0", b"\n", b"{}", b"[]", b"null", b"\xef\xbb\xbf{}", b"\xff\xfe{\0}\0", b"GIF89a\1\0\1\0\0\0\0;", array,
        pickled, zipped.getvalue(), b"PK\x05\x06" + bytes(18), b"\x1f\x8b\x08\0", b"%PDF-1.4", bytes(1024), b"9" * 5000,
    )  # fmt: skip


FOREIGN = _foreign()


def damaged_bytes(rng: Random, data: bytes) -> tuple[bytes, str]:
    """Some bytes of a file changed, inserted or gone; and what was done."""
    if rng.random() < 0.03:
        return rng.choice(FOREIGN), "became a file of another kind"
    told = []
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        data, what = _once(rng, data)
        told.append(what)
    return data, ", ".join(told)


def _once(rng: Random, data: bytes) -> tuple[bytes, str]:
    at = rng.randrange(len(data)) if data else 0
    run = rng.choice((1, 1, 2, 4, 16, 200))
    cut, rest = data[:at], data[at:]
    match rng.randrange(8):
        case 0 | 1 if rest:
            return cut + bytes([rest[0] ^ 1 << rng.randrange(8)]) + rest[1:], f"a bit flipped at {at}"
        case 2 if rest:
            return cut + bytes([rng.randrange(256)]) + rest[1:], f"a byte set at {at}"
        case 3:
            return cut + rng.randbytes(run) + rest, f"{run} bytes inserted at {at}"
        case 4:
            return cut + rest[run:], f"{run} bytes deleted at {at}"
        case 5:
            return cut, f"cut off at {at}"
        case 6:
            return cut + rest[:run] + rest, f"{run} bytes doubled at {at}"
        case _:
            number = rng.choice(_NUMBERS)
            return cut + number + rest[len(number) :], f"{number.hex()} at {at}"


def damaged_json(rng: Random, text: bytes) -> tuple[bytes, Change]:
    """One value, or one key, of a JSON file changed; its checksum is right again if it has one."""
    values = json.loads(text)
    places = list(_places(values))
    owner, key, path = rng.choice(places)
    sealed = isinstance(values, dict) and _SEAL in values
    what = f"{path} "
    draw = rng.random()
    if draw < 0.15 and isinstance(owner, dict):
        del owner[key]
        what += "deleted"
    elif draw < 0.3 and isinstance(owner, dict):
        owner[f"{key}{_AGAIN}"] = rng.choice((owner[key], rng.choice(_VALUES)))
        what += "doubled"
    else:
        owner[key] = rng.choice(_VALUES)
        what += f"became {owner[key]!r}"
    own = sealed and path == f".{_SEAL}"
    made = json.dumps(values, indent=2).replace(_AGAIN, "")
    if sealed and not own:
        made = resealed(made)
    for token, raw in _RAW.items():
        made = made.replace(token, raw)
    return made.encode(), Change(what, "same" if own else "other")


def resealed(text: str) -> str:
    """A JSON object with a checksum that is right again, without one as it is."""
    values = json.loads(text)
    if not isinstance(values, dict) or _SEAL not in values:
        return text
    right = hash_json({name: value for name, value in values.items() if name != _SEAL})
    return text.replace(json.dumps(values[_SEAL]), json.dumps(right))


def is_sealed(text: bytes) -> bool:
    """Whether a JSON file has a checksum of its own."""
    values = json.loads(text)
    return isinstance(values, dict) and _SEAL in values


def _places(value: Any, path: str = "") -> Iterator[tuple[Any, Any, str]]:  # noqa: ANN401 - what JSON holds
    keys = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key, f"{path}.{key}"
        yield from _places(value[key], f"{path}.{key}")

"""Pickles that are not trusted: nothing in them runs, and none takes more time or memory than its length allows."""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict

import pytest
import torch
from torch._utils import _rebuild_tensor_v2

from ffnet_deploy.zoo.pickled import DescribedTensor, PickleFormError, described


def nested(depth: int) -> bytes:
    """A tuple of the same tuple twice, and so on: small, and for ever to hash or to print."""
    return b"\x80\x02}" + b")" + b"".join(b"q\x00h\x00\x86" for _ in range(depth)) + b"K\x01s."


PICKLES = {
    "a huge place in the memory": (b"\x80\x02}r\xff\xff\xff\xff.", None),
    "a huge number of bytes": (b"\x80\x02X\xff\xff\xff\x7fabc.", ValueError),
    "a key that takes for ever": (nested(200), PickleFormError),
    "deep": (b"\x80\x02" + b"(" * 100_000 + b"t" * 100_000 + b".", None),
    "itself": (b"\x80\x02]q\x00h\x00a.", None),
    "an empty stack": (b"\x80\x020.", PickleFormError),
    "no end": (b"\x80\x02}", ValueError),
    "an unset place": (b"\x80\x02h\x05.", PickleFormError),
    "marks of nothing": (b"\x80\x02t.", PickleFormError),
    "a call of nothing": (b"\x80\x02})R.", PickleFormError),
    "an ordered dictionary of arguments": (b"\x80\x02ccollections\nOrderedDict\nK\x01\x85R.", PickleFormError),
    "attributes of a list": (b"\x80\x02]}b.", PickleFormError),
    "items of a list": (b"\x80\x02]K\x01K\x01s.", PickleFormError),
    "things appended to a dictionary": (b"\x80\x02}K\x01a.", PickleFormError),
    "half a pair": (b"\x80\x02}(K\x01u.", PickleFormError),
    "values of nothing": (b"\x80\x02K\x01Q.", PickleFormError),
    "a byte array": (b"\x80\x02c__builtin__\nbytearray\nJ\xff\xff\xff\x7f\x85R.", ValueError),
    "an empty tensor": (b"\x80\x02ctorch\nTensor\nJ\xff\xff\xff\x7f\x85R.", ValueError),
    "a storage": (b"\x80\x02ctorch\nFloatStorage\nJ\xff\xff\xff\x7f\x85R.", PickleFormError),
    "a backslash in a name": (b"\x80\x02ctor\\qch\nx\n.", ValueError),
    "a long number": (b"\x80\x02L" + b"9" * 10_000 + b"L\n.", ValueError),
}


@pytest.mark.parametrize("case", PICKLES)
def test_no_pickle_takes_more_than_its_length(case: str) -> None:
    data, error = PICKLES[case]
    if error is None:
        described(io.BytesIO(data))
        return
    with pytest.raises(error):
        described(io.BytesIO(data))


def tensor_of(*args: object, storage: tuple[object, ...] = ("storage", torch.FloatStorage, "0", "cpu", 4)) -> object:
    class Pickler(pickle.Pickler):
        def persistent_id(self, item: object) -> object:
            return storage if item == "values" else None

    out = io.BytesIO()

    class Stands:
        def __reduce__(self) -> tuple[object, ...]:
            return _rebuild_tensor_v2, args

    Pickler(out, protocol=2).dump(Stands())
    return described(io.BytesIO(out.getvalue()))


def test_a_tensor_lies_in_its_values() -> None:
    assert tensor_of("values", 0, (2, 2), (2, 1), False, OrderedDict()) == DescribedTensor(
        "0", "float32", 4, 0, (2, 2), (2, 1)
    )


@pytest.mark.parametrize(
    "args",
    [
        ("values", 1, (4,), (1,), False, None),
        ("values", 0, (5,), (1,), False, None),
        ("values", 0, (2, 2), (3, 1), False, None),
        ("values", -1, (2,), (1,), False, None),
        ("values", 0, (-2,), (1,), False, None),
        ("values", 0, (2,), (-1,), False, None),
        ("values", 0, (2**63,), (0,), False, None),
        ("values", 2**70, (0,), (1,), False, None),
        ("values", 0, (2,), (1, 1), False, None),
        ("values", 0, (True,), (1,), False, None),
        ("values", 0, (2.0,), (1,), False, None),
        ("values", 0, (1,) * 9, (1,) * 9, False, None),
        ("values", 0, [2], (1,), False, None),
        ("other", 0, (2,), (1,), False, None),
        ("values",),
    ],
)
def test_a_tensor_beyond_its_values(args: tuple[object, ...]) -> None:
    with pytest.raises(PickleFormError):
        tensor_of(*args)

"""Weight files that are not trusted: what PyTorch writes is read as it reads it, all else is refused with one line."""

from __future__ import annotations

import errno
import io
import os
import pickle
import pickletools
import random
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.mirror import saved_bytes, state_of, zip_of
from support.refusals import refusal
from torch import Tensor

from ffnet_deploy import build_model, cli
from ffnet_deploy.errors import WeightsError
from ffnet_deploy.zoo import checkpoint
from ffnet_deploy.zoo.specs import find
from ffnet_deploy.zoo.weights import load, read_fitting

SMALL = "segmentation_ffnet46NS_CCC_mobile"
State = dict[str, Tensor]


def published(name: str) -> State:
    """A state dict that fits, whose file is small."""
    return state_of(find(name), padding=1)


def read(folder: Path, data: bytes) -> State:
    path = folder / "some.pth"
    path.write_bytes(data)
    return checkpoint.read_state(path)


# --- what PyTorch writes --------------------------------------------------------------------------------------------


def written() -> dict[str, dict[str, Any]]:
    layer = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    base = torch.arange(24, dtype=torch.float32)
    return {
        "a module's": layer.state_dict(),
        "parameters": layer.state_dict(keep_vars=True),
        "types": {str(d): torch.arange(5).to(d) for d in (torch.float32, torch.float16, torch.bfloat16, torch.float64)},
        "integers": {"a": torch.tensor([-(2**63), 2**63 - 1]), "b": torch.tensor(3)},
        "views": {"whole": base, "rows": base.view(4, 6)[1:3], "turned": base.view(4, 6).T, "steps": base[3:20:5]},
        "one value": {"wide": torch.tensor(1.5).expand(3, 4), "none": torch.empty(0, 3), "scalar": torch.tensor(2.0)},
        "channels last": {"a": torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last)},
        "many": {f"key.{n}": torch.full((2,), float(n)) for n in range(300)},
        "odd names": {"": torch.ones(1), "ä\u2028\x1b": torch.ones(2)},
    }


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("case", written())
def test_every_state_dict_is_read_as_pytorch_reads_it(case: str, legacy: bool, tmp_path: Path) -> None:
    data = saved_bytes(written()[case], legacy=legacy)
    wanted = torch.load(io.BytesIO(data), weights_only=True)
    found = read(tmp_path, data)
    assert list(found) == list(wanted)
    for key, value in wanted.items():
        assert (found[key].dtype, found[key].shape, found[key].stride()) == (value.dtype, value.shape, value.stride())
        assert torch.equal(found[key], value.detach()), key


# --- what is small and would be large -------------------------------------------------------------------------------


def test_wide_tensors_take_what_their_file_takes(tmp_path: Path) -> None:
    state = read(tmp_path, saved_bytes({"a": torch.tensor(1.0).expand(1 << 27), "b": torch.ones(7)}))
    assert state["a"].shape == (1 << 27,)
    assert [value.untyped_storage().nbytes() for value in state.values()] == [4, 28]


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("shape", [(1 << 40,), (1 << 31, 1 << 31, 1 << 31), ((1 << 63) - 1,)])
def test_tensors_of_more_than_a_gigabyte(shape: tuple[int, ...], legacy: bool, tmp_path: Path) -> None:
    state = {"a": torch.tensor(1.0)}
    data = saved_bytes(state, legacy=legacy)
    # torch.save would not write it; a file can say anything.
    old, new = pickled((), ()), pickled(shape, (0,) * len(shape))
    message = refusal(lambda: read(tmp_path, replaced(data, old, new)))
    assert "bytes (1073741824 at most were needed)" in message or "integer multiplication overflow" in message


def pickled(*tuples: tuple[int, ...]) -> bytes:
    """Tuples as torch.save writes them, one after another, without memory."""
    return b"".join(pickletools.optimize(pickle.dumps(item, protocol=2))[2:-1] for item in tuples)


def replaced(data: bytes, old: bytes, new: bytes) -> bytes:
    """A file of ``torch.save`` with a part of its pickle exchanged."""
    if not data.startswith(b"PK"):
        assert data.count(old) == 1
        return data.replace(old, new)
    with zipfile.ZipFile(io.BytesIO(data)) as zipped:
        members = {name: zipped.read(name) for name in zipped.namelist()}
    name = next(name for name in members if name.endswith("data.pkl"))
    assert members[name].count(old) == 1
    return zip_of(members | {name: members[name].replace(old, new)})


def test_shapes_are_compared_before_a_value_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "some.pth"
    path.write_bytes(saved_bytes(published("segmentation_ffnet40S_BCC_mobile")))

    def never(_: object) -> State:
        raise AssertionError("values were read")

    monkeypatch.setattr(checkpoint.Checkpoint, "state", never)
    with pytest.raises(checkpoint.UnusableError, match="does not fit"):
        read_fitting(find(SMALL), path)


def test_compressed_members_are_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> bytes:
        raise AssertionError("something was unpacked")

    for method in (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        data = zip_of({"a/data.pkl": b"", "a/data/0": bytes(5_000_000)}, method)
        with monkeypatch.context() as patch:
            patch.setattr(zipfile.ZipFile, "open", never)
            message = refusal(lambda data=data: read(tmp_path, data))  # type: ignore[misc]
        assert "has compressed members (a/data" in message


def test_a_file_of_many_gigabytes_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large.pth"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    assert "has 1099511627776 bytes (1073741824 at most were needed)" in refusal(lambda: checkpoint.read_state(path))


def test_values_of_another_length_or_type(tmp_path: Path) -> None:
    data = saved_bytes({"a": torch.ones(4), "b": torch.ones(4)})
    with zipfile.ZipFile(io.BytesIO(data)) as zipped:
        members = {name: zipped.read(name) for name in zipped.namelist()}
    folder = next(iter(members)).partition("/")[0]
    for value in (bytes(15), b""):
        changed = zip_of(members | {f"{folder}/data/1": value})
        assert "is damaged" in refusal(lambda changed=changed: read(tmp_path, changed))  # type: ignore[misc]
    del members[f"{folder}/data/1"]
    assert "is damaged" in refusal(lambda: read(tmp_path, zip_of(members)))


def test_numbers_that_float32_does_not_hold(tmp_path: Path) -> None:
    assert "not finite in a." in refusal(
        lambda: read(tmp_path, saved_bytes({"a": torch.tensor([1e300], dtype=torch.float64)}))
    )


# --- what is hostile or damaged -------------------------------------------------------------------------------------


class Hostile:
    """Makes a folder when it is unpickled by anything that trusts it."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (self.marker,)


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle", "pickle2"])
def test_a_pickle_that_wants_to_run_code_is_refused(form: str, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    state = {"backbone_model.conv0.weight": torch.ones(2), "hook": Hostile(marker)}
    data = {
        "zip": lambda: saved_bytes(state),
        "legacy": lambda: saved_bytes(state, legacy=True),
        "pickle": lambda: pickle.dumps(Hostile(marker)),
        "pickle2": lambda: pickle.dumps(Hostile(marker), protocol=2),
    }[form]()
    path = tmp_path / "hostile.pth"
    path.write_bytes(data)
    message = refusal(lambda: build_model(SMALL, path))
    assert not marker.exists()
    if form != "pickle":  # of that one PyTorch does not say so
        assert "it wants to run code" in message
    # The trap is a real one.
    if form.startswith("pickle"):
        pickle.loads(data)
        assert marker.is_dir()


GOOD = saved_bytes(published(SMALL))
BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is empty"),
    "text": (b"<html>404 Not Found</html>\n" * 20, "damaged"),
    "zeros": (bytes(5000), ""),
    "zip of nothing": (b"PK\x05\x06" + bytes(18), "damaged"),
    "cut by half": (GOOD[: len(GOOD) // 2], "cannot be read"),
    "cut by a byte": (GOOD[:-1], "cannot be read"),
    "legacy, cut": (saved_bytes({"a": torch.ones(99)}, legacy=True)[:-200], ""),
    "legacy, cut in a number": (saved_bytes({"a": torch.ones(99)}, legacy=True)[:-398], ""),
    "a list": (saved_bytes([torch.ones(2)]), "holds list (a state dict"),
    "a tensor": (saved_bytes(torch.ones(2)), "holds Tensor (a state dict"),
    "an empty dict": (saved_bytes({}), "a state dict, names to tensors, was needed"),
    "a checkpoint": (saved_bytes({"state_dict": {"a": torch.ones(2)}, "epoch": 3}), "holds state_dict, epoch"),
    "a whole module": (saved_bytes(torch.nn.Linear(2, 2)), "it wants to run code"),
    "keys that are no names": (saved_bytes({1: torch.ones(2)}), ""),
    "sparse": (saved_bytes({"a": torch.eye(3).to_sparse()}), ""),
    "no values": (saved_bytes({"a": torch.ones(3, device="meta")}), ""),
    "float8": (saved_bytes({"a": torch.ones(3).to(torch.float8_e4m3fn)}), ""),
    "not a number": (
        saved_bytes(published(SMALL) | {"head.layers.3.last_layer.3.bias": torch.full((19,), float("nan"))}),
        "not finite in head.layers.3.last_layer.3.bias.",
    ),
    "another model": (saved_bytes(published("segmentation_ffnet40S_BCC_mobile")), f"does not fit {SMALL}"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_ends_export_with_one_line_and_3(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data, words = BAD[case]
    path = tmp_path / "bad.pth"
    path.write_bytes(data)
    command = ["export", SMALL, "--weights", str(path), "--workspace", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["ffnet-deploy", *command])
    with pytest.raises(SystemExit) as end:
        cli.main()
    out, err = capsys.readouterr()
    assert (end.value.code, out) == (3, "")
    assert err.startswith(f"error: {path} ")
    assert err.count("\n") == 1
    assert words in err
    assert [file.name for file in tmp_path.rglob("*") if file.is_file()] == ["bad.pth"]


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "none.pth", tmp_path):
        message = refusal(lambda path=path: checkpoint.read_state(path))  # type: ignore[misc]
        # Not every command that reads one has an option for it.
        assert message.endswith(" (a .pth file was needed). Name another file.")


def damaged(data: bytes, rng: random.Random) -> bytes:
    if rng.random() < 0.3:
        return data[: rng.randrange(1, len(data))]
    changed = bytearray(data)
    for _ in range(rng.choice((1, 2, 5))):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_no_damage_ends_in_a_traceback(legacy: bool, tmp_path: Path) -> None:
    data = saved_bytes({"a.weight": torch.ones(3), "b": torch.ones(2, 2)}, legacy=legacy)
    path = tmp_path / "some.pth"
    messages = []
    for seed in range(400):
        path.write_bytes(damaged(data, random.Random(seed)))
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            try:
                checkpoint.read_state(path)
            except WeightsError as error:
                messages.append(str(error))
            except Exception as error:
                raise AssertionError(f"damage of seed {seed} escapes as {error!r}") from error
        assert not said, f"damage of seed {seed} warns: {said[0].message}"
    assert len(messages) > 200
    assert not any("\n" in message for message in messages)


def test_names_that_the_system_refuses(tmp_path: Path) -> None:
    for path in (tmp_path / ("x" * 300), tmp_path / "a" / ("y" * 5000), Path("/dev/zero"), tmp_path / "n\0l"):
        message = refusal(lambda path=path: load(find(SMALL), path))  # type: ignore[misc]
        assert message.endswith(". Name another file.")
        assert message.isprintable()


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "some.pth"
    path.write_bytes(GOOD)

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    # Tests may run as root, who may read everything.
    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert "cannot be read (Permission denied)" in refusal(lambda: checkpoint.read_state(path))

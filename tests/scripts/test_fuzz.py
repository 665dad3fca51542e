"""The fuzz harness catches what a bad reader does; and a few of its inputs, for every reader."""

from __future__ import annotations

import json
import mmap
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
from fuzz import judge
from fuzz.__main__ import READERS, main, shares
from fuzz.damage import damaged_bytes, damaged_json, is_sealed
from fuzz.judge import Verdict, judged, made, whole_of
from fuzz.reader import Reader
from fuzz.trees import damaged_tree
from fuzz.workers import verdicts

from ffnet_deploy.artifacts.writing import hash_json
from ffnet_deploy.errors import DataError

FEW = range(8, 11)
SLOW = ("network",)
"""Readers whose files take long to make."""
NUMBER = b"12345"


@pytest.mark.parametrize("name", [name for name in READERS if name not in SLOW])
def test_damage_gives_the_same_or_one_line(name: str, tmp_path: Path) -> None:
    reader, template, scratch = READERS[name], tmp_path / "whole", tmp_path / "scratch"
    made(reader, template)
    whole = whole_of(reader, template, scratch)
    found = [judged(reader, seed, template, scratch, whole) for seed in (FEW if reader.share >= 0.3 else FEW[:1])]
    assert not [verdict for verdict in found if verdict.fault]


# --- bad readers ----------------------------------------------------------------------------------------------------


def refuse() -> None:
    raise DataError("The number is damaged (a whole one was needed). Copy it again.")


def good(folder: Path) -> bytes:
    """A reader as it should be: it knows the number, and refuses every other one."""
    if (data := (folder / "number").read_bytes()) != NUMBER:
        refuse()
    return data


def bad(read: Callable[[Path], Any]) -> Reader:
    """A reader that is good on whole files and does something else on damaged ones."""

    def read_badly(folder: Path) -> Any:
        return NUMBER if (folder / "number").read_bytes() == NUMBER else read(folder)

    return Reader("bad", write, read_badly, ("number",))


def write(folder: Path) -> None:
    (folder / "number").write_bytes(NUMBER)


def first(reader: Reader, folder: Path, slow_s: float = 20.0) -> Verdict:
    return next(verdict for verdict in verdicts(reader, range(8), folder, slow_s) if verdict.kind != "same")


def look_up(_: Path) -> Any:
    return {"number": 1}["absent"]


def change_a_file(folder: Path) -> None:
    (folder / "number").write_bytes(b"0")
    refuse()


def leave_a_file(folder: Path) -> None:
    (folder / "left.part").touch()
    refuse()


def warn(_: Path) -> None:
    warnings.warn("a tag is too long", UserWarning, stacklevel=1)
    refuse()


def print_past_us(_: Path) -> None:
    os.write(2, b"libtiff: a word from C\n")
    refuse()


def pass_on(message: str) -> Callable[[Path], None]:
    def read(_: Path) -> None:
        error = DataError("")
        error.args = (message,)
        raise error

    return read


def crash(_: Path) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def take_all(_: Path) -> None:
    # Not from Python's heap, which may have that much to spare.
    with mmap.mmap(-1, 256 << 20) as taken:
        for page in range(0, len(taken), mmap.PAGESIZE):
            taken[page] = 1
        refuse()


@pytest.mark.parametrize(
    ("read", "kind", "detail"),
    [
        (look_up, "traceback", "KeyError"),
        (lambda folder: (folder / "number").read_bytes(), "another result", "b'"),
        (change_a_file, "changed a file", "number"),
        (leave_a_file, "changed a file", "left.part"),
        (warn, "printed", "UserWarning: a tag is too long"),
        (print_past_us, "printed", "libtiff: a word from C"),
        (pass_on("two\nlines"), "message", r"it has '\n'"),
        (pass_on("\x1b[31m"), "message", r"it has '\x1b'"),
        (pass_on("x" * 501), "message", "501 characters"),
        (pass_on(""), "message", "it is empty"),
        (crash, "died", "exit code -11"),
        (take_all, "memory", "MiB more"),
        (lambda _: time.sleep(60), "slow", "more than 0.3 s"),
    ],
)  # fmt: skip
def test_what_a_bad_reader_does_is_a_fault(
    read: Callable[[Path], Any], kind: str, detail: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judge, "MOST_BYTES", 64 << 20)
    found = first(bad(read), tmp_path, 0.3 if kind == "slow" else 20.0)
    assert (found.kind, found.fault) == (kind, True), found
    assert detail in found.detail
    assert found.what.startswith("number: ")


def test_a_good_reader_has_no_faults_and_a_seed_is_always_the_same_damage(tmp_path: Path) -> None:
    reader = Reader("good", write, good, ("number",))
    found = list(verdicts(reader, range(30), tmp_path / "a"))
    assert {verdict.kind for verdict in found} == {"same", "refused"} or {verdict.kind for verdict in found} == {
        "refused"
    }
    assert [verdict.seed for verdict in found] == list(range(30))
    assert list(verdicts(reader, range(20, 30), tmp_path / "b")) == found[20:]


def test_after_a_crash_the_next_input_is_judged(tmp_path: Path) -> None:
    found = list(verdicts(bad(crash), range(3), tmp_path))
    assert [verdict.seed for verdict in found] == [0, 1, 2]
    assert {verdict.kind for verdict in found} <= {"died", "same"}


def test_whole_files_that_are_refused_are_no_test(tmp_path: Path) -> None:
    reader = Reader("none", write, lambda _: refuse(), ("number",))
    with pytest.raises(RuntimeError, match="none: whole files are not read: DataError"):
        list(verdicts(reader, range(1), tmp_path))


def test_a_senseless_result_is_a_fault_where_another_one_is_allowed(tmp_path: Path) -> None:
    def read(folder: Path) -> float:
        return 1.0 if (folder / "number").read_bytes() == NUMBER else float("nan")

    found = first(Reader("nan", write, read, ("number",), "other"), tmp_path)
    assert found.kind == "senseless result"


# --- damage ---------------------------------------------------------------------------------------------------------


def test_bytes_are_damaged_in_every_way() -> None:
    rng, data = Random(0), bytes(range(200))
    found = [damaged_bytes(rng, data) for _ in range(300)]
    told = " ".join(what for _, what in found)
    for word in ("flipped", "set", "inserted", "deleted", "cut off", "doubled", "ffffffff", "another kind"):
        assert word in told
    assert len({len(made) for made, _ in found}) > 20


def test_json_is_damaged_in_every_way_and_its_checksum_is_right_again() -> None:
    rng, values = Random(0), {"a": {"b": 1.5, "c": [1, "two"]}, "d": None}
    text = json.dumps({**values, "checksum": hash_json(values)}).encode()
    assert is_sealed(text)
    assert not is_sealed(json.dumps(values).encode())
    seals = set()
    told = ""
    for _ in range(400):
        made, change = damaged_json(rng, text)
        told += f"{change.what}\n"
        try:
            found = json.loads(made)
        except (ValueError, RecursionError):
            continue
        seal = found.pop("checksum", None)
        if change.allowed == "other" and not change.what.startswith(".checksum"):
            seals.add(seal == hash_json(found))
    assert seals == {True}
    for word in (".a.b deleted", ".a.c.1 became", "doubled", "became nan", "@deep@", "@long@", ".checksum became"):
        assert word in told, word


def test_trees_are_damaged_in_every_way(tmp_path: Path) -> None:
    told = ""
    for seed in range(200):
        root = tmp_path / str(seed)
        (root / "a" / "b").mkdir(parents=True)
        (root / "a" / "c.png").write_bytes(b"c")
        told += damaged_tree(Random(seed), root).what
    for word in ("Thumbs.db", r"\udcf6", r"\x1b", "a link to nothing", "a link to itself", "a link to a folder above",
                 "an empty file", "a new name", "a copy", "became nothing"):  # fmt: skip
        assert word in told, word


# --- the program ----------------------------------------------------------------------------------------------------


def test_inputs_are_shared_out() -> None:
    found = shares(10_000)
    assert found.keys() == READERS.keys()
    assert min(found.values()) >= 10
    assert sum(found.values()) == pytest.approx(10_000, rel=0.01)


def test_a_fault_is_told_with_how_to_repeat_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setitem(READERS, "records", bad(look_up))
    monkeypatch.setattr(sys, "argv", ["fuzz", "--reader", "records", "--inputs", "12", "--jobs", "1"])
    with pytest.raises(SystemExit) as ended:
        main()
    out = capsys.readouterr().out
    assert ended.value.code == 1
    assert out.count("KeyError at" if "KeyError at" in out else "KeyError") == 1
    assert "again: make fuzz FUZZ='--reader records --seed " in out
    assert "faults of 1 kinds" in out

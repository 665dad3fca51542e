"""A journal outlives kills, damage and other processes: what is whole counts, the rest is computed again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.seals import resealed

from ffnet_deploy.artifacts.reading import parse
from ffnet_deploy.errors import ArtifactError
from ffnet_deploy.evaluate.journal import Journal

KEY = {"engine": "a", "protocol": {"size": [64, 128]}}


@dataclass(frozen=True)
class Result:
    name: str
    value: int = 0

    def facts(self) -> Result:
        return self


def opened(
    folder: Path,
    key: dict[str, Any] = KEY,
    *,
    resume: bool = True,
    current: Callable[[Result], bool] = lambda _result: True,
) -> Journal[Result]:
    return Journal(folder, key, lambda text: parse(Result, text), resume=resume, current=current)


def written(folder: Path, *results: Result, key: dict[str, Any] = KEY) -> Path:
    with opened(folder, key) as journal:
        for result in results:
            journal.add(result)
        return journal.path


def read(folder: Path, key: dict[str, Any] = KEY) -> dict[str, int]:
    with opened(folder, key) as journal:
        return {name: result.value for name, result in journal.done.items()}


ABC = (Result("a", 1), Result("b", 2), Result("c", 3))


def test_results_come_back(tmp_path: Path) -> None:
    path = written(tmp_path / "new" / "folder", *ABC)
    assert path.parent == tmp_path / "new" / "folder"
    assert read(path.parent) == {"a": 1, "b": 2, "c": 3}


def test_a_new_journal_is_empty(tmp_path: Path) -> None:
    assert read(tmp_path) == {}


def test_each_key_has_a_file_of_its_own(tmp_path: Path) -> None:
    written(tmp_path, Result("a", 1))
    other = {**KEY, "engine": "b"}
    assert read(tmp_path, other) == {}
    written(tmp_path, Result("a", 2), key=other)
    assert read(tmp_path) == {"a": 1}
    # The order of keys is no other key.
    assert read(tmp_path, dict(reversed(KEY.items()))) == {"a": 1}


def test_a_line_is_on_the_disk_when_it_is_added(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        journal.add(ABC[0])
        assert journal.path.read_bytes().count(b"\n") == 1


def test_every_cut_costs_the_last_line_alone(tmp_path: Path) -> None:
    path = written(tmp_path, *ABC)
    data = path.read_bytes()
    first, second, _ = data.splitlines(keepends=True)
    for length in range(len(data)):
        path.write_bytes(data[:length])
        whole = sum(length >= end for end in (len(first), len(first) + len(second), len(data)))
        assert read(tmp_path) == {result.name: result.value for result in ABC[:whole]}
        # What is added after a torn line stands on a line of its own.
        written(tmp_path, Result("d", 4))
        assert read(tmp_path) == {**{result.name: result.value for result in ABC[:whole]}, "d": 4}


def test_no_flipped_bit_gives_another_number(tmp_path: Path) -> None:
    path = written(tmp_path, *ABC)
    data = path.read_bytes()
    true = {result.name: result.value for result in ABC}
    for position in range(0, 8 * len(data), 3):
        flipped = bytearray(data)
        flipped[position // 8] ^= 1 << position % 8
        path.write_bytes(bytes(flipped))
        found = read(tmp_path)
        assert found.items() <= true.items(), position
        # A line break that is gone joins two lines, so that two are lost.
        assert len(found) >= 1, position


@pytest.mark.parametrize(
    "line", [b"\n", b"null\n", b"[]\n", b"{}\n", b'{"name": "x"}\n', b"\xff\xfe\n", b"zzzzzzzz {}\n", b"00000000 {}\n"]
)
def test_a_damaged_line_in_the_middle_costs_that_image_alone(tmp_path: Path, line: bytes) -> None:
    path = written(tmp_path, *ABC)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join((lines[0], line, lines[2])))
    assert read(tmp_path) == {"a": 1, "c": 3}


@pytest.mark.parametrize(
    "line",
    [
        b'{"name": "\\udcf6", "value": 1}',
        b'{"name": "x", "name": "y", "value": 1}',
        b'{"name": "x", "value": 1e3}',
        b'{"name": "x", "value": "1"}',
        b'{"name": "x", "value": ' + b"9" * 5000 + b"}",
        b'{"name": ' + b"[" * 100_000,
        b'{"name": "x", "value": 1, "checksum": "' + b"0" * 64 + b'"}',
    ],
    ids=["surrogate", "key twice", "float", "text", "digits", "nested", "other checksum"],
)
def test_a_strange_line_is_left_out_and_counted(tmp_path: Path, line: bytes) -> None:
    path = written(tmp_path, *ABC)
    with path.open("ab") as file:
        file.write(line + b"\n")
    with opened(tmp_path) as journal:
        assert journal.damaged == 1
        assert sorted(journal.done) == ["a", "b", "c"]
        journal.add(Result("d", 4))
    assert read(tmp_path) == {"a": 1, "b": 2, "c": 3, "d": 4}


@pytest.mark.parametrize("resume", [True, False])
def test_damage_is_counted_once(tmp_path: Path, resume: bool) -> None:
    path = written(tmp_path, *ABC)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join((lines[0], b"damaged\n", lines[2], b"torn")))
    with opened(tmp_path, resume=resume) as journal:
        assert journal.damaged == 1
        # It is still held against other processes.
        assert other_process(tmp_path).startswith("The same evaluation runs in another process.")
        journal.add(Result("d", 4))
    with opened(tmp_path) as journal:
        assert journal.damaged == 0
        assert sorted(journal.done) == ["a", "c", "d"]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("value", [1.5, "1", None, True])
def test_a_line_of_another_type_is_left_out_though_its_checksum_fits(tmp_path: Path, value: object) -> None:
    path = written(tmp_path, *ABC)
    with path.open("ab") as file:
        file.write(resealed({"name": "x", "value": value}).encode() + b"\n")
        file.write(resealed({"name": os.fsdecode(b"\xf6"), "value": 1}).encode() + b"\n")
    with opened(tmp_path) as journal:
        assert journal.damaged == 2


def test_a_name_that_is_no_text_does_not_make_a_line_unreadable(tmp_path: Path) -> None:
    written(tmp_path, Result(os.fsdecode(b"k\xf6ln/1"), 1))
    assert read(tmp_path) == {"k\\xf6ln/1": 1}


def test_a_link_in_place_of_a_journal_is_not_followed(tmp_path: Path) -> None:
    folder, other = tmp_path / "unfinished", tmp_path / "other"
    path = written(folder, *ABC)
    path.unlink()
    other.write_bytes(b"no journal")
    path.symlink_to(other)
    with pytest.raises(ArtifactError, match=r"cannot be written \(.*\)\. Free or unlock the folder\.$"):
        opened(folder)
    assert other.read_bytes() == b"no journal"


def test_of_two_lines_the_later_one_counts(tmp_path: Path) -> None:
    written(tmp_path, Result("a", 1), Result("b", 2))
    written(tmp_path, Result("a", 5))
    assert read(tmp_path) == {"a": 5, "b": 2}


def test_not_resuming_takes_nothing_over_and_keeps_what_is_there(tmp_path: Path) -> None:
    written(tmp_path, *ABC)
    with opened(tmp_path, resume=False) as journal:
        assert journal.done == {}
        assert sorted(journal.left) == ["a", "b", "c"]
        journal.add(Result("a", 7))
    # Killed early, that run has cost nothing of the earlier one.
    assert read(tmp_path) == {"a": 7, "b": 2, "c": 3}


def test_results_that_hold_no_more_are_not_counted_as_left_over(tmp_path: Path) -> None:
    written(tmp_path, *ABC)
    with opened(tmp_path, resume=False, current=lambda _: False) as journal:
        assert journal.left == journal.done == {}
    # They stay in the file: what they belong to may come back.
    assert read(tmp_path) == {"a": 1, "b": 2, "c": 3}


def test_results_that_hold_no_more_are_not_taken_over(tmp_path: Path) -> None:
    written(tmp_path, *ABC)
    with opened(tmp_path, current=lambda result: result.value != 2) as journal:
        assert sorted(journal.done) == ["a", "c"]
        assert sorted(journal.left) == ["a", "c"]


PROCESS = """
import json, sys
from pathlib import Path
from types import SimpleNamespace
from ffnet_deploy.errors import ArtifactError
from ffnet_deploy.evaluate.journal import Journal
try:
    parse = lambda text: SimpleNamespace(**json.loads(text))
    with Journal(Path(sys.argv[1]), json.loads(sys.argv[2]), parse, resume=True):
        print("opened")
except ArtifactError as error:
    print(error)
"""


def other_process(folder: Path, key: dict[str, Any] = KEY) -> str:
    done = subprocess.run(
        [sys.executable, "-c", PROCESS, str(folder), json.dumps(key)], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_two_processes_do_not_write_one_journal(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        journal.add(ABC[0])
        refused = other_process(tmp_path)
        assert refused == "The same evaluation runs in another process. Wait for it, then run this again."
        assert other_process(tmp_path, {"engine": "b"}) == "opened"
        journal.add(ABC[1])
    assert other_process(tmp_path) == "opened"
    assert read(tmp_path) == {"a": 1, "b": 2}


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ArtifactError, match=r"cannot be written .* Free or unlock the folder\.$") as caught:
        opened(tmp_path / "file" / "unfinished")
    assert "\n" not in str(caught.value)


def test_a_full_disk_says_how_to_go_on(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    journal._file.close()
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    journal._file = full.open("ab+")
    # Closing tries to write the line again, and what it says would be another error.
    with pytest.raises(ArtifactError, match=r"cannot be written \(No space left on device\).*--resume"), journal:
        journal.add(ABC[0])

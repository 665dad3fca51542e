"""Files appear whole or not at all, whoever is killed in the middle."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO, NoReturn

import pytest
from support.recorded import DATA, MODEL, engine_path, names, put

from ffnet_deploy.artifacts import writing
from ffnet_deploy.artifacts.records import EngineRecord, load_record
from ffnet_deploy.artifacts.workspace import Workspace
from ffnet_deploy.artifacts.writing import hash_json, replacing, sha256_of, write_bytes, write_json
from ffnet_deploy.errors import ArtifactError

REMEDY = "ffnet-deploy build"


def test_a_file_appears_whole_with_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file"
    with replacing(path) as part:
        assert part.parent == path.parent
        part.write_bytes(b"new")
        assert not path.exists()
    assert path.read_bytes() == b"new"
    assert names(path.parent) == ["file"]


def test_a_file_is_as_readable_as_any_other_of_its_owner(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_bytes(tmp_path / "file", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def test_an_exception_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_bytes(path, b"old")

    def interrupted() -> None:
        with replacing(path) as part:
            part.write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def start_writing(path: Path) -> subprocess.Popen[str]:
    """A process that stops in the middle of replacing ``path``, with half of the new bytes on the disk."""
    code = """if True:
        import sys, time
        from pathlib import Path
        from ffnet_deploy.artifacts.writing import replacing
        with replacing(Path(sys.argv[1])) as part, part.open("wb") as file:
            file.write(b"half of the new")
            file.flush()
            print("writing", flush=True)
            time.sleep(60)
    """
    return subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)


def read_line(pipe: IO[str] | None) -> str:
    assert pipe is not None
    return pipe.readline().strip()


@pytest.mark.parametrize("old", [True, False])
def test_kill_9_in_the_middle_leaves_no_half_file_that_anybody_accepts(tmp_path: Path, old: bool) -> None:
    workspace = Workspace(tmp_path)
    path = engine_path(workspace)
    graph = workspace.models / f"{MODEL}@64x128.onnx"
    record = put(path) if old else None
    with start_writing(path) as child:
        assert read_line(child.stdout) == "writing"
        child.kill()
    assert any(name.endswith(".ffnet-part") for name in names(path.parent))  # it really was in the middle
    assert workspace.engines_of(graph) == ([(path, record)] if old else [])
    if record:
        assert path.read_bytes() == DATA
        assert load_record(path, EngineRecord, remedy=REMEDY) == record
    else:
        assert not path.exists()
    # And it does not stand in the way of the next try.
    write_bytes(path, b"short")
    assert path.read_bytes() == b"short"
    put(path)
    assert names(path.parent) == [path.name, f"{path.name}.json"]


def test_kill_9_between_file_and_record_leaves_nothing_that_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "file"
    put(path)
    write_bytes(path, b"new bytes, and the end came before their record")
    with pytest.raises(ArtifactError, match=r"damaged or half-written\. Run: ffnet-deploy build$"):
        load_record(path, EngineRecord, remedy=REMEDY)


def test_a_file_that_another_process_is_writing_is_left_to_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with start_writing(path) as child:
        assert read_line(child.stdout) == "writing"
        with pytest.raises(ArtifactError, match=r"is being written by another process\. Wait for it"):
            write_bytes(path, b"mine")
        child.kill()
    write_bytes(path, b"mine")
    assert path.read_bytes() == b"mine"


def test_a_writer_that_is_done_leaves_the_next_writers_file_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    parts: list[Path] = []

    def sync_while_another_starts(_: Path) -> None:
        parts[0].write_bytes(b"the next writer's")

    monkeypatch.setattr(writing, "_sync_folder", sync_while_another_starts)
    with replacing(path) as part:
        parts.append(part)
        part.write_bytes(b"new")
    assert path.read_bytes() == b"new"
    assert parts[0].read_bytes() == b"the next writer's"


def test_what_a_killed_process_left_is_not_taken_for_the_new_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with start_writing(path) as child:
        assert read_line(child.stdout) == "writing"
        child.kill()
    with replacing(path) as part:
        assert part.read_bytes() == b""


def start_and_kill(path: Path) -> Path:
    """What a process left that was killed while it wrote ``path``."""
    with start_writing(path) as child:
        assert read_line(child.stdout) == "writing"
        child.kill()
    (left,) = path.parent.glob(".*.ffnet-part")
    return left


def test_what_killed_processes_left_goes_with_the_next_file_in_that_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_and_kill(tmp_path / "a")
    foreign = tmp_path / ".download.part"
    foreign.write_bytes(b"another program's")
    with start_writing(tmp_path / "b") as child:
        assert read_line(child.stdout) == "writing"
        assert names(tmp_path) == [".b.ffnet-part", ".download.part"]
        write_bytes(tmp_path / "c", b"new")
        # A living process' file stays.
        assert names(tmp_path) == [".b.ffnet-part", ".download.part", "c"]
        child.kill()
    monkeypatch.setattr(writing, "_SWEPT", set())  # as in the next process
    write_bytes(tmp_path / "c", b"newer")
    assert names(tmp_path) == [".download.part", "c"]
    assert foreign.read_bytes() == b"another program's"


def test_a_folder_is_listed_once_however_many_files_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed: list[str] = []

    def listing(_: Path, pattern: str) -> list[Path]:
        listed.append(pattern)
        return []

    monkeypatch.setattr(Path, "glob", listing)
    for i in range(5):
        write_bytes(tmp_path / str(i), b"")
    assert listed == [".*.ffnet-part"]


def test_the_whole_folder_is_swept_again_where_the_own_name_is_taken(tmp_path: Path) -> None:
    write_bytes(tmp_path / "c", b"")
    for name in (".a.ffnet-part", ".b.ffnet-part"):
        (tmp_path / name).write_bytes(b"left")
    write_bytes(tmp_path / "a", b"new")
    assert names(tmp_path) == ["a", "c"]


def test_a_lock_that_a_sweep_holds_for_a_moment_is_waited_for(tmp_path: Path) -> None:
    part = tmp_path / ".file.ffnet-part"
    part.write_bytes(b"left")
    handle = os.open(part, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    release = threading.Timer(0.03, os.close, [handle])
    release.start()
    write_bytes(tmp_path / "file", b"new")
    release.join()
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("hard", [False, True], ids=["link", "hard link"])
def test_a_link_at_the_temporary_name_is_never_written_through(tmp_path: Path, hard: bool) -> None:
    path, other = tmp_path / "file", tmp_path / "other"
    other.write_bytes(b"foreign")
    part = start_and_kill(path)
    part.unlink()
    if hard:
        part.hardlink_to(other)
    else:
        part.symlink_to(other)
    write_bytes(path, b"new")
    assert (path.read_bytes(), other.read_bytes()) == (b"new", b"foreign")
    assert names(tmp_path) == ["file", "other"]


def test_a_link_that_leads_nowhere_is_not_followed_either(tmp_path: Path) -> None:
    part = start_and_kill(tmp_path / "file")
    part.unlink()
    part.symlink_to(tmp_path / "nowhere")
    write_bytes(tmp_path / "file", b"new")
    assert names(tmp_path) == ["file"]


def test_a_folder_at_the_temporary_name_is_one_line(tmp_path: Path) -> None:
    part = start_and_kill(tmp_path / "file")
    part.unlink()
    part.mkdir()
    with pytest.raises(ArtifactError, match=r"file cannot be written: .*--workspace DIR\.$"):
        write_bytes(tmp_path / "file", b"new")
    assert part.is_dir()


def test_a_temporary_file_that_is_replaced_meanwhile_does_not_become_the_file(tmp_path: Path) -> None:
    path, other = tmp_path / "file", tmp_path / "other"
    other.write_bytes(b"foreign")

    def replaced() -> None:
        with replacing(path) as part:
            part.write_bytes(b"new")
            part.unlink()
            part.symlink_to(other)

    with pytest.raises(ArtifactError, match="another program took"):
        replaced()
    assert not path.exists()
    assert other.read_bytes() == b"foreign"


def test_a_link_at_the_files_own_place_is_replaced(tmp_path: Path) -> None:
    path, other = tmp_path / "file", tmp_path / "other"
    other.write_bytes(b"foreign")
    path.symlink_to(other)
    write_bytes(path, b"new")
    assert not path.is_symlink()
    assert (path.read_bytes(), other.read_bytes()) == (b"new", b"foreign")


def test_the_longest_name_that_the_system_takes_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 255)
    write_bytes(path, b"new")
    assert names(tmp_path) == [path.name]


def test_below_a_regular_file_is_one_line_with_the_next_step(tmp_path: Path) -> None:
    (tmp_path / "taken").write_bytes(b"")
    with pytest.raises(ArtifactError) as caught, replacing(tmp_path / "taken" / "engines" / "file"):
        pytest.fail("the block must not run")
    message = str(caught.value)
    assert "cannot be written" in message
    assert "--workspace DIR" in message
    assert "\n" not in message
    assert caught.value.exit_code == 3
    assert names(tmp_path) == ["taken"]


def test_a_read_only_folder_is_one_line_with_the_next_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Root may write anywhere, so the kernel's answer is played.
    def refuse(*_: object) -> NoReturn:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(ArtifactError, match=r"file cannot be written: Permission denied\. .*--workspace DIR"):
        write_bytes(tmp_path / "file", b"new")


def test_a_full_disk_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_bytes(path, b"old")

    def full(_: int) -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ArtifactError, match="No space left on device"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_json_that_no_reader_accepts_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "file.json", {"miou": float("nan")})
    assert not names(tmp_path)


def test_names_that_are_no_text_are_written_as_they_are_shown(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    write_json(path, {os.fsdecode(b"k\xf6ln"): [os.fsdecode(b"k\xf6ln/1"), "köln", "\U0001f600"]})
    assert json.loads(path.read_text()) == {"k\\xf6ln": ["k\\xf6ln/1", "köln", "\U0001f600"]}


def test_hashes(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    assert sha256_of(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert hash_json({"a": 1, "b": [2]}) == hash_json({"b": [2], "a": 1})
    assert hash_json({"a": 1}) != hash_json({"a": 2})

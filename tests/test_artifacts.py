"""Nothing half-written is accepted: files are replaced whole, and each is held to the record beside it."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, NoReturn

import pytest

from ffnet_deploy import artifacts
from ffnet_deploy.artifacts import (
    Record,
    Variant,
    Workspace,
    hash_json,
    load_record,
    now,
    record_path,
    replacing,
    save_record,
    sha256_of,
    tool_versions,
    write_bytes,
    write_json,
)
from ffnet_deploy.errors import ArtifactError

REMEDY = "ffnet-deploy build"
MODEL = "segmentation_ffnet46NS_CCC_mobile"


def put(
    path: Path,
    data: bytes = b"an artefact",
    *,
    kind: artifacts.Kind = "engine",
    precision: str = "fp32",
    created: str = "",
) -> Record:
    """Write a file and its record."""
    write_bytes(path, data)
    exported: dict[str, str | None] = {"file": f"{path.name.split(f'.{precision}.')[0]}.onnx", "sha256": "00"}
    kinds: dict[str, dict[str, dict[str, str | None]]] = {
        "weights": {},
        "graph": {"graph": exported} if precision != "fp32" else {"weights": {"file": None, "sha256": "random-0"}},
        "engine": {"graph": exported, "exported": exported},
    }
    sources = kinds[kind]
    record = Record(
        kind=kind,
        model=MODEL,
        precision=precision,
        sha256=sha256_of(path),
        size=len(data),
        sources=sources,
        options={"shape": [1, 3, 64, 128]},
        found={"layers": {"convolution": {"half": 63}}},
        marks=("untrained", "off contract"),
        runtime="onnxruntime" if kind == "engine" else None,
        seconds=1.5,
        tools=tool_versions("numpy"),
        created=created or now(),
    )
    save_record(path, record)
    return record


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


# --- replacing ------------------------------------------------------------------------------------------------------


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
        from ffnet_deploy.artifacts import replacing
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
    path = workspace.engine(MODEL, "fp32", "onnxruntime")
    record = put(path) if old else None
    with start_writing(path) as child:
        assert read_line(child.stdout) == "writing"
        child.kill()
    assert any(name.endswith(".part") for name in names(path.parent))  # it really was in the middle
    assert workspace.engines_of(MODEL) == ([(path, load_record(path, remedy=REMEDY))] if old else [])
    if record:
        assert path.read_bytes() == b"an artefact"
        assert load_record(path, remedy=REMEDY).sha256 == record.sha256
    else:
        assert not path.exists()
    # And it does not stand in the way of the next try.
    put(path, b"short")
    assert path.read_bytes() == b"short"
    assert names(path.parent) == [path.name, f"{path.name}.json"]


def test_kill_9_between_file_and_record_leaves_nothing_that_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "file"
    put(path)
    write_bytes(path, b"new bytes, and the end came before their record")
    with pytest.raises(ArtifactError, match=r"damaged or half-written\. Run: ffnet-deploy build$"):
        load_record(path, remedy=REMEDY)


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

    monkeypatch.setattr(artifacts, "_sync_folder", sync_while_another_starts)
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


# --- records --------------------------------------------------------------------------------------------------------


def test_a_record_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    path = tmp_path / "file.engine"
    record = put(path)
    assert record_path(path) == tmp_path / "file.engine.json"
    loaded = load_record(path, remedy=REMEDY)
    # JSON has lists only.
    assert loaded.to_json() | {"marks": tuple(loaded.marks)} == record.to_json()
    assert json.loads(record_path(path).read_text("utf-8")) == loaded.to_json()


def test_a_file_without_a_record_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with pytest.raises(ArtifactError, match=r"does not exist\. Run: ffnet-deploy build$"):
        load_record(path, remedy=REMEDY)
    path.write_bytes(b"a plan")
    with pytest.raises(ArtifactError, match=r"has no record beside it, .* Run: ffnet-deploy build$"):
        load_record(path, remedy=REMEDY)


def flip(position: int) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        changed = bytearray(data)
        changed[position] ^= 1
        return bytes(changed)

    return change


@pytest.mark.parametrize(
    "damage",
    [flip(0), flip(5), flip(-1), lambda data: data[:-1], lambda _: b"", lambda data: data + b"\0"],
    ids=["first byte", "a byte", "last byte", "cut", "empty", "longer"],
)
def test_a_damaged_file_is_refused(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "file"
    put(path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ArtifactError, match=r"not the file its record describes.*Run: ffnet-deploy build$"):
        load_record(path, remedy=REMEDY)
    assert load_record(path, remedy=REMEDY, check=False).kind == "engine"


@pytest.mark.parametrize("schema", [0, artifacts.SCHEMA + 1, None, "1"])
def test_a_record_of_another_schema_is_refused(tmp_path: Path, schema: object) -> None:
    path = tmp_path / "file"
    write_json(record_path(path), put(path).to_json() | {"schema": schema})
    with pytest.raises(ArtifactError, match=rf"schema {schema!r} instead of {artifacts.SCHEMA}"):
        load_record(path, remedy=REMEDY)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda _: "",
        lambda _: "[]",
        lambda _: "null",
        lambda text: text.replace('"sha256": "', '"sha257": "', 1),
        lambda text: text.replace('"kind"', '"kin"'),
        lambda text: text + "\x00",
    ],
    ids=["cut", "empty", "list", "null", "unknown field", "missing field", "longer"],
)
def test_a_damaged_record_is_refused_in_one_line(tmp_path: Path, damage: Callable[[str], str]) -> None:
    workspace = Workspace(tmp_path)
    path = workspace.engine(MODEL, "fp32", "onnxruntime")
    put(path)
    text = record_path(path).read_text("utf-8")
    damaged = damage(text)
    assert damaged != text
    record_path(path).write_text(damaged, "utf-8")
    with pytest.raises(ArtifactError) as caught:
        load_record(path, remedy=REMEDY)
    assert str(caught.value).endswith("Run: ffnet-deploy build")
    assert "\n" not in str(caught.value)
    # A rung is never left out in silence.
    with pytest.raises(ArtifactError, match="is no record"):
        workspace.engines_of(MODEL)


def test_a_record_that_is_not_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    put(path)
    record_path(path).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ArtifactError, match=r"file\.json is no record"):
        load_record(path, remedy=REMEDY)


def test_an_unreadable_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    put(path)

    def refuse(_: Path) -> NoReturn:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(artifacts, "sha256_of", refuse)
    with pytest.raises(ArtifactError, match="Permission denied"):
        load_record(path, remedy=REMEDY)


def test_hashes(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    assert sha256_of(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert hash_json({"a": 1, "b": [2]}) == hash_json({"b": [2], "a": 1})
    assert hash_json({"a": 1}) != hash_json({"a": 2})


def test_tool_versions_names_what_is_installed() -> None:
    versions = tool_versions("numpy", "no-such-distribution")
    assert {"python", "ffnet-deploy", "numpy"} == set(versions)


# --- names and places -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variant", "stem"),
    [
        (Variant("NAME"), "NAME"),
        (Variant("NAME", (64, 128)), "NAME@64x128"),
        (Variant("NAME", None, 4), "NAME.b4"),
        (Variant("NAME", (64, 128), 2), "NAME@64x128.b2"),
    ],
)
def test_what_differs_from_the_contract_stands_in_the_name(variant: Variant, stem: str) -> None:
    assert variant.stem == stem


def test_workspace_paths(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    assert workspace.weights == tmp_path / "models" / "weights"
    assert workspace.graph("NAME") == tmp_path / "models" / "NAME.onnx"
    assert workspace.graph("NAME", "fp16") == tmp_path / "models" / "NAME.fp16.onnx"
    engines = tmp_path / "engines"
    assert workspace.engine("NAME", "fp16", "tensorrt-rtx") == engines / "NAME.fp16.tensorrt-rtx.engine"
    assert workspace.engine("NAME", "fp32", "onnxruntime") == engines / "NAME.fp32.onnxruntime.onnx"
    assert not names(tmp_path)  # naming a place does not make it


def test_an_empty_workspace_has_nothing(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "absent")
    assert workspace.graphs() == []
    assert workspace.engines_of(MODEL) == []


def test_graphs_come_newest_first_and_are_fp32_graphs_with_a_record(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    for stem, created in (("B", "2026-01-02T00:00:00"), ("A", "2026-01-03T00:00:00"), ("C", "2026-01-01T00:00:00")):
        put(workspace.graph(stem), kind="graph", created=created)
    put(workspace.graph("A", "fp16"), kind="graph", precision="fp16")
    put(workspace.models / "engine.onnx", kind="engine")
    found = workspace.graphs()
    assert [path.name for path, _ in found] == ["A.onnx", "B.onnx", "C.onnx"]
    assert all(record.kind == "graph" for _, record in found)
    assert [path.name for path, _ in workspace.graphs("B")] == ["B.onnx"]


def test_a_graph_without_a_record_stops_the_search_for_the_newest(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    put(workspace.graph("A"), kind="graph")
    workspace.graph("bare").write_bytes(b"no record")
    with pytest.raises(ArtifactError, match=r"bare\.onnx has no record .* Run: ffnet-deploy export bare$"):
        workspace.graphs()
    assert len(workspace.graphs("A")) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"size": "7"},
        {"marks": [1]},
        {"marks": None},
        {"options": {}},
        {"options": {"shape": [1, 3, "x", 5]}},
        {"sources": {}},
        {"sources": None},
        {"runtime": None},
        {"created": 5},
        {"precision": 5},
        {"kind": "engin"},
    ],
    ids=str,
)
def test_a_record_with_a_wrong_field_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    path = tmp_path / "file"
    write_json(record_path(path), put(path).to_json() | change)
    with pytest.raises(ArtifactError, match=r"is no record of this version .*Run: ffnet-deploy build$"):
        load_record(path, remedy=REMEDY)


def test_graphs_exported_one_after_the_other_are_told_apart() -> None:
    moments = [now() for _ in range(3)]
    assert moments == sorted(moments)


def test_engines_of_does_not_mix_variants(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    stems = ("NAME", "NAME_pre_down", "NAME@64x64", "NAME.b2", "NAME@64x64.b2", "NAM")
    for stem in stems:
        for precision, runtime in (("fp32", "tensorrt-rtx"), ("fp16", "tensorrt-rtx"), ("fp32", "onnxruntime")):
            put(workspace.engine(stem, precision, runtime), precision=precision)
    for stem in stems:
        assert [path.name for path, _ in workspace.engines_of(stem)] == [
            f"{stem}.fp16.tensorrt-rtx.engine",
            f"{stem}.fp32.onnxruntime.onnx",
            f"{stem}.fp32.tensorrt-rtx.engine",
        ]


def test_a_record_without_its_file_is_told(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    path = workspace.engine("NAME", "fp32", "onnxruntime")
    put(path)
    path.unlink()
    with pytest.raises(ArtifactError, match="does not exist, though its record"):
        workspace.engines_of("NAME")

"""Each file is held to the record beside it, and a record is believed only as it was written."""

from __future__ import annotations

import errno
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import pytest
from support.recorded import DATA, engine_path, engine_record, graph_record, put, weights_record

from ffnet_deploy.artifacts import records
from ffnet_deploy.artifacts.records import (
    RECORD_SCHEMA,
    AnyRecord,
    EngineRecord,
    GraphRecord,
    WeightsRecord,
    derived,
    load_record,
    now,
    read_record,
    record_path,
    stamp,
    stamp_of,
    tool_versions,
)
from ffnet_deploy.artifacts.sealing import sealed, unsealed
from ffnet_deploy.artifacts.values import SourceFile
from ffnet_deploy.artifacts.workspace import Workspace
from ffnet_deploy.artifacts.writing import write_json
from ffnet_deploy.errors import ArtifactError

REMEDY = "ffnet-deploy build"
EVERY: dict[str, AnyRecord] = {
    "weights": weights_record(),
    "exported graph": graph_record(),
    "full graph": graph_record(precision="int8", full=True),
    "engine": engine_record(),
}


@pytest.mark.parametrize("record", EVERY.values(), ids=EVERY)
def test_a_record_comes_back_as_it_was_saved(tmp_path: Path, record: AnyRecord) -> None:
    path = tmp_path / "file.engine"
    put(path, record)
    assert record_path(path) == tmp_path / "file.engine.json"
    assert load_record(path, type(record), remedy=REMEDY) == record
    assert read_record(path, remedy=REMEDY) == record
    # JSON has lists only.
    assert unsealed(record_path(path).read_bytes()) == json.loads(json.dumps(asdict(record)))


def test_what_newer_records_have_beside_it_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "file"
    record = put(path)
    write_json(record_path(path), sealed(asdict(record) | {"new": 1}))
    assert read_record(path, remedy=REMEDY) == record


def test_a_file_without_a_record_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with pytest.raises(ArtifactError, match=r"does not exist\. Run: ffnet-deploy build$"):
        load_record(path, EngineRecord, remedy=REMEDY)
    path.write_bytes(b"a plan")
    with pytest.raises(ArtifactError, match=r"has no record beside it, .* Run: ffnet-deploy build$"):
        load_record(path, EngineRecord, remedy=REMEDY)


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
    record = put(path)
    path.write_bytes(damage(DATA))
    with pytest.raises(ArtifactError, match=r"not the file that its record describes.*Run: ffnet-deploy build$"):
        load_record(path, EngineRecord, remedy=REMEDY)
    assert load_record(path, EngineRecord, remedy=REMEDY, check=False) == record


@pytest.mark.parametrize("kind", [WeightsRecord, GraphRecord])
def test_the_record_of_another_kind_of_file_is_refused(tmp_path: Path, kind: type[WeightsRecord | GraphRecord]) -> None:
    path = tmp_path / "file"
    put(path)
    wanted = "weights" if kind is WeightsRecord else "graph"
    with pytest.raises(ArtifactError, match=rf"of kind engine \({wanted} was needed\)\. Run: ffnet-deploy build$"):
        load_record(path, kind, remedy=REMEDY)


# --- damaged records ------------------------------------------------------------------------------------------------


def refused(path: Path) -> str:
    """The one line that a record is refused with."""
    with pytest.raises(ArtifactError) as caught:
        read_record(path, remedy=REMEDY)
    message = str(caught.value)
    assert message.endswith("Run: ffnet-deploy build")
    assert "\n" not in message
    assert str(path) in message
    return message


@pytest.mark.parametrize("schema", [0, 1, RECORD_SCHEMA + 1, None, "2"])
def test_a_record_of_another_schema_is_refused(tmp_path: Path, schema: object) -> None:
    path = tmp_path / "file"
    write_json(record_path(path), asdict(put(path)) | {"schema": schema})
    assert refused(path) == f"{path} was made by another version of ffnet-deploy. Run: {REMEDY}"


def test_a_record_of_the_first_release_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    old = {"kind": "graph", "model": "NAME", "precision": "fp32", "sha256": "00", "size": 1, "sources": {}, "schema": 1}
    path.touch()
    write_json(record_path(path), old)
    assert refused(path) == f"{path} was made by another version of ffnet-deploy. Run: {REMEDY}"


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda text: text[: len(text) // 2], ""),
        (lambda _: "", ""),
        (lambda _: "[]", "it holds a list and no object"),
        (lambda _: "null", "it holds a NoneType and no object"),
        (lambda _: "[" * 100_000, "it is nested too deeply"),
        (lambda _: '{"a":' * 100_000, "it is nested too deeply"),
        (lambda text: text.replace('"sha256": "', '"sha257": "', 1), "file.sha256: field required"),
        (lambda text: text.replace('"kind"', '"kin"'), "kind: field required"),
        (lambda text: text + "\x00", ""),
    ],
    ids=["cut", "empty", "list", "null", "deep lists", "deep", "unknown field", "missing field", "longer"],
)
def test_a_damaged_record_is_refused_in_one_line(tmp_path: Path, damage: Callable[[str], str], says: str) -> None:
    workspace = Workspace(tmp_path)
    path = engine_path(workspace)
    record = put(path)
    assert isinstance(record, EngineRecord)
    text = record_path(path).read_text("utf-8")
    damaged = damage(text)
    assert damaged != text
    record_path(path).write_text(damaged, "utf-8")
    assert refused(path).startswith(f"{record_path(path)} is damaged ({says}")
    # A rung is never left out in silence.
    with pytest.raises(
        ArtifactError,
        match=f"is damaged .* Run: ffnet-deploy build {record.model} --fp32 --runtime onnxruntime --workspace",
    ):
        workspace.engines_of(workspace.models / record.exported.file)


def test_a_record_that_is_not_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    put(path)
    record_path(path).write_bytes(b"\xff\xfe\x00")
    assert refused(path).startswith(f"{path}.json is damaged (")


def test_an_unreadable_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    put(path)

    def refuse(_: Path) -> NoReturn:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(records, "sha256_of", refuse)
    with pytest.raises(ArtifactError, match=r"file cannot be read \(Permission denied\)"):
        load_record(path, EngineRecord, remedy=REMEDY)


def test_an_unreadable_record_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    record_path(path).mkdir()
    assert refused(path) == f"{record_path(path)} cannot be read (Is a directory). Run: {REMEDY}"


def places(value: object, where: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The path of everything below a JSON value."""
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield (*where, key)
            yield from places(inner, (*where, key))


def changed(values: Any, where: tuple[str | int, ...], new: object) -> Any:
    """JSON values with one of them replaced."""
    copy = json.loads(json.dumps(values))
    *outer, last = where
    inner = copy
    for key in outer:
        inner = inner[key]
    inner[last] = new
    return copy


def at(values: Any, where: tuple[str | int, ...]) -> Any:
    for key in where:
        values = values[key]
    return values


@pytest.mark.parametrize("kind", EVERY)
def test_every_field_of_a_wrong_type_is_refused_with_its_name(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "file"
    values = json.loads(json.dumps(asdict(put(path, EVERY[kind]))))
    count = 0
    for where in places(values):
        if where == ("schema",):
            continue  # another version, and told so
        old = at(values, where)
        if old is None:
            # What is None elsewhere may be a text, and a list is neither that nor one of our objects.
            wrong: object = [{"none": "of it"}]
        else:
            wrong = 5 if isinstance(old, str | list | dict) else [old]
        write_json(record_path(path), changed(values, where, wrong))
        assert refused(path).startswith(f"{record_path(path)} is damaged ({'.'.join(map(str, where))}"), where
        count += 1
    assert count >= 15


@pytest.mark.parametrize("kind", EVERY)
def test_every_field_that_must_be_there_is_missed_by_its_name(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "file"
    record = put(path, EVERY[kind])
    needed = {"kind", "model", "file", *(f"file.{name}" for name in asdict(record.file))}
    if not isinstance(record, WeightsRecord):
        needed |= {"precision", "options", "options.shape", "options.opset", "options.contract"}
        needed |= {"weights", "weights.sha256"}
    if isinstance(record, EngineRecord):
        needed |= {"runtime", "engine", "graph", "exported", "exported.file", "exported.sha256"}
    for name in sorted(needed | ({"recipe"} if kind == "weights" else set())):
        values = asdict(record)
        *outer, last = name.split(".")
        del at(values, tuple(outer))[last]
        write_json(record_path(path), values)
        assert f"is damaged ({name}: field required" in refused(path)


WRONG: tuple[tuple[str, str, object], ...] = (
    ("full graph", "kind", "engin"),
    ("full graph", "precision", "fp64"),
    ("full graph", "command", None),
    ("full graph", "file.size", -1),
    ("full graph", "file.size", "7"),
    ("full graph", "file.size", 1.5),
    ("full graph", "file.seconds", -0.1),
    ("full graph", "marks", [1]),
    ("full graph", "marks", None),
    ("full graph", "options", {}),
    ("full graph", "options.shape", [1, 3, "x", 5]),
    ("full graph", "options.shape", [1, 3, 5]),
    ("full graph", "options.shape", [1, 3, 5, 5, 5]),
    ("full graph", "options.shape.0", 0),
    ("full graph", "options.contract", [512]),
    ("full graph", "options.upsampling", "cubic"),
    ("full graph", "options.ends.io", "int8"),
    ("full graph", "options.ends.image_in", 1),
    ("full graph", "weights", None),
    ("full graph", "ranges", {}),
    ("full graph", "images.count", 0),
    ("full graph", "found.quantised.share", 1.1),
    ("full graph", "found.quantised.share", -0.1),
    ("full graph", "found.verification.equal", 1.01),
    ("full graph", "found.verification.images", 0),
    ("full graph", "found.verification.max_difference", -1.0),
    ("full graph", "found.operators.Conv", -1),
    ("full graph", "found.largest_activation.magnitude", -1.0),
    ("engine", "runtime", None),
    ("engine", "exported", None),
    ("engine", "engine.level", "3"),
    ("engine", "engine.batch", [1, 2]),
    ("engine", "found.share.fp16", 2),
    ("engine", "found.bytes_between_layers", -1),
    ("weights", "recipe", None),
)


@pytest.mark.parametrize(("kind", "name", "value"), WRONG, ids=str)
def test_a_field_out_of_its_range_is_refused(tmp_path: Path, kind: str, name: str, value: object) -> None:
    path = tmp_path / "file"
    values = json.loads(json.dumps(asdict(put(path, EVERY[kind]))))
    where = tuple(int(part) if part.isdecimal() else part for part in name.split("."))
    write_json(record_path(path), changed(values, where, value))
    assert refused(path).startswith(f"{record_path(path)} is damaged ({name}")


FORGED: tuple[tuple[str, str, object], ...] = (
    ("full graph", "precision", "fp32"),
    ("full graph", "file.sha256", "0" * 64),
    ("full graph", "file.size", 1),
    ("full graph", "marks", []),
    ("full graph", "found.quantised.share", 0.999),
    ("full graph", "found.verification.equal", 1.0),
    ("full graph", "weights.sha256", "0" * 64),
    ("engine", "runtime", "tensorrt"),
    ("engine", "exported.sha256", "0" * 64),
    ("engine", "found.bytes_between_layers", 5),
    ("weights", "recipe", "another"),
    ("weights", "later", "a field that we do not know"),
)


@pytest.mark.parametrize(("kind", "name", "value"), FORGED, ids=str)
def test_a_record_that_was_changed_by_hand_is_refused(tmp_path: Path, kind: str, name: str, value: object) -> None:
    path = tmp_path / "file"
    values = sealed(asdict(put(path, EVERY[kind])))
    write_json(record_path(path), changed(values, tuple(name.split(".")), value))
    assert "is damaged (it was changed since it was written: its checksum does not fit)" in refused(path)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_no_figure_may_be_nan_or_infinite(tmp_path: Path, value: str) -> None:
    path = tmp_path / "file"
    for kind in ("full graph", "engine"):
        values = json.loads(json.dumps(asdict(put(path, EVERY[kind]))))
        figures = [where for where in places(values) if isinstance(at(values, where), float)]
        assert figures
        for where in figures:
            text = json.dumps(changed(values, where, math.pi)).replace(str(math.pi), value)
            record_path(path).write_text(text)
            assert refused(path).startswith(f"{record_path(path)} is damaged (it has the number {value})"), where


# --- making them ----------------------------------------------------------------------------------------------------


def test_tool_versions_names_what_is_installed() -> None:
    versions = tool_versions("numpy", "no-such-distribution")
    assert {"python", "ffnet-deploy", "numpy"} == set(versions)


def test_graphs_exported_one_after_the_other_are_told_apart() -> None:
    moments = [now() for _ in range(3)]
    assert moments == sorted(moments)


def test_a_stamp_is_of_the_files_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    monkeypatch.setattr(time, "monotonic", lambda: 12.34567)
    found = stamp_of(path, 10.0, ("numpy",))
    assert (found.sha256[:8], found.size, found.seconds) == ("ba7816bf", 3, 2.346)
    assert set(found.tools) == {"python", "ffnet-deploy", "numpy"}
    again = stamp(found.sha256, 3, 10.0, ("numpy",))
    assert (again.sha256, again.size, again.seconds, again.tools) == (found.sha256, 3, 2.346, found.tools)
    assert again.created > found.created


def test_a_graph_made_from_another_has_all_else_of_it() -> None:
    parent, file = graph_record(full=True), engine_record().file
    child = derived(parent, "parent.onnx", file, precision="fp16", marks=("more",))
    assert (child.command, child.graph) == ("build", SourceFile("parent.onnx", parent.file.sha256))
    assert (child.precision, child.marks, child.file) == ("fp16", ("more",), file)
    assert (child.options, child.weights, child.found) == (parent.options, parent.weights, parent.found)

"""Where files are, and which of them belong together."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.recorded import MODEL, engine_record, graph_record, names, put

from ffnet_deploy.artifacts.filenames import FileName
from ffnet_deploy.artifacts.records import GraphRecord
from ffnet_deploy.artifacts.workspace import Workspace
from ffnet_deploy.errors import ArtifactError


def test_workspace_paths(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    assert workspace.weights == tmp_path / "models" / "weights"
    name = FileName("NAME", hw=(64, 128))
    assert workspace.path_of(name) == tmp_path / "models" / "NAME@64x128.onnx"
    half = FileName("NAME", precision="fp16")
    assert workspace.path_of(half) == tmp_path / "models" / "NAME.fp16.onnx"
    engines = tmp_path / "engines"
    for runtime, file in (
        ("tensorrt-rtx", "NAME.fp16.tensorrt-rtx.engine"),
        ("onnxruntime", "NAME.fp16.onnxruntime.onnx"),
    ):
        assert workspace.path_of(FileName("NAME", precision="fp16", runtime=runtime)) == engines / file
    assert workspace.calibration(name) == tmp_path / "calibration" / "NAME@64x128.json"
    profiled = FileName("NAME", batch="1-4-8", image_in=True, precision="int8", runtime="tensorrt")
    assert workspace.calibration(profiled) == tmp_path / "calibration" / "NAME.bdynamic.json"
    assert not names(tmp_path)  # naming a place does not make it


def test_a_path_is_shown_from_the_workspace_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for workspace in (Workspace(Path()), Workspace(tmp_path)):
        assert workspace.shown(Path("models") / "weights" / "a.pth") == "models/weights/a.pth"
        assert workspace.shown(tmp_path / "models" / "a.onnx") == "models/a.onnx"
        assert workspace.shown(tmp_path.parent / "a.onnx") == str(tmp_path.parent / "a.onnx")


def test_commands_name_the_workspace_unless_it_is_the_current_folder(tmp_path: Path) -> None:
    assert str(Workspace(Path()).run("build", "NAME")) == "ffnet-deploy build NAME"
    there = Workspace(Path("my space")).run("build", "NAME", "--int8")
    assert str(there) == "ffnet-deploy build NAME --int8 --workspace 'my space'"
    assert str(Workspace(tmp_path).run("demo")) == f"ffnet-deploy demo --workspace {tmp_path}"


def test_an_empty_workspace_has_nothing(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "absent")
    assert workspace.graphs() == []
    assert workspace.engines_of(workspace.models / f"{MODEL}.onnx") == []


def test_graphs_come_newest_first_and_are_fp32_graphs_with_a_record(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    for stem, created in (("B", "2026-01-02T00:00:00"), ("A", "2026-01-03T00:00:00"), ("C", "2026-01-01T00:00:00")):
        put(workspace.models / f"{stem}.onnx", graph_record(created=created))
    put(workspace.models / "A.fp16.onnx", graph_record(precision="fp16"))
    put(workspace.models / "A.image.onnx", graph_record(full=True))
    put(workspace.models / "engine.onnx")
    found = workspace.graphs()
    assert [path.name for path, _ in found] == ["A.onnx", "B.onnx", "C.onnx"]
    assert all(isinstance(record, GraphRecord) for _, record in found)
    assert [path.name for path, _ in workspace.graphs("B")] == ["B.onnx"]


def test_a_graph_without_a_record_stops_the_search_for_the_newest(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    put(workspace.models / "A.onnx", graph_record())
    (workspace.models / "bare.onnx").write_bytes(b"no record")
    command = f"ffnet-deploy export bare --workspace {tmp_path}"
    with pytest.raises(ArtifactError, match=rf"bare\.onnx has no record .* Run: {command}$"):
        workspace.graphs()
    assert len(workspace.graphs("A")) == 1


def test_engines_of_does_not_mix_variants(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    stems = ("NAME", "NAME_pre_down", "NAME@64x64", "NAME.b2", "NAME@64x64.b2", "NAM")
    for stem in stems:
        for precision, file in (
            ("fp32", "fp32.tensorrt-rtx.engine"),
            ("fp16", "fp16.tensorrt-rtx.engine"),
            ("fp32", "fp32.onnxruntime.onnx"),
        ):
            record = engine_record(exported=f"{stem}.onnx", precision=precision, runtime=file.split(".")[1])
            put(workspace.engines / f"{stem}.{file}", record)
    for stem in stems:
        assert [path.name for path, _ in workspace.engines_of(workspace.models / f"{stem}.onnx")] == [
            f"{stem}.fp16.tensorrt-rtx.engine",
            f"{stem}.fp32.onnxruntime.onnx",
            f"{stem}.fp32.tensorrt-rtx.engine",
        ]


def test_a_record_without_its_file_is_told(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    path = workspace.engines / "NAME.fp32.onnxruntime.onnx"
    put(path)
    path.unlink()
    with pytest.raises(ArtifactError, match=r"does not exist, though its record .* or delete the record$"):
        workspace.engines_of(workspace.models / "NAME.onnx")


def test_half_written_files_are_passed_over(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    put(workspace.models / "A.onnx", graph_record())
    (workspace.models / ".B.onnx.ffnet-part").touch()
    (workspace.models / ".B.onnx").touch()
    assert [path.name for path, _ in workspace.graphs()] == ["A.onnx"]

"""The command that a record gives really makes its file again, wherever that lies."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.cli_runner import NAME, SIZE, Cli
from support.recorded import MODEL, engine_record, graph_record, weights_record

from ffnet_deploy.artifacts.commandline import CommandLine
from ffnet_deploy.artifacts.records import AnyRecord, EngineRecord, GraphRecord, load_record, read_record, record_path
from ffnet_deploy.artifacts.renewal import by_name
from ffnet_deploy.artifacts.replay import again, exported_name
from ffnet_deploy.artifacts.values import (
    BatchProfile,
    Ends,
    EngineFindings,
    EngineOptions,
    SourceWeights,
    Verification,
)
from ffnet_deploy.artifacts.workspace import Workspace
from ffnet_deploy.artifacts.writing import sha256_of
from ffnet_deploy.pipeline import build as building
from ffnet_deploy.pipeline import export as exporting
from ffnet_deploy.zoo.specs import find
from ffnet_deploy.zoo.weights import load_random

GRAPH = f"{MODEL}@64x128.onnx"
HERE = Workspace(Path())


# --- command lines --------------------------------------------------------------------------------------------------


def test_a_command_line_can_be_pasted() -> None:
    line = CommandLine.of("calibrate", "NAME", Path("my photos; all")).option("--method", None).option("--images", 3)
    line = line.flag("--allow-val", asked=True).flag("--quick", asked=False).options("--gpu", ("sm86", "it's"))
    assert line.words[-4:] == ("--gpu", "sm86", "--gpu", "it's")
    text = str(line)
    assert text == """ffnet-deploy calibrate NAME 'my photos; all' --images 3 --allow-val --gpu sm86 --gpu 'it'"'"'s'"""
    assert shlex.split(text) == ["ffnet-deploy", *line.words]


def test_a_command_line_names_a_workspace_that_is_not_the_current_folder() -> None:
    line = CommandLine.of("demo")
    assert line.in_workspace(Path()) is line
    assert str(line.in_workspace(Path("a b"))) == "ffnet-deploy demo --workspace 'a b'"


# --- what records give ----------------------------------------------------------------------------------------------


def graph(changes: dict[str, Any], **options: Any) -> GraphRecord:
    record = graph_record()
    return replace(record, options=replace(record.options, **options), **changes)


def test_weights_are_trained_again() -> None:
    assert str(again(HERE, Path("a.pth"), weights_record())) == "ffnet-deploy demo"


SIDES = "--height 64 --width 128 --allow-size"


@pytest.mark.parametrize(
    ("record", "says"),
    [
        (graph({}), f"--weights random {SIDES}"),
        (graph({}, shape=(1, 3, 512, 1024)), "--weights random"),
        (graph({}, shape=(4, 3, 512, 1024), opset=18), "--weights random --batch 4 --opset 18"),
        (graph({}, dynamic_batch=True), f"--weights random {SIDES} --dynamic-batch"),
        (graph({}, upsampling="bilinear"), f"--weights random {SIDES} --upsampling bilinear"),
        (
            graph({"weights": SourceWeights("models/weights/a b.pth", "00")}),
            f"--weights 'models/weights/a b.pth' {SIDES}",
        ),
        (graph({"weights": SourceWeights("/my/a.pth", "00")}), f"--weights /my/a.pth {SIDES}"),
        # Export finds the published ones by itself.
        (graph({"weights": SourceWeights("models/weights/a.pth", "00", named=False)}), SIDES),
    ],
)
def test_a_graph_is_exported_again(record: GraphRecord, says: str) -> None:
    path = HERE.path_of(exported_name(record.model, record.options))
    assert str(again(HERE, path, record)) == f"ffnet-deploy export {MODEL} {says}"


def test_a_graph_elsewhere_is_exported_to_there(tmp_path: Path) -> None:
    space = Workspace(tmp_path / "my space")
    found = again(space, tmp_path / "my graph.onnx", graph({"weights": SourceWeights("models/a.pth", "00")}))
    assert found.words[2:] == (
        *("--weights", f"{tmp_path}/my space/models/a.pth", "--height", "64", "--width", "128", "--allow-size"),
        *("--output", f"{tmp_path}/my graph.onnx", "--workspace", f"{tmp_path}/my space"),
    )


def built(changes: dict[str, Any] | None = None, engine: EngineOptions | None = None, **options: Any) -> EngineRecord:
    record = engine_record(runtime="tensorrt-rtx")
    changed = replace(record.options, **options)
    return replace(record, options=changed, engine=engine or record.engine, **changes or {})


INT8 = {"precision": "int8"}


@pytest.mark.parametrize(
    ("record", "says"),
    [
        (built(), "--fp32 --runtime tensorrt-rtx"),
        (
            built({"precision": "fp16"}, keep_fp32=("a*", "b c")),
            "--fp16 --runtime tensorrt-rtx --keep-fp32 'a*' --keep-fp32 'b c'",
        ),
        (built({"precision": "fp16"}, ends=Ends(io="fp16")), "--fp16 --runtime tensorrt-rtx --io fp16"),
        (
            built(INT8, method="mse", keep_fp16=("c",)),
            "--int8 --runtime tensorrt-rtx --method mse --keep-fp16 c",
        ),
        (
            built(ends=Ends(image_in=True, labels_out=True, align_corners=True)),
            "--fp32 --runtime tensorrt-rtx --image-in --labels-out --align-corners",
        ),
        (built(engine=EngineOptions(portable=True, tf32=True)), "--fp32 --runtime tensorrt-rtx --portable --tf32"),
        (
            built(engine=EngineOptions(gpus=("sm86", "sm89"), batch=BatchProfile(1, 4, 8)), dynamic_batch=True),
            "--fp32 --runtime tensorrt-rtx --gpu sm86 --gpu sm89 --batch 1,4,8",
        ),
        (
            built(
                {"runtime": "tensorrt"},
                EngineOptions(
                    level=5, workspace_mb=64, timing_cache=True, hardware_compatible=True, version_compatible=True
                ),
            ),
            (
                "--fp32 --runtime tensorrt --level 5 --workspace-mb 64 --timing-cache --hardware-compatible "
                "--version-compatible"
            ),
        ),
        (graph_record(precision="fp16"), "--fp16"),
        (graph_record(precision="int8-cpu"), "--int8"),
    ],
)
def test_what_was_built_is_built_again(record: AnyRecord, says: str) -> None:
    assert str(again(HERE, Path("any"), record)) == f"ffnet-deploy build {MODEL} {says}"
    there = again(Workspace(Path("a b")), Path("any"), record)
    assert str(there) == f"ffnet-deploy build {MODEL} {says} --workspace 'a b'"


@pytest.mark.parametrize(
    ("file", "says"),
    [
        (f"{MODEL}.onnx", "export NAME"),
        (f"{MODEL}@64x128.onnx", f"export NAME {SIDES}"),
        (f"{MODEL}.bilinear@64x128.b4.onnx", f"export NAME {SIDES} --batch 4 --upsampling bilinear"),
        (f"{MODEL}.bdynamic.onnx", "export NAME --dynamic-batch"),
        (f"{MODEL}.fp16.onnx", "build NAME --fp16"),
        (f"{MODEL}.bdynamic.int8-cpu.onnx", "build NAME --int8 --batch 1,4,8"),
        (f"{MODEL}.fp32.onnxruntime.onnx", "build NAME --fp32 --runtime onnxruntime"),
        (
            f"{MODEL}@64x128.b1-2-3.image.labels.int8.tensorrt-rtx-sm86+sm89.engine",
            "build NAME --int8 --runtime tensorrt-rtx --image-in --labels-out --gpu sm86 --gpu sm89 --batch 1,2,3",
        ),
        (f"{MODEL}.fp16.tensorrt-rtx-portable.engine", "build NAME --fp16 --runtime tensorrt-rtx --portable"),
        (f"{MODEL}.copy.onnx", "export NAME"),
    ],
)
def test_a_name_says_what_makes_the_file(file: str, says: str) -> None:
    assert str(by_name(file)) == f"ffnet-deploy {says.replace('NAME', MODEL)}"


# --- and they make it ------------------------------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without what does not change a byte of a graph, and with a stand-in for TensorRT-RTX."""
    monkeypatch.setattr(exporting, "_verify", lambda *_: Verification(2, 0.0, 0.0, 1.0, 8192))
    real = building._run_builder

    def build(runtime: str, graph: Path, engine: Path, *rest: Any) -> EngineFindings:
        if runtime == "onnxruntime":
            return real(runtime, graph, engine, *rest)
        engine.write_bytes(f"an engine of {sha256_of(graph)} with {rest[0]}".encode())
        record = load_record(graph, GraphRecord, remedy="")
        layers = {"all others": str(record.precision), **dict.fromkeys(record.found.kept_fp32, "fp32")}
        return EngineFindings(precision=layers, share={record.precision: 1.0})

    monkeypatch.setattr(building, "_run_builder", build)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("my weights") / "of mine.pth"
    torch.save(load_random(find(NAME)).module.state_dict(), file)
    return file


def made(run: Cli, *args: str | Path) -> None:
    result = run(*args)
    assert result.code == 0, result.err


def made_again(run: Cli, space: Workspace, path: Path) -> CommandLine:
    """Delete a file and its record, and run the command that the record gave."""
    before = read_record(path, remedy="")
    command = again(space, path, before)
    path.unlink()
    record_path(path).unlink()
    made(run, *shlex.split(str(command))[1:])
    after = read_record(path, remedy="")
    assert sha256_of(path) == before.file.sha256 == after.file.sha256
    stamped = replace(after, file=before.file)
    assert stamped == before
    return command


@pytest.mark.usefixtures("quick")
def test_a_graph_for_any_batch_and_all_that_is_built_from_it(tmp_path: Path, run: Cli, weights: Path) -> None:
    space = Workspace(tmp_path / "other place")
    there = ("--workspace", space.root)
    made(run, "export", NAME, "--weights", weights, *SIZE, "--opset", "18", "--dynamic-batch", *there)
    made(run, "build", "--fp16", "--keep-fp32", "*conv0*", "--image-in", "--labels-out", "--batch", "1,2,3", *there)
    stem = f"{NAME}@64x128.bdynamic"
    command = made_again(run, space, space.models / f"{stem}.onnx")
    assert command.words[2:4] == ("--weights", str(weights))
    assert "--opset" in command.words
    profiled = f"{NAME}@64x128.b1-2-3.image.labels"
    files = (
        space.models / f"{stem}.fp16.onnx",
        space.models / f"{stem}.image.labels.onnx",
        space.models / f"{stem}.image.labels.fp16.onnx",
        space.engines / f"{profiled}.fp32.onnxruntime.onnx",
        space.engines / f"{profiled}.fp16.tensorrt-rtx.engine",
    )
    for path in files:
        assert path.is_file(), path
    # The graphs between have no record of the profile, and do not depend on it.
    for path in files:
        made_again(run, space, path)


@pytest.mark.usefixtures("quick")
def test_a_graph_that_was_written_elsewhere(tmp_path: Path, run: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my graphs").mkdir()
    path = Path("my graphs") / "one.onnx"
    made(
        run, "export", NAME, "--weights", "random", *SIZE, "--batch", "2", "--upsampling", "bilinear", "--output", path
    )
    command = made_again(run, HERE, path)
    assert command.words[-2:] == ("--output", str(tmp_path / path))

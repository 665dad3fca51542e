"""INT8 through the command line, with real builds at a small size: calibrate, build, inspect, eval, bench."""

from __future__ import annotations

import json
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import onnx
import pytest
from support.cli_runner import STEM, Cli, link_workspace, rewrite
from support.fakes import SMALL, WorkerHere, small_graph
from support.graphs import put_graph
from support.seals import resealed

from ffnet_deploy.artifacts.filenames import FileName
from ffnet_deploy.artifacts.records import EngineRecord, load_record, record_path
from ffnet_deploy.artifacts.replay import again
from ffnet_deploy.artifacts.values import EngineFindings
from ffnet_deploy.artifacts.workspace import Workspace
from ffnet_deploy.artifacts.writing import sha256_of
from ffnet_deploy.bench import profiler, turns
from ffnet_deploy.calibration.methods import METHODS
from ffnet_deploy.calibration.record import current_calibration, read_calibration
from ffnet_deploy.errors import ArtifactError, EngineError, MissingDependencyError, PrecisionError, UsageError
from ffnet_deploy.graph.current import current_graph
from ffnet_deploy.ladder import ladder
from ffnet_deploy.pipeline import build as story
from ffnet_deploy.pipeline.build import BuildOptions, build
from ffnet_deploy.pipeline.calibrate import CalibrateOptions, calibrate
from ffnet_deploy.pipeline.precision import Int8Options
from ffnet_deploy.runtimes import worker
from ffnet_deploy.verify.layers import Inside

needs_rtx = pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx has no wheel for this platform")
RTX = "tensorrt-rtx"
NAMED = FileName.parse(f"{STEM}.onnx")


@pytest.fixture
def streets(trained_streets: Path) -> Path:
    return trained_streets


@pytest.fixture
def made(quantised: Path) -> Path:
    return quantised


@pytest.fixture
def workspace(made: Path, tmp_path: Path) -> Workspace:
    return Workspace(link_workspace(made, tmp_path / "made"))


def engine_in(workspace: Workspace, name: str) -> Path:
    return workspace.engines / f"{STEM}.{name}"


def graph_in(workspace: Workspace, name: str) -> Path:
    return workspace.models / f"{STEM}.{name}.onnx"


def command_of(path: Path) -> str:
    """What makes an engine again in the current folder."""
    return str(again(Workspace(Path()), path, load_record(path, EngineRecord, remedy="")))


def record(path: Path) -> dict[str, Any]:
    return dict(json.loads(record_path(path).read_text()))


def test_calibrate_says_what_it_looked_at(run: Cli, workspace: Workspace, streets: Path, tmp_path: Path) -> None:
    result = run("calibrate", "--data", streets, "--workspace", workspace.root, "--json", tmp_path / "found.json")
    assert result.code == 0, result.err
    assert f"{STEM}.json  94 tensors, 2 images of Cityscapes train  (already there)  [untrained]" in result.out
    assert "ranges by entropy, percentile, mse, max; build uses percentile by default" in result.out
    found = json.loads((tmp_path / "found.json").read_text())
    assert (found["command"], found["reused"], found["error"]) == ("calibrate", True, None)


@needs_rtx
def test_auto_builds_both_dialects_and_fp32(made: Path) -> None:
    assert sorted(path.name for path in (made / "engines").glob("*") if path.suffix != ".json") == [
        f"{STEM}.fp32.onnxruntime.onnx",
        f"{STEM}.int8.onnxruntime.onnx",
        f"{STEM}.int8.tensorrt-rtx.engine",
    ]
    calibration = made / "calibration" / f"{STEM}.json"
    for kind in ("int8", "int8-cpu"):
        graph = record(made / "models" / f"{STEM}.{kind}.onnx")
        assert graph["ranges"]["fingerprint"] == read_calibration(Workspace(made), calibration).fingerprint
        assert graph["options"]["method"] == "percentile"
        assert graph["found"]["quantised"]["share"] == graph["found"]["quantised"]["possible"] > 0.98
        assert list(graph["found"]["declined"]) == ["head.layers.3.last_layer.3/Conv"] * (kind == "int8")
    # TensorRT-RTX's own list of layers says so.
    file = made / "engines" / f"{STEM}.int8.tensorrt-rtx.engine"
    engine = record(file)
    assert engine["found"]["share"]["int8"] > 0.98
    assert command_of(file) == f"ffnet-deploy build {SMALL} --int8 --runtime tensorrt-rtx --method percentile"
    # ONNX Runtime's operators are counted.
    engine = record(made / "engines" / f"{STEM}.int8.onnxruntime.onnx")
    assert (engine["found"]["layers"]["QLinearConv"], engine["found"]["layers"]["QGemm"]) == (62, 1)
    assert engine["found"]["share"] == {"int8": 1.0, "fp32": 0.0}


@needs_rtx
def test_methods_patterns_and_ends_stand_in_the_records(run: Cli, workspace: Workspace) -> None:
    keep = "backbone_model.layer3.*"
    options = ("--method", "max", "--keep-fp16", keep, "--image-in", "--labels-out")
    result = run("build", "--int8", *options, "--workspace", workspace.root)
    assert result.code == 0, result.err
    engine = engine_in(workspace, "image.labels.int8.tensorrt-rtx.engine")
    found = record(engine)
    assert 0.2 < found["found"]["share"]["int8"] < 0.98
    assert {
        precision for node, precision in found["found"]["precision"].items() if node.startswith("backbone_model.layer3")
    } == {"fp16"}
    assert command_of(engine) == (
        f"ffnet-deploy build {SMALL} --int8 --runtime tensorrt-rtx --method max --keep-fp16 '{keep}' --image-in "
        "--labels-out"
    )
    graph = record(graph_in(workspace, "image.labels.int8"))
    assert graph["found"]["declined"]["backbone_model.layer3.0.conv1/Conv"] == f"asked for by '{keep}'"
    shown = run("inspect", graph_in(workspace, "int8"), "--workspace", workspace.root)
    assert "method max" in shown.out
    assert "asked for by" in shown.out


@pytest.mark.parametrize("share", [0.5, 0.97])
def test_int8_asked_and_less_found_is_an_error(
    run: Cli, workspace: Workspace, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    nodes = record(graph_in(workspace, "int8"))["found"]["quantised"]["nodes"]

    def forged(_runtime: str, _graph: Path, engine: Path, *_: object) -> EngineFindings:
        engine.write_bytes(b"a plan")
        precision = dict.fromkeys(nodes, "int8") | ({nodes[3]: "fp16"} if share == 0.5 else {})
        return EngineFindings(precision=precision, share={"int8": share, "fp16": 1 - share})

    monkeypatch.setattr(story, "_run_builder", forged)
    before = sha256_of(engine_in(workspace, "int8.tensorrt-rtx.engine"))
    result = run("build", "--int8", "--runtime", "tensorrt-rtx", "--workspace", workspace.root)
    assert result.code == 3
    says = f"built {nodes[3]} fp16" if share == 0.5 else "Only 97.0 % of the multiply-accumulates are INT8 (98.0 %"
    assert says in result.err
    assert sha256_of(engine_in(workspace, "int8.tensorrt-rtx.engine")) == before


def test_the_ladder_scores_tensorrts_dialect_and_times_the_cpus(workspace: Workspace) -> None:
    graph = current_graph(workspace, None)
    assert {rung.name for rung in ladder(graph, emulated=True).running} == {
        "onnxruntime fp32",
        "onnxruntime int8",
        "onnx int8 emulated",
    }
    assert {rung.name for rung in ladder(graph).running} == {"onnxruntime fp32", "onnxruntime int8"}


def test_eval_and_bench_know_int8(
    run: Cli, workspace: Workspace, streets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = run("eval", "cityscapes", "--root", streets, "--workspace", workspace.root)
    assert result.code == 0, result.err
    for rung in ("onnxruntime int8", "onnx int8 emulated"):
        assert rung in result.out
    monkeypatch.setattr(turns, "Worker", WorkerHere)
    result = run("bench", "--iters", "2", "--min-seconds", "0", "--workspace", workspace.root)
    assert result.code == 0, result.err
    assert "onnxruntime int8" in result.out
    assert "emulated" not in result.out


def test_inspect_a_calibration(run: Cli, made: Path) -> None:
    result = run("inspect", made / "calibration" / f"{STEM}.json", "--workspace", made)
    assert result.code == 0, result.err
    assert "94 tensors" in result.out
    assert re.search(r"current +yes\n", result.out)
    assert "Cityscapes train" in result.out


def test_a_calibration_on_val_marks_every_result(
    run: Cli, streets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (turns, worker):
        monkeypatch.setattr(module, "Worker", WorkerHere)
    # This machine's peaks are measured for as long as it takes where they count.
    for name, value in (("_PEAK_S", 0.0), ("_SIDE", 256), ("_COPIED", 1 << 20)):
        monkeypatch.setattr(profiler, name, value)
    workspace = Workspace(tmp_path / "val")
    put_graph(workspace, small_graph())
    calibrate(workspace, None, CalibrateOptions(streets, allow_val=True))
    (engine,) = build(workspace, None, BuildOptions(("int8",), "onnxruntime"))
    assert engine.record.marks == ("untrained", "calibrated on val")
    commands = {
        "eval": ("eval", "cityscapes", "--root", streets),
        "bench": ("bench", "--iters", "1", "--min-seconds", "0"),
        "profile": ("bench", "--profile", "--iters", "1"),
        "verify": ("verify",),
    }
    for name, command in commands.items():
        file = tmp_path / f"{name}.json"
        result = run(*command, "--workspace", workspace.root, "--json", file)
        assert result.code == 0, name
        assert "onnxruntime int8" in result.out, name
        assert json.loads(file.read_text())["marks"] == ["untrained", "calibrated on val"], name


@pytest.mark.parametrize("kind", ["engine", "graph"])
def test_int8_does_not_survive_other_ranges(run: Cli, workspace: Workspace, streets: Path, kind: str) -> None:
    engine, graph = engine_in(workspace, "int8.onnxruntime.onnx"), graph_in(workspace, "int8")
    options = CalibrateOptions(streets, method="mse")
    assert calibrate(workspace, None, options).reused
    # The file is another, its ranges are not.
    assert len(ladder(current_graph(workspace, None), emulated=True).running) == 3
    assert re.search(r"current +yes\n", run("inspect", engine, "--workspace", workspace.root).out)
    calibrate(workspace, None, CalibrateOptions(streets, percentile=99.0))
    stale = engine
    if kind == "graph":
        stale = graph
        for file in workspace.engines.glob("*int8*"):
            file.unlink()
    with pytest.raises(ArtifactError, match=rf"{stale.name} is stale: .* Run: ffnet-deploy build {SMALL} --int8"):
        ladder(current_graph(workspace, None), only=("onnxruntime int8", "onnx"), emulated=True)
    shown = run("inspect", stale, "--workspace", workspace.root).out
    assert re.search(rf"current +no: .* calibrated again since. Run: ffnet-deploy build {SMALL} --int8", shown)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"int8": Int8Options(keep_fp16=("absent*",))}, "--keep-fp16 'absent\\*' names no convolution"),
        ({"int8": Int8Options("guess")}, "There are no ranges by 'guess'"),
        ({"runtime": "tensorrt"}, r"tensorrt cannot be imported \(No module named 'tensorrt'\)\. Run: pip install"),
        ({}, "does not exist .INT8 needs the ranges"),
        ({"fewer": True}, r"^1 tensors have no range, first head\."),
    ],
    ids=["pattern", "method", "runtime", "calibration", "fewer tensors"],
)
def test_what_cannot_be_is_refused_before_any_work(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], says: str
) -> None:
    if options.get("runtime") and find_spec("tensorrt"):
        pytest.skip("TensorRT is installed")
    if not options:
        workspace.calibration(NAMED).unlink()
    if options.get("fewer"):
        values = json.loads(workspace.calibration(NAMED).read_text())
        values["tensors"].popitem()
        rewrite(workspace.calibration(NAMED), resealed(values).encode())
    monkeypatch.setattr(story, "_source", None)
    asked = {"runtime": RTX, **{key: value for key, value in options.items() if key != "fewer"}}
    with pytest.raises((ArtifactError, PrecisionError, UsageError, MissingDependencyError), match=says):
        build(workspace, None, BuildOptions(("fp16", "int8"), **asked))


def test_too_little_int8_is_refused_for_every_runtime(workspace: Workspace) -> None:
    path = workspace.calibration(NAMED)
    values = json.loads(path.read_text())
    for name, found in values["tensors"].items():
        if name.startswith("backbone_model.layer3"):
            found.update({method: [0.0, 0.0, 0.0] for method in METHODS}, low=0.0, high=0.0)
            found["channels"] = [0.0] * len(found["channels"])
    rewrite(path, resealed(values).encode())
    before = sha256_of(engine_in(workspace, "int8.onnxruntime.onnx"))
    with pytest.raises(EngineError, match=r"Only [0-9.]+ % of the multiply-accumulates are INT8 \(98\.0 % were needed"):
        build(workspace, None, BuildOptions(("int8",), "onnxruntime"))
    assert sha256_of(engine_in(workspace, "int8.onnxruntime.onnx")) == before


def test_layers_of_int8_are_compared_at_their_own_size(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, run: Cli
) -> None:
    asked: dict[str, Any] = {}

    def looked(_reference: object, _exported: object, graphs: list[Any], *_: object, **options: Any) -> list[Inside]:
        asked.update(options)
        return [Inside((), None, ()) for _ in graphs]

    monkeypatch.setattr("ffnet_deploy.verify.layers.look_inside", looked)
    assert run("verify", "--layers", "--workspace", workspace.root).code == 0
    fp32, int8 = asked["factors"]
    assert fp32 == {}
    graph = current_graph(workspace, None)
    made = current_calibration(graph).equalised(onnx.load(graph.path))
    assert made.streams == 37
    assert int8.keys() == made.factors.keys()
    workspace.calibration(NAMED).unlink()
    lost = run("verify", "--layers", "--workspace", workspace.root)
    assert (lost.code, lost.out) == (3, "")
    assert f"Run: ffnet-deploy calibrate {SMALL} --data DIR" in lost.err

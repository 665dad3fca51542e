"""Calibration: bounded, resumable, used again when nothing has changed, and clear about what it was made from."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shlex
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hostile
import numpy as np
import onnx
import pytest
from PIL import Image
from support.calibrated import STEM, block, changed, run, values_of
from support.cli_runner import Cli
from support.fakes import SMALL, SMALL_SHAPE, small_graph, street_feeds
from support.graphs import put_graph
from support.seals import resealed

from ffnet_deploy.artifacts.records import GraphRecord, load_record
from ffnet_deploy.artifacts.workspace import Workspace
from ffnet_deploy.calibration import histograms, observe
from ffnet_deploy.calibration.methods import METHODS, PERCENTILE
from ffnet_deploy.calibration.record import Calibration, MethodRange, read_calibration
from ffnet_deploy.calibration.selection import find_images
from ffnet_deploy.errors import DataError, FFNetDeployError, PrecisionError, UsageError
from ffnet_deploy.graph import facts
from ffnet_deploy.graph.current import current_graph
from ffnet_deploy.graph.from_torch import export
from ffnet_deploy.graph.qdq import quantise, watched
from ffnet_deploy.graph.ranges import Limits
from ffnet_deploy.pipeline.build import BuildOptions, build
from ffnet_deploy.pipeline.calibrate import CalibrateOptions, calibrate
from ffnet_deploy.runtimes.onnxruntime import OnnxRuntimeRunner
from ffnet_deploy.zoo.specs import find
from ffnet_deploy.zoo.weights import load_random


@pytest.fixture
def space(workspace: Workspace) -> Workspace:
    put_graph(workspace, block())
    return workspace


def test_ranges_of_all_that_either_dialect_needs(space: Workspace, calibration_streets: Path) -> None:
    told: list[tuple[str, int, int | None]] = []
    found = calibrate(space, None, CalibrateOptions(calibration_streets), lambda *what: told.append(what))
    values = values_of(found)
    assert found.path == space.root / "calibration" / f"{STEM}.json"
    assert read_calibration(space, found.path) == found
    assert list(values["tensors"]) == list(watched(onnx.load_from_string(block())))
    for tensor in values["tensors"].values():
        assert tensor["low"] <= tensor["high"]
        assert {*tensor} == {"low", "high", "values", "channels", *METHODS}
        magnitude, low, high = tensor["max"]
        assert (magnitude, low, high) == (
            max(-low, high),
            min(tensor["low"], 0),
            max(tensor["high"], 0),
        )
    shapes = facts.shapes(onnx.load_from_string(block()))
    assert all(len(tensor["channels"]) == shapes[name][1] for name, tensor in values["tensors"].items())
    assert [what for what in told if what[0] == "looking at channels"][-1] == ("looking at channels", 5, 5)
    images = values["images"]
    assert (images["title"], len(images["names"]), images["resized"]) == ("Cityscapes train", 5, False)
    assert all(name.split("/")[0] in ("ahornstadt", "birkenau") for name in images["names"])
    assert values["graph"] == {"file": f"{STEM}.onnx", "sha256": current_graph(space, None).record.file.sha256}
    assert (values["method"], values["percentile"], values["marks"]) == ("percentile", PERCENTILE, ["untrained"])
    assert [what for what in told if what[0] == "calibrating"] == [("calibrating", i, 5) for i in range(6)]
    assert not list(space.root.glob("calibration/*.npz"))


def test_channels_are_seen_on_a_few_images_evenly_and_the_largest_counts(
    space: Workspace, calibration_streets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = find_images(current_graph(space, None), calibration_streets, None, allow_val=False)
    assert images.some(2).names == (images.names[0], images.names[2])
    assert images.some(9) == images
    every = run(space, calibration_streets).file.tensors
    monkeypatch.setattr(observe, "_FEW_PIXELS", 0)
    monkeypatch.setattr(observe, "_FEWEST", 2)
    told: list[tuple[str, int, int | None]] = []
    options = CalibrateOptions(calibration_streets, percentile=99.9)
    some = calibrate(space, None, options, lambda *what: told.append(what)).file.tensors
    assert [what for what in told if what[0] == "looking at channels"][-1] == ("looking at channels", 2, 2)
    pairs = [pair for name in every for pair in zip(every[name].channels, some[name].channels, strict=True)]
    assert all(larger >= smaller for larger, smaller in pairs)
    assert any(larger > smaller for larger, smaller in pairs)


def noise(found: Calibration, space: Workspace) -> float:
    """Of INT8's logits by the plain maximum, as a share of what FP32's vary by."""
    model = onnx.load(current_graph(space, None).path)
    integers = quantise(found.equalised(model).model, found.limits("max"), "cpu").model
    (feed,) = street_feeds(SMALL_SHAPE, 1)
    given = []
    for graph in (model, integers):
        with OnnxRuntimeRunner(graph.SerializeToString(), threads=1, exact=True) as runner:
            given.append(runner(feed)["logits"])
    return float((given[0] - given[1]).std() / given[0].std())


@pytest.fixture
def one_method(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the methods that search: on a whole network they take most of the time."""
    for name in ("_by_error", "_by_entropy"):
        monkeypatch.setattr(histograms, name, lambda _, low, high: Limits(max(-low, high), low, high))


@pytest.mark.usefixtures("one_method")
def test_hostile_weights_lose_no_more_than_those_they_were_made_from(
    workspace: Workspace, calibration_streets: Path
) -> None:
    put_graph(workspace, small_graph())
    plain = noise(run(workspace, calibration_streets, images=2), workspace)
    network = load_random(find(SMALL)).module
    network.load_state_dict(hostile.tailed(hostile.scaled(network.state_dict())))
    put_graph(workspace, export(network, find(SMALL), SMALL_SHAPE, opset=20, metadata={}).SerializeToString())
    assert noise(run(workspace, calibration_streets, images=2), workspace) < 1.5 * plain


def test_a_folder_of_pictures_is_resized_and_says_so(space: Workspace, photos: Path) -> None:
    images = values_of(run(space, photos))["images"]
    assert (images["title"], images["resized"]) == ("folder of images", True)
    assert images["names"] == ["a.png", "b.jpg", "more/c.webp"]


def test_its_command_can_be_pasted_and_its_sessions_are_closed(
    space: Workspace, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[OnnxRuntimeRunner] = []
    close = OnnxRuntimeRunner.close

    def counted(runner: OnnxRuntimeRunner) -> None:
        closed.append(runner)
        close(runner)

    monkeypatch.setattr(OnnxRuntimeRunner, "close", counted)
    folder = shutil.copytree(photos, tmp_path / "my photos; all")
    found = run(space, folder)
    assert shlex.split(str(found.again))[3:5] == ["--data", str(folder)]
    assert closed


def test_its_command_makes_it_again(space: Workspace, photos: Path, tmp_path: Path, cli: Cli) -> None:
    folder = shutil.copytree(photos, tmp_path / "val" / "my photos")
    first = run(space, folder, images=2, method="mse", percentile=99.5, allow_val=True)
    first.path.unlink()
    result = cli(*shlex.split(str(first.again))[1:])
    assert result.code == 0, result.err
    again = read_calibration(space, first.path)
    assert again.fingerprint == first.fingerprint
    for name in ("model", "graph", "images", "method", "percentile", "marks", "tensors"):
        assert getattr(again.file, name) == getattr(first.file, name), name


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(monkeypatch, capsys)


@pytest.mark.parametrize(
    ("options", "kind", "says"),
    [
        ({"images": 1}, UsageError, r"--images 1 is too few .*2 or more"),
        ({"images": 6}, DataError, r"holds 5 images \(6 were asked for\)"),
        ({"method": "guess"}, UsageError, r"--method 'guess' is not known \(entropy, percentile, mse, max are\)"),
        ({"percentile": 100.0}, UsageError, "--percentile 100 is out of range"),
    ],
    ids=["one", "too many", "method", "percentile"],
)
def test_options_that_cannot_be(
    space: Workspace, calibration_streets: Path, options: dict[str, Any], kind: type[FFNetDeployError], says: str
) -> None:
    with pytest.raises(kind, match=says):
        run(space, calibration_streets, **options)
    assert not (space.root / "calibration").exists()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_activation_that_is_not_finite_is_named_with_its_image(
    space: Workspace, calibration_streets: Path, value: float
) -> None:
    def poison(name: str, values: np.ndarray) -> np.ndarray:
        return np.full_like(values, value) if name == "b1" else values

    put_graph(space, changed(block(), poison))
    with pytest.raises(PrecisionError, match=r"^c on ahornstadt/.* is not finite"):
        run(space, calibration_streets)
    assert not list((space.root / "calibration").glob("*.json"))


@pytest.mark.usefixtures("one_method")
def test_a_dead_network_calibrates_and_says_what_has_no_range(workspace: Workspace, calibration_streets: Path) -> None:
    def kill(name: str, values: np.ndarray) -> np.ndarray:
        return np.zeros_like(values) if name.startswith("backbone_model.layer2.3.conv1.") else values

    put_graph(workspace, changed(small_graph(), kill))
    found = run(workspace, calibration_streets, images=2)
    assert found.file.tensors["backbone_model.layer2.3.relu/Relu"].max == MethodRange(0, 0, 0)
    assert values_of(found)["tensors"]["backbone_model.layer2.3.relu/Relu"]["max"] == [0, 0, 0]
    for runtime in ("tensorrt-rtx", "onnxruntime"):
        (engine,) = build(workspace, None, BuildOptions(("int8",), runtime))
        assert 0.98 < engine.record.found.share["int8"] < 0.99
    for kind in ("int8", "int8-cpu"):
        record = load_record(workspace.models / f"{STEM}.{kind}.onnx", GraphRecord, remedy="build")
        assert record.found.declined["backbone_model.layer2.3.conv2/Conv"] == (
            "backbone_model.layer2.3.relu/Relu was 0 on every calibration image, which gives no range"
        )


# --- interruptions --------------------------------------------------------------------------------------------------


def stop_at(count: int) -> Any:
    def stop(what: str, done: int, _total: int | None) -> None:
        if (what, done) == ("calibrating", count):
            raise KeyboardInterrupt

    return stop


def test_an_interrupted_calibration_continues(
    space: Workspace, calibration_streets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(space, calibration_streets).file.tensors
    (space.root / "calibration" / f"{STEM}.json").unlink()
    monkeypatch.setattr(observe, "_SAVE_EVERY_S", 0.0)
    with pytest.raises(KeyboardInterrupt):
        calibrate(space, None, CalibrateOptions(calibration_streets), stop_at(4))
    (state,) = (space.root / "calibration").iterdir()
    assert state.name == f"{STEM}.partial"
    resumed = run(space, calibration_streets)
    assert resumed.file.resumed_at == 3
    assert resumed.file.tensors == whole
    assert not state.exists()


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory, calibration_streets: Path) -> Path:
    """A workspace with what an interrupted calibration has seen of three images."""
    space = Workspace(tmp_path_factory.mktemp("left"))
    put_graph(space, block())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(observe, "_SAVE_EVERY_S", 0.0)
        with pytest.raises(KeyboardInterrupt):
            calibrate(space, None, CalibrateOptions(calibration_streets), stop_at(4))
    return space.root / "calibration" / f"{STEM}.partial"


def forged(change: Callable[[dict[str, Any], bytearray], object]) -> Callable[[bytes], bytes]:
    """A change of the first line or of the bytes behind it, and checksums that fit again."""

    def changed_file(data: bytes) -> bytes:
        first, _, rest = data.partition(b"\n")
        head, body = json.loads(first), bytearray(rest)
        change(head, body)
        head["sha256"] = hashlib.sha256(body).hexdigest()
        return resealed(head).encode() + b"\n" + bytes(body)

    return changed_file


def put_count(value: int) -> Callable[[dict[str, Any], bytearray], object]:
    return lambda head, body: body.__setitem__(
        slice(4 * sum(head["bins"]), 4 * sum(head["bins"]) + 8), struct.pack("<q", value)
    )


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "torn": lambda data: data[:-5],
    "longer": lambda data: data + b"\0",
    "torn in the first line": lambda data: data[:50],
    "a zip": lambda _: b"PK\x03\x04 torn",
    "too large": lambda data: data + bytes(1 << 24),
    "a flipped bit": lambda data: data[:-1] + bytes([data[-1] ^ 1]),
    "done unsealed": lambda data: data.replace(b'"done": 3', b'"done": 1'),
    "done": forged(lambda head, _: head.update(done=2)),
    "all done": forged(lambda head, _: head.update(done=5)),
    "more than all": forged(lambda head, _: head.update(done=500)),
    "none done": forged(lambda head, _: head.update(done=0)),
    "a float": forged(lambda head, _: head.update(done=3.0)),
    "fewer tensors": forged(lambda head, _: head["ends"].pop()),
    "other lengths": forged(lambda head, _: head["bins"].__setitem__(0, head["bins"][0] + 1)),
    "no bins": forged(lambda head, _: head.update(bins=[sum(head["bins"]), *[0] * (len(head["bins"]) - 1)])),
    "end": forged(lambda head, _: head["ends"][0].__setitem__(1, 1e30)),
    "ends reversed": forged(lambda head, _: head["ends"][0].reverse()),
    "an end that is no float32": forged(lambda head, _: head["ends"][0].__setitem__(1, head["ends"][0][1] + 1e-12)),
    "a bin twice": forged(lambda _, body: body.__setitem__(slice(4, 8), body[0:4])),
    "a bin that is none": forged(lambda _, body: body.__setitem__(slice(0, 4), b"\xff" * 4)),
    "a count": forged(put_count(1)),
    "a negative count": forged(put_count(-3)),
    "a count beyond all": forged(put_count(2**62)),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damaged_state_is_not_used_and_that_is_said(left: Path, tmp_path: Path, what: str) -> None:
    data = left.read_bytes()
    key = json.loads(data.partition(b"\n")[0])["key"]
    known = facts.shapes(onnx.load_from_string(block()))
    values = {name: math.prod(known[name][1:]) for name in watched(onnx.load_from_string(block()))}
    told: list[str] = []
    path = tmp_path / "state"
    state = observe.CalibrationState(path, key, told.append)
    assert state.load(values, 5)[1] == 0
    path.write_bytes(data)
    assert state.load(values, 5)[1] == 3
    assert told == []
    path.write_bytes(DAMAGE[what](data))
    histograms, done = state.load(values, 5)
    assert (done, {histogram.total for histogram in histograms.values()}) == (0, {0})
    (line,) = told
    assert line.startswith(f"{path} is damaged (")
    assert line.endswith("what an interrupted calibration had seen is looked at again")
    assert "\n" not in line


def test_the_command_says_that_state_is_damaged(cli: Cli, space: Workspace, calibration_streets: Path) -> None:
    folder = space.root / "calibration"
    folder.mkdir()
    (folder / f"{STEM}.partial").write_bytes(b"PK")
    result = cli("calibrate", "--data", calibration_streets, "--images", "2", "--workspace", space.root)
    assert result.code == 0, result.err
    assert f"{STEM}.partial is damaged (" in result.err


def test_pictures_of_one_colour_are_refused(space: Workspace, tmp_path: Path) -> None:
    for i in range(3):
        Image.new("RGB", (128, 64), (40 * i, 90, 20)).save(tmp_path / f"{i}.png")
    with pytest.raises(DataError, match=r"images that were looked at are of one colour, .* Name another folder with"):
        calibrate(space, None, CalibrateOptions(tmp_path))
    assert not (space.root / "calibration").exists()


def test_state_of_other_images_is_not_used(
    space: Workspace, calibration_streets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(observe, "_SAVE_EVERY_S", 0.0)
    with pytest.raises(KeyboardInterrupt):
        calibrate(space, None, CalibrateOptions(calibration_streets), stop_at(3))
    assert run(space, calibration_streets, images=4).file.resumed_at == 0


KILLED = """
import sys, time
from pathlib import Path
from ffnet_deploy.artifacts.workspace import Workspace
from ffnet_deploy.calibration import observe
from ffnet_deploy.pipeline.calibrate import CalibrateOptions, calibrate
observe._SAVE_EVERY_S = 0.0
def told(*what):
    print(*what, flush=True)
    if what[:2] == ("calibrating", 4):
        time.sleep(60)
calibrate(Workspace(Path(sys.argv[1])), None, CalibrateOptions(Path(sys.argv[2])), told)
"""


def test_killed_in_the_middle_nothing_is_lost(space: Workspace, calibration_streets: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(space.root), str(calibration_streets)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("calibrating 4"):
            break
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert not list((space.root / "calibration").glob("*.json"))
    found = run(space, calibration_streets)
    assert found.file.resumed_at == 3
    assert {p.suffix for p in (space.root / "calibration").iterdir() if not p.name.startswith(".")} == {".json"}

"""Calibration: which images, bounded and resumable, reused when nothing has changed, refused when it does not fit."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hostile
import numpy as np
import onnx
import pytest
from fakes import SMALL, SMALL_SHAPE, small_graph, street_feeds
from onnx import numpy_helper
from PIL import Image

from ffnet_deploy import artifacts, pipeline
from ffnet_deploy.artifacts import Record, Workspace
from ffnet_deploy.data.imagenet import find_set, load
from ffnet_deploy.data.images import normalise
from ffnet_deploy.data.scenes import draw_scene, write_cityscapes
from ffnet_deploy.errors import ArtifactError, DataError, FFNetDeployError, PrecisionError, UsageError
from ffnet_deploy.graph import facts
from ffnet_deploy.graph.export import export
from ffnet_deploy.graph.methods import METHODS, PERCENTILE
from ffnet_deploy.graph.qdq import quantise, watched
from ffnet_deploy.pipeline import CalibrateOptions, Calibration, calibrate
from ffnet_deploy.pipeline import calibration_images as sources
from ffnet_deploy.pipeline.calibrate import current_calibration
from ffnet_deploy.pipeline.current import Graph, current_graph
from ffnet_deploy.runtimes.onnxruntime import OnnxRuntimeRunner
from ffnet_deploy.zoo.specs import find
from ffnet_deploy.zoo.weights import load_random

STORY = sys.modules["ffnet_deploy.pipeline.calibrate"]


def put_graph(workspace: Workspace, data: bytes) -> None:
    """As export does, without PyTorch."""
    artifacts.keep(
        workspace.graph(f"{SMALL}@64x128"),
        data,
        lambda sha256, size: Record(
            kind="graph",
            model=SMALL,
            precision="fp32",
            sha256=sha256,
            size=size,
            sources={"weights": {"file": None, "sha256": "0" * 64}},
            options={"shape": list(SMALL_SHAPE)},
            marks=["untrained"],
            created=artifacts.now(),
        ),
    )


@pytest.fixture
def space(workspace: Workspace) -> Workspace:
    put_graph(workspace, small_graph())
    return workspace


@pytest.fixture(scope="module")
def streets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five train scenes and two val scenes, twice the network's input: it sees them behind the blur."""
    root = tmp_path_factory.mktemp("streets")
    write_cityscapes(root, "train", {"ahornstadt": 3, "birkenau": 2}, seed=1, size=(128, 256))
    write_cityscapes(root, "val", {"eichenfurt": 2}, seed=1, size=(128, 256))
    return root


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three pictures of other sizes and kinds, one in a folder below."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "more").mkdir()
    for i, name in enumerate(("a.png", "b.jpg", "more/c.webp")):
        Image.fromarray(draw_scene(90, 100 + 10 * i, i).image).save(folder / name)
    return folder


def run(space: Workspace, data: Path, **options: Any) -> Calibration:
    return calibrate(space, None, CalibrateOptions(data, **options))


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory, streets: Path) -> Path:
    """A workspace with a graph and its calibration on three images."""
    space = Workspace(tmp_path_factory.mktemp("once"))
    put_graph(space, small_graph())
    run(space, streets, images=3)
    return space.root


@pytest.fixture
def ready(once: Path, tmp_path: Path) -> Workspace:
    """A copy of that."""
    return Workspace(shutil.copytree(once, tmp_path / "ready"))


def calibrated(space: Workspace) -> Calibration:
    return current_calibration(space, current_graph(space, None))


def test_ranges_of_all_that_either_dialect_needs(space: Workspace, streets: Path) -> None:
    told: list[tuple[str, int, int | None]] = []
    found = calibrate(space, None, CalibrateOptions(streets), lambda *what: told.append(what))
    values = json.loads(found.path.read_text())
    assert found.path == space.root / "calibration" / f"{SMALL}@64x128.json"
    assert values == found.values
    assert list(values["tensors"]) == list(watched(onnx.load_from_string(small_graph())))
    for tensor in values["tensors"].values():
        assert tensor["low"] <= tensor["high"]
        assert {*tensor} == {"low", "high", "values", "channels", *METHODS}
        magnitude, low, high = tensor["max"]
        assert (magnitude, low, high) == (
            max(-low, high),
            min(tensor["low"], 0),
            max(tensor["high"], 0),
        )
    shapes = facts.shapes(onnx.load_from_string(small_graph()))
    assert all(len(tensor["channels"]) == shapes[name][1] for name, tensor in values["tensors"].items())
    assert [what for what in told if what[0] == "looking at channels"][-1] == ("looking at channels", 5, 5)
    images = values["images"]
    assert (images["from"], images["count"], images["resized"]) == ("Cityscapes train", 5, False)
    assert all(name.split("/")[0] in ("ahornstadt", "birkenau") for name in images["names"])
    assert values["graph"]["sha256"] == current_graph(space, None).record.sha256
    assert (values["method"], values["percentile"], values["marks"]) == ("percentile", PERCENTILE, ["untrained"])
    assert [what for what in told if what[0] == "calibrating"] == [("calibrating", i, 5) for i in range(6)]
    assert not list(space.root.glob("calibration/*.npz"))


def test_channels_are_seen_on_a_few_images_evenly_and_the_largest_counts(
    space: Workspace, streets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = sources.find_images(current_graph(space, None), streets, None, allow_val=False)
    assert images.some(2).names == (images.names[0], images.names[2])
    assert images.some(9) == images
    every = calibrate(space, None, CalibrateOptions(streets)).values["tensors"]
    monkeypatch.setattr(STORY, "_FEW_PIXELS", 0)
    monkeypatch.setattr(STORY, "_FEWEST", 2)
    told: list[tuple[str, int, int | None]] = []
    options = CalibrateOptions(streets, percentile=99.9)
    some = calibrate(space, None, options, lambda *what: told.append(what)).values["tensors"]
    assert [what for what in told if what[0] == "looking at channels"][-1] == ("looking at channels", 2, 2)
    pairs = [pair for name in every for pair in zip(every[name]["channels"], some[name]["channels"], strict=True)]
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


def test_hostile_weights_lose_no_more_than_those_they_were_made_from(space: Workspace, streets: Path) -> None:
    options = CalibrateOptions(streets, images=2)
    plain = noise(calibrate(space, None, options), space)
    network = load_random(find(SMALL)).module
    network.load_state_dict(hostile.tailed(hostile.scaled(network.state_dict())))
    put_graph(space, export(network, find(SMALL), SMALL_SHAPE, opset=20, metadata={}).SerializeToString())
    assert noise(calibrate(space, None, options), space) < 1.5 * plain


def test_a_calibration_that_fits_is_used_again(
    ready: Workspace, streets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = calibrated(ready)
    monkeypatch.setattr(STORY, "_observe", None)  # nothing is looked at again
    again = run(ready, streets, images=3)
    assert (again.reused, again.values) == (True, first.values)
    # Every method is there already; what changes is what build takes by default.
    other = run(ready, streets, images=3, method="mse")
    assert (other.reused, other.method) == (True, "mse")
    assert json.loads(other.path.read_text())["method"] == "mse"
    assert other.values["tensors"] == first.values["tensors"]


@pytest.mark.parametrize("what", ["images", "graph", "percentile", "damage", "fewer", "method"])
def test_what_has_changed_is_looked_at_again(ready: Workspace, streets: Path, what: str) -> None:
    first = calibrated(ready)
    options: dict[str, Any] = {"images": 3}
    if what == "images":
        options["images"] = 4
    elif what == "percentile":
        options["percentile"] = 99.0
    elif what == "graph":
        put_graph(ready, changed(lambda name, values: values * 2 if name.endswith("conv0.weight") else values))
    elif what == "fewer":
        rewritten(first, lambda values: values["tensors"].popitem())
    elif what == "method":
        rewritten(first, lambda values: [found.pop("entropy") for found in values["tensors"].values()])
    else:
        first.path.write_text(first.path.read_text()[:-100])
    again = run(ready, streets, **options)
    assert not again.reused
    assert (again.values["tensors"] == first.values["tensors"]) == (what in ("damage", "fewer", "method"))


def changed(change: Callable[[str, np.ndarray], np.ndarray]) -> bytes:
    model = onnx.load_from_string(small_graph())
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32:
            tensor.CopyFrom(numpy_helper.from_array(change(tensor.name, values).astype(np.float32), tensor.name))
    return bytes(model.SerializeToString(deterministic=True))


def test_a_folder_of_pictures_is_resized_and_says_so(space: Workspace, photos: Path) -> None:
    found = run(space, photos)
    images = found.values["images"]
    assert (images["from"], images["count"], images["resized"]) == ("folder of images", 3, True)
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
    assert shlex.split(found.values["command"])[3:5] == ["--data", str(folder)]
    assert closed


def test_images_are_chosen_evenly(space: Workspace, streets: Path) -> None:
    graph = current_graph(space, None)
    every = sources.find_images(graph, streets, None, allow_val=False).names
    assert sources.find_images(graph, streets, 2, allow_val=False).names == (every[0], every[2])


def test_a_batch_is_filled_up_and_the_filling_not_counted(space: Workspace, streets: Path) -> None:
    images = sources.find_images(current_graph(space, None), streets, 5, allow_val=False)
    found = list(sources.batches(images, 2, 1))
    assert [names for names, _ in found] == [list(images.names[1:3]), list(images.names[3:5])]
    ((names, feed),) = sources.batches(images, 2, 4)
    assert (len(names), feed.shape, str(feed.dtype)) == (1, (2, *SMALL_SHAPE[1:]), "float32")
    assert np.array_equal(feed[0], feed[1])


def test_val_is_never_looked_at_unasked(space: Workspace, streets: Path, tmp_path: Path) -> None:
    found = run(space, streets, allow_val=True)
    assert (found.values["images"]["from"], found.values["images"]["count"]) == ("Cityscapes val", 2)
    assert "calibrated on val" in found.values["marks"]
    only_val = tmp_path / "only"
    shutil.copytree(streets / "leftImg8bit" / "val", only_val / "leftImg8bit" / "val")
    with pytest.raises(DataError, match=r"has no train split .*--allow-val"):
        run(space, only_val)
    with pytest.raises(DataError, match=r"holds images of a val split, first .*--allow-val"):
        run(space, streets / "leftImg8bit" / "val")
    # By the names of Cityscapes' val cities too, wherever they lie.
    loose = tmp_path / "loose"
    loose.mkdir()
    for i in range(2):
        Image.fromarray(draw_scene(64, 64, i).image).save(loose / f"lindau_00000{i}_000019_leftImg8bit.png")
    with pytest.raises(DataError, match="val split"):
        run(space, loose)
    assert "calibrated on val" in run(space, loose, allow_val=True).values["marks"]


@pytest.mark.parametrize("place", ["val", "validation", "a/val/b"])
def test_a_folder_of_that_name_is_val(space: Workspace, photos: Path, tmp_path: Path, place: str) -> None:
    folder = tmp_path / "any" / place
    shutil.copytree(photos, folder)
    for data in (folder, tmp_path / "any"):
        with pytest.raises(DataError, match="val split"):
            run(space, data)
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(DataError, match="val split"):
        run(space, tmp_path / "link")
    assert "calibrated on val" in run(space, folder, allow_val=True).values["marks"]


CLASSIFIER = "classification_ffnet46NS_CBX_mobile"


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ImageNet's folders with four train and two val pictures of two classes."""
    root = tmp_path_factory.mktemp("imagenet")
    for split, count in (("train", 2), ("val", 1)):
        for wnid in ("n01440764", "n01751748"):
            (root / split / wnid).mkdir(parents=True)
            for i in range(count):
                picture = Image.fromarray(draw_scene(70 + 10 * i, 90, i).image)
                picture.save(root / split / wnid / f"{wnid}_{i}.JPEG")
    return root


def classifier(workspace: Workspace, size: int) -> Graph:
    """The graph as calibration's choice of images sees it: its record alone."""
    shape = {"shape": [1, 3, size, size]}
    record = Record("graph", CLASSIFIER, "fp32", sha256="0" * 64, size=0, sources={}, options=shape)
    return Graph(workspace.graph(CLASSIFIER), record)


def test_imagenet_gives_its_train_split_as_evaluation_makes_it(
    workspace: Workspace, objects: Path, tmp_path: Path
) -> None:
    graph = classifier(workspace, 224)
    found = sources.find_images(graph, objects, None, allow_val=False)
    assert (found.title, found.resized, found.val, len(found.names)) == ("ImageNet train", False, False, 4)
    wanted = [normalise(load(sample)) for sample in find_set(objects / "train").samples]
    assert all(np.array_equal(read(), image) for read, image in zip(found.readers, wanted, strict=True))
    val = sources.find_images(graph, objects, None, allow_val=True)
    assert (val.title, val.val, len(val.names)) == ("ImageNet val", True, 2)
    # A folder of the same pictures gives the same, and val is val by any name.
    plain = sources.find_images(graph, objects / "train", None, allow_val=False)
    assert (plain.title, plain.resized) == ("folder of images", False)
    assert all(np.array_equal(read(), image) for read, image in zip(plain.readers, wanted, strict=True))
    shutil.copytree(objects / "val", tmp_path / "only" / "val")
    for folder in (objects / "val", tmp_path / "only"):
        with pytest.raises(DataError, match="--allow-val"):
            sources.find_images(graph, folder, None, allow_val=False)
    with pytest.raises(UsageError, match="takes 64x64, and ImageNet's images are cropped to 224x224"):
        sources.find_images(classifier(workspace, 64), objects, None, allow_val=False)
    small = sources.find_images(classifier(workspace, 64), objects / "train", None, allow_val=False)
    assert (small.resized, small.readers[0]().shape) == (True, (1, 3, 64, 64))


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
    space: Workspace, streets: Path, options: dict[str, Any], kind: type[FFNetDeployError], says: str
) -> None:
    with pytest.raises(kind, match=says):
        run(space, streets, **options)
    assert not (space.root / "calibration").exists()


def test_folders_that_cannot_be(space: Workspace, photos: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match=r"holds 0 images \(2 or more are needed\)"):
        run(space, empty)
    shutil.copy(photos / "a.png", empty)
    with pytest.raises(DataError, match=r"holds 1 images \(2 or more are needed\)"):
        run(space, empty)
    with pytest.raises(DataError, match="is no folder"):
        run(space, tmp_path / "absent")
    mixed = tmp_path / "mixed"
    shutil.copytree(photos, mixed)
    (mixed / "notes.txt").write_text("not a picture")
    with pytest.raises(DataError, match=r"1 of 4 files below .* are no images, first .*notes\.txt"):
        run(space, mixed)
    (mixed / "notes.txt").rename(mixed / "notes.png")
    with pytest.raises(DataError, match=r"notes\.png cannot be decoded \(no picture that is known\)"):
        run(space, mixed)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_activation_that_is_not_finite_is_named_with_its_image(
    space: Workspace, streets: Path, value: float
) -> None:
    def poison(name: str, values: np.ndarray) -> np.ndarray:
        return np.full_like(values, value) if name == "backbone_model.layer2.3.conv2.bias" else values

    put_graph(space, changed(poison))
    with pytest.raises(PrecisionError, match=r"backbone_model\.layer2\.3.* on ahornstadt/.* is not finite"):
        run(space, streets)
    assert not list((space.root / "calibration").glob("*.json"))


def test_a_dead_network_calibrates_and_says_what_has_no_range(space: Workspace, streets: Path) -> None:
    def kill(name: str, values: np.ndarray) -> np.ndarray:
        return np.zeros_like(values) if name.startswith("backbone_model.layer2.3.conv1.") else values

    put_graph(space, changed(kill))
    found = run(space, streets)
    assert found.values["tensors"]["backbone_model.layer2.3.relu/Relu"]["max"] == [0, 0, 0]
    for runtime in ("tensorrt-rtx", "onnxruntime"):
        (engine,) = pipeline.build(space, None, pipeline.BuildOptions(("int8",), runtime))
        assert 0.98 < engine.record.found["share"]["int8"] < 0.99
    for kind in ("int8", "int8-cpu"):
        record = artifacts.load_record(space.graph(f"{SMALL}@64x128", kind), remedy="build")
        assert record.found["declined"]["backbone_model.layer2.3.conv2/Conv"] == (
            "backbone_model.layer2.3.relu/Relu was 0 on every calibration image, which gives no range"
        )


# --- interruptions ------------------------------------------------------------------------------------------


def test_an_interrupted_calibration_continues(space: Workspace, streets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(space, streets).values["tensors"]
    (space.root / "calibration" / f"{SMALL}@64x128.json").unlink()
    monkeypatch.setattr(STORY, "_SAVE_EVERY_S", 0.0)

    def stop(what: str, done: int, _total: int | None) -> None:
        if (what, done) == ("calibrating", 4):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        calibrate(space, None, CalibrateOptions(streets), stop)
    (state,) = (space.root / "calibration").iterdir()
    assert state.name == f"{SMALL}@64x128.partial.npz"
    resumed = run(space, streets)
    assert resumed.values["resumed_at"] == 3
    assert resumed.values["tensors"] == whole
    assert not state.exists()


@pytest.mark.parametrize("left", [b"", b"PK\x03\x04 torn", b"nonsense"], ids=["empty", "torn", "nonsense"])
def test_what_is_left_of_something_else_is_not_used(space: Workspace, streets: Path, left: bytes) -> None:
    folder = space.root / "calibration"
    folder.mkdir()
    (folder / f"{SMALL}@64x128.partial.npz").write_bytes(left)
    assert run(space, streets, images=2).values["resumed_at"] == 0


def test_state_of_other_images_is_not_used(space: Workspace, streets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(STORY, "_SAVE_EVERY_S", 0.0)

    def stop(what: str, done: int, _total: int | None) -> None:
        if (what, done) == ("calibrating", 3):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        calibrate(space, None, CalibrateOptions(streets), stop)
    assert run(space, streets, images=4).values["resumed_at"] == 0


KILLED = """
import sys
from pathlib import Path
from ffnet_deploy.artifacts import Workspace
import ffnet_deploy.pipeline.calibrate
story = sys.modules["ffnet_deploy.pipeline.calibrate"]
story._SAVE_EVERY_S = 0.0
options = story.CalibrateOptions(Path(sys.argv[2]))
story.calibrate(Workspace(Path(sys.argv[1])), None, options, lambda *what: print(*what, flush=True))
"""


def test_killed_in_the_middle_nothing_is_lost(space: Workspace, streets: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(space.root), str(streets)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("calibrating 3"):
            break
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert not list((space.root / "calibration").glob("*.json"))
    found = run(space, streets)
    assert 2 <= found.values["resumed_at"] < 5
    assert {p.suffix for p in (space.root / "calibration").iterdir() if not p.name.startswith(".")} == {".json"}


# --- use ------------------------------------------------------------------------------------------


def rewritten(found: Calibration, change: Callable[[dict[str, Any]], object]) -> None:
    values = json.loads(found.path.read_text())
    change(values)
    found.path.write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda v: v.update(model="segmentation_ffnet78S_dBBB_mobile"), r"is of segmentation_ffnet78S_dBBB_mobile"),
        (
            lambda v: v["graph"].update(sha256="0" * 64),
            r"is stale: .* was exported again since it was made\. Run: ffnet-",
        ),
        (lambda v: v.update(version=0), "is no calibration of this version"),
        (lambda v: v.pop("tensors"), r"is no calibration of this version \('tensors'\)"),
        (lambda v: v["images"].pop("names"), r"is no calibration of this version \('names'\)"),
        (lambda v: v["images"].update(resized="no"), r"is no calibration of this version\. Run: "),
        (lambda v: v["graph"].pop("file"), r"is no calibration of this version \('file'\)"),
        (lambda v: v.update(marks="untrained"), r"is no calibration of this version \('untrained' is no list\)"),
        (
            lambda v: [t.update(channels="many") for t in v["tensors"].values()],
            r"is no calibration of this version \('many' is no list\)",
        ),
        (lambda v: v["tensors"].popitem(), rf"1 tensors have no range, first head\..*calibrate {SMALL} --data"),
        (
            lambda v: [t.pop("entropy") for t in v["tensors"].values()],
            r"holds no ranges by 'entropy' \(percentile, mse",
        ),
    ],
    ids=["model", "graph", "version", "cut", "names", "resized", "file", "marks", "channels", "fewer", "method"],
)
def test_a_calibration_that_does_not_fit_is_refused(
    ready: Workspace, change: Callable[[dict[str, Any]], object], says: str
) -> None:
    rewritten(calibrated(ready), change)
    options = pipeline.BuildOptions(("int8",), "onnxruntime", int8=pipeline.Int8Options("entropy"))
    with pytest.raises((ArtifactError, PrecisionError, UsageError), match=says):
        pipeline.build(ready, None, options)
    assert not ready.engines.exists()
    assert not list(ready.models.glob("*.int8*"))


def test_without_one_the_next_step_is_calibrate(space: Workspace) -> None:
    with pytest.raises(ArtifactError, match=rf"does not exist .* Run: ffnet-deploy calibrate {SMALL} --data DIR$"):
        current_calibration(space, current_graph(space, None))

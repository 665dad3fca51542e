"""The calibration file: used again when nothing has changed, and refused when it does not fit or is damaged."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.calibrated import block, calibrated, changed, rewritten, run, values_of
from support.fakes import SMALL
from support.graphs import put_graph

from ffnet_deploy.artifacts.workspace import Workspace
from ffnet_deploy.calibration.methods import METHODS
from ffnet_deploy.calibration.record import CALIBRATION_SCHEMA, Calibration, MethodRange, read_calibration
from ffnet_deploy.errors import ArtifactError, DataError, PrecisionError, UsageError
from ffnet_deploy.pipeline import calibrate as story
from ffnet_deploy.pipeline.build import BuildOptions, build
from ffnet_deploy.pipeline.precision import Int8Options


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory, calibration_streets: Path) -> Path:
    """A workspace with a graph and its calibration on three images."""
    space = Workspace(tmp_path_factory.mktemp("once"))
    put_graph(space, block())
    run(space, calibration_streets, images=3)
    return space.root


@pytest.fixture
def ready(once: Path, tmp_path: Path) -> Workspace:
    """A copy of that."""
    return Workspace(shutil.copytree(once, tmp_path / "ready"))


def test_a_calibration_that_fits_is_used_again(
    ready: Workspace, calibration_streets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = calibrated(ready)
    for name in ("sizes_of_channels", "histograms_of"):
        monkeypatch.setattr(story, name, None)  # nothing is looked at again
    again = run(ready, calibration_streets, images=3)
    assert (again.reused, again.file) == (True, first.file)
    # Every method is there already; what changes is what build takes by default.
    other = run(ready, calibration_streets, images=3, method="mse")
    assert (other.reused, other.method) == (True, "mse")
    assert values_of(other)["method"] == "mse"
    assert other.file.tensors == first.file.tensors
    assert other.fingerprint == first.fingerprint


@pytest.mark.parametrize("what", ["images", "graph", "percentile", "damage", "fewer", "method"])
def test_what_has_changed_is_looked_at_again(ready: Workspace, calibration_streets: Path, what: str) -> None:
    first = calibrated(ready)
    options: dict[str, Any] = {"images": 3}
    if what == "images":
        options["images"] = 4
    elif what == "percentile":
        options["percentile"] = 99.0
    elif what == "graph":
        put_graph(ready, changed(block(), lambda name, values: values * 2 if name == "w0" else values))
    elif what == "fewer":
        rewritten(first, lambda values: values["tensors"].popitem())
    elif what == "method":
        rewritten(first, lambda values: [found.pop("entropy") for found in values["tensors"].values()])
    else:
        first.path.write_text(first.path.read_text()[:-100])
    again = run(ready, calibration_streets, **options)
    assert not again.reused
    assert (again.file.tensors == first.file.tensors) == (what in ("damage", "fewer", "method"))


def each(change: Callable[[dict[str, Any]], object]) -> Callable[[dict[str, Any]], object]:
    """A change of every tensor."""
    return lambda values: [change(tensor) for tensor in values["tensors"].values()]


AGAIN = rf"Run: ffnet-deploy calibrate {SMALL} --data DIR --workspace .*$"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda v: v.update(model="segmentation_ffnet78S_dBBB_mobile"),
            rf"belongs to segmentation_ffnet78S_dBBB_mobile \(one of {SMALL} was needed\)",
        ),
        (
            lambda v: v["graph"].update(sha256="0" * 64),
            rf"^/.* was exported again since it was made\. Run: ffnet-deploy calibrate {SMALL} --data /",
        ),
        (lambda v: v.update(schema=0), rf"was made by another version of ffnet-deploy\. {AGAIN}"),
        (lambda v: v.update(schema=None), rf"was made by another version of ffnet-deploy\. {AGAIN}"),
        (lambda v: v.update(command="build"), rf"is no calibration of this version \(command: .*\)\. {AGAIN}"),
        (lambda v: v.pop("tensors"), rf"is no calibration of this version \(tensors: field required\)\. {AGAIN}"),
        (lambda v: v["images"].pop("names"), r"is no calibration of this version \(images\.names: field required\)"),
        (lambda v: v["images"].update(names=[]), r"is no calibration of this version \(images\.names: "),
        (lambda v: v["images"].update(resized="no"), r"is no calibration of this version \(images\.resized: .*Run: "),
        (lambda v: v["graph"].pop("file"), r"is no calibration of this version \(graph\.file: field required\)"),
        (lambda v: v.update(marks="untrained"), r"is no calibration of this version \(marks: .* valid array\)"),
        (lambda v: v.update(method="guess"), r"is no calibration of this version \(method: "),
        (lambda v: v.update(percentile=100), r"is no calibration of this version \(percentile: "),
        (each(lambda t: t.update(channels="many")), r"is no calibration of this version \(tensors\.r\.channels: "),
        (lambda v: v["tensors"].popitem(), rf"1 tensors have no range, first t .*calibrate {SMALL} --data"),
        (each(lambda t: t.pop("entropy")), r"\(tensors\.r\.entropy: field required, and \d more\)"),
        (
            lambda v: v["tensors"].update(other=v["tensors"]["s"]),
            r"has ranges of other \(the graph has no such tensor\)",
        ),
        (
            each(lambda t: t.update(values=3 * t["values"])),
            r"has \d+ values of r \(\d+ were needed\)\. Run: ffnet-deploy",
        ),
        (each(lambda t: t["channels"].pop()), r"has 7 channels of r \(8 were needed\)\. Run: ffnet-deploy calibrate"),
        (lambda v: v["images"].update(names=["a"], asked=None), r"has \d+ values of r \(\d+ were needed\)"),
    ],
    ids=[
        *("model", "graph", "version", "no version", "command", "cut", "names", "no names", "resized", "file"),
        *("marks", "method", "percentile", "channels", "fewer", "no method", "another", "more values"),
        *("other channels", "fewer names"),
    ],
)
def test_a_calibration_that_does_not_fit_is_refused(
    ready: Workspace, change: Callable[[dict[str, Any]], object], says: str
) -> None:
    rewritten(calibrated(ready), change)
    options = BuildOptions(("int8",), "onnxruntime", int8=Int8Options("entropy"))
    with pytest.raises((ArtifactError, PrecisionError, UsageError), match=says) as caught:
        build(ready, None, options)
    assert "\n" not in str(caught.value)
    assert not ready.engines.exists()
    assert not list(ready.models.glob("*.int8*"))


def test_what_would_be_refused_is_not_written(ready: Workspace) -> None:
    found = calibrated(ready)
    before = found.path.read_bytes()
    tensors = {**found.file.tensors, "r": replace(found.file.tensors["r"], mse=MethodRange(1e-38, 0, 1e-38))}
    with pytest.raises(DataError, match=r"no ranges for INT8 \(tensors\.r: mse: .*\)\. Name others with --data\.$"):
        replace(found, file=replace(found.file, tensors=tensors)).save()
    assert found.path.read_bytes() == before


def test_tensors_next_to_zero_are_read_back_and_built(ready: Workspace, calibration_streets: Path) -> None:
    put_graph(ready, changed(block(), lambda name, values: values * 4e-39 if name in ("w1", "b1") else values))
    made = run(ready, calibration_streets, images=2)
    assert 0 < made.file.tensors["s"].magnitude < 2.0**-119
    assert set(made.limits("max")["s"]) == {0.0}
    assert calibrated(ready).file == made.file
    # What reads it has no range, and stays in floats.
    build(ready, None, BuildOptions(("int8",), "onnxruntime", int8=Int8Options("entropy", ("c2",))))


def test_a_method_that_is_not_there_is_refused(ready: Workspace) -> None:
    with pytest.raises(UsageError, match=r"no ranges by 'guess' \(entropy, percentile, mse, max are there\)"):
        calibrated(ready).limits("guess")


# --- damage by hand -------------------------------------------------------------------------------------------------


def refused(found: Calibration) -> str:
    """The one line that a file is refused with."""
    with pytest.raises(ArtifactError) as caught:
        read_calibration(found.workspace, found.path)
    message = str(caught.value)
    # Of a long path the middle is left out.
    assert message.startswith(str(found.path)[:50])
    assert message.endswith(f"Run: ffnet-deploy calibrate {SMALL} --data DIR --workspace {found.workspace.root}")
    assert "\n" not in message
    return message


def test_a_calibration_of_the_first_release_is_refused(ready: Workspace) -> None:
    found = calibrated(ready)
    old = {"schema": 1, "version": 2, "kind": "calibration", "command": f"ffnet-deploy calibrate {SMALL} --data /a"}
    found.path.write_text(json.dumps(values_of(found) | old))
    assert "was made by another version of ffnet-deploy" in refused(found)
    assert old["schema"] != CALIBRATION_SCHEMA


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "Expecting value"),
        ("[]", "it holds a list and no object"),
        ("[" * 100_000, "it is nested too deeply"),
        ('{"a":' * 100_000, "it is nested too deeply"),
        ('{"tensors": ' + '{"a":' * 500 + "1" + "}" * 501, "recursion limit"),
        ("{}", "field required"),
    ],
    ids=["empty", "list", "deep lists", "deep", "less deep", "bare"],
)
def test_what_is_no_calibration_at_all_is_refused(ready: Workspace, text: str, says: str) -> None:
    found = calibrated(ready)
    found.path.write_text(text)
    assert says in refused(found)


def test_what_is_not_text_is_refused(ready: Workspace) -> None:
    found = calibrated(ready)
    found.path.write_bytes(b"\xff\xfe\x00")
    assert "is no calibration of this version (" in refused(found)


FIGURES = ("low", "high", "channels.0", *(f"{method}.{i}" for method in METHODS for i in range(3)))


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999", '"1"', "null", "[1]"])
def test_every_figure_is_finite(ready: Workspace, value: str) -> None:
    found = calibrated(ready)
    values = values_of(found)
    for where in FIGURES:
        *outer, last = (int(part) if part.isdecimal() else part for part in where.split("."))
        damaged = json.loads(json.dumps(values))
        inner = damaged["tensors"]["s"]
        for key in outer:
            inner = inner[key]
        inner[last] = math.pi
        found.path.write_text(json.dumps(damaged).replace(str(math.pi), value))
        says = f"it has the number {value})" if value[-1] in "Ny9" else f"(tensors.s.{where}: "
        assert says in refused(found)
    for name in ("percentile", "seconds"):
        found.path.write_text(json.dumps(values | {name: math.pi}).replace(str(math.pi), value))
        assert (f"it has the number {value})" if value[-1] in "Ny9" else f"({name}: ") in refused(found)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t.update(low=2.0, high=1.0), "low 2 is above high 1"),
        (lambda t: t["mse"].__setitem__(1, 0.5), "0 is not within 0.5 to"),
        (lambda t: t["mse"].__setitem__(2, -0.5), "0 is not within"),
        (lambda t: t["mse"].__setitem__(0, 0.0), "magnitude 0 for values of 0 to"),
        (lambda t: t.update(low=0.0, high=0.0), "its channels do not fit its range"),
        (lambda t: t["mse"].__setitem__(0, -1.0), "greater than or equal to 0"),
        (lambda t: t["mse"].pop(), "field required"),
        (lambda t: t["mse"].append(1.0), "at most 3 items"),
        (lambda t: t.update(values=0), "greater than 0"),
        (lambda t: t.update(values=1.5), "valid integer"),
        (lambda t: t["channels"].__setitem__(0, -1.0), "greater than or equal to 0"),
        (lambda t: t.update(channels=[]), "its channels do not fit its range"),
        (lambda t: t.update(values=t["values"] + 1), "values are not those of 3 images"),
        (lambda t: t.update(values=2**53 + 3), "less than or equal to"),
        (lambda t: t.update(high=3.5e38), "is no float32"),
        (lambda t: t.update(high=2 * t["high"]), "max: it is not the values' range"),
        (lambda t: t.update(low=-1.0), "max: it is not the values' range"),
        (lambda t: t["max"].__setitem__(0, 1e-3), "max: it is not the values' range"),
        (lambda t: t["mse"].__setitem__(0, 1.001 * t["high"]), "mse: it is wider than the values"),
        (lambda t: t["mse"].__setitem__(2, 1e30), "mse: it is wider than the values"),
        (lambda t: t["entropy"].__setitem__(1, -0.5), "entropy: it is wider than the values"),
        (lambda t: t["percentile"].__setitem__(0, 1e-40), "percentile: magnitude 1e-40 for values of"),
        (lambda t: t["percentile"].__setitem__(2, 0.0), "percentile: magnitude"),
        (
            lambda t: t.update({name: [0.0] * 3 for name in METHODS} | {"low": 0.0, "high": 0.0}),
            "its channels do not fit",
        ),
    ],
    ids=[
        *("reversed", "low end", "high end", "no magnitude", "constant", "negative magnitude", "short", "long"),
        *("no values", "half a value", "negative channel", "no channel", "a value more", "too many values"),
        *("too large", "higher", "lower", "narrow", "wide", "wider", "other side", "tiny", "no end", "zero"),
    ],
)
def test_ranges_that_no_calibration_gives_are_refused(
    ready: Workspace, change: Callable[[dict[str, Any]], object], says: str
) -> None:
    found = calibrated(ready)
    rewritten(found, lambda values: change(values["tensors"]["s"]))
    message = refused(found)
    assert "is no calibration of this version (tensors.s" in message
    assert says in message


def test_a_tensor_that_is_always_0_has_ranges_of_0(ready: Workspace) -> None:
    found = calibrated(ready)
    zero: dict[str, object] = {method: [0.0, 0.0, 0.0] for method in METHODS} | {"channels": [0.0] * 8}
    rewritten(found, lambda values: values["tensors"]["s"].update(zero | {"low": 0.0, "high": 0.0}))
    assert read_calibration(ready, found.path).limits("mse")["s"] == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda v: v["images"]["names"].append("another"), "names, asked and resumed_at contradict each other"),
        (lambda v: v["images"].update(asked=4), "names, asked and resumed_at contradict each other"),
        (lambda v: v["images"].update(names=[v["images"]["names"][0]] * 3), "names, asked and resumed_at contradict"),
        (lambda v: v.update(resumed_at=3), "names, asked and resumed_at contradict each other"),
        (lambda v: v.update(tensors={}), "no range has two ends"),
        (
            each(lambda t: t.update({name: [0.0] * 3 for name in METHODS} | {"low": 0.0, "high": 0.0})),
            "no range has two",
        ),
        (each(lambda t: t.update(low=t["high"])), "no range has two ends"),
    ],
    ids=["a name more", "asked", "one name", "resumed", "no tensors", "all zero", "constant"],
)
def test_a_calibration_that_no_images_give_is_refused(
    ready: Workspace, change: Callable[[dict[str, Any]], object], says: str
) -> None:
    found = calibrated(ready)
    rewritten(found, change)
    assert says in refused(found)
    with pytest.raises(ArtifactError, match="is no calibration of this version"):
        build(ready, None, BuildOptions(("int8",), "onnxruntime"))
    assert not list(ready.models.glob("*.int8*"))


def test_a_calibration_that_was_changed_by_hand_is_refused(ready: Workspace) -> None:
    found = calibrated(ready)
    found.path.write_text(json.dumps(values_of(found) | {"marks": []}))
    assert "it was changed since it was written: its checksum does not fit" in refused(found)


def test_without_one_the_next_step_is_calibrate(workspace: Workspace) -> None:
    put_graph(workspace, block())
    command = f"ffnet-deploy calibrate {SMALL} --data DIR --workspace {workspace.root}"
    with pytest.raises(ArtifactError, match=rf"does not exist .* Run: {command}$"):
        calibrated(workspace)

"""``ffnet-deploy verify`` for real: the ladder holds, a broken rung is named, and with it the layer where it starts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image
from support.cli_runner import NAME, STEM, Cli, link_workspace

from ffnet_deploy.artifacts.records import GraphRecord, keep, load_record
from ffnet_deploy.artifacts.workspace import Workspace
from ffnet_deploy.pipeline.build import BuildOptions, build
from ffnet_deploy.pipeline.export import RANDOM, ExportOptions, export
from ffnet_deploy.synthetic.scenes import draw_scene

LAYER = "backbone_model.layer2.3.conv1"
ONNX = f"{STEM}.onnx"
HALF = f"{STEM}.fp16.onnx"


@pytest.fixture(scope="module")
def made(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a graph, its FP16 graph and two engines of ONNX Runtime; tests must not change it."""
    folder = link_workspace(built, tmp_path_factory.mktemp("made"))
    for file in (folder / "engines").glob("*tensorrt*"):
        file.unlink()
    build(Workspace(folder), NAME, BuildOptions(runtime="onnxruntime", image_in=True, labels_out=True))
    return folder


@pytest.fixture
def workspace(made: Path, tmp_path: Path) -> Path:
    """A copy of ``made`` to change; files are linked and only ever replaced."""
    return link_workspace(made, tmp_path)


def break_layer(path: Path) -> None:
    """Move one weight of one layer far beyond the others, and let the record agree with the file."""
    model = onnx.load(path)
    (weight,) = (tensor for tensor in model.graph.initializer if tensor.name == f"{LAYER}.weight")
    values = numpy_helper.to_array(weight).copy()
    values.flat[0] += 20000 * values.std(dtype=np.float32)
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    rewrite(path, model.SerializeToString())


def rewrite(path: Path, data: bytes) -> None:
    record = load_record(path, GraphRecord, remedy="nothing", check=False)
    path.unlink()
    keep(path, data, lambda sha256, size: replace(record, file=replace(record.file, sha256=sha256, size=size)))


def test_the_ladder_holds_in_its_order(run: Cli, made: Path, tmp_path: Path) -> None:
    file = tmp_path / "verify.json"
    result = run("verify", NAME, "--json", file, "--workspace", made)
    assert result.code == 0, result.err
    values = json.loads(file.read_text())
    names = [rung["rung"] for rung in values["rungs"]]
    assert names == ["onnx fp32", "onnx fp16 emulated", "onnxruntime fp32", "onnxruntime fp32 image labels"]
    assert values["reference"]["rung"] == "pytorch fp32"
    assert values["images"] == {"source": "synthetic street scenes", "count": 2, "size": [64, 128], "files": []}
    assert (values["first_broken"], values["error"], values["layers"]) == (None, None, [])
    graph, half, engine, deployed = values["rungs"]
    assert graph["max_difference"] < 1e-4
    assert graph["file"] == ONNX
    assert 1e-4 < half["max_difference"] < 0.25
    assert engine["max_difference"] < 1e-4
    assert deployed["max_difference"] is None
    assert deployed["labels"]["equal"] > 0.999
    assert (half["labels_at"], deployed["labels_at"]) == ([16, 32], [64, 128])
    for rung in values["rungs"]:
        pixels = 2 * rung["labels_at"][0] * rung["labels_at"][1]
        near, away = rung["near_borders"], rung["away_from_borders"]
        assert near["count"] + (away["count"] if away else 0) == rung["labels"]["count"] == pixels
    assert "every rung that ran is within its limits" in result.out
    assert "untrained" in result.out


def test_a_broken_graph_is_named_with_the_layer(run: Cli, workspace: Path) -> None:
    for engine in (workspace / "engines").iterdir():
        engine.unlink()
    for file in (HALF, f"{HALF}.json"):
        (workspace / "models" / file).unlink()
    break_layer(workspace / "models" / ONNX)
    result = run("verify", "--layers", "--json", "-", "--workspace", workspace)
    assert result.code == 1
    values = json.loads(result.out)
    assert values["first_broken"] == "onnx fp32"
    assert values["error"]["type"] == "VerificationError"
    assert values["error"]["exit_code"] == 1
    assert result.err.splitlines()[-1] == f"error: {values['error']['message']}"
    assert "onnx fp32 is the first rung that breaks: largest difference" in values["error"]["message"]
    (layers,) = values["layers"]
    assert layers["first_jump"] == f"{LAYER}/Conv"
    assert len(layers["worst"]) == 15
    assert len(layers["tensors"]) == 154
    assert f"the error first jumps at {LAYER}/Conv" in result.err
    assert "onnx fp32 breaks first" in result.err


def test_a_broken_half_precision_graph_breaks_after_the_sound_one(run: Cli, workspace: Path) -> None:
    break_layer(workspace / "models" / HALF)
    result = run("verify", NAME, "--layers", "--json", "-", "--workspace", workspace)
    assert result.code == 1
    values = json.loads(result.out)
    assert values["first_broken"] == "onnx fp16 emulated"
    assert [bool(rung["beyond"]) for rung in values["rungs"]] == [False, True, False, False]
    assert {item["rung"]: item["first_jump"] for item in values["layers"]} == {
        "onnx fp32": None,
        "onnx fp16 emulated": f"{LAYER}/Conv",
    }
    assert "--keep-fp32" in values["error"]["message"]


def test_a_graph_that_is_not_finite_is_written_as_json(run: Cli, workspace: Path) -> None:
    path = workspace / "models" / HALF
    model = onnx.load(path)
    (bias,) = (tensor for tensor in model.graph.initializer if tensor.name == f"{LAYER}.bias")
    bias.CopyFrom(numpy_helper.from_array(np.full(tuple(bias.dims), np.nan, np.float16), bias.name))
    rewrite(path, model.SerializeToString())
    result = run("verify", NAME, "--layers", "--json", "-", "--workspace", workspace)
    assert result.code == 1
    assert "Infinity" not in result.out
    assert "NaN" not in result.out
    values = json.loads(result.out)
    assert values["rungs"][1]["max_difference"] == "inf"
    assert values["layers"][1]["first_jump"] == f"{LAYER}/Conv"


def test_a_folder_of_images(run: Cli, made: Path, tmp_path: Path) -> None:
    for name, (height, width) in {"a.png": (64, 128), "b.jpg": (128, 256), "c.png": (90, 70)}.items():
        Image.fromarray(draw_scene(height, width, 0).image).save(tmp_path / name)
    result = run("verify", NAME, "--images", tmp_path, "--json", "-", "--workspace", made)
    assert result.code == 0, result.err
    files = json.loads(result.out)["images"]["files"]
    assert [(item["file"], item["size"], item["fitted"]) for item in files] == [
        ("a.png", [64, 128], "as it is"),
        ("b.jpg", [128, 256], "halved by the blur"),
        ("c.png", [90, 70], "resized"),
    ]
    assert f"3 images of {tmp_path} (1 as it is, 1 halved by the blur, 1 resized)" in result.err


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--limit", "3"), 2, "--images DIR"),
        (("--images", "{folder}", "--limit", "0"), 2, "leaves no image"),
        (("--images", "{folder}"), 3, "holds no images (.png, .jpg, "),
        (("--images", "{folder}/absent"), 3, "does not exist"),
        (("--images", "{folder}/damaged"), 3, "cannot be decoded"),
    ],
)
def test_bad_input(run: Cli, made: Path, tmp_path: Path, options: tuple[str, ...], code: int, words: str) -> None:
    if "{folder}/damaged" in options:
        (tmp_path / "damaged").mkdir()
        (tmp_path / "damaged" / "a.png").write_bytes(b"no image")
    result = run("verify", NAME, *(o.format(folder=tmp_path) for o in options), "--json", "-", "--workspace", made)
    assert result.code == code
    assert words in result.err
    assert result.err.count("\n") == 1
    assert json.loads(result.out)["error"]["exit_code"] == code


def test_no_graph_and_a_stale_engine_are_refused(run: Cli, workspace: Path, tmp_path: Path) -> None:
    empty = run("verify", "--workspace", tmp_path / "empty")
    assert empty.code == 3
    assert "Run: ffnet-deploy export NAME" in empty.err
    break_layer(workspace / "models" / ONNX)
    stale = run("verify", NAME, "--workspace", workspace)
    assert stale.code == 3
    assert "is stale" in stale.err


def test_a_batch_is_filled_and_a_classification_model_has_no_borders(run: Cli, tmp_path: Path) -> None:
    name = "classification_ffnet18_AAX"
    export(Workspace(tmp_path), name, ExportOptions((64, 64), allow_size=True, batch=2, weights=RANDOM))
    folder = tmp_path / "photographs"
    folder.mkdir()
    for i in range(3):
        Image.fromarray(draw_scene(64, 64, i).image).save(folder / f"{i}.png")
    result = run("verify", "--images", folder, "--json", "-", "--workspace", tmp_path)
    assert result.code == 0, result.err
    (rung,) = json.loads(result.out)["rungs"]
    assert rung["labels"]["count"] == 3
    assert (rung["near_borders"], rung["away_from_borders"], rung["labels_at"]) == (None, None, None)
    assert "near" not in result.err.split("rung ")[0]

"""The real ``eval`` command: what it scores and names, its parts and its gates; resumed runs: test_eval_resume.py."""

from __future__ import annotations

import json
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.cli_runner import NAME, STEM, Cli, link_workspace
from support.evaluations import ONE, found, journals, scored

from ffnet_deploy.artifacts.workspace import Workspace
from ffnet_deploy.data.cityscapes import CATEGORIES, CLASSES
from ffnet_deploy.evaluate.outcome import Evaluation, gated
from ffnet_deploy.pipeline import evaluate as story
from ffnet_deploy.pipeline.build import BuildOptions, build
from ffnet_deploy.pipeline.export import RANDOM, ExportOptions, export
from ffnet_deploy.synthetic.scenes import write_cityscapes

RUNGS = ["pytorch fp32", "onnxruntime fp32", "onnx fp16 emulated"]


@pytest.fixture
def workspace(built: Path, tmp_path: Path) -> Path:
    """A copy of ``built`` to change."""
    return link_workspace(built, tmp_path / "workspace")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a model that takes the whole image, and engines with every kind of ends."""
    space = Workspace(tmp_path_factory.mktemp("whole"))
    model = f"{NAME}_pre_down"
    export(space, model, ExportOptions(hw=(128, 256), allow_size=True, weights=RANDOM))
    for image_in, labels_out in ((False, False), (True, True), (False, True)):
        options = BuildOptions(runtime="onnxruntime", image_in=image_in, labels_out=labels_out)
        build(space, model, options)
    return space.root


# --- what is scored -------------------------------------------------------------------------------------------------


def test_eval_scores_and_reuses_the_reference(run: Cli, workspace: Path, streets: Path) -> None:
    first = run("eval", "cityscapes", "--root", streets, "--json", "-", "--workspace", workspace)
    assert first.code == 0, first.err
    values = json.loads(first.out)
    assert values["schema"] == 4
    assert (values["command"], values["model"]) == ("eval cityscapes", STEM)
    assert {key: values["set"][key] for key in ("title", "layout", "total", "images", "limit", "shard")} == {
        "title": "custom set, 7 images", "layout": "folders, label ids", "total": 7, "images": 7, "limit": None,
        "shard": None,
    }  # fmt: skip
    assert values["protocol"] == {"size": [128, 256], "downsample": "blur", "align_corners": [False]}
    assert [rung["rung"] for rung in values["rungs"]] == RUNGS
    assert [rung["align_corners"] for rung in values["rungs"]] == [False] * 3
    reference, engine, emulated = values["rungs"]
    assert reference["agreement"] == 100.0
    assert reference["drop"] == 0
    assert reference["drop_interval"] is None
    assert reference["sha256"] == values["sources"]["weights"] == "random-0"
    assert emulated["agreement"] > 99
    assert emulated["agreement"] != engine["agreement"]
    assert engine["agreement"] > 99.9
    for rung in (engine, emulated):
        assert rung["drop"] == reference["miou"] - rung["miou"]
        assert rung["drop_interval"]["low"] <= rung["drop"] <= rung["drop_interval"]["high"]
        assert abs(rung["drop"]) < 0.05
        assert len(rung["sha256"]) == 64
    for rung in values["rungs"]:
        assert list(rung["iou"]) == list(CLASSES)
        assert list(rung["iou_categories"]) == list(CATEGORIES)
        assert np.array(rung["confusion"]).shape == (19, 19)
        known = [value for value in rung["iou"].values() if value is not None]
        assert rung["miou"] == pytest.approx(sum(known) / len(known), rel=1e-12)
    assert len(values["images"]) == 7
    assert list(values)[-2:] == ["images", "checksum"]
    assert values["marks"] == ["untrained", "off contract"]
    run_facts = values["run"]
    assert (run_facts["reference_reused"], run_facts["images_taken_over"], values["error"]) == (False, 0, None)
    # With `-` the tables go to stderr.
    assert first.err.startswith(f"model: {STEM} (exported last)\n{STEM}: custom set, 7 images\n")
    assert "blur and stride 2 before the network" in first.err
    assert "folders, label ids; images " in first.err
    assert "95 % of drop" in first.err
    assert "Note: untrained, off contract." in first.err
    assert not journals(workspace)

    again = scored(run, workspace, streets)
    assert again["run"]["reference_reused"]
    assert again["run"]["images_taken_over"] == 0
    assert found(again) == found(values)


def test_the_zips_and_the_wrapper_score_as_the_folders_do(run: Cli, workspace: Path, streets: Path) -> None:
    plain = scored(run, workspace, streets, *ONE)
    other = workspace / "other"
    other.mkdir()
    with zipfile.ZipFile(other / "leftImg8bit_trainvaltest.zip", "w") as archive:
        for path in sorted((streets / "leftImg8bit").rglob("*.png")):
            archive.write(path, path.relative_to(streets))
    shutil.copytree(streets / "gtFine", other / "gtFine_trainvaltest" / "gtFine")
    packed = scored(run, workspace, other, *ONE)
    assert packed["set"].pop("layout") == "zip and folders, label ids"
    assert plain["set"].pop("layout") == "folders, label ids"
    # The reference's label maps belong to the images' bytes, wherever those are.
    assert packed["run"]["reference_reused"]
    assert packed["rungs"] == plain["rungs"]
    assert packed["set"] == plain["set"]


def test_both_upsamplings_are_scored_and_printed(run: Cli, workspace: Path, streets: Path) -> None:
    alone = {align: scored(run, workspace, streets, *ONE, "--align-corners", align) for align in ("false", "true")}
    result = run(
        "eval",
        "cityscapes",
        "--root",
        streets,
        *ONE,
        "--align-corners",
        "auto",
        "--json",
        "-",
        "--workspace",
        workspace,
    )
    assert result.code == 0, result.err
    both = json.loads(result.out)
    assert both["protocol"]["align_corners"] == [False, True]
    assert [(rung["rung"], rung["align_corners"]) for rung in both["rungs"]] == [
        ("pytorch fp32", False), ("pytorch fp32", True), ("onnxruntime fp32", False), ("onnxruntime fp32", True)
    ]  # fmt: skip
    for align, values in alone.items():
        assert values["protocol"]["align_corners"] == [align == "true"]
        assert [r for r in both["rungs"] if r["align_corners"] == (align == "true")] == values["rungs"]
    assert alone["false"]["rungs"][0]["miou"] != alone["true"]["rungs"][0]["miou"]
    assert both["run"]["reference_reused"]
    for words in ("pytorch fp32 (align_corners false)", "pytorch fp32 (align_corners true)", "false and true"):
        assert words in result.err


def test_the_way_to_halve_stands_in_every_result(run: Cli, workspace: Path, streets: Path) -> None:
    scores = set()
    for how, words in (
        ("blur", "blur and stride 2 before the network"),
        ("area", "mean of 2x2 pixels before the network (not the blur that the weights were trained with)"),
        ("bilinear", "PIL's bilinear half before the network (not the blur that the weights were trained with)"),
    ):
        file = workspace / f"{how}.json"
        args = ("--root", streets, *ONE, "--downsample", how, "--json", file, "--workspace", workspace)
        result = run("eval", "cityscapes", *args)
        assert result.code == 0, result.err
        values = json.loads(file.read_text())
        assert values["protocol"]["downsample"] == how
        assert words in result.out
        assert not values["run"]["reference_reused"]
        scores.add(values["rungs"][0]["miou"])
    assert len(scores) == 3


def test_a_model_that_takes_the_whole_image_refuses_another_half(run: Cli, whole: Path, streets: Path) -> None:
    for how in ("area", "bilinear"):
        result = run("eval", "cityscapes", "--root", streets, "--downsample", how, "--workspace", whole)
        assert result.code == 2
        assert f"so --downsample {how} means nothing. Leave it out." in result.err


def test_engines_with_other_ends_score_as_the_plain_one(run: Cli, whole: Path, streets: Path) -> None:
    values = scored(run, whole, streets, "--align-corners", "auto", "--threads", "1")
    assert values["protocol"] == {"size": [128, 256], "downsample": None, "align_corners": [False, True]}
    rows = {(rung["rung"], rung["align_corners"]): rung for rung in values["rungs"]}
    assert set(rows) == {
        ("pytorch fp32", False), ("pytorch fp32", True), ("onnxruntime fp32", False), ("onnxruntime fp32", True),
        ("onnxruntime fp32 labels", False), ("onnxruntime fp32 image labels", False),
    }  # fmt: skip
    for ends in ("labels", "image labels"):
        row = rows[f"onnxruntime fp32 {ends}", False]
        assert row["agreement"] > 99.9
        assert row["miou"] == pytest.approx(rows["onnxruntime fp32", False]["miou"], abs=0.05)
    assert not values["skipped"]

    true = scored(run, whole, streets, "--align-corners", "true", "--threads", "1")
    assert [rung["rung"] for rung in true["rungs"]] == ["pytorch fp32", "onnxruntime fp32"]
    assert {item["rung"]: item["reason"] for item in true["skipped"]} == dict.fromkeys(
        ("onnxruntime fp32 labels", "onnxruntime fp32 image labels"), "it upsamples with align_corners false inside"
    )
    asked = ("--align-corners", "true", "--only", "onnxruntime fp32 labels")
    refused = run("eval", "cityscapes", "--root", streets, *asked, "--workspace", whole)
    assert refused.code == 4
    assert "upsamples with align_corners false inside" in refused.err


def test_eval_takes_its_root_from_the_environment(
    run: Cli, built: Path, streets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("eval", "cityscapes", "--workspace", built).code == 2
    monkeypatch.setenv("CITYSCAPES_DATASET", str(streets))
    assert run("eval", "cityscapes", "--only", "onnxruntime", "--workspace", built).code == 0


def test_a_missed_gate_prints_the_result_and_exits_1(
    run: Cli, built: Path, streets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forged(result: Evaluation, max_drop: float | None) -> Evaluation:
        rungs = tuple(replace(rung, drop=0.25 * i) for i, rung in enumerate(result.file.rungs))
        return gated(replace(result, file=replace(result.file, rungs=rungs)), max_drop)

    with monkeypatch.context() as patch:
        patch.setattr(story, "gated", forged)
        result = run("eval", "cityscapes", "--root", streets, "--max-drop", "0.2", "--workspace", built)
    assert result.code == 1
    assert "onnxruntime fp32" in result.out
    assert "at most 0.2 was allowed" in result.err
    assert run("eval", "cityscapes", "--root", streets, "--max-drop", "0.5", "--workspace", built).code == 0


# --- a part of the set ----------------------------------------------------------------------------------------------


def test_a_limit_is_named_and_scores_the_first_images(run: Cli, workspace: Path, streets: Path) -> None:
    everything = scored(run, workspace, streets, *ONE)
    file = workspace / "some.json"
    some = run("eval", "cityscapes", "--root", streets, *ONE, "--limit", "2", "--json", file, "--workspace", workspace)
    assert some.code == 0
    assert "custom set, 7 images, the first 2" in some.out
    values = json.loads(file.read_text())
    assert (values["set"]["limit"], values["set"]["total"], values["set"]["images"]) == (2, 2, 2)
    assert values["images"] == everything["images"][:2]
    assert values["set"]["sha256"] != everything["set"]["sha256"]
    assert values["set"]["names"] != everything["set"]["names"]
    total = np.sum([np.array(rung["confusion"]).sum() for rung in values["rungs"]])
    assert 0 < total < np.sum([np.array(rung["confusion"]).sum() for rung in everything["rungs"]])


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (("--limit", "8"), 3, "--limit 8 asks for more than the 7 images"),
        (("--limit", "0"), 2, "--limit 0 scores nothing"),
        (("--limit", "-1"), 2, "--limit -1 scores nothing"),
        (("--limit", "some"), 2, "--limit"),
        (("--shard", "1/2"), 2, "Add --json FILE."),
        (("--shard", "1/8", "--json", "-"), 2, "--shard 1/8 leaves shards of 7 images empty"),
        (("--shard", "1/3", "--limit", "2", "--json", "-"), 2, "leaves shards of 2 images empty"),
        (("--shard", "0/2", "--json", "-"), 2, "--shard 0/2 does not exist"),
        (("--shard", "3/2", "--json", "-"), 2, "--shard 3/2 does not exist"),
        (("--shard", "1/0", "--json", "-"), 2, "--shard 1/0 does not exist"),
        (("--shard", "half"), 2, "--shard 'half' is not I/N"),
        (("--shard", "1"), 2, "--shard '1' is not I/N"),
        (("--shard", f"1/{'9' * 5000}"), 2, "is not I/N"),
        (("--shard", "1/²"), 2, "--shard '1/²' is not I/N"),
        (("--shard", "1/"), 2, "--shard '1/' is not I/N"),
        (("--shard", "/2"), 2, "--shard '/2' is not I/N"),
        (("--shard", "-1/2"), 2, "--shard '-1/2' is not I/N"),
        (("--shard", "1/2/3"), 2, "--shard '1/2/3' is not I/N"),
        (("--shard", "²/3"), 2, "--shard '²/3' is not I/N"),
        (("--shard", "1/2", "--json", "-", "--max-drop", "1"), 2, "eval merge"),
        (("--max-drop", "-1"), 2, "--max-drop -1.0 is no gate"),
        (("--max-drop", "nan"), 2, "--max-drop nan is no gate"),
        (("--threads", "0"), 2, "--threads 0 makes no sense"),
        (("--images-at-once", "0"), 2, "--images-at-once 0 makes no sense"),
        (("--align-corners", "maybe"), 2, "--align-corners"),
        (("--downsample", "none"), 2, "--downsample"),
    ],
)
def test_what_eval_refuses(run: Cli, built: Path, streets: Path, args: tuple[str, ...], code: int, says: str) -> None:
    result = run("eval", "cityscapes", "--root", streets, *args, "--workspace", built)
    assert result.code == code, result.err
    assert says in result.err
    assert "Traceback" not in result.err
    if "-" in args:
        assert json.loads(result.out)["error"]["exit_code"] == code
    assert not journals(built)


# --- bad ends -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("only", "code", "says"),
    [
        ("openvino fp32", 2, "there are: "),
        ("tensorrt-rtx fp16", 4, "needs an NVIDIA GPU"),
    ],
)
def test_only_asks_by_name(run: Cli, built: Path, streets: Path, only: str, code: int, says: str) -> None:
    result = run("eval", "cityscapes", "--root", streets, "--only", only, "--json", "-", "--workspace", built)
    assert result.code == code
    assert says in result.err
    error = json.loads(result.out)["error"]
    assert error["exit_code"] == code
    assert error["message"] in result.err


def test_an_image_damaged_in_the_middle_of_the_set(run: Cli, built: Path, tmp_path: Path) -> None:
    write_cityscapes(tmp_path, "val", {"eichenfurt": 3}, seed=3, size=(128, 256))
    broken = sorted(tmp_path.glob("leftImg8bit/val/*/*.png"))[1]
    broken.write_bytes(broken.read_bytes()[:2000])
    result = run("eval", "cityscapes", "--root", tmp_path, "--json", "-", "--workspace", built)
    assert result.code == 3
    assert str(broken) in result.err
    assert "rungs" not in json.loads(result.out)


def test_images_of_another_size(run: Cli, built: Path, tmp_path: Path) -> None:
    write_cityscapes(tmp_path, "val", {"eichenfurt": 1}, seed=3, size=(64, 128))
    result = run("eval", "cityscapes", "--root", tmp_path, "--workspace", built)
    assert result.code == 3
    assert "128x256 was needed" in result.err


def test_label_ids_outside_the_table(run: Cli, built: Path, tmp_path: Path) -> None:
    write_cityscapes(tmp_path, "val", {"eichenfurt": 1}, seed=3, size=(128, 256))
    labels = next(tmp_path.glob("gtFine/val/*/*.png"))
    Image.new("L", (256, 128), 77).save(labels)
    result = run("eval", "cityscapes", "--root", tmp_path, "--workspace", built)
    assert result.code == 3
    assert "[77]" in result.err


def test_a_set_in_which_no_pixel_counts(run: Cli, built: Path, tmp_path: Path) -> None:
    write_cityscapes(tmp_path, "val", {"eichenfurt": 1}, seed=3, size=(128, 256))
    labels = next(tmp_path.glob("gtFine/val/*/*.png"))
    Image.new("L", (256, 128), 0).save(labels)
    result = run("eval", "cityscapes", "--root", tmp_path, "--workspace", built)
    assert result.code == 3
    assert "No pixel of" in result.err


def test_a_runtime_named_means_those_of_its_rungs_that_can_be_scored(run: Cli, whole: Path, streets: Path) -> None:
    values = scored(run, whole, streets, "--only", "onnxruntime", "--align-corners", "true", "--limit", "1")
    assert [rung["rung"] for rung in values["rungs"]] == ["pytorch fp32", "onnxruntime fp32"]
    assert len(values["skipped"]) == 2

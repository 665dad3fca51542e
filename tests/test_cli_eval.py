"""The real ``eval`` command: what it scores and names, its parts, its gates, and runs that are killed and resumed."""

from __future__ import annotations

import json
import shutil
import signal
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import NAME, STEM, Cli, link_workspace, started
from PIL import Image

from ffnet_deploy import pipeline
from ffnet_deploy.artifacts import Workspace
from ffnet_deploy.data.cityscapes import CATEGORIES, CLASSES
from ffnet_deploy.data.scenes import write_cityscapes

RUNGS = ["pytorch fp32", "onnxruntime fp32", "onnx fp16 emulated"]
ONE = ("--only", "onnxruntime fp32", "--threads", "1")
HOW = ("threads", "images_at_once", "networks_at_once", "seconds", "stages_s", "images_taken_over", "environment",
       "reference_reused")  # fmt: skip
"""What a result says of how it was come by: all else must be equal between equal evaluations."""


@pytest.fixture
def workspace(built: Path, tmp_path: Path) -> Path:
    """A copy of ``built`` to change."""
    return link_workspace(built, tmp_path / "workspace")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a model that takes the whole image, and engines with every kind of ends."""
    space = Workspace(tmp_path_factory.mktemp("whole"))
    model = f"{NAME}_pre_down"
    pipeline.export(space, model, pipeline.ExportOptions(hw=(128, 256), allow_size=True, weights=pipeline.RANDOM))
    for image_in, labels_out in ((False, False), (True, True), (False, True)):
        options = pipeline.BuildOptions(runtime="onnxruntime", image_in=image_in, labels_out=labels_out)
        pipeline.build(space, model, options)
    return space.root


def scored(run: Cli, workspace: Path, streets: Path, *args: str | Path) -> dict[str, Any]:
    result = run("eval", "cityscapes", "--root", streets, "--json", "-", "--workspace", workspace, *args)
    assert result.code == 0, result.err
    values: dict[str, Any] = json.loads(result.out)
    return values


def found(values: dict[str, Any]) -> dict[str, Any]:
    """A result without how it was come by."""
    return {key: value for key, value in values.items() if key not in HOW}


def journals(workspace: Path) -> list[Path]:
    return list(workspace.glob("engines/unfinished/*.jsonl"))


# --- what is scored -------------------------------------------------------------------------------------------------


def test_eval_scores_and_reuses_the_reference(run: Cli, workspace: Path, streets: Path) -> None:
    first = run("eval", "cityscapes", "--root", streets, "--json", "-", "--workspace", workspace)
    assert first.code == 0, first.err
    values = json.loads(first.out)
    assert values["schema"] == 2
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
    assert list(values)[-1] == "images"
    assert values["marks"] == ["untrained", "off contract"]
    assert (values["reference_reused"], values["images_taken_over"], values["error"]) == (False, 0, None)
    # With `-` the tables go to stderr.
    assert first.err.startswith(f"model: {STEM} (exported last)\n{STEM}: custom set, 7 images\n")
    assert "blur and stride 2 before the network" in first.err
    assert "folders, label ids; images " in first.err
    assert "95 % of drop" in first.err
    assert "Note: untrained, off contract." in first.err
    assert not journals(workspace)

    again = scored(run, workspace, streets)
    assert again["reference_reused"]
    assert again["images_taken_over"] == 0
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
    assert packed["reference_reused"]
    assert packed["rungs"] == plain["rungs"]
    assert packed["set"] == plain["set"]


def test_both_up_samplings_are_scored_and_printed(run: Cli, workspace: Path, streets: Path) -> None:
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
    assert both["reference_reused"]
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
        assert not values["reference_reused"]
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
        ("onnxruntime fp32 labels", "onnxruntime fp32 image labels"), "it up-samples with align_corners false inside"
    )
    asked = ("--align-corners", "true", "--only", "onnxruntime fp32 labels")
    refused = run("eval", "cityscapes", "--root", streets, *asked, "--workspace", whole)
    assert refused.code == 4
    assert "up-samples with align_corners false inside" in refused.err


def test_eval_takes_its_root_from_the_environment(
    run: Cli, built: Path, streets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("eval", "cityscapes", "--workspace", built).code == 2
    monkeypatch.setenv("CITYSCAPES_DATASET", str(streets))
    assert run("eval", "cityscapes", "--only", "onnxruntime", "--workspace", built).code == 0


def test_a_missed_gate_prints_the_result_and_exits_1(
    run: Cli, built: Path, streets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as forged:
        forged.setattr(pipeline.Evaluation, "drop", lambda _, i: 0.25 * i)
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


# --- killed and resumed ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough images to be killed in the middle of them."""
    root = tmp_path_factory.mktemp("many")
    write_cityscapes(root, "val", {"eichenfurt": 24}, seed=5, size=(128, 256))
    return root


def killed(workspace: Path, root: Path, *args: str, lines: int = 3) -> Path:
    """Start an evaluation, kill it when its journal has some lines, and give the journal."""
    process = started(workspace, "eval", "cityscapes", "--root", str(root), *args)
    deadline = time.monotonic() + 120
    while not (files := journals(workspace)) or files[0].read_bytes().count(b"\n") < lines:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    return files[0]


def test_a_killed_run_goes_on_and_ends_with_the_same_numbers(run: Cli, built: Path, many: Path, tmp_path: Path) -> None:
    args = ("--threads", "1", "--align-corners", "auto")
    unbroken = scored(run, link_workspace(built, tmp_path / "unbroken"), many, *args)
    workspace = link_workspace(built, tmp_path / "broken")
    journal = killed(workspace, many, *args)
    # As if the kill had come in the middle of a line.
    journal.write_bytes(journal.read_bytes()[:-5])
    lines = journal.read_bytes().count(b"\n")
    assert 0 < lines < 24
    resumed = scored(run, workspace, many, *args, "--resume")
    assert resumed["images_taken_over"] == lines
    assert found(resumed) == found(unbroken)
    # The result is in the user's hands: nothing is left to resume.
    assert not journals(workspace)
    assert scored(run, workspace, many, *args, "--resume")["images_taken_over"] == 0


def stopped(run: Cli, workspace: Path, root: Path, *args: str | Path) -> Path:
    """A journal with the first four images: a run whose result has no place to go, and then a cut."""
    file = workspace / ("x" * 250 + ".json")
    refused = run("eval", "cityscapes", "--root", root, "--json", file, "--workspace", workspace, *args)
    assert refused.code == 3, refused
    (journal,) = journals(workspace)
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:4]))
    return journal


def test_without_resume_everything_is_computed(run: Cli, workspace: Path, streets: Path) -> None:
    stopped(run, workspace, streets, *ONE)
    assert scored(run, workspace, streets, *ONE)["images_taken_over"] == 0


def test_other_evaluations_neither_use_nor_lose_what_was_done(run: Cli, workspace: Path, streets: Path) -> None:
    journal = stopped(run, workspace, streets, *ONE)
    for other in (
        ("--limit", "2"), ("--shard", "1/2"), ("--downsample", "area"), ("--align-corners", "true"),
        ("--save-predictions", str(workspace / "out")), ("--only", "onnx fp16 emulated"),
    ):  # fmt: skip
        assert scored(run, workspace, streets, *ONE, *other, "--resume")["images_taken_over"] == 0
        assert journals(workspace) == [journal]
    # How many threads there are, and how many images are in work, changes no result.
    assert scored(run, workspace, streets, *ONE, "--images-at-once", "3", "--resume")["images_taken_over"] == 4


def test_images_that_changed_since_are_computed_again(run: Cli, workspace: Path, streets: Path, tmp_path: Path) -> None:
    root = tmp_path / "set"
    # With the files' times: to the journal it is the same set in another place.
    shutil.copytree(streets, root)
    stopped(run, workspace, streets, *ONE)
    first = min(root.glob("leftImg8bit/val/*/*.png"))
    Image.fromarray(255 - np.asarray(Image.open(first))).save(first)
    resumed = scored(run, workspace, root, *ONE, "--resume")
    assert resumed["images_taken_over"] == 3
    assert found(resumed) == found(scored(run, workspace, root, *ONE))
    assert resumed["set"]["sha256"] != scored(run, workspace, streets, *ONE)["set"]["sha256"]


def test_predictions_that_are_gone_are_made_again(run: Cli, workspace: Path, streets: Path, tmp_path: Path) -> None:
    out = tmp_path / "predictions"
    stopped(run, workspace, streets, *ONE, "--save-predictions", out)
    written = {path: path.read_bytes() for path in sorted(out.rglob("*.png"))}
    assert len(written) == 2 * 7
    for path in (*sorted(out.glob("onnxruntime-fp32/*/*"))[:1], *sorted(out.glob("pytorch-fp32/*/*"))[1:2]):
        path.unlink()
    resumed = scored(run, workspace, streets, *ONE, "--save-predictions", out, "--resume")
    assert resumed["images_taken_over"] == 2
    assert {path: path.read_bytes() for path in sorted(out.rglob("*.png"))} == written


def test_a_result_that_cannot_be_delivered_is_not_lost(run: Cli, workspace: Path, streets: Path) -> None:
    # A name that only the writer refuses, when all is computed.
    file = workspace / ("x" * 250 + ".json")
    refused = run("eval", "cityscapes", "--root", streets, *ONE, "--json", file, "--workspace", workspace)
    assert refused.code == 3, refused
    assert len(journals(workspace)) == 1
    again = scored(run, workspace, streets, *ONE, "--resume")
    assert again["images_taken_over"] == 7


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

"""Shards put together are exactly the whole: through the real command line and real files."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from support.cli_runner import Cli, Result, link_workspace, started
from support.evaluations import rescored
from support.seals import resealed

from ffnet_deploy import cli
from ffnet_deploy.artifacts.writing import hash_json
from ffnet_deploy.synthetic.scenes import write_cityscapes

ARGS = ("--threads", "1", "--align-corners", "auto")
HOW = ("run", "created", "merged", "checksum")
SHARDS = 3


class Made(NamedTuple):
    """Results as JSON files; tests must not change them."""

    whole: Path
    workspace: Path
    """Of the whole; it has the reference's label maps."""
    printed: str
    """By the whole."""
    shards: list[Path]

    def shard(self, number: int) -> dict[str, Any]:
        values: dict[str, Any] = json.loads(self.shards[number - 1].read_text())
        return values


@pytest.fixture(scope="module")
def made(built: Path, streets: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Seven images, whole and in three shards, each in a workspace of its own as on machines of their own."""
    folder = tmp_path_factory.mktemp("shards")

    def score(name: str, *args: str) -> tuple[Path, str]:
        space = link_workspace(built, folder / f"workspace-{name}")
        file = folder / f"{name}.json"
        command = ["eval", "cityscapes", "--root", str(streets), *ARGS, *args, "--json", str(file)]
        with redirect_stdout(StringIO()) as printed:
            cli.app([*command, "--workspace", str(space)], standalone_mode=False)
        return file, printed.getvalue()

    whole, printed = score("whole")
    shards = [score(f"{i}", "--shard", f"{i}/{SHARDS}")[0] for i in range(1, SHARDS + 1)]
    return Made(whole, folder / "workspace-whole", printed, shards)


def merged(run: Cli, *files: Path, code: int = 0) -> dict[str, Any]:
    result = run("eval", "merge", *files, "--json", "-")
    assert result.code == code, result.err
    values: dict[str, Any] = json.loads(result.out)
    return values


def found(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in HOW}


def test_merged_is_exactly_the_whole_in_any_order(run: Cli, made: Made) -> None:
    whole = json.loads(made.whole.read_text())
    assert [len(made.shard(i)["images"]) for i in (1, 2, 3)] == [3, 2, 2]
    for files in itertools.permutations(made.shards):
        values = merged(run, *files)
        assert found(values) == found(whole)
        assert values["merged"] == [str(file) for file in files]
    # What was compared is there, and not trivial.
    assert whole["set"]["shard"] is None
    assert len(whole["set"]["sha256"]) == 64
    intervals = [rung["drop_interval"] for rung in whole["rungs"]]
    assert [interval is None for interval in intervals] == [True, True, False, False, False, False]
    assert any(interval["low"] < interval["high"] for interval in intervals[2:])


def test_merged_prints_what_the_whole_prints(run: Cli, made: Made) -> None:
    assert len(made.printed.splitlines()) > 10
    assert run("eval", "merge", *made.shards).out == made.printed


def test_a_shard_names_itself(made: Made) -> None:
    for i in range(1, SHARDS + 1):
        values = made.shard(i)
        assert values["set"]["shard"] == [i, SHARDS]
        assert values["set"]["total"] == 7
    names = [image["name"] for i in range(1, SHARDS + 1) for image in made.shard(i)["images"]]
    assert len(set(names)) == 7


def test_one_shard_of_one_is_the_whole(run: Cli, streets: Path, made: Made, tmp_path: Path) -> None:
    file = tmp_path / "1.json"
    args = ("--root", streets, *ARGS, "--shard", "1/1", "--json", file, "--workspace", made.workspace)
    assert run("eval", "cityscapes", *args).code == 0
    assert found(merged(run, file)) == found(json.loads(made.whole.read_text()))


def test_a_gate_judges_the_whole(run: Cli, made: Made, tmp_path: Path) -> None:
    # Random weights score little, so the gate is half of that.
    gate = f"{json.loads(made.whole.read_text())['rungs'][1]['miou'] / 2:.6f}"
    assert float(gate) > 0
    assert run("eval", "merge", *made.shards, "--max-drop", gate).code == 0
    files = []
    for i in range(1, SHARDS + 1):
        values = made.shard(i)
        for image in values["images"]:
            # The last rung gets every pixel wrong: each class is taken for the next one.
            wrong: Counter[str] = Counter()
            for at, count in image["confusion"][-1].items():
                truth = int(at) // 19
                wrong[str(19 * truth + (truth + 1) % 19)] += count
            image["confusion"][-1], image["equal"][-1] = wrong, 0
        files.append(tmp_path / f"{i}.json")
        files[-1].write_text(rescored(values))
    refused = run("eval", "merge", *files, "--max-drop", gate, "--json", tmp_path / "merged.json")
    assert refused.code == 1
    assert "onnx fp16 emulated drops" in refused.err
    assert "was allowed" in refused.err
    assert "onnx fp16 emulated" in refused.out
    values = json.loads((tmp_path / "merged.json").read_text())
    assert values["error"]["type"] == "GateError"
    assert values["rungs"][-1]["miou"] == 0
    assert run("eval", "merge", *files, "--max-drop", "100").code == 0
    assert run("eval", "merge", *files, "--max-drop", "-1").code == 2


# --- what is no whole -----------------------------------------------------------------------------------------------


def refused(result: Result, says: str) -> None:
    assert result.code == 3, result
    assert says in result.err, result.err
    assert len(result.err.strip().splitlines()) == 1
    assert not result.out


def test_a_missing_shard(run: Cli, made: Made) -> None:
    refused(run("eval", "merge", made.shards[0], made.shards[2]), "shard 2 is missing (each of the 3 was needed once)")
    refused(run("eval", "merge", made.shards[1]), "shard 1 is missing")


def test_a_shard_twice(run: Cli, made: Made) -> None:
    refused(run("eval", "merge", *made.shards, made.shards[1]), "shard 2 is there twice")


def test_a_whole_set_in_place_of_a_shard(run: Cli, made: Made) -> None:
    refused(run("eval", "merge", made.whole), "is of a whole set, not of a shard")
    refused(run("eval", "merge", made.shards[0], made.whole), "are of different evaluations: another number of shards")


Change = Callable[[dict[str, Any]], object]


def _fewer_engines(values: dict[str, Any]) -> None:
    values["rungs"] = values["rungs"][:4]
    for image in values["images"]:
        image.update(equal=image["equal"][:4], confusion=image["confusion"][:4])


def _without_an_image(values: dict[str, Any]) -> None:
    values["images"] = values["images"][:1]


def _one_upsampling(values: dict[str, Any]) -> None:
    values["protocol"]["align_corners"] = [False]
    values["rungs"] = values["rungs"][::2]
    for image in values["images"]:
        image.update(equal=image["equal"][::2], confusion=image["confusion"][::2])


def _another_size(values: dict[str, Any]) -> None:
    values["protocol"]["size"] = [256, 128]


OTHERS: dict[str, tuple[Change, str]] = {
    "model": (lambda v: v.update(model="segmentation_ffnet34_ABB"), "different evaluations: model"),
    "weights": (lambda v: v["sources"].update(weights="f" * 64), "different evaluations: sources"),
    "graph": (lambda v: v["sources"].update(graph="f" * 64), "different evaluations: sources"),
    "way to halve": (lambda v: v["protocol"].update(downsample="area"), "different evaluations: protocol"),
    "upsampling": (_one_upsampling, "different evaluations: protocol"),
    "size": (_another_size, "different evaluations: protocol"),
    "engine": (lambda v: v["rungs"][2].update(sha256="f" * 64), "or their files"),
    "fewer engines": (_fewer_engines, "different evaluations: rungs pytorch fp32"),
    "device": (lambda v: v["rungs"][2].update(device="cuda:0"), "or their files"),
    "number of shards": (lambda v: v["set"].update(shard=[2, 4]), "another number of shards"),
    "images": (lambda v: v["set"].update(names="f" * 64), "different evaluations: the set"),
    "limit": (lambda v: v["set"].update(limit=6, total=6), "different evaluations: the set"),
    "marks": (lambda v: v.update(marks=[]), "different evaluations: marks"),
    "tools": (lambda v: v["tools"].update(numpy="0"), "different evaluations: tools"),
    "images lost": (_without_an_image, "its images are not those that set.images and set.sha256 tell"),
    "version": (lambda v: v.update(schema=1), "holds no result of eval of this version (schema 1 instead of 4)"),
    "command": (lambda v: v.update(command="bench"), "holds no result of eval of this version"),
    "no images": (lambda v: v.pop("images"), "holds no result of eval of this version (images: field required)"),
    "no rungs": (lambda v: v.update(rungs=None), "holds no result of eval of this version"),
    "no set": (lambda v: v.update(set=5), "holds no result of eval of this version"),
    "no counts": (lambda v: v["images"][0].update(confusion=[5]), "holds no result of eval of this version"),
}


@pytest.mark.parametrize("what", OTHERS)
def test_a_shard_of_another_evaluation(run: Cli, made: Made, tmp_path: Path, what: str) -> None:
    change, says = OTHERS[what]
    values = made.shard(2)
    change(values)
    other = tmp_path / "other.json"
    other.write_text(resealed(values))
    refused(run("eval", "merge", made.shards[0], other, made.shards[2]), says)


def _hashed(values: dict[str, Any]) -> None:
    """What a shard says of its images, made to fit them again."""
    values["set"]["images"] = len(values["images"])
    values["set"]["sha256"] = hash_json([image["sha256"] for image in values["images"]])


def test_an_image_of_another_shard_twice(run: Cli, made: Made, tmp_path: Path) -> None:
    values, strange = made.shard(2), made.shard(3)["images"][0]
    values["images"][0] = strange
    _hashed(values)
    other = tmp_path / "other.json"
    other.write_text(rescored(values))
    refused(run("eval", "merge", made.shards[0], other, made.shards[2]), "do not hold the images of their set")


def test_an_image_that_is_none_of_the_set(run: Cli, made: Made, tmp_path: Path) -> None:
    values = made.shard(2)
    values["images"][0]["name"] = "elsewhere/an_image"
    other = tmp_path / "other.json"
    other.write_text(resealed(values))
    refused(run("eval", "merge", made.shards[0], other, made.shards[2]), "do not hold the images of their set")


def test_shards_of_another_total(run: Cli, made: Made, tmp_path: Path) -> None:
    files = []
    for i in range(1, SHARDS + 1):
        values = made.shard(i)
        # Six images of seven, with everything else made to fit.
        values["images"] = values["images"][:2]
        values["set"].update(total=7 if i == 1 else 6)
        _hashed(values)
        files.append(tmp_path / f"{i}.json")
        files[-1].write_text(rescored(values))
    refused(run("eval", "merge", *files), f"2 images are not part 1 of {SHARDS} of 7")
    values = json.loads(files[0].read_text())
    values["set"].update(total=6)
    files[0].write_text(rescored(values))
    refused(run("eval", "merge", *files), "do not hold the images of their set")


def test_shards_without_a_counted_pixel(run: Cli, made: Made, tmp_path: Path) -> None:
    files = []
    for i in range(1, SHARDS + 1):
        values = made.shard(i)
        for image in values["images"]:
            image["confusion"] = [{} for _ in image["confusion"]]
        files.append(tmp_path / f"{i}.json")
        files[-1].write_text(rescored(values))
    refused(run("eval", "merge", *files), "No pixel or image of these shards counts")


@pytest.mark.parametrize("data", [b"", b"{", b"null", b"[]", b"5", b'"text"', b"\xff\xfe", b'{"schema": 3}'])
def test_files_that_are_no_results(run: Cli, made: Made, tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "no result.json"
    file.write_bytes(data)
    refused(run("eval", "merge", made.shards[0], file), f"{file} holds no result of eval of this version")


def test_a_result_that_is_an_error_is_none(run: Cli, built: Path, tmp_path: Path) -> None:
    file = tmp_path / "1.json"
    args = ("--root", tmp_path / "none", "--shard", "1/2", "--json", file, "--workspace", built)
    assert run("eval", "cityscapes", *args).code == 3
    refused(run("eval", "merge", file), f"{file} is of a shard that failed (")


def test_files_that_are_not_there(run: Cli, tmp_path: Path) -> None:
    refused(run("eval", "merge", tmp_path / "none.json"), "cannot be read (No such file or directory)")
    refused(run("eval", "merge", tmp_path), "cannot be read (Is a directory)")
    assert run("eval", "merge").code == 2


def test_an_error_of_merge_is_json_too(run: Cli, made: Made) -> None:
    values = merged(run, made.shards[1], code=3)
    assert values["command"] == "eval merge"
    assert values["error"]["type"] == "DataError"


# --- shards side by side --------------------------------------------------------------------------------------------


def test_shards_run_side_by_side_in_one_workspace(run: Cli, built: Path, tmp_path: Path) -> None:
    root = tmp_path / "set"
    write_cityscapes(root, "val", {"eichenfurt": 4}, seed=5, size=(128, 256))
    space = link_workspace(built, tmp_path / "workspace")
    args = ("eval", "cityscapes", "--root", str(root), "--only", "onnxruntime fp32", "--threads", "1")
    processes = [started(space, *args, "--shard", f"{i}/2", "--json", f"{i}.json") for i in (1, 2)]
    with ThreadPoolExecutor(2) as pool:
        ends = list(pool.map(lambda process: process.communicate(timeout=120), processes))
    assert [process.returncode for process in processes] == [0, 0], ends
    both = merged(run, space / "1.json", space / "2.json")
    result = run(*args, "--json", "-", "--workspace", space)
    whole = json.loads(result.out)
    assert whole["run"]["reference_reused"]
    assert found(both) == found(whole)
    assert np.sum(whole["rungs"][0]["confusion"]) > 0

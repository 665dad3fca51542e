"""Results go into a JSON file and come back as they were."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ffnet_deploy.evaluate.results import SCHEMA, Entry, Part, Results
from ffnet_deploy.evaluate.segmentation import ImageCounts


def image(name: str, seed: int, entries: int) -> ImageCounts:
    rng = np.random.default_rng(seed)
    matrices = np.where(rng.random((entries, 19, 19)) < 0.1, rng.integers(1, 9000, (entries, 19, 19)), 0)
    return ImageCounts(name, f"{seed:064x}", f"{seed}:1 2:3", 8192, tuple(range(8000, 8000 + entries)), matrices)


def entry(rung: str, align: bool, sha256: str | None = "a" * 64) -> Entry:
    return Entry(rung, rung.split()[0], "fp32", f"{rung}.onnx", 123, "cpu", sha256, align)


RESULTS = Results(
    command="eval cityscapes",
    model="segmentation_ffnet46NS_CCC_mobile@64x128",
    sources={"graph": "b" * 64, "weights": "random-0"},
    part=Part("custom set, 5 images", "zip, label ids", "c" * 64, 5),
    protocol={"size": [64, 128], "downsample": None, "align_corners": [False, True]},
    entries=(
        entry("pytorch fp32", False, None), entry("pytorch fp32", True, None),
        entry("onnxruntime fp32", False), entry("onnxruntime fp32", True), entry("onnxruntime fp32 labels", True),
    ),
    images=[image(f"city/{i}", i, 5) for i in range(5)],
    skipped=(("tensorrt fp32", "needs an NVIDIA GPU"),),
    marks=("untrained",),
    tools={"numpy": "2.4.6"},
)  # fmt: skip


def through_json(results: Results) -> Results:
    return Results.from_json(json.loads(json.dumps(results.to_json(), allow_nan=False)))


@pytest.mark.parametrize(
    "part",
    [
        RESULTS.part,
        replace(RESULTS.part, limit=5),
        replace(RESULTS.part, shard=(2, 4)),
        replace(RESULTS.part, limit=5, shard=(1, 1)),
    ],
)
def test_results_come_back_from_json(part: Part) -> None:
    before = replace(RESULTS, part=part)
    after = through_json(before)
    for name in ("command", "model", "sources", "part", "protocol", "entries", "skipped", "marks"):
        assert getattr(after, name) == getattr(before, name), name
    assert after.to_json() == before.to_json()
    assert after.sha256() == before.sha256()
    for a, b in zip(before.scores(), after.scores(), strict=True):
        assert a.to_json() == b.to_json()


def test_results_know_the_reference_of_each_entry() -> None:
    assert RESULTS.references() == [0, 1, 0, 1, 1]
    scores = RESULTS.scores()
    assert [score.drop is None for score in scores] == [True, True, False, False, False]


def test_more_keys_do_no_harm() -> None:
    values = RESULTS.to_json()
    values["later"] = 1
    values["rungs"][0]["later"] = values["set"]["later"] = values["images"][0]["later"] = 1
    assert Results.from_json(values).to_json() == RESULTS.to_json()


def test_the_hash_is_of_images_and_their_order() -> None:
    hashes = {
        RESULTS.sha256(),
        replace(RESULTS, images=RESULTS.images[::-1]).sha256(),
        replace(RESULTS, images=RESULTS.images[:-1]).sha256(),
    }
    assert len(hashes) == 3


@pytest.mark.parametrize(
    ("part", "text"),
    [
        (RESULTS.part, "custom set, 5 images"),
        (replace(RESULTS.part, limit=3, total=3), "custom set, 5 images, the first 3"),
        (replace(RESULTS.part, shard=(2, 4)), "custom set, 5 images, shard 2 of 4"),
        (replace(RESULTS.part, limit=3, total=3, shard=(2, 3)), "custom set, 5 images, the first 3, shard 2 of 3"),
    ],
)
def test_a_part_is_named(part: Part, text: str) -> None:
    assert str(part) == text


@pytest.mark.parametrize(
    "change",
    [
        lambda v: v.update(schema=SCHEMA - 1),
        lambda v: v.pop("schema"),
        lambda v: v.update(command="bench"),
        lambda v: v.pop("rungs"),
        lambda v: v["rungs"][0].pop("sha256"),
        lambda v: v["set"].pop("names"),
        lambda v: v["set"].update(shard=5),
        lambda v: v["images"][0].pop("equal"),
        lambda v: v["skipped"][0].pop("reason"),
        lambda v: v.update(marks=None),
    ],
)
def test_other_json_is_refused(change: Callable[[dict[str, Any]], object]) -> None:
    values = json.loads(json.dumps(RESULTS.to_json()))
    change(values)
    with pytest.raises((ValueError, LookupError, TypeError)):
        Results.from_json(values)

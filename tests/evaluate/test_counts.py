"""What one image gave as a line of JSON, what is no such line, and scores as they stand in a file."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.fakes import FakeRunner
from support.segmentation import (
    AUTO,
    Opener,
    as_json,
    drawn_set,
    evaluate,
    network,
    rung,
)

from ffnet_deploy.data.cityscapes import CLASSES, CityscapesSplit
from ffnet_deploy.evaluate.result import AnswerFacts
from ffnet_deploy.evaluate.segmentation import TASK, ImageCounts, Score, scores


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> CityscapesSplit:
    """A set of three scenes that no test changes."""
    return drawn_set(tmp_path_factory.mktemp("drawn"))


def test_what_an_image_gave_comes_back_from_json(drawn: CityscapesSplit, tmp_path: Path) -> None:
    found = evaluate(drawn, Opener(network(0)), [rung(FakeRunner(network(1)), (False, True))], tmp_path, AUTO)
    for image in found.images:
        back = TASK.parse(json.dumps(asdict(image.facts()), allow_nan=False).encode())
        assert back.matrices.dtype == np.int64
        assert np.array_equal(back.matrices, image.matrices)
        assert (back.name, back.sha256, back.stamp, back.pixels, back.equal) == (
            image.name, image.sha256, image.stamp, image.pixels, image.equal
        )  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        {"equal": None},
        {"equal": [1, 2]},
        {"confusion": [{"361": 1}]},
        {"confusion": [{"x": 1}]},
        {"confusion": [5]},
        {"confusion": [[1]]},
        {"pixels": "many"},
        {"name": ...},
        {"equal": [7]},
        {"equal": [-1]},
        {"equal": [float("nan")]},
        {"pixels": 0},
        {"pixels": 10**30},
        {"confusion": [{"-1": 1}]},
        {"confusion": [{"0": -1}]},
        {"confusion": [{"0": 4, "1": 3}]},
        {"confusion": [{"0": 2**63}]},
        {"equal": [6, 6], "confusion": [{"0": 3}]},
        {"equal": [6, 6], "confusion": [{"0": 3}, {"19": 3}]},
    ],
)
def test_other_json_is_refused(change: dict[str, Any]) -> None:
    true = asdict(ImageCounts("a", "b", "c", 6, (6,), np.zeros((1, 19, 19), np.int64)).facts())
    values = {key: value for key, value in {**true, **change}.items() if value is not ...}
    assert TASK.parse(json.dumps(true).encode()).pixels == 6
    with pytest.raises(ValueError, match=r".") as caught:
        TASK.parse(json.dumps(values).encode())
    assert "\n" not in str(caught.value)


def test_answers_are_no_counts() -> None:
    with pytest.raises(ValueError, match="a has no pixel counts"):
        TASK.read(AnswerFacts("a", "b", "c", (), ()))


def test_json_names_the_classes_and_has_null_for_absent_ones() -> None:
    matrix = np.zeros((19, 19), np.int64)
    matrix[0, 0], matrix[0, 1] = 3, 1
    result = as_json(Score(matrix, 3, 5))
    assert result["miou"] == 37.5
    assert result["agreement"] == 60
    assert list(result["iou"]) == list(CLASSES)
    assert result["iou"]["road"] == 75
    assert result["iou"]["sidewalk"] == 0
    assert [name for name, value in result["iou"].items() if value is None] == list(CLASSES[2:])
    # Road taken for sidewalk is flat all the same.
    assert result["iou_categories"]["flat"] == result["miou_categories"] == 100
    assert [name for name, value in result["iou_categories"].items() if value is not None] == ["flat"]
    assert result["confusion"] == matrix.tolist()


def test_json_of_a_set_without_a_counted_pixel_is_json() -> None:
    score = Score(np.zeros((19, 19), np.int64), 5, 5)
    assert math.isnan(score.miou)
    values = as_json(score)
    for key in ("miou", "miou_categories", "pixel_accuracy", "mean_class_accuracy", "drop_interval"):
        assert values[key] is None
    assert set(values["iou"].values()) == {None}


def counted(*truths: dict[int, int]) -> list[ImageCounts]:
    """Images with so many pixels of each class, all right."""
    images = []
    for i, truth in enumerate(truths):
        matrix = np.zeros((1, 19, 19), np.int64)
        for k, pixels in truth.items():
            matrix[0, k, k] = pixels
        images.append(ImageCounts(f"{i}", "", "", 10_000, (10_000,), matrix))
    return images


def test_classes_with_few_pixels_or_in_few_images_are_marked() -> None:
    # Road is everywhere; a pole has too few pixels; cars are in 9 of 20 images; of sky there is a bit more than enough.
    images = [{0: 8_000, 5: 10, 10: 30, **({13: 2_000} if i < 9 else {})} for i in range(20)]
    assert scores(counted(*images), [0])[0].few == ("pole", "car")
    # Where there are but three images, a class in all of them is in enough.
    assert scores(counted(*[{0: 500, 13: 500}] * 3), [0])[0].few == ()
    assert scores(counted({0: 500, 13: 500}, {0: 500}), [0])[0].few == ("car",)

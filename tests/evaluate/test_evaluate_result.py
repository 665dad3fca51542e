"""Results go into a JSON file and come back as they were; a damaged file is one line, never a wrong number."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.places import GONE, damaged
from support.results import ANSWERS, RESULTS, RUN, image, part
from support.seals import resealed

from ffnet_deploy.artifacts.sealing import unsealed
from ffnet_deploy.errors import DataError
from ffnet_deploy.evaluate.outcome import Results
from ffnet_deploy.evaluate.protocols import SegmentationProtocol
from ffnet_deploy.evaluate.reread import read_evaluation, read_results
from ffnet_deploy.evaluate.result import EVAL_SCHEMA, SetPart

BOTH = pytest.mark.parametrize("results", [RESULTS, ANSWERS], ids=["cityscapes", "imagenet"])


def as_text(results: Results) -> str:
    return json.dumps(results.scored(run=RUN).to_json(), allow_nan=False)


def true_values(results: Results) -> dict[str, Any]:
    """The values of a file, without the checksum."""
    return unsealed(as_text(results))


def read(folder: Path, text: str) -> Results:
    file = folder / "result.json"
    file.write_text(text)
    return read_results(file)[1]


def refused(folder: Path, values: dict[str, Any], says: str = "") -> None:
    with pytest.raises(DataError) as caught:
        read(folder, resealed(values))
    message = str(caught.value)
    assert says in message
    assert str(folder / "result.json") in message
    assert "\n" not in message


# --- there and back -------------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("changes", [{}, {"limit": 5}, {"shard": (1, 1)}, {"limit": 5, "shard": (1, 1)}])
def test_results_come_back_from_json(tmp_path: Path, results: Results, changes: dict[str, Any]) -> None:
    before = replace(results, part=replace(results.part, **changes))
    after = read(tmp_path, as_text(before))
    for name in ("command", "model", "sources", "part", "protocol", "rungs", "skipped", "marks", "tools"):
        assert getattr(after, name) == getattr(before, name), name
    first, second = before.scored(run=RUN).file, after.scored(run=RUN).file
    assert replace(second, created=first.created) == first
    # The file itself, too, with its scores.
    assert replace(read_evaluation(tmp_path / "result.json"), created=first.created) == first


def test_results_know_the_reference_of_each_entry() -> None:
    assert RESULTS.references() == [0, 1, 0, 1, 1]
    rungs = RESULTS.scored().file.rungs
    assert [rung.drop_interval is None for rung in rungs] == [True, True, False, False, False]


@BOTH
def test_more_keys_do_no_harm(tmp_path: Path, results: Results) -> None:
    true = json.loads(as_text(results))
    values = json.loads(json.dumps(true))
    values["later"] = 1
    values["rungs"][0]["later"] = values["set"]["later"] = values["images"][0]["later"] = 1
    again = read(tmp_path, resealed(values)).scored(run=RUN).to_json()
    assert json.loads(json.dumps(again)) == {**true, "created": again["created"], "checksum": again["checksum"]}


def test_the_hash_is_of_images_and_their_order() -> None:
    hashes = {
        replace(RESULTS, images=images).scored().file.set.sha256
        for images in (RESULTS.images, RESULTS.images[::-1], RESULTS.images[:-1])
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
def test_a_part_is_named(part: SetPart, text: str) -> None:
    assert str(part) == text


# --- what is refused ------------------------------------------------------------------------------------------------


Change = Callable[[dict[str, Any]], object]
STRANGE = "its images are not those that set.images and set.sha256 tell"


@pytest.mark.parametrize(
    "change",
    [
        lambda v: v.update(schema=EVAL_SCHEMA - 1),
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
def test_other_json_is_refused(tmp_path: Path, change: Change) -> None:
    values = true_values(RESULTS)
    change(values)
    refused(tmp_path, values, "holds no result of eval of this version")


def _without_rungs(values: dict[str, Any]) -> None:
    values["rungs"] = []
    for one in values["images"]:
        one.update(equal=[], confusion=[])


def _another_truth(values: dict[str, Any]) -> None:
    values["images"][2]["confusion"][3].clear()
    values["images"][2]["equal"][3] = 0


def _twice(values: dict[str, Any]) -> None:
    values["rungs"][3] = values["rungs"][2]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_twice, "a rung is there twice"),
        (lambda v: v["rungs"].reverse(), "the reference first"),
        (lambda v: v["rungs"].pop(1), "the reference first"),
        (lambda v: v.update(rungs=[]), "the reference first"),
        (lambda v: v["rungs"][4].update(align_corners=None), "the reference first"),
        (lambda v: v["protocol"].update(align_corners=[]), "the reference first"),
        (lambda v: v["protocol"].update(align_corners=[False, False]), "the reference first"),
        (lambda v: v["rungs"].pop(), "has results of 5 rungs, and there are 4"),
        (lambda v: v["images"][1]["equal"].pop(), "city/1 has results of 4 rungs, and there are 5"),
        (lambda v: v["images"][1]["confusion"].pop(), "city/1 has results of 5 rungs"),
        (lambda v: v["images"].pop(), STRANGE),
        (lambda v: v["images"][1].update(sha256="0" * 64), STRANGE),
        (lambda v: v["images"].reverse(), STRANGE),
        (lambda v: v["set"].update(sha256="0" * 64), STRANGE),
        (lambda v: v["set"].update(images=4), STRANGE),
        (lambda v: v["images"][1].update(name="city/0"), "an image is there twice"),
        (lambda v: v["set"].update(total=6), "5 images are not part 1 of 1 of 6"),
        (lambda v: v["set"].update(shard=[2, 1]), "5 images are not part 2 of 1 of 5"),
        (lambda v: v["set"].update(shard=[1, 2]), "5 images are not part 1 of 2 of 5"),
        (lambda v: v["set"].update(limit=4), "a limit of 4 does not give 5 images"),
        (lambda v: v["protocol"].update(size=[64, 64]), "has 8192 pixels, and not 64x64"),
        (lambda v: v["images"][2].update(pixels=8191), "city/2 has 8191 pixels, and not 64x128"),
        (lambda v: v["images"][2]["equal"].__setitem__(1, 8191), "city/2: the reference does not agree with itself"),
        (
            lambda v: v["images"][2]["equal"].__setitem__(3, 8193),
            "has 8193 labels of the reference, and its counts allow",
        ),
        (lambda v: v["images"][2]["confusion"][3].update({"0": 8193}), "counts more than its 8192 pixels"),
        (lambda v: v["images"][2]["confusion"][3].update({"0": 2**31 + 1}), "less than or equal to"),
        (lambda v: v["images"][2]["confusion"][3].update({"361": 1}), "has no class pair 361"),
        (lambda v: v["images"][2]["confusion"][3].update({"-1": 1}), "has no class pair -1"),
        (lambda v: v["images"][2]["confusion"][3].update({"a\nb": 1}), "valid integer"),
        (lambda v: v["images"][2]["confusion"][3].update({"0": -1}), "greater than or equal to 0"),
        (_another_truth, "has another truth for some rungs"),
        (lambda v: v["images"][2].update(name="a\nb", pixels=8191), "a b has 8191 pixels"),
        (lambda v: v.update(command="eval imagenet"), "are not of eval imagenet"),
        (lambda v: v.update(images=true_values(ANSWERS)["images"]), "val_0 has results of 2 rungs"),
        (lambda v: v["rungs"][2].update(confusion=[[]]), "confusion is not what its images give"),
        (lambda v: v["rungs"][2]["confusion"][18].pop(), "confusion.18 is not what its images give"),
        (_without_rungs, "the reference first"),
    ],
)
def test_what_contradicts_itself_is_refused(tmp_path: Path, change: Change, says: str) -> None:
    values = true_values(RESULTS)
    change(values)
    refused(tmp_path, values, says)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda v: v["images"][1]["best"][0].__setitem__(0, 1000), "images.1."),
        (lambda v: v["images"][1]["best"][0].__setitem__(0, -1), "images.1."),
        (lambda v: v["images"][1]["best"].__setitem__(0, [1, 1, 2, 3, 4]), "val_1 has a class twice among the best"),
        (lambda v: v["images"][1]["best"][0].pop(), "holds no result"),
        (lambda v: v["images"][1]["best"].pop(), "val_1 has results of 1 rungs, and there are 2"),
        (lambda v: v["images"][1].update(truth=[1000]), "images.1."),
        (lambda v: v["images"][1].update(truth=[-1]), "images.1."),
        (lambda v: v.update(command="eval cityscapes"), "are not of eval cityscapes"),
        (lambda v: v["rungs"][1].update(align_corners=False), "the reference first"),
    ],
)
def test_answers_that_contradict_themselves_are_refused(tmp_path: Path, change: Change, says: str) -> None:
    values = true_values(ANSWERS)
    change(values)
    refused(tmp_path, values, says)


def of_rung(number: int, **fields: Any) -> Change:
    return lambda values: values["rungs"][number].update(fields)


def within(name: str, key: Any, value: Any) -> Change:
    return lambda values: values["rungs"][3][name].__setitem__(key, value)


def of_image(**fields: Any) -> Change:
    return lambda values: values["images"][1].update(fields)


def _less_confused(values: dict[str, Any]) -> None:
    """A pixel more with the right label, and one less with a wrong one."""
    pairs = values["images"][1]["confusion"][3]
    right, wrong = next((str(20 * (int(at) // 19)), at) for at in pairs if int(at) % 20)
    pairs[right] = pairs.get(right, 0) + 1
    pairs[wrong] -= 1


PERCENT = ("miou", "miou_categories", "pixel_accuracy", "mean_class_accuracy", "agreement")
FORGED: dict[str, Change] = {
    **{f"{name} {value}": of_rung(3, **{name: value}) for name in PERCENT for value in (99.5, 0.0)},
    **{f"no {name}": of_rung(3, **{name: None}) for name in PERCENT},
    "reference's miou": of_rung(0, miou=1.0),
    "miou of true": of_rung(3, miou=True),
    "name of the reference": lambda v: [rung.update(rung="onnx fp32") for rung in v["rungs"][:2]],
    "drop": of_rung(3, drop=0.0),
    "drop of the reference": of_rung(0, drop=1.0),
    "interval": of_rung(3, drop_interval={"low": -0.1, "high": 0.1}),
    "no interval": of_rung(3, drop_interval=None),
    "iou": within("iou", "road", 99.0),
    "iou of a class that is none": within("iou", "roads", 99.0),
    "iou that is unknown": within("iou", "road", None),
    "iou of a category": within("iou_categories", "flat", 99.0),
    "confusion": lambda v: v["rungs"][3]["confusion"][0].__setitem__(0, 12345),
    "half a count": lambda v: v["rungs"][3]["confusion"][0].__setitem__(0, 3.9),
    "few pixels": of_rung(3, few_pixels=["road", "car"]),
    "an image's counts": _less_confused,
    "an image's agreement": lambda v: v["images"][1]["equal"].__setitem__(3, 8191),
    "less agreement": lambda v: v["images"][1]["equal"].__setitem__(3, 1),
    "half an agreement": lambda v: v["images"][1]["equal"].__setitem__(3, 3.9),
    "a negative agreement": lambda v: v["images"][1]["equal"].__setitem__(3, -1),
    "pixels": of_image(pixels=8193),
    "hash of an image": of_image(sha256="0" * 64),
    "name of an image": of_image(name="city/9"),
    "names": lambda v: v["set"].update(names="0" * 64),
    "hash of the set": lambda v: v["set"].update(sha256="0" * 64),
    "total": lambda v: v["set"].update(total=6),
    "images": lambda v: v["set"].update(images=4),
    "taken over": lambda v: v["run"].update(images_taken_over=6),
}
"""What a table shows, a merge computes from, or a gate judges: one field changed, and the checksum made to fit."""


@pytest.mark.parametrize("what", FORGED)
def test_what_does_not_follow_from_the_images_is_refused(tmp_path: Path, what: str) -> None:
    values = true_values(RESULTS)
    FORGED[what](values)
    refused(tmp_path, values)


FORGED_ANSWERS: dict[str, Change] = {
    **{
        f"{name} {value}": of_rung(1, **{name: value})
        for name in ("top1", "top5", "agreement")
        for value in (99.5, 1.0)
    },
    "drop": of_rung(1, drop=-50.0),
    "interval": of_rung(1, drop_interval={"low": -0.1, "high": 0.1}),
    "images": of_rung(1, images=4),
    "an answer": lambda v: v["images"][0]["best"].__setitem__(1, v["images"][0]["best"][0]),
    "truth": of_image(truth=[7]),
    "no truth": of_image(truth=[]),
}


@pytest.mark.parametrize("what", FORGED_ANSWERS)
def test_what_does_not_follow_from_the_answers_is_refused(tmp_path: Path, what: str) -> None:
    values = true_values(ANSWERS)
    FORGED_ANSWERS[what](values)
    refused(tmp_path, values)


def test_a_result_changed_without_its_checksum_is_refused(tmp_path: Path) -> None:
    text = as_text(RESULTS)
    for forged in (
        text.replace('"marks": ["untrained"]', '"marks": []'),
        json.dumps(true_values(RESULTS)),
        text.replace('"schema": ', '"schema": 1, "schema": '),
    ):
        assert forged != text
        with pytest.raises(DataError, match=r"its checksum does not fit|a key twice"):
            read(tmp_path, forged)


def test_counts_that_stand_among_answers_are_refused(tmp_path: Path) -> None:
    values, other = true_values(ANSWERS), true_values(RESULTS)
    one = other["images"][0]
    values["images"][0] = {**one, "sha256": values["images"][0]["sha256"], "equal": [8192] * 2, "confusion": [{}, {}]}
    refused(tmp_path, values, "city/0 has no classes")


HARMLESS = {
    # What is not known, or was not asked for.
    *((name, "None") for name in ("cores_online", "memory_bytes", "bytes", "run")),
    *((name, "None") for name in ("miou", "miou_categories", "pixel_accuracy", "mean_class_accuracy", "drop")),
    *((name, "None") for name in ("top1", "top5", "agreement")),
    *((name, GONE) for name in ("limit", "shard", "merged", "align_corners", "resize", "crop", "filter")),
    # Of a map the keys are free; scores by class are computed again from the counts.
    *((name, GONE) for name in ("tools.numpy", "tools.torch", "tools.onnx", "stages_s.count")),
    # A drop may have either sign.
    *((name, "-1") for name in ("drop", "low", "high")),
}
"""All that is accepted, by the end of the path; none of it changes what a merge computes."""
MAPS = ("iou", "iou_categories", "confusion", "environment")
"""Objects of which one field is enough: their keys are data, or another test damages them all."""
SMALL = replace(
    RESULTS,
    protocol=SegmentationProtocol((64, 128), None, (False,)),
    rungs=RESULTS.rungs[:4:2],
    images=[replace(image(i, 2), equal=(8192, 5)) for i in range(2)],
)


@BOTH
def test_no_field_can_be_damaged_unseen(tmp_path: Path, results: Results) -> None:
    # Two images are enough for every field, and so are the reference and one engine with one upsampling.
    small = SMALL if results is RESULTS else replace(results, images=results.images[:2])
    small = replace(small, part=part(list(small.images)))

    def error_of(text: str) -> str | None:
        try:
            read(tmp_path, resealed(json.loads(text)))
        except DataError as error:
            return str(error)
        return None

    tried = list(damaged(json.dumps(true_values(small)), error_of, MAPS))
    assert len(tried) > 400
    assert not [one for one in tried if "\n" in (one.error or "")]
    taken = [one[:2] for one in tried if one.error is None]
    unseen = [
        (at, value)
        for at, value in taken
        if not any(at.endswith(end) and value == harmless for end, harmless in HARMLESS)
        and not (at.split(".")[-2:-1] in (["iou"], ["iou_categories"]) and value in (GONE, "None"))
    ]
    assert unseen == []


def test_files_that_are_nested_too_deeply(tmp_path: Path) -> None:
    file = tmp_path / "deep.json"
    nested = f'{{"schema": {EVAL_SCHEMA}, "command": "eval imagenet", "a": {"[" * 900}{"]" * 900}}}'
    for text in ("[" * 100_000, nested):
        file.write_text(text)
        with pytest.raises(DataError, match="holds no result of eval of this version") as caught:
            read_evaluation(file)
        assert "\n" not in str(caught.value)

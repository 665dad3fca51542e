"""Scores against an independent evaluation in slow loops; the reference's label maps; and what aborts."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from fakes import FakeRunner
from PIL import Image

from ffnet_deploy.artifacts import replacing
from ffnet_deploy.data.cityscapes import CLASSES, CityscapesSplit, Sample, find_split
from ffnet_deploy.data.images import blur_and_halve, normalise
from ffnet_deploy.data.scenes import write_cityscapes
from ffnet_deploy.errors import DataError, EngineError
from ffnet_deploy.evaluate.labels import upsampled_labels
from ffnet_deploy.evaluate.loop import Lanes, Stopwatch, run
from ffnet_deploy.evaluate.segmentation import (
    ImageCounts,
    Job,
    LabelMaps,
    Opened,
    Protocol,
    Reference,
    Score,
    count,
    prediction_paths,
    scores,
)

SIZE = (64, 128)
PROTOCOL = Protocol(SIZE, None)
AUTO = Protocol(SIZE, None, (False, True))
IMAGES = 3
TRAIN_IDS = {7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12, 26: 13,
             27: 14, 28: 15, 31: 16, 32: 17, 33: 18}  # fmt: skip

Network = Callable[[np.ndarray], np.ndarray]


def network(seed: int) -> Network:
    """A stand-in: every fourth pixel, mixed into 19 classes."""
    rng = np.random.default_rng(seed)
    mix, bias = rng.normal(size=(19, 3)).astype(np.float32), rng.normal(0, 0.5, (19, 1, 1)).astype(np.float32)

    def logits(image: np.ndarray) -> np.ndarray:
        mixed: np.ndarray = np.einsum("kc,nchw->nkhw", mix, image[:, :, 1::4, 2::4]) + bias
        return mixed.astype(np.float32)

    return logits


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> CityscapesSplit:
    """A set of three scenes that no test changes."""
    root = tmp_path_factory.mktemp("drawn")
    write_cityscapes(root, "val", {"drawnville": 2, "sketchton": 1}, seed=0, size=SIZE)
    return find_split(root)


class Opener:
    """Opens the reference, and counts how often it was asked to."""

    def __init__(self, function: Network, shape: tuple[int, ...] = (1, 3, *SIZE)) -> None:
        self.runner = FakeRunner(function, shape)
        self.count = 0

    def __call__(self) -> tuple[FakeRunner, AbstractContextManager[Any]]:
        self.count += 1
        return self.runner, nullcontext()


def rung(runner: FakeRunner, align: Sequence[bool] = (False,), name: str = "onnxruntime fp32") -> Opened:
    return Opened(name, runner, nullcontext(), tuple(align))


class Ran(NamedTuple):
    """An evaluation: its scores, what it counted image by image, and its reference."""

    scores: list[Score]
    images: list[ImageCounts]
    reference: Reference
    job: Job


def evaluate(
    split: CityscapesSplit,
    opener: Opener,
    rungs: Sequence[Opened],
    folder: Path,
    protocol: Protocol = PROTOCOL,
    *,
    model: str = "weights",
    batch: int = 1,
    predictions: Path | None = None,
    told: Callable[[ImageCounts, int, int], None] | None = None,
) -> Ran:
    """What the pipeline does, on stand-ins: two images in work at a time."""
    reference = Reference("pytorch fp32", opener, folder, {"weights": model}, protocol)
    job = Job(protocol, reference, rungs, batch, Stopwatch(), predictions)
    images = run(lambda some: count(job, some), split.samples, batch=batch, lanes=Lanes(2, 1), told=told)
    return Ran(scores(images, job.references()), images, reference, job)


# --- scores ---------------------------------------------------------------------------------------------------------


def source(y: int, size: int, small: int, *, align: bool) -> tuple[int, int, float]:
    """The two samples that a pixel lies between, and the share of the second."""
    at = y * (small - 1) / (size - 1) if align else max((y + 0.5) * small / size - 0.5, 0.0)
    low = min(int(at), small - 1)
    return low, min(low + 1, small - 1), at - low


def slow_labels(logits: np.ndarray, *, align: bool) -> np.ndarray:
    """Bilinear up-sampling of (19, h, w) pixel by pixel, in float64."""
    small = logits.astype(np.float64)
    out = np.zeros(SIZE, np.uint8)
    for y in range(SIZE[0]):
        y0, y1, fy = source(y, SIZE[0], small.shape[1], align=align)
        for x in range(SIZE[1]):
            x0, x1, fx = source(x, SIZE[1], small.shape[2], align=align)
            top = small[:, y0, x0] * (1 - fx) + small[:, y0, x1] * fx
            bottom = small[:, y1, x0] * (1 - fx) + small[:, y1, x1] * fx
            out[y, x] = np.argmax(top * (1 - fy) + bottom * fy)
    return out


def slow_evaluation(split: CityscapesSplit, networks: list[Network], *, align: bool) -> list[dict[str, float]]:
    """mIoU, accuracies and agreement, from the files on, with counters only."""
    hits, wrong, missed = ([[0] * 19 for _ in networks] for _ in range(3))
    equal = [0] * len(networks)
    for sample in split.samples:
        rgb = np.asarray(Image.open(str(sample.image))).astype(np.float64) / 255
        image = ((rgb - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)).transpose(2, 0, 1)[None].astype(np.float32)
        ids = np.asarray(Image.open(str(sample.labels)))
        maps = [slow_labels(one(image)[0], align=align) for one in networks]
        for i, labels in enumerate(maps):
            equal[i] += int((labels == maps[0]).sum())
            for label, label_id in zip(labels.ravel().tolist(), ids.ravel().tolist(), strict=True):
                truth = TRAIN_IDS.get(label_id)
                if truth is None:
                    continue
                if label == truth:
                    hits[i][truth] += 1
                else:
                    wrong[i][label] += 1
                    missed[i][truth] += 1
    results = []
    for i in range(len(networks)):
        unions = [hits[i][k] + wrong[i][k] + missed[i][k] for k in range(19)]
        ious = [hits[i][k] / unions[k] for k in range(19) if unions[k]]
        recalls = [hits[i][k] / (hits[i][k] + missed[i][k]) for k in range(19) if hits[i][k] + missed[i][k]]
        pixels = len(split.samples) * SIZE[0] * SIZE[1]
        results.append(
            {
                "miou": 100 * sum(ious) / len(ious),
                "pixel_accuracy": 100 * sum(hits[i]) / (sum(hits[i]) + sum(missed[i])),
                "mean_class_accuracy": 100 * sum(recalls) / len(recalls),
                "agreement": 100 * equal[i] / pixels,
            }
        )
    return results


@pytest.mark.parametrize("align", [False, True])
def test_scores_are_those_of_a_slow_loop(drawn: CityscapesSplit, tmp_path: Path, align: bool) -> None:
    networks = [network(0), network(1)]
    protocol = Protocol(SIZE, None, (align,))
    found = evaluate(drawn, Opener(networks[0]), [rung(FakeRunner(networks[1]), (align,))], tmp_path, protocol)
    slow = slow_evaluation(drawn, networks, align=align)
    for score, wanted in zip(found.scores, slow, strict=True):
        values = score.to_json()
        assert {key: values[key] for key in wanted} == pytest.approx(wanted, rel=1e-9)
        assert score.value == score.miou == values["miou"]
        assert score.pixels == IMAGES * SIZE[0] * SIZE[1]
    assert found.scores[0].agreement == 100
    assert 0 < found.scores[1].agreement < 100
    assert 0 < found.scores[0].miou < 100


def test_both_up_samplings_are_each_of_them_alone(drawn: CityscapesSplit, tmp_path: Path) -> None:
    both = evaluate(drawn, Opener(network(0)), [rung(FakeRunner(network(1)), (False, True))], tmp_path / "both", AUTO)
    assert both.job.entries() == [
        ("pytorch fp32", False), ("pytorch fp32", True), ("onnxruntime fp32", False), ("onnxruntime fp32", True)
    ]  # fmt: skip
    assert both.job.references() == [0, 1, 0, 1]
    for align in (False, True):
        alone = evaluate(
            drawn,
            Opener(network(0)),
            [rung(FakeRunner(network(1)), (align,))],
            tmp_path / str(align),
            Protocol(SIZE, None, (align,)),
        )
        for mine, its in zip(both.scores[align::2], alone.scores, strict=True):
            assert np.array_equal(mine.matrix, its.matrix)
            assert (mine.equal, mine.drop) == (its.equal, its.drop)
    assert both.scores[0].miou != both.scores[1].miou
    assert [score.drop is None for score in both.scores] == [True, True, False, False]


def test_a_runner_that_is_the_reference_agrees_fully_and_drops_nothing(drawn: CityscapesSplit, tmp_path: Path) -> None:
    first, same = evaluate(drawn, Opener(network(0)), [rung(FakeRunner(network(0)))], tmp_path).scores
    assert same.agreement == 100
    assert np.array_equal(first.matrix, same.matrix)
    assert same.drop is not None
    assert (same.drop.low, same.drop.high) == (0, 0)


def test_scores_stand_in_the_order_of_the_rungs(drawn: CityscapesSplit, tmp_path: Path) -> None:
    rungs = [rung(FakeRunner(network(seed)), name=f"rung {seed}") for seed in (2, 0, 1)]
    found = evaluate(drawn, Opener(network(0)), rungs, tmp_path)
    alone = [evaluate(drawn, Opener(network(0)), [one], tmp_path).scores[1] for one in rungs]
    assert [name for name, _ in found.job.entries()] == ["pytorch fp32", "rung 2", "rung 0", "rung 1"]
    assert [s.miou for s in found.scores[1:]] == [s.miou for s in alone]
    assert len({s.miou for s in found.scores}) == 3


@pytest.mark.parametrize("batch", [2, 3, 4])
def test_a_last_batch_that_is_not_full_counts_each_image_once(
    drawn: CityscapesSplit, tmp_path: Path, batch: int
) -> None:
    one = evaluate(drawn, Opener(network(0)), [rung(FakeRunner(network(1)))], tmp_path / "1")
    shape = (batch, 3, *SIZE)
    runner = FakeRunner(network(1), shape)
    told: list[tuple[int, int]] = []
    many = evaluate(
        drawn,
        Opener(network(0), shape),
        [rung(runner)],
        tmp_path / "n",
        batch=batch,
        told=lambda _, done, of: told.append((done, of)),
    )
    for a, b in zip(one.images, many.images, strict=True):
        assert np.array_equal(a.matrices, b.matrices)
        assert (a.name, a.sha256, a.stamp, a.equal, a.pixels) == (b.name, b.sha256, b.stamp, b.equal, b.pixels)
    assert runner.calls == math.ceil(IMAGES / batch)
    assert told == [(n, IMAGES) for n in range(1, IMAGES + 1)]


@pytest.mark.parametrize("how", ["blur", "area", "bilinear"])
def test_a_network_of_half_the_size_gets_half_of_the_image(drawn: CityscapesSplit, tmp_path: Path, how: str) -> None:
    half = (1, 3, SIZE[0] // 2, SIZE[1] // 2)
    fed: list[np.ndarray] = []

    def logits(image: np.ndarray) -> np.ndarray:
        fed.append(image)
        return network(0)(image)

    runner = FakeRunner(logits, half)
    fed.clear()
    found = evaluate(drawn, Opener(network(0), half), [rung(runner)], tmp_path, Protocol(SIZE, how))
    assert [score.pixels for score in found.scores] == [IMAGES * SIZE[0] * SIZE[1]] * 2
    assert found.scores[1].agreement == 100
    for sample in drawn.samples:
        image = np.asarray(Image.open(str(sample.image)))
        if how == "blur":
            wanted = blur_and_halve(normalise(image))
        elif how == "area":
            mean = image.astype(np.float64).reshape(SIZE[0] // 2, 2, SIZE[1] // 2, 2, 3).mean(axis=(1, 3))
            wanted = ((mean / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)).transpose(2, 0, 1)[None]
        else:
            small = Image.fromarray(image).resize((half[3], half[2]), Image.Resampling.BILINEAR)
            wanted = normalise(np.asarray(small))
        # Two are in work, so they may be fed in another order.
        assert any(np.allclose(one, wanted, atol=1e-5) for one in fed)
    assert len(fed) == IMAGES


def test_the_three_ways_to_halve_have_label_maps_of_their_own(drawn: CityscapesSplit, tmp_path: Path) -> None:
    half = (1, 3, SIZE[0] // 2, SIZE[1] // 2)
    found = [
        evaluate(drawn, Opener(network(0), half), [], tmp_path, Protocol(SIZE, how))
        for how in ("blur", "area", "bilinear")
    ]
    assert [one.reference.computed for one in found] == [IMAGES] * 3
    assert len({one.scores[0].miou for one in found}) == 3


# --- engines with other ends ----------------------------------------------------------------------------------------


def raw(function: Network) -> Network:
    """The same of uint8 (N, H, W, 3)."""
    return lambda image: function(np.concatenate([normalise(one) for one in image]))


def labelled(function: Network, align: bool) -> Network:
    """Label maps in place of logits."""
    return lambda image: np.stack([upsampled_labels(one, SIZE, align_corners=align) for one in function(image)])


@pytest.mark.parametrize("batch", [1, 2])
def test_an_engine_that_takes_raw_images_scores_the_same(drawn: CityscapesSplit, tmp_path: Path, batch: int) -> None:
    shape, plain = (batch, *SIZE, 3), (batch, 3, *SIZE)
    rungs = [
        rung(FakeRunner(network(1), plain), name="plain"),
        rung(FakeRunner(raw(network(1)), shape, dtype="uint8"), name="raw"),
    ]
    found = evaluate(drawn, Opener(network(0), plain), rungs, tmp_path, batch=batch)
    assert np.array_equal(found.scores[1].matrix, found.scores[2].matrix)
    assert found.scores[1].equal == found.scores[2].equal


@pytest.mark.parametrize("inside", [False, True])
def test_an_engine_that_gives_labels_is_held_to_the_reference_with_the_same_up_sampling(
    drawn: CityscapesSplit, tmp_path: Path, inside: bool
) -> None:
    labels = FakeRunner(labelled(network(0), inside), output="labels")
    whole = FakeRunner(raw(labelled(network(0), inside)), (1, *SIZE, 3), dtype="uint8", output="labels")
    rungs = [rung(labels, (inside,), "labels"), rung(whole, (inside,), "image labels")]
    found = evaluate(drawn, Opener(network(0)), rungs, tmp_path, AUTO)
    assert found.job.references() == [0, 1, int(inside), int(inside)]
    for score in found.scores[2:]:
        assert score.agreement == 100
        assert np.array_equal(score.matrix, found.scores[int(inside)].matrix)


def test_half_precision_ends_are_scored_in_fp32(drawn: CityscapesSplit, tmp_path: Path) -> None:
    def logits(image: np.ndarray) -> np.ndarray:
        return network(1)(image.astype(np.float32)).astype(np.float16)

    half = FakeRunner(logits, dtype="float16")
    rounded = FakeRunner(lambda image: logits(image.astype(np.float16)).astype(np.float32))
    found = evaluate(drawn, Opener(network(0)), [rung(half), rung(rounded)], tmp_path)
    assert np.array_equal(found.scores[1].matrix, found.scores[2].matrix)


# --- results as JSON ------------------------------------------------------------------------------------------------


def test_what_an_image_gave_comes_back_from_json(drawn: CityscapesSplit, tmp_path: Path) -> None:
    found = evaluate(drawn, Opener(network(0)), [rung(FakeRunner(network(1)), (False, True))], tmp_path, AUTO)
    for image in found.images:
        back = ImageCounts.from_json(json.loads(json.dumps(image.to_json(), allow_nan=False)))
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
    ],
)
def test_other_json_is_refused(change: dict[str, Any]) -> None:
    values = ImageCounts("a", "b", "c", 6, (6,), np.zeros((1, 19, 19), np.int64)).to_json()
    values = {key: value for key, value in {**values, **change}.items() if value is not ...}
    with pytest.raises((ValueError, LookupError, TypeError)):
        ImageCounts.from_json(values)


def test_json_names_the_classes_and_has_null_for_absent_ones() -> None:
    matrix = np.zeros((19, 19), np.int64)
    matrix[0, 0], matrix[0, 1] = 3, 1
    result = json.loads(json.dumps(Score(matrix, 3, 5).to_json(), allow_nan=False))
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
    values = json.loads(json.dumps(score.to_json(), allow_nan=False))
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


# --- the reference's label maps -------------------------------------------------------------------------------------


def test_the_reference_is_computed_once(drawn: CityscapesSplit, tmp_path: Path) -> None:
    first, second = Opener(network(0)), Opener(network(0))
    before = evaluate(drawn, first, [rung(FakeRunner(network(1)))], tmp_path)
    after = evaluate(drawn, second, [rung(FakeRunner(network(1)))], tmp_path)
    assert (first.count, before.reference.computed) == (1, IMAGES)
    assert (second.count, after.reference.computed) == (0, 0)
    for a, b in zip(before.scores, after.scores, strict=True):
        assert np.array_equal(a.matrix, b.matrix)
        assert a.equal == b.equal


def test_both_up_samplings_need_one_run_and_serve_each_alone(drawn: CityscapesSplit, tmp_path: Path) -> None:
    opener = Opener(network(0))
    evaluate(drawn, opener, [], tmp_path, AUTO)
    assert opener.runner.calls == IMAGES
    for align in (False, True):
        again = Opener(network(0))
        evaluate(drawn, again, [], tmp_path, Protocol(SIZE, None, (align,)))
        assert again.count == 0


def test_only_missing_label_maps_are_computed(drawn: CityscapesSplit, tmp_path: Path) -> None:
    evaluate(drawn, Opener(network(0)), [], tmp_path)
    next(tmp_path.rglob("sketchton_*.png")).unlink()
    opener = Opener(network(0))
    again = evaluate(drawn, opener, [], tmp_path)
    assert (opener.count, opener.runner.calls, again.reference.computed) == (1, 1, 1)


def damage_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def damage_one_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def another_size(path: Path) -> None:
    Image.new("L", (32, 16)).save(path)


def another_kind(path: Path) -> None:
    Image.new("RGB", SIZE[::-1]).save(path)


def unknown_class(path: Path) -> None:
    Image.new("L", SIZE[::-1], 19).save(path)


@pytest.mark.parametrize("damage", [damage_half, damage_one_bit, another_size, another_kind, unknown_class])
def test_a_damaged_label_map_is_computed_again(
    drawn: CityscapesSplit, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    wanted = evaluate(drawn, Opener(network(0)), [], tmp_path)
    damage(next(tmp_path.rglob("sketchton_*.png")))
    found = evaluate(drawn, Opener(network(0)), [], tmp_path)
    assert found.reference.computed == 1
    assert np.array_equal(wanted.scores[0].matrix, found.scores[0].matrix)
    assert evaluate(drawn, Opener(network(0)), [], tmp_path).reference.computed == 0


def test_other_weights_have_label_maps_of_their_own(drawn: CityscapesSplit, tmp_path: Path) -> None:
    evaluate(drawn, Opener(network(0)), [], tmp_path, model="a")
    opener = Opener(network(1))
    other = evaluate(drawn, opener, [rung(FakeRunner(network(1)))], tmp_path, model="b")
    assert (opener.count, other.reference.computed) == (1, IMAGES)
    assert other.scores[1].agreement == 100


def test_label_maps_belong_to_weights_protocol_and_pytorch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def kept(model: str, protocol: Protocol) -> list[list[np.ndarray]] | None:
        reference = Reference("pytorch fp32", Opener(network(0)), tmp_path, {"weights": model}, protocol)
        found = reference.kept([("a/b", "0" * 64)])
        reference.keep([("a/b", "0" * 64)], [[np.zeros(SIZE, np.uint8)]] * len(protocol.align_corners))
        return found

    others = [PROTOCOL, Protocol(SIZE, None, (True,)), Protocol(SIZE, "blur"), Protocol(SIZE, "area")]
    for protocol in others:
        assert kept("a", protocol) is None
        assert kept("a", protocol) is not None
    assert kept("b", PROTOCOL) is None
    monkeypatch.setattr(torch, "__version__", "0.0")
    assert kept("a", PROTOCOL) is None
    assert len(list(tmp_path.rglob("key.json"))) == len(list(tmp_path.iterdir())) == 6


def test_other_bytes_of_an_image_are_another_label_map(tmp_path: Path) -> None:
    write_cityscapes(tmp_path / "set", "val", {"drawnville": 2}, seed=0, size=SIZE)
    split = find_split(tmp_path / "set")
    evaluate(split, Opener(network(0)), [], tmp_path / "maps")
    path = Path(str(split.samples[1].image))
    Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    opener = Opener(network(0))
    again = evaluate(split, opener, [rung(FakeRunner(network(0)))], tmp_path / "maps")
    assert (opener.runner.calls, again.reference.computed) == (1, 1)
    assert again.scores[1].agreement == 100


def test_a_label_map_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    maps = LabelMaps(tmp_path, {"weights": "a"}, SIZE)
    labels = np.random.default_rng(0).integers(0, 19, SIZE).astype(np.uint8)
    assert maps.load("city/name", "0" * 64) is None
    maps.save("city/name", "0" * 64, labels)
    found = LabelMaps(tmp_path, {"weights": "a"}, SIZE).load("city/name", "0" * 64)
    assert found is not None
    assert np.array_equal(found, labels)
    assert maps.load("city/name", "1" * 64) is None
    assert LabelMaps(tmp_path, {"weights": "b"}, SIZE).load("city/name", "0" * 64) is None


# --- predictions ----------------------------------------------------------------------------------------------------


def test_predictions_are_label_ids_and_give_the_counts_again(drawn: CityscapesSplit, tmp_path: Path) -> None:
    rungs = [rung(FakeRunner(network(1)), (False, True))]
    found = evaluate(drawn, Opener(network(0)), rungs, tmp_path / "maps", AUTO, predictions=tmp_path / "out")
    folders = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert folders == [
        f"{name}-align-corners-{align}" for name in ("onnxruntime-fp32", "pytorch-fp32") for align in ("false", "true")
    ]
    for sample, image in zip(drawn.samples, found.images, strict=True):
        ids = np.asarray(Image.open(str(sample.labels)))
        for path, matrix in zip(prediction_paths(found.job, sample.name), image.matrices, strict=True):
            with Image.open(path) as picture:
                assert (picture.mode, picture.format) == ("L", "PNG")
                predicted = np.asarray(picture)
            again = np.zeros((19, 19), np.int64)
            for truth_id, predicted_id in zip(ids.ravel().tolist(), predicted.ravel().tolist(), strict=True):
                if truth_id in TRAIN_IDS:
                    again[TRAIN_IDS[truth_id], TRAIN_IDS[predicted_id]] += 1
            assert np.array_equal(again, matrix)


def test_with_one_up_sampling_the_folder_is_the_rung(drawn: CityscapesSplit, tmp_path: Path) -> None:
    evaluate(drawn, Opener(network(0)), [], tmp_path / "maps", predictions=tmp_path / "out")
    found = sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.png"))
    assert found == [f"pytorch-fp32/{sample.name}_predictionLabelIds.png" for sample in drawn.samples]


# --- what aborts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["image", "labels"])
def test_a_corrupt_png_in_the_middle_aborts(tmp_path: Path, which: str) -> None:
    write_cityscapes(tmp_path / "set", "val", {"drawnville": 3}, seed=0, size=SIZE)
    split = find_split(tmp_path / "set")
    path = Path(str(getattr(split.samples[1], which)))
    path.write_bytes(path.read_bytes()[:200])
    told: list[int] = []
    with pytest.raises(DataError, match="cannot be decoded") as caught:
        evaluate(
            split,
            Opener(network(0)),
            [rung(FakeRunner(network(1)))],
            tmp_path / "maps",
            told=lambda _, done, _of: told.append(done),
        )
    assert str(path) in str(caught.value)
    assert told == [1]


def test_an_image_of_another_size_aborts(drawn: CityscapesSplit, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is 64x128 \(128x256 was needed"):
        evaluate(drawn, Opener(network(0)), [], tmp_path, Protocol((128, 256), None))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("who", ["pytorch fp32", "onnxruntime fp32"])
def test_logits_that_are_not_finite_are_never_scored(
    drawn: CityscapesSplit, tmp_path: Path, who: str, value: float
) -> None:
    def broken(image: np.ndarray) -> np.ndarray:
        logits = network(0)(image)
        logits[0, 7, 3, 4] = value
        return logits

    sides = {name: broken if name == who else network(0) for name in ("pytorch fp32", "onnxruntime fp32")}
    runner = FakeRunner(sides["onnxruntime fp32"])
    with pytest.raises(EngineError, match=f"^{who} gives logits that are not finite") as caught:
        evaluate(drawn, Opener(sides["pytorch fp32"]), [rung(runner)], tmp_path)
    assert "\n" not in str(caught.value)
    if who == "pytorch fp32":
        assert not list(tmp_path.rglob("*.png"))


def test_of_a_batch_that_is_not_full_the_fill_is_not_looked_at(drawn: CityscapesSplit, tmp_path: Path) -> None:
    def broken_at_the_end(image: np.ndarray) -> np.ndarray:
        logits = network(0)(image)
        logits[-1] = np.nan
        return logits

    shape = (4, 3, *SIZE)
    found = evaluate(drawn, Opener(network(0), shape), [rung(FakeRunner(broken_at_the_end, shape))], tmp_path, batch=4)
    assert found.scores[1].agreement == 100


def test_where_the_time_goes_is_told_by_stage(drawn: CityscapesSplit, tmp_path: Path) -> None:
    found = evaluate(drawn, Opener(network(0)), [rung(FakeRunner(network(1)))], tmp_path, predictions=tmp_path / "out")
    assert set(found.job.watch.seconds) == {
        "read and decode", "prepare", "reference", "network", "up-sample and arg-max", "count", "save predictions"
    }  # fmt: skip
    assert all(seconds > 0 for seconds in found.job.watch.seconds.values())


def test_a_sample_is_stamped_by_both_of_its_files(drawn: CityscapesSplit, tmp_path: Path) -> None:
    write_cityscapes(tmp_path, "val", {"drawnville": 1}, seed=0, size=SIZE)
    sample: Sample = find_split(tmp_path).samples[0]
    before = sample.stamp()
    assert before == sample.stamp() != drawn.samples[0].stamp()
    for which in (sample.image, sample.labels):
        path = Path(str(which))
        path.write_bytes(path.read_bytes() + b"\0")
        assert sample.stamp() != before
        before = sample.stamp()


def test_a_map_that_another_evaluation_writes_is_left_to_it(tmp_path: Path) -> None:
    maps = LabelMaps(tmp_path, {"weights": "a"}, SIZE)
    labels = np.zeros(SIZE, np.uint8)
    path = maps._path("city/name", "a" * 64)
    with replacing(path) as part:
        maps.save("city/name", "a" * 64, labels)
        part.write_bytes(b"theirs")
    assert path.read_bytes() == b"theirs"

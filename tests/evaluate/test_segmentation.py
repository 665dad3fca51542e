"""Scores against an independent evaluation in slow loops; engines with other ends; predictions; and what aborts."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pytest
from PIL import Image
from support.fakes import FakeRunner
from support.segmentation import (
    AUTO,
    IMAGES,
    SIZE,
    TRAIN_IDS,
    Network,
    Opener,
    as_json,
    drawn_set,
    evaluate,
    network,
    rung,
)

from ffnet_deploy.data.cityscapes import CityscapesSample, CityscapesSplit, find_split
from ffnet_deploy.data.images import blur_and_halve, normalise
from ffnet_deploy.errors import DataError, EngineError
from ffnet_deploy.evaluate.labels import upsampled_labels
from ffnet_deploy.evaluate.protocols import SegmentationProtocol
from ffnet_deploy.evaluate.segmentation import prediction_paths
from ffnet_deploy.synthetic.scenes import write_cityscapes


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> CityscapesSplit:
    """A set of three scenes that no test changes."""
    return drawn_set(tmp_path_factory.mktemp("drawn"))


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
    protocol = SegmentationProtocol(SIZE, None, (align,))
    found = evaluate(drawn, Opener(networks[0]), [rung(FakeRunner(networks[1]), (align,))], tmp_path, protocol)
    slow = slow_evaluation(drawn, networks, align=align)
    for score, wanted in zip(found.scores, slow, strict=True):
        values = as_json(score)
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
            SegmentationProtocol(SIZE, None, (align,)),
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


Halving = Literal["blur", "area", "bilinear"]
HALVES: tuple[Halving, ...] = get_args(Halving)


@pytest.mark.parametrize("how", HALVES)
def test_a_network_of_half_the_size_gets_half_of_the_image(
    drawn: CityscapesSplit, tmp_path: Path, how: Halving
) -> None:
    half = (1, 3, SIZE[0] // 2, SIZE[1] // 2)
    fed: list[np.ndarray] = []

    def logits(image: np.ndarray) -> np.ndarray:
        fed.append(image)
        return network(0)(image)

    runner = FakeRunner(logits, half)
    fed.clear()
    found = evaluate(drawn, Opener(network(0), half), [rung(runner)], tmp_path, SegmentationProtocol(SIZE, how))
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
    found = [evaluate(drawn, Opener(network(0), half), [], tmp_path, SegmentationProtocol(SIZE, how)) for how in HALVES]
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
        evaluate(drawn, Opener(network(0)), [], tmp_path, SegmentationProtocol((128, 256), None))


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
    sample: CityscapesSample = find_split(tmp_path).samples[0]
    before = sample.stamp()
    assert before == sample.stamp() != drawn.samples[0].stamp()
    for which in (sample.image, sample.labels):
        path = Path(str(which))
        path.write_bytes(path.read_bytes() + b"\0")
        assert sample.stamp() != before
        before = sample.stamp()

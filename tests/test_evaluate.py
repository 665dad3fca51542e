"""Scores against an independent evaluation in slow loops; the reference's label maps; and what aborts."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import FakeRunner
from PIL import Image
from torch.nn import functional as F

from ffnet_deploy.data.cityscapes import CLASSES, CityscapesSplit, find_split
from ffnet_deploy.data.images import blur_and_halve, normalise
from ffnet_deploy.data.scenes import write_cityscapes
from ffnet_deploy.errors import DataError
from ffnet_deploy.evaluate import LabelMaps, Protocol, Reference, Score, evaluate, label_maps, reference_key

SIZE = (64, 128)
PROTOCOL = Protocol(SIZE, None)
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

    def __call__(self) -> FakeRunner:
        self.count += 1
        return self.runner


def reference(opener: Opener, folder: Path, protocol: Protocol = PROTOCOL, key: str = "weights") -> Reference:
    return Reference(opener, LabelMaps(folder, {"weights": key, "size": list(protocol.size)}, protocol.size), protocol)


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
    """mIoU and agreement, from the files on, with counters only."""
    hits, wrong, missed = ([[0] * 19 for _ in networks] for _ in range(3))
    equal = [0] * len(networks)
    for sample in split.samples:
        rgb = np.asarray(Image.open(sample.image)).astype(np.float64) / 255
        image = ((rgb - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)).transpose(2, 0, 1)[None].astype(np.float32)
        ids = np.asarray(Image.open(sample.labels))
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
        pixels = len(split.samples) * SIZE[0] * SIZE[1]
        results.append({"miou": 100 * sum(ious) / len(ious), "agreement": 100 * equal[i] / pixels})
    return results


@pytest.mark.parametrize("align", [False, True])
def test_scores_are_those_of_a_slow_loop(drawn: CityscapesSplit, tmp_path: Path, align: bool) -> None:
    protocol = Protocol(SIZE, None, align_corners=align)
    networks = [network(0), network(1)]
    opener = Opener(networks[0])
    scores = evaluate(drawn, protocol, reference(opener, tmp_path, protocol), [FakeRunner(networks[1])])
    slow = slow_evaluation(drawn, networks, align=align)
    for score, wanted in zip(scores, slow, strict=True):
        assert score.miou == pytest.approx(wanted["miou"], rel=1e-9)
        assert score.agreement == pytest.approx(wanted["agreement"], rel=1e-9)
        assert score.pixels == IMAGES * SIZE[0] * SIZE[1]
    assert scores[0].agreement == 100
    assert 0 < scores[1].agreement < 100
    assert 0 < scores[0].miou < 100


def test_a_runner_that_is_the_reference_agrees_fully(drawn: CityscapesSplit, tmp_path: Path) -> None:
    first, same = evaluate(drawn, PROTOCOL, reference(Opener(network(0)), tmp_path), [FakeRunner(network(0))])
    assert same.agreement == 100
    assert np.array_equal(first.matrix, same.matrix)


def test_scores_stand_in_the_order_of_the_rungs(drawn: CityscapesSplit, tmp_path: Path) -> None:
    rungs = [FakeRunner(network(seed)) for seed in (2, 0, 1)]
    scores = evaluate(drawn, PROTOCOL, reference(Opener(network(0)), tmp_path), rungs)
    alone = [evaluate(drawn, PROTOCOL, reference(Opener(network(0)), tmp_path), [rung])[1] for rung in rungs]
    assert [s.miou for s in scores[1:]] == [s.miou for s in alone]
    assert len({s.miou for s in scores}) == 3


@pytest.mark.parametrize("batch", [2, 3, 4])
def test_a_last_batch_that_is_not_full_counts_each_image_once(
    drawn: CityscapesSplit, tmp_path: Path, batch: int
) -> None:
    one = evaluate(drawn, PROTOCOL, reference(Opener(network(0)), tmp_path / "1"), [FakeRunner(network(1))])
    shape = (batch, 3, *SIZE)
    opener, rung = Opener(network(0), shape), FakeRunner(network(1), shape)
    told: list[tuple[int, int]] = []
    many = evaluate(
        drawn,
        PROTOCOL,
        reference(opener, tmp_path / "n"),
        [rung],
        batch=batch,
        progress=lambda done, total: told.append((done, total)),
    )
    for a, b in zip(one, many, strict=True):
        assert np.array_equal(a.matrix, b.matrix)
        assert (a.equal, a.pixels) == (b.equal, b.pixels)
    assert rung.calls == math.ceil(IMAGES / batch)
    assert told == [(min(n, IMAGES), IMAGES) for n in range(batch, IMAGES + batch, batch)]


def test_the_blur_gives_the_network_half_of_the_image(drawn: CityscapesSplit, tmp_path: Path) -> None:
    half = (1, 3, SIZE[0] // 2, SIZE[1] // 2)
    fed: list[np.ndarray] = []

    def logits(image: np.ndarray) -> np.ndarray:
        fed.append(image)
        return network(0)(image)

    rung = FakeRunner(logits, half)
    fed.clear()
    protocol = Protocol(SIZE, "blur")
    scores = evaluate(drawn, protocol, reference(Opener(network(0), half), tmp_path, protocol), [rung])
    assert [score.pixels for score in scores] == [IMAGES * SIZE[0] * SIZE[1]] * 2
    for image, sample in zip(fed, drawn.samples, strict=True):
        wanted = blur_and_halve(normalise(np.asarray(Image.open(sample.image))))
        assert np.array_equal(image, wanted)


@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize("small", [(16, 32), (15, 31), (8, 16)])
def test_label_maps_are_an_interpolation_and_an_arg_max(small: tuple[int, int], align: bool) -> None:
    logits = np.random.default_rng(0).normal(size=(2, 19, *small)).astype(np.float32)
    found = label_maps(logits, Protocol(SIZE, None, align_corners=align))
    full = F.interpolate(torch.from_numpy(logits), SIZE, mode="bilinear", align_corners=align)
    assert [labels.dtype for labels in found] == [np.uint8] * 2
    assert np.array_equal(np.stack(found), full.argmax(dim=1).numpy())
    other = label_maps(logits, Protocol(SIZE, None, align_corners=not align))
    assert not np.array_equal(np.stack(found), np.stack(other))


def test_half_precision_logits_are_upsampled_in_fp32() -> None:
    logits = np.random.default_rng(0).normal(size=(1, 19, 16, 32)).astype(np.float16)
    assert np.array_equal(label_maps(logits, PROTOCOL)[0], label_maps(logits.astype(np.float32), PROTOCOL)[0])


def test_the_first_of_equal_logits_wins() -> None:
    assert not label_maps(np.ones((1, 19, 16, 32), np.float32), PROTOCOL)[0].any()


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
    assert result["confusion"] == matrix.tolist()


def test_json_of_a_set_without_a_counted_pixel_is_json() -> None:
    score = Score(np.zeros((19, 19), np.int64), 5, 5)
    assert math.isnan(score.miou)
    assert json.loads(json.dumps(score.to_json(), allow_nan=False))["miou"] is None


# --- the reference's label maps -------------------------------------------------------------------------------------


def test_label_maps_are_used_again(drawn: CityscapesSplit, tmp_path: Path) -> None:
    first, second = Opener(network(0)), Opener(network(0))
    fresh = reference(first, tmp_path)
    before = evaluate(drawn, PROTOCOL, fresh, [FakeRunner(network(1))])
    kept = reference(second, tmp_path)
    after = evaluate(drawn, PROTOCOL, kept, [FakeRunner(network(1))])
    assert (first.count, fresh.computed) == (1, IMAGES)
    assert (second.count, kept.computed) == (0, 0)
    for a, b in zip(before, after, strict=True):
        assert np.array_equal(a.matrix, b.matrix)
        assert a.equal == b.equal


def test_only_missing_label_maps_are_computed(drawn: CityscapesSplit, tmp_path: Path) -> None:
    evaluate(drawn, PROTOCOL, reference(Opener(network(0)), tmp_path), [])
    next(tmp_path.rglob("sketchton_*.png")).unlink()
    opener = Opener(network(0))
    again = reference(opener, tmp_path)
    evaluate(drawn, PROTOCOL, again, [])
    assert (opener.count, opener.runner.calls, again.computed) == (1, 1, 1)


def test_a_damaged_label_map_is_computed_again(drawn: CityscapesSplit, tmp_path: Path) -> None:
    wanted = evaluate(drawn, PROTOCOL, reference(Opener(network(0)), tmp_path), [])
    path = next(tmp_path.rglob("sketchton_*.png"))
    path.write_bytes(path.read_bytes()[:100])
    again = reference(Opener(network(0)), tmp_path)
    found = evaluate(drawn, PROTOCOL, again, [])
    assert again.computed == 1
    assert np.array_equal(wanted[0].matrix, found[0].matrix)


def test_other_weights_have_label_maps_of_their_own(drawn: CityscapesSplit, tmp_path: Path) -> None:
    evaluate(drawn, PROTOCOL, reference(Opener(network(0)), tmp_path, key="a"), [])
    opener = Opener(network(1))
    other = reference(opener, tmp_path, key="b")
    scores = evaluate(drawn, PROTOCOL, other, [FakeRunner(network(1))])
    assert (opener.count, other.computed) == (1, IMAGES)
    assert scores[1].agreement == 100


def test_the_key_changes_with_all_that_label_maps_depend_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cityscapes(tmp_path, "val", {"drawnville": 2}, seed=0, size=SIZE)
    split = find_split(tmp_path)
    keys = [
        reference_key({"weights": "a"}, split, PROTOCOL),
        reference_key({"weights": "b"}, split, PROTOCOL),
        reference_key({"weights": "a"}, split, Protocol(SIZE, None, align_corners=True)),
        reference_key({"weights": "a"}, split, Protocol(SIZE, "blur")),
        reference_key({"weights": "a"}, split, Protocol((32, 64), None)),
    ]
    assert reference_key({"weights": "a"}, split, PROTOCOL) == keys[0]
    data = split.samples[1].image.read_bytes()
    split.samples[1].image.write_bytes(data + b"\0")
    keys.append(reference_key({"weights": "a"}, split, PROTOCOL))
    split.samples[1].image.write_bytes(data)
    monkeypatch.setattr(torch, "__version__", "0.0")
    keys.append(reference_key({"weights": "a"}, split, PROTOCOL))
    folders = set()
    for key in keys:
        LabelMaps(tmp_path / "maps", key, (2, 2)).save("x", np.zeros((2, 2), np.uint8))
        folders = {path.parent for path in (tmp_path / "maps").rglob("x.png")}
    assert len(folders) == len(keys)


def test_a_label_map_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    maps = LabelMaps(tmp_path, {"weights": "a"}, SIZE)
    labels = np.random.default_rng(0).integers(0, 19, SIZE).astype(np.uint8)
    assert maps.load("city/name") is None
    maps.save("city/name", labels)
    found = LabelMaps(tmp_path, {"weights": "a"}, SIZE).load("city/name")
    assert found is not None
    assert np.array_equal(found, labels)
    assert LabelMaps(tmp_path, {"weights": "b"}, SIZE).load("city/name") is None


def test_closing_the_reference_closes_what_it_opened(drawn: CityscapesSplit, tmp_path: Path) -> None:
    opener = Opener(network(0))
    opened = reference(opener, tmp_path)
    opened.close()
    assert not opener.runner.closed
    evaluate(drawn, PROTOCOL, opened, [])
    opened.close()
    assert opener.runner.closed


# --- what aborts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["image", "labels"])
def test_a_corrupt_png_in_the_middle_aborts(tmp_path: Path, which: str) -> None:
    write_cityscapes(tmp_path / "set", "val", {"drawnville": 3}, seed=0, size=SIZE)
    split = find_split(tmp_path / "set")
    path: Path = getattr(split.samples[1], which)
    path.write_bytes(path.read_bytes()[:200])
    told: list[int] = []
    with pytest.raises(DataError, match="cannot be decoded") as caught:
        evaluate(
            split,
            PROTOCOL,
            reference(Opener(network(0)), tmp_path / "maps"),
            [FakeRunner(network(1))],
            progress=lambda done, _: told.append(done),
        )
    assert str(path) in str(caught.value)
    assert told == [1]


def test_an_image_of_another_size_aborts(drawn: CityscapesSplit, tmp_path: Path) -> None:
    protocol = Protocol((128, 256), None)
    with pytest.raises(DataError, match=r"is 64x128 \(128x256 was needed"):
        evaluate(drawn, protocol, reference(Opener(network(0)), tmp_path, protocol), [])

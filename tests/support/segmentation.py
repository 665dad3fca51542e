"""Segmentation on stand-ins: networks that are functions, a drawn set, and the loop that the pipeline runs."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ffnet_deploy.data.cityscapes import CityscapesSplit, find_split
from ffnet_deploy.evaluate.loop import Lanes, Stopwatch, run
from ffnet_deploy.evaluate.protocols import SegmentationProtocol
from ffnet_deploy.evaluate.reference import Opened, Reference, ReferenceModel
from ffnet_deploy.evaluate.result import ScoredRung
from ffnet_deploy.evaluate.segmentation import ImageCounts, Score, SegmentationJob, count, scores
from ffnet_deploy.synthetic.scenes import write_cityscapes
from support.fakes import FakeRunner

SIZE = (64, 128)
PROTOCOL = SegmentationProtocol(SIZE, None)
AUTO = SegmentationProtocol(SIZE, None, (False, True))
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


def drawn_set(root: Path) -> CityscapesSplit:
    """A set of three scenes."""
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


def named(weights: str) -> ReferenceModel:
    return ReferenceModel("a_model", weights, (1, 3, *SIZE), "nearest", "cpu")


def as_json(score: Score) -> dict[str, Any]:
    """A score as it stands in a file."""
    facts: dict[str, Any] = dict.fromkeys(("file", "bytes", "sha256"))
    rung = ScoredRung(rung="a fp32", runtime="a", precision="fp32", device="cpu", align_corners=False, **facts)
    values: dict[str, Any] = json.loads(json.dumps(asdict(score.rung(rung, math.nan)), allow_nan=False))
    return values


class Ran(NamedTuple):
    """An evaluation: its scores, what it counted image by image, and its reference."""

    scores: list[Score]
    images: list[ImageCounts]
    reference: Reference
    job: SegmentationJob


def evaluate(
    split: CityscapesSplit,
    opener: Opener,
    rungs: Sequence[Opened],
    folder: Path,
    protocol: SegmentationProtocol = PROTOCOL,
    *,
    model: str = "weights",
    batch: int = 1,
    predictions: Path | None = None,
    told: Callable[[ImageCounts, int, int], None] | None = None,
) -> Ran:
    """What the pipeline does, on stand-ins: two images in work at a time."""
    reference = Reference("pytorch fp32", opener, folder, named(model), protocol)
    job = SegmentationJob(protocol, reference, rungs, batch, Stopwatch(), predictions)
    images = run(lambda some: count(job, some), split.samples, batch=batch, lanes=Lanes(2, 1), told=told)
    return Ran(scores(images, job.references()), images, reference, job)

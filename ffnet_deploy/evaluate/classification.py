"""Top-1 and top-5: from an image to every rung's five best classes, and from those to scores."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ffnet_deploy import metrics
from ffnet_deploy.data.imagenet import ImageSample, decode_sample
from ffnet_deploy.data.images import normalise
from ffnet_deploy.evaluate.segmentation import finite
from ffnet_deploy.metrics import Interval

if TYPE_CHECKING:
    from ffnet_deploy.evaluate.loop import Stopwatch
    from ffnet_deploy.evaluate.segmentation import Opened

_BEST = 5


@dataclass(frozen=True, slots=True)
class ImageAnswer:
    """What every rung says of one image."""

    name: str
    sha256: str
    """Of the image's name, truth and bytes."""
    stamp: str
    """Of its source, to see whether it has changed."""
    truth: tuple[int, ...]
    """Classes that count as right: one, or those of the ReaL labels."""
    best: np.ndarray
    """int64 (rungs, 5): the five best classes, the best first."""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "truth": list(self.truth), "best": self.best.tolist()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ImageAnswer:
        """The reverse of ``to_json``.

        Raises:
            ValueError, LookupError, TypeError: these are no such values.
        """
        best = np.array(values["best"], np.int64).reshape(-1, _BEST)
        return cls(values["name"], values["sha256"], values["stamp"], tuple(map(int, values["truth"])), best)


@dataclass(frozen=True, slots=True)
class TopScore:
    """What one rung got on a set, in percent of all its images: never a mean over batches."""

    top1: float
    top5: float
    agreement: float
    """Equal top-1 with the reference."""
    images: int
    drop: Interval | None = None
    """Where the drop of top-1 lies with 95 %, in points; None for the reference itself."""

    @property
    def value(self) -> float:
        """What drops and gates are about: top-1."""
        return self.top1

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        values = asdict(self)
        return {**{k: v for k, v in values.items() if k != "drop"}, "drop_interval": values["drop"]}


@dataclass(frozen=True, slots=True)
class TopJob:
    """Everything that :func:`answer` needs beside the samples."""

    rungs: Sequence[Opened]
    """The reference first."""
    batch: int
    watch: Stopwatch

    def entries(self) -> list[str]:
        """The rungs, in the order of :class:`ImageAnswer`."""
        return [rung.name for rung in self.rungs]


def answer(job: TopJob, samples: Sequence[ImageSample]) -> list[ImageAnswer]:
    """Ask every rung about some images.

    Args:
        job: the rungs.
        samples: at most ``job.batch``; the batch is filled by repeating the last image.

    Raises:
        DataError: an image cannot be used.
        EngineError: a rung fails, or gives logits that are not finite.
    """
    with job.watch("read and decode"):
        data = [sample.source.read() for sample in samples]
        images = [decode_sample(sample, one) for sample, one in zip(samples, data, strict=True)]
    with job.watch("prepare"):
        ready = [normalise(image) for image in images]
        feed = np.concatenate(ready + [ready[-1]] * (job.batch - len(ready)))
    best = np.stack([_best(job, rung, images, feed) for rung in job.rungs])
    return [
        ImageAnswer(
            name=sample.name,
            sha256=_sha256(sample, one),
            stamp=sample.source.stamp(),
            truth=truth_of(sample),
            best=best[:, k],
        )
        for k, (sample, one) in enumerate(zip(samples, data, strict=True))
    ]


def truth_of(sample: ImageSample) -> tuple[int, ...]:
    """Classes that count as right."""
    return (sample.label,) if sample.real is None else sample.real


def _sha256(sample: ImageSample, data: bytes) -> str:
    digest = hashlib.sha256(f"{sample.name} {truth_of(sample)} ".encode())
    digest.update(hashlib.sha256(data).digest())
    return digest.hexdigest()


def _best(job: TopJob, rung: Opened, images: Sequence[np.ndarray], image: np.ndarray) -> np.ndarray:
    """int64 (samples, 5): the best classes first; of equals the smaller index, as PyTorch's arg-max has it."""
    with job.watch("network"):
        outputs = rung.run(images, image)
    logits = finite(outputs["logits"][: len(images)], rung.name)
    return np.argsort(-logits, axis=1, kind="stable")[:, :_BEST]


def scores(answers: Sequence[ImageAnswer]) -> list[TopScore]:
    """Scores of all rungs over a set, the reference's first; images without a right class do not count."""
    counted = [item for item in answers if item.truth]
    if not counted:
        nothing = TopScore(float("nan"), float("nan"), float("nan"), 0)
        return [nothing] * (len(answers[0].best) if answers else 0)
    best = np.stack([item.best for item in counted])
    right: np.ndarray = np.array([np.isin(item.best, item.truth) for item in counted])
    first: np.ndarray = right[:, :, 0]
    any_of_five: np.ndarray = np.any(right, axis=2)
    same: np.ndarray = np.equal(best[:, :, 0], best[:, :1, 0])
    return [
        TopScore(
            top1=100 * float(first[:, i].mean()),
            top5=100 * float(any_of_five[:, i].mean()),
            agreement=100 * float(same[:, i].mean()),
            images=len(counted),
            drop=metrics.drop_of_accuracy(first[:, 0], first[:, i]) if i else None,
        )
        for i in range(best.shape[1])
    ]

"""Top-1 and top-5: from an image to every rung's five best classes, and from those to scores."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ffnet_deploy import metrics
from ffnet_deploy.artifacts.reading import parse
from ffnet_deploy.artifacts.values import Interval
from ffnet_deploy.data.imagenet import ImageSample, decode_sample
from ffnet_deploy.data.images import filled, normalise
from ffnet_deploy.evaluate.reference import finite
from ffnet_deploy.evaluate.result import AnswerFacts, ClassificationRung, CountsFacts, ScoredRung
from ffnet_deploy.evaluate.tasks import Task

if TYPE_CHECKING:
    from ffnet_deploy.evaluate.loop import Stopwatch
    from ffnet_deploy.evaluate.reference import Opened


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

    def facts(self) -> AnswerFacts:
        """As it stands in a file."""
        best = tuple(tuple(row) for row in self.best.tolist())
        return AnswerFacts(self.name, self.sha256, self.stamp, self.truth, best)

    @classmethod
    def of(cls, facts: CountsFacts | AnswerFacts) -> ImageAnswer:
        """The reverse of ``facts``.

        Raises:
            ValueError: they belong to another kind of evaluation.
        """
        if not isinstance(facts, AnswerFacts):
            raise ValueError(f"{facts.name} has no classes")  # noqa: TRY004 - as all that is wrong in a file
        if any(len(set(five)) != _BEST for five in facts.best):
            raise ValueError(f"{facts.name} has a class twice among the best")
        best = np.array(facts.best, np.int64).reshape(-1, _BEST)
        return cls(facts.name, facts.sha256, facts.stamp, facts.truth, best)


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

    def rung(self, scored: ScoredRung, drop: float) -> ClassificationRung:
        """As it stands in a file; what cannot be known is None."""
        return ClassificationRung(
            **asdict(scored),
            top1=_known(self.top1),
            top5=_known(self.top5),
            agreement=_known(self.agreement),
            images=self.images,
            drop=_known(drop),
            drop_interval=self.drop,
        )


def _known(value: float) -> float | None:
    return None if np.isnan(value) else value


@dataclass(frozen=True, slots=True)
class ClassificationJob:
    """Everything that :func:`answer` needs beside the samples."""

    rungs: Sequence[Opened]
    """The reference first."""
    batch: int
    watch: Stopwatch

    def entries(self) -> list[str]:
        """The rungs, in the order of :class:`ImageAnswer`."""
        return [rung.name for rung in self.rungs]


def answer(job: ClassificationJob, samples: Sequence[ImageSample]) -> list[ImageAnswer]:
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
        feed = np.concatenate(filled(ready, job.batch))
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


def _best(job: ClassificationJob, rung: Opened, images: Sequence[np.ndarray], image: np.ndarray) -> np.ndarray:
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


class RunningTop1:
    """Top-1 of the reference so far, for the progress line."""

    def __init__(self) -> None:
        self._right = self._count = 0

    def add(self, image: ImageAnswer) -> None:
        """Count one image more."""
        self._right += int(image.best[0, 0]) in image.truth
        self._count += bool(image.truth)

    def __str__(self) -> str:
        return f"top-1 {100 * self._right / max(1, self._count):.1f}"


TASK: Task[Any] = Task(
    command="eval imagenet",
    parse=lambda text: ImageAnswer.of(parse(AnswerFacts, text)),
    read=ImageAnswer.of,
    # The first rung is everyone's reference.
    scores=lambda images, _references: scores(images),
    running=RunningTop1,
)

"""mIoU: from a decoded image to every rung's confusion matrix, and from those to scores."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ffnet_deploy import metrics
from ffnet_deploy.artifacts.reading import parse
from ffnet_deploy.artifacts.values import Interval
from ffnet_deploy.artifacts.writing import replacing
from ffnet_deploy.data import cityscapes
from ffnet_deploy.data.images import filled, halve, normalise
from ffnet_deploy.evaluate.labels import upsampled_labels
from ffnet_deploy.evaluate.loop import Stopwatch
from ffnet_deploy.evaluate.protocols import SegmentationProtocol
from ffnet_deploy.evaluate.reference import Opened, Reference, finite
from ffnet_deploy.evaluate.result import AnswerFacts, CountsFacts, ScoredRung, SegmentationRung
from ffnet_deploy.evaluate.tasks import Task

if TYPE_CHECKING:
    pass


_CLASSES = len(cityscapes.CLASSES)
FEW_SHARE = 0.0025
FEW_IMAGES = 10
"""A class with a smaller share of the counted pixels, or in fewer images, is marked: its IoU rests on few pictures."""


@dataclass(frozen=True, slots=True)
class ImageCounts:
    """What every entry (a rung with one upsampling) got on one image."""

    name: str
    sha256: str
    """Of the image's name, file and label file."""
    stamp: str
    """Of the two files, to see whether they have changed."""
    pixels: int
    """All pixels, ignored ones too."""
    equal: tuple[int, ...]
    """By entry: pixels with the reference's label."""
    matrices: np.ndarray
    """int64 (entries, 19, 19): confusion, rows are truth."""

    def facts(self) -> CountsFacts:
        """As it stands in a file: of the matrices only what is not zero."""
        flat = self.matrices.reshape(len(self.equal), -1)
        sparse = tuple({int(i): int(row[i]) for i in np.flatnonzero(row)} for row in flat)
        return CountsFacts(self.name, self.sha256, self.stamp, self.pixels, self.equal, sparse)

    @classmethod
    def of(cls, facts: CountsFacts | AnswerFacts) -> ImageCounts:
        """The reverse of ``facts``.

        Raises:
            ValueError: they belong to another kind of evaluation, or contradict each other.
        """
        if not isinstance(facts, CountsFacts):
            raise ValueError(f"{facts.name} has no pixel counts")  # noqa: TRY004 - as all that is wrong in a file
        matrices = np.zeros((len(facts.equal), _CLASSES**2), np.int64)
        for row, sparse in zip(matrices, facts.confusion, strict=True):
            for i, count in sparse.items():
                if not 0 <= i < _CLASSES**2:
                    raise ValueError(f"{facts.name} has no class pair {i}")
                row[i] = count
        if max(facts.equal, default=0) > facts.pixels or matrices.sum(axis=1).max(initial=0) > facts.pixels:
            raise ValueError(f"{facts.name} counts more than its {facts.pixels} pixels")
        shaped = matrices.reshape(-1, _CLASSES, _CLASSES)
        if (shaped.sum(axis=2) != shaped[:1].sum(axis=2)).any():
            raise ValueError(f"{facts.name} has another truth for some rungs")
        return cls(facts.name, facts.sha256, facts.stamp, facts.pixels, facts.equal, shaped)


@dataclass(frozen=True, slots=True)
class Score:
    """What one entry got on a set."""

    matrix: np.ndarray
    """int64 (19, 19), rows are truth."""
    equal: int
    """Pixels with the reference's label."""
    pixels: int
    """All pixels, ignored ones too."""
    drop: Interval | None = None
    """Where the drop of mIoU lies with 95 %, in points; None for the reference itself."""
    few: tuple[str, ...] = ()
    """Classes that few pixels or images decide."""

    @property
    def miou(self) -> float:
        """Percent: the mean over the classes that occur."""
        return float(100 * np.nanmean(metrics.iou(self.matrix))) if self.matrix.any() else float("nan")

    @property
    def value(self) -> float:
        """What drops and gates are about: mIoU."""
        return self.miou

    @property
    def agreement(self) -> float:
        """Percent of pixels with the reference's label."""
        return 100 * self.equal / self.pixels

    @property
    def miou_categories(self) -> float:
        """Percent: the mean IoU over the categories that occur."""
        return _mean(self.categories().values())

    @property
    def pixel_accuracy(self) -> float:
        """Percent of counted pixels with the right class."""
        return 100 * metrics.pixel_accuracy(self.matrix)

    @property
    def mean_class_accuracy(self) -> float:
        """Percent: the mean share of right pixels over the classes of the truth."""
        return 100 * metrics.mean_class_accuracy(self.matrix)

    def categories(self) -> dict[str, float]:
        """IoU by category, percent; NaN for one that does not occur."""
        ious = metrics.iou(metrics.grouped(self.matrix, list(cityscapes.CATEGORIES.values())))
        return {name: 100 * float(iou) for name, iou in zip(cityscapes.CATEGORIES, ious, strict=True)}

    def classes(self) -> dict[str, float]:
        """IoU by class, percent; NaN for one that does not occur."""
        return {n: 100 * float(v) for n, v in zip(cityscapes.CLASSES, metrics.iou(self.matrix), strict=True)}

    def rung(self, scored: ScoredRung, drop: float) -> SegmentationRung:
        """As it stands in a file: percent; what does not occur is None."""
        return SegmentationRung(
            **asdict(scored),
            miou=_finite(self.miou),
            miou_categories=_finite(self.miou_categories),
            pixel_accuracy=_finite(self.pixel_accuracy),
            mean_class_accuracy=_finite(self.mean_class_accuracy),
            agreement=self.agreement,
            drop=_finite(drop),
            drop_interval=self.drop,
            iou={name: _finite(value) for name, value in self.classes().items()},
            iou_categories={name: _finite(value) for name, value in self.categories().items()},
            few_pixels=self.few,
            confusion=tuple(tuple(row) for row in self.matrix.tolist()),
        )


def _finite(value: float) -> float | None:
    return None if np.isnan(value) else value


def _mean(values: Iterable[float]) -> float:
    known = [value for value in values if not np.isnan(value)]
    return sum(known) / len(known) if known else float("nan")


def scores(images: Sequence[ImageCounts], references: Sequence[int]) -> list[Score]:
    """Scores of all entries over a set.

    Args:
        images: results of every image of the set.
        references: for each entry the number of the entry that it is compared with; its own for a reference.
    """
    by_image = np.stack([image.matrices for image in images])
    total = by_image.sum(axis=0)
    pixels = sum(image.pixels for image in images)
    equal = np.array([image.equal for image in images], np.int64).sum(axis=0)
    few = _few(by_image[:, 0])
    drops = [
        None if i == mine else metrics.drop_of_miou(by_image[:, mine], by_image[:, i])
        for i, mine in enumerate(references)
    ]
    return [Score(total[i], int(equal[i]), pixels, drops[i], few) for i in range(len(references))]


def _few(by_image: np.ndarray) -> tuple[str, ...]:
    """Classes of the truth with few pixels or in few images; those that do not occur at all are none of them."""
    truth = by_image.sum(axis=2)
    pixels, images = truth.sum(axis=0), (truth > 0).sum(axis=0)
    share = pixels / max(1, pixels.sum())
    scarce = (pixels > 0) & ((share < FEW_SHARE) | (images < min(FEW_IMAGES, len(by_image))))
    return tuple(name for name, marked in zip(cityscapes.CLASSES, scarce, strict=True) if marked)


@dataclass(frozen=True, slots=True)
class SegmentationJob:
    """Everything that :func:`count` needs beside the samples."""

    protocol: SegmentationProtocol
    reference: Reference
    rungs: Sequence[Opened]
    """Without the reference."""
    batch: int
    watch: Stopwatch
    predictions: Path | None = None
    """Folder that gets every rung's label maps as ``labelIds`` PNGs."""

    def entries(self) -> list[tuple[str, bool]]:
        """(rung, align_corners) of each entry, in the order of :class:`ImageCounts`, the reference's first."""
        rows = [(self.reference.name, align) for align in self.protocol.align_corners]
        return rows + [(rung.name, align) for rung in self.rungs for align in rung.align_corners]

    def references(self) -> list[int]:
        """For each entry the number of the reference's entry with the same upsampling."""
        return [self.protocol.align_corners.index(align) for _, align in self.entries()]


def count(job: SegmentationJob, samples: Sequence[cityscapes.CityscapesSample]) -> list[ImageCounts]:
    """Decode samples, let the reference and every rung label them, and count.

    Args:
        job: protocol and runners.
        samples: at most ``job.batch``; the batch is filled by repeating the last image.

    Raises:
        DataError: an image or its labels cannot be used.
        EngineError: a rung fails, or gives logits that are not finite.
    """
    watch, protocol = job.watch, job.protocol
    with watch("read and decode"):
        raw = [(sample.image.read(), sample.labels.read()) for sample in samples]
        hashes = [cityscapes.sample_sha256(s.name, *data) for s, data in zip(samples, raw, strict=True)]
        loaded = [cityscapes.decoded(s, *data, protocol.size) for s, data in zip(samples, raw, strict=True)]
    images = [item.image for item in loaded]
    with watch("prepare"):
        network_input = _network_input(images, protocol, job.batch)
    known = [(sample.name, sha256) for sample, sha256 in zip(samples, hashes, strict=True)]
    # By entry, then by sample.
    labels = _reference_labels(job, known, network_input)
    for rung in job.rungs:
        labels += _rung_labels(job, rung, images, network_input)
    with watch("count"):
        own = [labels[number] for number in job.references()]
        results = [
            ImageCounts(
                name=sample.name,
                sha256=sha256,
                stamp=sample.stamp(),
                pixels=item.truth.size,
                equal=tuple(int(np.count_nonzero(a[k] == b[k])) for a, b in zip(labels, own, strict=True)),
                matrices=np.stack([metrics.confusion(entry[k], item.truth, _CLASSES) for entry in labels]),
            )
            for k, (sample, sha256, item) in enumerate(zip(samples, hashes, loaded, strict=True))
        ]
    if job.predictions:
        with watch("save predictions"):
            _save(job, samples, labels)
    return results


def _reference_labels(
    job: SegmentationJob, known: Sequence[tuple[str, str]], image: np.ndarray
) -> list[list[np.ndarray]]:
    with job.watch("reference"):
        kept = job.reference.kept(known)
        if kept is not None:
            return kept
        logits = job.reference.run(image)
        labels = _all_labels(logits, job.protocol.align_corners, job.protocol.size, job.reference.name, len(known))
        job.reference.keep(known, labels)
        return labels


def _rung_labels(
    job: SegmentationJob, rung: Opened, images: Sequence[np.ndarray], image: np.ndarray
) -> list[list[np.ndarray]]:
    """Label maps by a rung, which may take the raw images, or give labels itself: by align_corners, by sample."""
    with job.watch("network"):
        outputs = rung.run(images, image)
    if "labels" in outputs:
        return [list(outputs["labels"][: len(images)])]
    with job.watch("up-sample and arg-max"):
        return _all_labels(outputs["logits"], rung.align_corners, job.protocol.size, rung.name, len(images))


def _all_labels(
    logits: np.ndarray, choices: Sequence[bool], size: tuple[int, int], name: str, count: int
) -> list[list[np.ndarray]]:
    logits = finite(logits[:count], name)
    return [[upsampled_labels(one, size, align_corners=align) for one in logits] for align in choices]


def _network_input(images: Sequence[np.ndarray], protocol: SegmentationProtocol, batch: int) -> np.ndarray:
    """float32 (batch, 3, H, W), or half that size."""
    ready = [halve(image, protocol.downsample) if protocol.downsample else normalise(image) for image in images]
    return ready[0] if batch == 1 else np.concatenate(filled(ready, batch))


_LABEL_IDS = np.array(cityscapes.LABEL_IDS, np.uint8)


def prediction_paths(job: SegmentationJob, sample: str) -> list[Path]:
    """Every entry's prediction of a sample: one folder an entry, since the official evaluator takes one an image."""
    assert job.predictions is not None
    several = len(job.protocol.align_corners) > 1
    return [
        job.predictions
        / f"{rung.replace(' ', '-')}{f'-align-corners-{str(align).lower()}' if several else ''}"
        / f"{sample}_predictionLabelIds.png"
        for rung, align in job.entries()
    ]


def _save(
    job: SegmentationJob, samples: Sequence[cityscapes.CityscapesSample], labels: Sequence[Sequence[np.ndarray]]
) -> None:
    for k, sample in enumerate(samples):
        for path, entry in zip(prediction_paths(job, sample.name), labels, strict=True):
            with replacing(path) as part:
                Image.fromarray(_LABEL_IDS[entry[k]]).save(part, format="PNG", compress_level=1)


class RunningMiou:
    """mIoU of the reference so far, for the progress line."""

    def __init__(self) -> None:
        self._matrix = np.zeros((_CLASSES, _CLASSES), np.int64)

    def add(self, image: ImageCounts) -> None:
        """Count one image more."""
        self._matrix += image.matrices[0]

    def __str__(self) -> str:
        return f"mIoU {100 * np.nanmean(metrics.iou(self._matrix)):.1f}" if self._matrix.any() else "no pixel"


TASK: Task[Any] = Task(
    command="eval cityscapes",
    parse=lambda text: ImageCounts.of(parse(CountsFacts, text)),
    read=ImageCounts.of,
    scores=scores,
    running=RunningMiou,
)

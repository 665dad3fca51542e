"""mIoU: from a decoded image to every rung's confusion matrix, and from those to scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from ffnet_deploy import metrics
from ffnet_deploy.artifacts import hash_json, replacing, tool_versions, write_json
from ffnet_deploy.data import cityscapes
from ffnet_deploy.data.images import halve, normalise
from ffnet_deploy.errors import ArtifactError, EngineError
from ffnet_deploy.evaluate.labels import upsampled_labels
from ffnet_deploy.evaluate.loop import Stopwatch
from ffnet_deploy.metrics import Interval

if TYPE_CHECKING:
    from ffnet_deploy.runtimes.base import Runner

_CLASSES = len(cityscapes.CLASSES)
FEW_SHARE = 0.0025
FEW_IMAGES = 10
"""A class with a smaller share of the counted pixels, or in fewer images, is marked: its IoU hangs on few pictures."""


@dataclass(frozen=True, slots=True)
class Protocol:
    """How logits become a score; part of every result.

    The published one: whole image, one scale, no flip, logits up-sampled bilinearly in FP32, arg-max, labels mapped
    to 19 train ids with the rest ignored, one confusion matrix over the set. Source: FFNet @2291ae7
    ``scripts/evaluate_cityscapes.py``.
    """

    size: tuple[int, int]
    """(H, W) of the images and labels."""
    downsample: str | None
    """In front of a network that takes the half-size image: ``blur``, as the ``_pre_down`` twin does inside, ``area``
    or ``bilinear``; None: the image goes in as it is."""
    align_corners: tuple[bool, ...] = (False,)
    """Of the final up-sampling; what the authors used for the GPU models is not published, so both may be scored."""


@dataclass(frozen=True, slots=True)
class ImageCounts:
    """What every entry (a rung with one up-sampling) got on one image."""

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

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; of the matrices only what is not zero, as ``{19 * truth + label: count}``."""
        flat = self.matrices.reshape(len(self.equal), -1)
        sparse = [{str(i): int(row[i]) for i in np.flatnonzero(row)} for row in flat]
        return {
            "name": self.name,
            "sha256": self.sha256,
            "stamp": self.stamp,
            "pixels": self.pixels,
            "equal": list(self.equal),
            "confusion": sparse,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ImageCounts:
        """The reverse of ``to_json``.

        Raises:
            ValueError, LookupError, TypeError: these are no such values.
        """
        matrices = np.zeros((len(values["equal"]), _CLASSES**2), np.int64)
        for row, sparse in zip(matrices, values["confusion"], strict=True):
            for i, count in dict(sparse).items():
                row[int(i)] = count
        shaped = matrices.reshape(-1, _CLASSES, _CLASSES)
        equal = tuple(map(int, values["equal"]))
        return cls(values["name"], values["sha256"], values["stamp"], int(values["pixels"]), equal, shaped)


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

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, percent; what does not occur is null."""
        return {
            "miou": _finite(self.miou),
            "miou_categories": _finite(self.miou_categories),
            "pixel_accuracy": _finite(self.pixel_accuracy),
            "mean_class_accuracy": _finite(self.mean_class_accuracy),
            "agreement": self.agreement,
            "drop_interval": asdict(self.drop) if self.drop else None,
            "iou": {name: _finite(value) for name, value in self.classes().items()},
            "iou_categories": {name: _finite(value) for name, value in self.categories().items()},
            "few_pixels": list(self.few),
            "confusion": self.matrix.tolist(),
        }


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


MAPS_VERSION = 1
"""Of how an image becomes a label map here, the network aside; label maps of another version are computed again."""


def _made_by() -> dict[str, Any]:
    return {"torch": torch.__version__, "maps": MAPS_VERSION, **tool_versions("numpy", "pillow")}


class LabelMaps:
    """The reference's label maps on disk, so that a later evaluation need not compute them again.

    One folder for each (weights, protocol, PyTorch), one file for each image's bytes; a PNG counts only when whole.
    """

    def __init__(self, folder: Path, key: dict[str, Any], size: tuple[int, int]) -> None:
        """Open the folder that belongs to ``key``; maps are uint8 of ``size``."""
        self._size = size
        self._folder = folder / hash_json(key)[:16]
        if not (self._folder / "key.json").exists():
            # It is for people. Another shard may write the same at this moment; a folder that cannot be written at all
            # is met again by the first label map.
            with suppress(ArtifactError):
                write_json(self._folder / "key.json", key)

    def load(self, name: str, sha256: str) -> np.ndarray | None:
        """uint8 (H, W) train ids of one sample, or None."""
        try:
            with Image.open(self._path(name, sha256)) as image:
                image.verify()
            with Image.open(self._path(name, sha256)) as image:
                labels = np.asarray(image)
        except (OSError, SyntaxError, ValueError):
            # Not there, or damaged since: it is computed again.
            return None
        fits = labels.shape == self._size and labels.dtype == np.uint8 and labels.max() < _CLASSES
        return labels if fits else None

    def save(self, name: str, sha256: str, labels: np.ndarray) -> None:
        try:
            with replacing(self._path(name, sha256)) as part:
                Image.fromarray(labels).save(part, format="PNG", compress_level=1)
        except ArtifactError as error:
            # Another evaluation of the same writes the same map at this moment: one of them is enough.
            if not isinstance(error.__cause__, BlockingIOError):
                raise

    def _path(self, name: str, sha256: str) -> Path:
        return self._folder / f"{name}.{sha256[:16]}.png"


class Reference:
    """The reference's labels: from disk where they are, else computed and kept."""

    def __init__(
        self,
        name: str,
        opener: Callable[[], tuple[Runner, AbstractContextManager[Any]]],
        folder: Path,
        model: Mapping[str, Any],
        protocol: Protocol,
    ) -> None:
        """Prepare; ``opener`` is called when a label map is first missing.

        Args:
            name: of the rung.
            opener: of the reference's runner and of the gate that is held during a run.
            folder: of all label maps.
            model: name, weights' hash, input shape, up-sampling and device: all that the network's output depends on.
            protocol: how logits become labels.
        """
        self.name = name
        self._opener = opener
        self._maps = [
            LabelMaps(folder, {"model": dict(model), "protocol": part, "made by": _made_by()}, protocol.size)
            for part in (
                {"size": protocol.size, "downsample": protocol.downsample, "align_corners": align}
                for align in protocol.align_corners
            )
        ]
        self._opened: tuple[Runner, AbstractContextManager[Any]] | None = None
        self._lock = Lock()
        self.computed = 0

    def kept(self, samples: Sequence[tuple[str, str]]) -> list[list[np.ndarray]] | None:
        """For each choice of ``align_corners`` the label maps of (name, sha256) samples; None if one is missing."""
        found = [[maps.load(*sample) for sample in samples] for maps in self._maps]
        whole = [[labels for labels in row if labels is not None] for row in found]
        return whole if all(len(row) == len(samples) for row in whole) else None

    def run(self, image: np.ndarray) -> np.ndarray:
        """Logits by the reference's runner."""
        with self._lock:
            if self._opened is None:
                self._opened = self._opener()
        runner, gate = self._opened
        with gate:
            return runner({"image": image})["logits"]

    def keep(self, samples: Sequence[tuple[str, str]], labels: Sequence[Sequence[np.ndarray]]) -> None:
        for maps, row in zip(self._maps, labels, strict=True):
            for sample, one in zip(samples, row, strict=True):
                maps.save(*sample, one)
        with self._lock:
            self.computed += len(samples)


@dataclass(frozen=True, slots=True)
class Opened:
    """A rung that is ready to run."""

    name: str
    runner: Runner
    gate: AbstractContextManager[Any]
    """Held during a run: how many may run at once."""
    align_corners: tuple[bool, ...]
    """Label maps to make of one run: the protocol's, or the one choice that is inside the engine."""

    def run(self, images: Sequence[np.ndarray], image: np.ndarray) -> dict[str, np.ndarray]:
        """Compute once on what the engine takes.

        Args:
            images: uint8 (H, W, 3), at most a batch; it is filled by repeating the last.
            image: float32 (batch, 3, h, w), the same made ready for the network.
        """
        dtype = self.runner.inputs[0].dtype
        if dtype == "uint8":
            feed = np.stack([*images, *[images[-1]] * (len(image) - len(images))])
        else:
            feed = image.astype(dtype, copy=False)
        with self.gate:
            return self.runner({"image": feed})


@dataclass(frozen=True, slots=True)
class Job:
    """Everything that :func:`count` needs beside the samples."""

    protocol: Protocol
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
        """For each entry the number of the reference's entry with the same up-sampling."""
        return [self.protocol.align_corners.index(align) for _, align in self.entries()]


def count(job: Job, samples: Sequence[cityscapes.Sample]) -> list[ImageCounts]:
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


def _reference_labels(job: Job, known: Sequence[tuple[str, str]], image: np.ndarray) -> list[list[np.ndarray]]:
    with job.watch("reference"):
        kept = job.reference.kept(known)
        if kept is not None:
            return kept
        logits = job.reference.run(image)
        labels = _all_labels(logits, job.protocol.align_corners, job.protocol.size, job.reference.name, len(known))
        job.reference.keep(known, labels)
        return labels


def _rung_labels(job: Job, rung: Opened, images: Sequence[np.ndarray], image: np.ndarray) -> list[list[np.ndarray]]:
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


def finite(logits: np.ndarray, name: str) -> np.ndarray:
    """A rung's logits in float32, if they can be scored.

    Raises:
        EngineError: one is NaN or infinite.
    """
    logits = logits.astype(np.float32, copy=False)
    if not np.isfinite(logits).all():
        raise EngineError(
            f"{name} gives logits that are not finite (numbers were needed to score). "
            "Look where it begins: ffnet-deploy verify --layers"
        )
    return logits


def _network_input(images: Sequence[np.ndarray], protocol: Protocol, batch: int) -> np.ndarray:
    """float32 (batch, 3, H, W), or half that size."""
    ready = [halve(image, protocol.downsample) if protocol.downsample else normalise(image) for image in images]
    return ready[0] if batch == 1 else np.concatenate(ready + [ready[-1]] * (batch - len(ready)))


_LABEL_IDS = np.array(cityscapes.LABEL_IDS, np.uint8)


def prediction_paths(job: Job, sample: str) -> list[Path]:
    """Every entry's prediction of a sample: one folder an entry, since the official evaluator takes one an image."""
    assert job.predictions is not None
    several = len(job.protocol.align_corners) > 1
    return [
        job.predictions
        / f"{rung.replace(' ', '-')}{f'-align-corners-{str(align).lower()}' if several else ''}"
        / f"{sample}_predictionLabelIds.png"
        for rung, align in job.entries()
    ]


def _save(job: Job, samples: Sequence[cityscapes.Sample], labels: Sequence[Sequence[np.ndarray]]) -> None:
    for k, sample in enumerate(samples):
        for path, entry in zip(prediction_paths(job, sample.name), labels, strict=True):
            with replacing(path) as part:
                Image.fromarray(_LABEL_IDS[entry[k]]).save(part, format="PNG", compress_level=1)

"""mIoU of the reference and of every rung, on the same decoded images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from ffnet_deploy import metrics
from ffnet_deploy.artifacts import hash_json, replacing, write_json
from ffnet_deploy.data import cityscapes
from ffnet_deploy.data.images import blur_and_halve, normalise

if TYPE_CHECKING:
    from ffnet_deploy.runtimes.base import Runner

_CLASSES = len(cityscapes.CLASSES)


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
    """``blur``: outside the timed graph, as the ``_pre_down`` twin does inside; None: the image goes in as it is."""
    align_corners: bool = False
    """Of the final up-sampling; what the authors used for the GPU models is not published."""


@dataclass(frozen=True, slots=True)
class Score:
    """What one rung got on a set."""

    matrix: np.ndarray
    """int64 (19, 19), rows are truth."""
    equal: int
    """Pixels with the reference's label."""
    pixels: int
    """All pixels, ignored ones too."""

    @property
    def miou(self) -> float:
        """Percent: the mean over the classes that occur."""
        return float(100 * np.nanmean(metrics.iou(self.matrix))) if self.matrix.any() else float("nan")

    @property
    def agreement(self) -> float:
        """Percent of pixels with the reference's label."""
        return 100 * self.equal / self.pixels

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; classes that do not occur are null."""
        by_class = metrics.iou(self.matrix)
        return {
            "miou": None if np.isnan(self.miou) else self.miou,
            "agreement": self.agreement,
            "iou": {
                n: None if np.isnan(v) else 100 * float(v) for n, v in zip(cityscapes.CLASSES, by_class, strict=True)
            },
            "confusion": self.matrix.tolist(),
        }


@dataclass(slots=True)
class _Tally:
    matrix: np.ndarray = field(default_factory=lambda: np.zeros((_CLASSES, _CLASSES), np.int64))
    equal: int = 0
    pixels: int = 0

    def add(self, labels: np.ndarray, reference: np.ndarray, truth: np.ndarray) -> None:
        self.matrix += metrics.confusion(labels, truth, _CLASSES)
        self.equal += int((labels == reference).sum())
        self.pixels += labels.size

    def score(self) -> Score:
        return Score(self.matrix, self.equal, self.pixels)


class LabelMaps:
    """The reference's label maps on disk, so that a later evaluation need not compute them again.

    One folder for each (weights, images, protocol, PyTorch); a PNG counts only when written whole.
    """

    def __init__(self, folder: Path, key: dict[str, Any], size: tuple[int, int]) -> None:
        """Open the folder that belongs to ``key``; maps are uint8 of ``size``."""
        self._size = size
        self._folder = folder / hash_json(key)[:16]
        if not (self._folder / "key.json").exists():
            write_json(self._folder / "key.json", key)

    def load(self, name: str) -> np.ndarray | None:
        """uint8 (H, W) train ids of one sample, or None."""
        try:
            with Image.open(self._path(name)) as image:
                image.verify()
            with Image.open(self._path(name)) as image:
                labels = np.asarray(image)
        except (OSError, SyntaxError, ValueError):
            # Not there, or damaged since: it is computed again.
            return None
        fits = labels.shape == self._size and labels.dtype == np.uint8 and labels.max() < _CLASSES
        return labels if fits else None

    def save(self, name: str, labels: np.ndarray) -> None:
        with replacing(self._path(name)) as part:
            Image.fromarray(labels).save(part, format="PNG", compress_level=1)

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.png"


def reference_key(model: Mapping[str, Any], split: cityscapes.CityscapesSplit, protocol: Protocol) -> dict[str, Any]:
    """What the reference's label maps depend on; reads every file of the set.

    Args:
        model: name, weights' hash, input shape, up-sampling and device: all that the network's labels depend on.
        split: the images and labels.
        protocol: how logits become labels.
    """
    return {
        "model": dict(model),
        "images": hash_json(list(cityscapes.fingerprint(split.samples))),
        "protocol": asdict(protocol),
        "torch": torch.__version__,
    }


class Reference:
    """The reference's labels: from disk where they are, else computed and kept."""

    def __init__(self, opener: Callable[[], Runner], maps: LabelMaps, protocol: Protocol) -> None:
        """Prepare; ``opener`` is called when a label map is first missing."""
        self._opener, self._maps, self._protocol = opener, maps, protocol
        self._runner: Runner | None = None
        self.computed = 0

    def labels(self, samples: Sequence[cityscapes.Sample], image: np.ndarray) -> list[np.ndarray]:
        """uint8 (H, W) for each sample; ``image`` is what the network takes."""
        kept = [self._maps.load(sample.name) for sample in samples]
        found = [labels for labels in kept if labels is not None]
        if len(found) == len(samples):
            return found
        if self._runner is None:
            self._runner = self._opener()
        labels = label_maps(self._runner({"image": image})["logits"], self._protocol)[: len(samples)]
        for sample, one in zip(samples, labels, strict=True):
            self._maps.save(sample.name, one)
        self.computed += len(samples)
        return labels

    def close(self) -> None:
        if self._runner is not None:
            self._runner.close()


def evaluate(
    split: cityscapes.CityscapesSplit,
    protocol: Protocol,
    reference: Reference,
    rungs: Sequence[Runner],
    *,
    batch: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> list[Score]:
    """Score the reference and ``rungs`` on a set; an image is decoded once for all.

    Args:
        split: a complete set.
        protocol: how logits become labels.
        reference: what the rungs are compared with.
        rungs: open runners.
        batch: of every runner; the last batch is filled by repeating its last image.
        progress: told (images done, images).

    Returns:
        Scores, the reference's first.

    Raises:
        DataError: an image or its labels cannot be used; nothing is scored without them.
    """
    tallies = [_Tally() for _ in range(len(rungs) + 1)]
    total = len(split.samples)
    for start in range(0, total, batch):
        samples = split.samples[start : start + batch]
        loaded = [cityscapes.load(sample, protocol.size) for sample in samples]
        image = _network_input([item.image for item in loaded], protocol, batch)
        truths = reference.labels(samples, image)
        raw = [item.image for item in loaded]
        outputs = [truths, *(_labels(rung, raw, image, protocol)[: len(samples)] for rung in rungs)]
        for tally, labels in zip(tallies, outputs, strict=True):
            for mine, theirs, item in zip(labels, truths, loaded, strict=True):
                tally.add(mine, theirs, item.truth)
        if progress:
            progress(start + len(samples), total)
    return [tally.score() for tally in tallies]


def _labels(runner: Runner, raw: list[np.ndarray], image: np.ndarray, protocol: Protocol) -> list[np.ndarray]:
    """Label maps by a runner, which may take the raw images, or give labels itself."""
    dtype = runner.inputs[0].dtype
    filled = raw + [raw[-1]] * (len(image) - len(raw))
    outputs = runner({"image": np.stack(filled) if dtype == "uint8" else image.astype(dtype, copy=False)})
    if "labels" in outputs:
        return list(outputs["labels"])
    return label_maps(outputs["logits"], protocol)


def _network_input(images: list[np.ndarray], protocol: Protocol, batch: int) -> np.ndarray:
    """float32 (batch, 3, H, W), or half that size after the blur."""
    ready = [normalise(image) for image in images]
    if protocol.downsample == "blur":
        ready = [blur_and_halve(image) for image in ready]
    return np.concatenate(ready + [ready[-1]] * (batch - len(ready)))


def label_maps(logits: np.ndarray, protocol: Protocol) -> list[np.ndarray]:
    """Up-sample logits to the image's size in FP32 and take the arg-max; the first of equals wins.

    Args:
        logits: float32 (N, 19, h, w).
        protocol: the size and ``align_corners``.

    Returns:
        N arrays, uint8 (H, W), train ids.
    """
    labels = []
    for one in torch.split(torch.from_numpy(logits).float(), 1):
        full = F.interpolate(one, size=protocol.size, mode="bilinear", align_corners=protocol.align_corners)
        labels.append(full.argmax(dim=1)[0].to(torch.uint8).numpy())
    return labels

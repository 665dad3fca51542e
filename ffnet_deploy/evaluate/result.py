"""What an evaluation found: one value that is measured, written as JSON, read back, merged and shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le, Lt

from ffnet_deploy.artifacts.sealing import sealed
from ffnet_deploy.artifacts.values import Count, Finite, Interval, NotNegative, Percent, Size
from ffnet_deploy.errors import ErrorFacts
from ffnet_deploy.evaluate.protocols import ClassificationProtocol, SegmentationProtocol
from ffnet_deploy.ladder import RungFacts, SkippedRung
from ffnet_deploy.machine.environment import Environment

EVAL_SCHEMA = 4
"""Version of the JSON file's layout; see docs/eval-json.md."""
Command = Literal["eval cityscapes", "eval imagenet"]
Pixels = Annotated[int, Ge(0), Le(2**31)]
"""Of one image: the sums over a set stay far below 64 bits."""
ImageNetClass = Annotated[int, Ge(0), Lt(1000)]


@dataclass(frozen=True, slots=True)
class EvaluatedFiles:
    """What was scored."""

    graph: str
    """SHA-256 of the exported graph."""
    weights: str
    """SHA-256 of the weights, or ``random-SEED``."""


@dataclass(frozen=True, slots=True)
class SetPart:
    """Which images of a set were scored."""

    title: str
    """Of the whole set."""
    layout: str
    names: str
    """Hash of the names of all images that would be scored without ``shard``."""
    total: Size
    """How many those are."""
    limit: Size | None = None
    shard: tuple[Size, Size] | None = None
    """(I, N): every N-th image from the I-th on, counted from 1; None is all of them."""

    def __str__(self) -> str:
        some = f", the first {self.total}" if self.limit else ""
        return f"{self.title}{some}{f', shard {self.shard[0]} of {self.shard[1]}' if self.shard else ''}"


@dataclass(frozen=True, slots=True)
class ScoredSet(SetPart):
    """The images that were really scored."""

    images: Size = 1
    sha256: str = ""
    """Of the images' bytes and names, in order."""


@dataclass(frozen=True, slots=True)
class CountsFacts:
    """What every rung got on one image of a segmentation set."""

    name: str
    sha256: str
    """Of the image's name, file and label file."""
    stamp: str
    """Of the two files, to see whether they have changed."""
    pixels: Annotated[Pixels, Ge(1)]
    """All pixels, ignored ones too."""
    equal: tuple[Pixels, ...]
    """By rung: pixels with the reference's label."""
    confusion: tuple[Mapping[int, Pixels], ...]
    """By rung: ``{19 * truth + label: pixels}``, where that is not zero."""


@dataclass(frozen=True, slots=True)
class AnswerFacts:
    """What every rung says of one image of a classification set."""

    name: str
    sha256: str
    """Of the image's name, truth and bytes."""
    stamp: str
    """Of its source, to see whether it has changed."""
    truth: tuple[ImageNetClass, ...]
    """Classes that count as right: one, or those of the ReaL labels."""
    best: tuple[tuple[ImageNetClass, ImageNetClass, ImageNetClass, ImageNetClass, ImageNetClass], ...]
    """By rung: the five best classes, the best first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredRung(RungFacts):
    """One line of the result: a rung, and how its logits were upsampled."""

    align_corners: bool | None = None
    """None for classification."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentationRung(ScoredRung):
    """What one rung got on a segmentation set; percent, None for what does not occur."""

    miou: Percent | None
    """Mean over the classes that occur."""
    miou_categories: Percent | None
    pixel_accuracy: Percent | None
    mean_class_accuracy: Percent | None
    agreement: Percent
    """Of pixels with the reference's label."""
    drop: Finite | None
    """Points of mIoU below the reference."""
    drop_interval: Interval | None
    """Where the drop lies with 95 %; None for the reference itself."""
    iou: Mapping[str, Percent | None]
    iou_categories: Mapping[str, Percent | None]
    few_pixels: tuple[str, ...]
    """Classes that few pixels or images decide."""
    confusion: tuple[tuple[Count, ...], ...]
    """(19, 19), rows are truth."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassificationRung(ScoredRung):
    """What one rung got on a classification set; percent of all its images, never a mean over batches."""

    top1: Percent | None
    top5: Percent | None
    agreement: Percent | None
    """Equal top-1 with the reference."""
    images: Count
    drop: Finite | None
    """Points of top-1 below the reference."""
    drop_interval: Interval | None


@dataclass(frozen=True, slots=True)
class EvaluationRun:
    """How an evaluation was computed."""

    threads: Size
    images_at_once: Size
    networks_at_once: Size
    seconds: NotNegative
    stages_s: Mapping[str, NotNegative]
    """Seconds that all threads together spent in each stage, waiting included."""
    images_taken_over: Count
    """From an interrupted run."""
    reference_reused: bool
    """Whether all of the reference's label maps were on the disk already."""
    environment: Environment


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationFile:
    """What ``eval --json`` writes."""

    schema: int = EVAL_SCHEMA
    command: Command
    created: str
    model: str
    """Stem of the graph's file name."""
    sources: EvaluatedFiles
    set: ScoredSet
    protocol: SegmentationProtocol | ClassificationProtocol
    marks: tuple[str, ...]
    tools: Mapping[str, str]
    """Versions of what the results depend on."""
    rungs: tuple[SegmentationRung | ClassificationRung, ...]
    """The reference first."""
    skipped: tuple[SkippedRung, ...]
    run: EvaluationRun | None
    """None after a merge."""
    merged: tuple[str, ...] = ()
    """Files that were put together."""
    error: ErrorFacts | None
    images: tuple[CountsFacts | AnswerFacts, ...]
    """Last, since it is long."""

    @property
    def reference_value(self) -> float | None:
        """The reference's mIoU or top-1, percent; None where nothing counts."""
        first = self.rungs[0]
        return first.miou if isinstance(first, SegmentationRung) else first.top1

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, sealed: docs/eval-json.md says what they mean."""
        return sealed(asdict(self))


def check_image(
    image: CountsFacts | AnswerFacts,
    rungs: Sequence[ScoredRung],
    protocol: SegmentationProtocol | ClassificationProtocol,
) -> None:
    """Check one image's results against the evaluation that they are a part of.

    Raises:
        ValueError: results of another number of rungs or pixels, or counts that no label maps give.
    """
    counts = (len(image.best),) if isinstance(image, AnswerFacts) else (len(image.equal), len(image.confusion))
    if set(counts) != {len(rungs)}:
        raise ValueError(f"{image.name} has results of {counts[0]} rungs, and there are {len(rungs)}")
    if isinstance(image, CountsFacts) and isinstance(protocol, SegmentationProtocol):
        height, width = protocol.size
        if image.pixels != height * width:
            raise ValueError(f"{image.name} has {image.pixels} pixels, and not {height}x{width}")
        _check_counts(image, rungs)


def _check_counts(image: CountsFacts, rungs: Sequence[ScoredRung]) -> None:
    """What counts of one rung and of its reference allow each other."""
    first = {rung.align_corners: i for i, rung in reversed(list(enumerate(rungs)))}
    for i, (rung, equal, confusion) in enumerate(zip(rungs, image.equal, image.confusion, strict=True)):
        mine = first[rung.align_corners]
        reference = image.confusion[mine]
        if i == mine and equal != image.pixels:
            raise ValueError(f"{image.name}: the reference does not agree with itself")
        ignored = image.pixels - sum(reference.values())
        alike = sum(min(count, reference.get(pair, 0)) for pair, count in confusion.items())
        if equal > alike + ignored:
            raise ValueError(
                f"{image.name}: {rung.rung} has {equal} labels of the reference, and its counts allow {alike + ignored}"
            )

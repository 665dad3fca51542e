"""What an evaluation found: one value that is measured, written as JSON, read back, merged and shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le, Lt

from ffnet_deploy.artifacts.reading import error_without_result, parse, schema_of
from ffnet_deploy.artifacts.values import Count, Finite, Interval, NotNegative, Percent, Size
from ffnet_deploy.artifacts.writing import hash_json
from ffnet_deploy.errors import DataError, ErrorFacts
from ffnet_deploy.evaluate.protocols import ClassificationProtocol, SegmentationProtocol
from ffnet_deploy.ladder import RungFacts, SkippedRung
from ffnet_deploy.machine.environment import Environment

EVAL_SCHEMA = 3
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
        """Plain JSON values."""
        return asdict(self)


def read_evaluation(path: Path) -> EvaluationFile:
    """Read and validate what ``eval --json`` wrote.

    Raises:
        DataError: absent, no result of this version, damaged, or an error without a result.
    """
    again = "Evaluate that shard again with --json."
    try:
        text = path.read_bytes()
        return _parsed(text)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}). Name JSON results of eval.") from error
    except ValueError as error:
        failed = error_without_result(text)
        if failed:
            raise DataError(f"{path} is of a shard that failed ({failed}). {again}") from error
        # A name from the file may hold line breaks.
        why = " ".join(str(error).split())
        raise DataError(f"{path} holds no result of eval of this version ({why}). {again}") from error


def _parsed(text: bytes) -> EvaluationFile:
    schema, command = schema_of(text)
    if not str(command).startswith("eval "):
        raise ValueError(f"it is a result of {command!r}")
    if schema != EVAL_SCHEMA:
        raise ValueError(f"schema {schema!r} instead of {EVAL_SCHEMA}")
    return _whole(parse(EvaluationFile, text))


def _whole(file: EvaluationFile) -> EvaluationFile:
    """Check that what is stated twice agrees."""
    _check_rungs(file)
    names = [image.name for image in file.images]
    if len(set(names)) != len(names):
        raise ValueError("an image is there twice")
    if file.set.images != len(names) or file.set.sha256 != hash_json([image.sha256 for image in file.images]):
        raise ValueError("its images are not those that set.images and set.sha256 tell")
    number, of = file.set.shard or (1, 1)
    if number > of or len(names) != len(range(number - 1, file.set.total, of)):
        raise ValueError(f"{len(names)} images are not part {number} of {of} of {file.set.total}")
    if file.set.limit not in (None, file.set.total):
        raise ValueError(f"a limit of {file.set.limit} does not give {file.set.total} images")
    for image in file.images:
        _check_image(image, file)
    return file


def _check_rungs(file: EvaluationFile) -> None:
    """The reference first, once for every upsampling, and every other rung with one of these."""
    of_classes = file.command == "eval imagenet"
    kind, protocol = (
        (ClassificationRung, ClassificationProtocol) if of_classes else (SegmentationRung, SegmentationProtocol)
    )
    if not isinstance(file.protocol, protocol) or not all(isinstance(rung, kind) for rung in file.rungs):
        raise ValueError(f"its rungs or its protocol are not of {file.command}")
    ways = file.protocol.align_corners if isinstance(file.protocol, SegmentationProtocol) else (None,)
    rungs = [(rung.rung, rung.align_corners) for rung in file.rungs]
    if len(set(rungs)) != len(rungs):
        raise ValueError("a rung is there twice")
    first = [(file.rungs[0].rung, way) for way in ways] if file.rungs else []
    in_order = first and len(set(first)) == len(first) and rungs[: len(first)] == first
    if not in_order or any(way not in ways for _, way in rungs):
        raise ValueError("its rungs are not those of its protocol, the reference first")
    for rung in file.rungs:
        if isinstance(rung, SegmentationRung) and {len(rung.iou)} != {len(rung.confusion), *map(len, rung.confusion)}:
            raise ValueError(f"{rung.rung}: its confusion matrix does not fit its classes")


def _check_image(image: CountsFacts | AnswerFacts, file: EvaluationFile) -> None:
    counts = (len(image.best),) if isinstance(image, AnswerFacts) else (len(image.equal), len(image.confusion))
    if set(counts) != {len(file.rungs)}:
        raise ValueError(f"{image.name} has results of {counts[0]} rungs, and there are {len(file.rungs)}")
    if isinstance(image, CountsFacts) and isinstance(file.protocol, SegmentationProtocol):
        height, width = file.protocol.size
        if image.pixels != height * width:
            raise ValueError(f"{image.name} has {image.pixels} pixels, and not {height}x{width}")
        if any(equal != image.pixels for equal in image.equal[: len(file.protocol.align_corners)]):
            raise ValueError(f"{image.name}: the reference does not agree with itself")

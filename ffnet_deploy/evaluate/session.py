"""What both evaluations share: opened rungs, the loop over a set, the journal, progress."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Literal

from ffnet_deploy.artifacts.records import tool_versions
from ffnet_deploy.artifacts.writing import hash_json
from ffnet_deploy.errors import DataError, UsageError
from ffnet_deploy.evaluate.loop import Lanes, Sample, Stopwatch
from ffnet_deploy.evaluate.outcome import Results, check_gate
from ffnet_deploy.evaluate.protocols import ClassificationProtocol, SegmentationProtocol
from ffnet_deploy.evaluate.result import (
    EVAL_SCHEMA,
    Command,
    EvaluatedFiles,
    EvaluationRun,
    ScoredRung,
    SetPart,
    check_image,
)
from ffnet_deploy.evaluate.tasks import Image, Running, Task
from ffnet_deploy.graph.current import Graph
from ffnet_deploy.ladder import Ladder, facts_of
from ffnet_deploy.machine.devices import check_device, default_threads
from ffnet_deploy.machine.environment import describe_environment
from ffnet_deploy.progress import Progress, Tell
from ffnet_deploy.runtimes.opening import open_rung
from ffnet_deploy.runtimes.rung import Rung

if TYPE_CHECKING:
    from ffnet_deploy.evaluate.reference import Opened
    from ffnet_deploy.runtimes.runner import Runner

_MOST_IMAGES, _MOST_NETWORKS = 8, 4
"""In work at once: more cores than these would help little, and every network in flight holds its activations."""
_TOOLS = ("torch", "onnxruntime-gpu", "onnxruntime", "tensorrt", "tensorrt-rtx", "numpy", "pillow")


@dataclass(frozen=True, slots=True)
class EvalOptions:
    """What ``eval`` can be asked for."""

    root: Path
    only: tuple[str, ...] = ()
    device: int | None = None
    max_drop: float | None = None
    limit: int | None = None
    """The first images alone."""
    shard: tuple[int, int] | None = None
    """(I, N): every N-th image from the I-th on."""
    resume: bool = False
    threads: int | None = None
    """Of the processor, for everything."""
    at_once: int | None = None
    """Images in work at a time."""
    align_corners: tuple[bool, ...] = (False,)
    """Cityscapes: of the final upsampling; both are scored where both are named."""
    downsample: Literal["blur", "area", "bilinear"] = "blur"
    """Cityscapes: in front of models that take 512x1024."""
    predictions: Path | None = None
    """Cityscapes: folder for label maps."""
    real_labels: Path | None = None
    """ImageNet: the ReaL labels."""


@dataclass(frozen=True, slots=True)
class JournalKey:
    """All that the results of an evaluation depend on, but the images themselves."""

    schema: int
    """Of results; lines of another layout are no damage."""
    command: Command
    sources: EvaluatedFiles
    protocol: SegmentationProtocol | ClassificationProtocol
    part: SetPart
    """Shards may run side by side, and one that ends must not take what another has done with it."""
    predictions: str | None
    """Where they are written. What was taken over from a run that wrote none would be missing among them."""
    rungs: tuple[ScoredRung, ...]
    tools: Mapping[str, str]


class Session:
    """What both evaluations do alike: open rungs, loop over the set, keep a journal, tell how far they are."""

    def __init__(
        self,
        graph: Graph,
        rungs: Ladder,
        options: EvalOptions,
        progress: Progress,
        tell: Tell,
    ) -> None:
        self._graph, self._rungs, self._options = graph, rungs, options
        self._tools = tool_versions(*_TOOLS)
        self._progress, self._tell = progress, tell
        self._threads = options.threads or default_threads()
        self._lanes = _lanes(self._threads, options.at_once)
        self.watch: Stopwatch = Stopwatch()
        self.journal: Path | None = None
        self._seconds = 0.0
        self._taken_over = 0

    def open(self, stack: ExitStack, rung: Rung, align_corners: tuple[bool, ...]) -> Opened:
        from ffnet_deploy.evaluate.reference import Opened

        # A lane has few threads, or one: several images at once keep all cores busy, and none waits for another's
        # slowest thread. Idle threads that spin would slow the other lanes.
        per_lane = max(1, self._threads // self._lanes.networks)
        runner = stack.enter_context(open_rung(rung, per_lane, self._options.device, spinning=False))
        return Opened(rung.name, runner, self._lanes.network if runner.parallel else Lock(), align_corners)

    def open_reference(self, stack: ExitStack) -> tuple[Runner, AbstractContextManager[object]]:
        opened = self.open(stack, self._rungs.reference, ())
        return opened.runner, opened.gate

    def rung(self, rung: Rung, align_corners: bool | None) -> ScoredRung:
        """The line of the result that belongs to a rung."""
        return ScoredRung(**asdict(facts_of(rung, self._options.device)), align_corners=align_corners)

    def results(
        self,
        task: Task[Image],
        part: SetPart,
        protocol: SegmentationProtocol | ClassificationProtocol,
        rungs: tuple[ScoredRung, ...],
        samples: Sequence[Sample],
        *,
        work: Callable[[Sequence[Sample]], Sequence[Image]],
        current: Callable[[Image], bool],
    ) -> Results:
        """Loop over the samples, with the journal that belongs to this evaluation.

        Args:
            task: which evaluation it is.
            part: what the samples are a part of.
            protocol: how logits become scores.
            rungs: in the order in which ``work`` gives their results.
            samples: the images.
            work: gives the results of a batch of samples.
            current: whether a result of an earlier run still holds.
        """
        from ffnet_deploy.evaluate.journal import Journal
        from ffnet_deploy.evaluate.loop import run

        key = JournalKey(
            schema=EVAL_SCHEMA,
            command=task.command,
            sources=EvaluatedFiles(self._graph.record.file.sha256, self._graph.record.weights.sha256),
            protocol=protocol,
            part=part,
            predictions=str(self._options.predictions.resolve()) if self._options.predictions else None,
            rungs=rungs,
            tools=self._tools,
        )
        folder, resume = self._graph.workspace.engines / "unfinished", self._options.resume
        started = time.monotonic()
        with Journal(folder, asdict(key), _reader(task, rungs, protocol), resume=resume, current=current) as journal:
            self._tell_left(len(journal.left), len(samples), journal.damaged)
            told = self._telling(task.running(), list(journal.done.values()), started)
            images = run(work, samples, batch=self._graph.shape[0], lanes=self._lanes, journal=journal, told=told)
            self.journal = journal.path
        self._seconds = time.monotonic() - started
        return Results(
            command=task.command,
            model=self._graph.name.stem,
            sources=key.sources,
            part=part,
            protocol=protocol,
            rungs=rungs,
            images=images,
            skipped=tuple(item.facts for item in self._rungs.skipped),
            marks=self._rungs.marks,
            tools=self._tools,
        )

    def _tell_left(self, left: int, total: int, damaged: int) -> None:
        if damaged:
            self._tell(
                f"{damaged} results of an interrupted run are damaged and left out: their images are evaluated again"
            )
        if left and not self._options.resume:
            self._tell(
                f"{left} of {total} images of an interrupted run are kept: stop this and add --resume to go on from "
                "there"
            )

    def _telling(
        self, running: Running[Image], done: Sequence[Image], started: float
    ) -> Callable[[Image, int, int], None]:
        """Progress after each image: the rate, and the reference's score so far."""
        self._taken_over = len(done)
        for image in done:
            running.add(image)

        def told(image: Image, done: int, total: int) -> None:
            rate = (done - self._taken_over) / (time.monotonic() - started)
            running.add(image)
            self._progress(f"evaluating, {rate:.2f} images/s, {running} so far", done, total)

        return told

    def run(self, *, reference_reused: bool = False) -> EvaluationRun:
        """How the results were computed."""
        return EvaluationRun(
            threads=self._threads,
            images_at_once=self._lanes.images,
            networks_at_once=self._lanes.networks,
            seconds=self._seconds,
            stages_s=dict(self.watch.seconds),
            images_taken_over=self._taken_over,
            reference_reused=reference_reused,
            environment=describe_environment(),
        )


def _reader(
    task: Task[Image], rungs: Sequence[ScoredRung], protocol: SegmentationProtocol | ClassificationProtocol
) -> Callable[[bytes], Image]:
    """Reads a result of an interrupted run, which must be one of these rungs and this protocol."""

    def parse(text: bytes) -> Image:
        image = task.parse(text)
        check_image(image.facts(), rungs, protocol)
        return image

    return parse


def _lanes(threads: int, at_once: int | None) -> Lanes:
    images = min(threads, _MOST_IMAGES) if at_once is None else at_once
    return Lanes(images, min(images, threads, _MOST_NETWORKS))


def part_of(
    title: str, layout: str, samples: Sequence[Sample], options: EvalOptions
) -> tuple[SetPart, Sequence[Sample]]:
    """The samples to score, and what they are a part of.

    Args:
        title: of the set.
        layout: how it lies on the disk.
        samples: all of the set.
        options: limit and shard.
    """
    if options.limit is not None and options.limit > len(samples):
        raise DataError(
            f"--limit {options.limit} asks for more than the {len(samples)} images of {options.root}. "
            "Leave it out for all of them."
        )
    samples = samples[: options.limit]
    names = hash_json([sample.name for sample in samples])
    part = SetPart(title, layout, names, len(samples), options.limit, options.shard)
    if options.shard:
        number, of = options.shard
        if of > len(samples):
            raise UsageError(f"--shard {number}/{of} leaves shards of {len(samples)} images empty. Make fewer shards.")
        samples = samples[number - 1 :: of]
    return part, samples


def check_eval_options(options: EvalOptions) -> None:
    if options.max_drop is not None:
        check_gate(options.max_drop)
        if options.shard:
            raise UsageError("--max-drop judges a whole set, not a shard. Give it to: ffnet-deploy eval merge")
    if options.limit is not None and options.limit < 1:
        raise UsageError(f"--limit {options.limit} scores nothing (1 or more was needed). Leave it out for all images.")
    if options.shard and not 1 <= options.shard[0] <= options.shard[1]:
        number, of = options.shard
        raise UsageError(f"--shard {number}/{of} does not exist (I/N with I from 1 to N was needed). Say: --shard 1/4")
    for flag, value in (("--threads", options.threads), ("--images-at-once", options.at_once)):
        if value is not None and not 1 <= value <= 256:
            raise UsageError(f"{flag} {value} makes no sense (1 to 256 were needed). Leave it out.")
    check_device(options.device)

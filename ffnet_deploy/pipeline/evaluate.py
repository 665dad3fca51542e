"""Accuracy of the reference and of every rung that can run here."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from ffnet_deploy import artifacts, runtimes
from ffnet_deploy.artifacts import Workspace, hash_json
from ffnet_deploy.errors import DataError, FFNetDeployError, GateError, MissingDependencyError, UsageError
from ffnet_deploy.pipeline.bench import environment
from ffnet_deploy.pipeline.current import Graph, Progress, current_graph, quiet
from ffnet_deploy.pipeline.ladder import Ladder, Skipped, error_json, ladder, rung_json
from ffnet_deploy.runtimes import Rung

if TYPE_CHECKING:
    from ffnet_deploy.data.cityscapes import CityscapesSplit
    from ffnet_deploy.data.imagenet import ImageNetSet
    from ffnet_deploy.evaluate.classification import ImageAnswer
    from ffnet_deploy.evaluate.loop import Lanes, Stopwatch
    from ffnet_deploy.evaluate.results import AnyScore, Entry, Part, Results
    from ffnet_deploy.evaluate.segmentation import ImageCounts, Opened, Protocol

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
    """Cityscapes: of the final up-sampling; both are scored where both are named."""
    downsample: str = "blur"
    """Cityscapes: in front of models that take 512x1024."""
    predictions: Path | None = None
    """Cityscapes: folder for label maps."""
    real_labels: Path | None = None
    """ImageNet: the ReaL labels."""
    tell: Callable[[str], None] = lambda _text: None
    """Gets what the user should know before the work begins."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Results with their scores, and how they were come by."""

    results: Results
    scores: Sequence[AnyScore]
    run: dict[str, Any]
    """Threads, seconds by stage, whether reference and images were taken over; empty after a merge."""
    failure: FFNetDeployError | None = None
    """What the command ends with although there is a result."""
    journal: Path | None = None
    """What has been computed, image by image; kept until the result is in the user's hands."""

    def delivered(self) -> None:
        """Forget the journal."""
        from ffnet_deploy.evaluate.journal import forget

        if self.journal:
            forget(self.journal)

    def drop(self, i: int) -> float:
        """Points that entry ``i`` is below the reference."""
        return self.scores[self.results.references()[i]].value - self.scores[i].value

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        values = self.results.to_json()
        images = values.pop("images")
        for i, (rung, score) in enumerate(zip(values["rungs"], self.scores, strict=True)):
            rung.update({**score.to_json(), "drop": self.drop(i)})
        # The images, which are long, come last.
        return {**values, **self.run, "error": error_json(self.failure), "images": images}


def evaluate_cityscapes(
    workspace: Workspace, name: str | None, options: EvalOptions, progress: Progress = quiet
) -> Evaluation:
    """Score the reference and every rung that can run here by the published protocol.

    Raises:
        UsageError: the model is no segmentation model, options do not fit, or an unknown rung was named.
        DataError: the set is absent, incomplete or damaged.
        ArtifactError: no current graph, or a damaged or stale engine.
        EngineError, MissingDependencyError, WeightsError: a rung cannot be opened, or gives no numbers.
    """
    from ffnet_deploy.data.cityscapes import find_split
    from ffnet_deploy.evaluate import segmentation

    _check_options(options)
    graph = current_graph(workspace, name)
    if graph.spec.task != "segmentation":
        raise UsageError(f"{graph.record.model} is a classification model. Run: ffnet-deploy eval imagenet --root DIR")
    split = find_split(options.root)
    protocol = _protocol(graph, options)
    rungs = _comparable(ladder(workspace, graph, options.only, emulated=True), graph, protocol, options.only)
    story = _Story(workspace, graph, rungs, options, progress)
    with ExitStack() as stack:
        reference = segmentation.Reference(
            rungs.reference.name,
            lambda: story.open_reference(stack),
            workspace.models / "reference",
            _identity(graph, options.device),
            protocol,
        )
        opened = [story.open(stack, rung, _aligned(rung, protocol)) for rung in rungs.running]
        job = segmentation.Job(protocol, reference, opened, graph.shape[0], story.watch, options.predictions)
        by_name = {rung.name: rung for rung in (rungs.reference, *rungs.running)}
        entries = tuple(story.entry(by_name[rung], align) for rung, align in job.entries())
        part, samples = _part(split, options)

        def current(line: ImageCounts) -> bool:
            written = not job.predictions or all(p.is_file() for p in segmentation.prediction_paths(job, line.name))
            return line.stamp == stamps.get(line.name) and written

        stamps = {sample.name: sample.stamp() for sample in samples} if options.resume else {}
        results = story.results(
            "eval cityscapes", part, asdict(protocol), entries, samples,
            work=lambda some: segmentation.count(job, some),
            parse=segmentation.ImageCounts.from_json,
            current=current,
            partial=_PartialMiou(),
        )  # fmt: skip
    scores = results.scores()
    if math.isnan(scores[0].value):
        raise DataError(
            f"No pixel of {options.root} counts: every label is one that Cityscapes ignores. Check the label files."
        )
    run = {**story.run(), "reference_reused": reference.computed == 0}
    return gated(Evaluation(results, scores, run, rungs.nothing_ran(), story.journal), options.max_drop)


def evaluate_imagenet(
    workspace: Workspace, name: str | None, options: EvalOptions, progress: Progress = quiet
) -> Evaluation:
    """Top-1 and top-5 of the reference and of every rung that can run here, over all images of a set.

    Raises:
        As :func:`evaluate_cityscapes`; UsageError too for a segmentation model or a graph of another size.
    """
    from ffnet_deploy.data.imagenet import find_set
    from ffnet_deploy.evaluate import classification

    _check_options(options)
    graph = current_graph(workspace, name)
    if graph.spec.task != "classification":
        raise UsageError(f"{graph.record.model} is a segmentation model. Run: ffnet-deploy eval cityscapes --root DIR")
    if graph.shape[2:] != graph.spec.input_hw:
        raise UsageError(
            f"{graph.path.name} takes {graph.shape[2]}x{graph.shape[3]}, and the protocol crops to 224x224. "
            f"Run: ffnet-deploy export {graph.record.model}"
        )
    found = find_set(options.root, real_labels=options.real_labels)
    rungs = ladder(workspace, graph, options.only, emulated=True)
    story = _Story(workspace, graph, rungs, options, progress)
    with ExitStack() as stack:
        opened = [story.open(stack, rung, ()) for rung in (rungs.reference, *rungs.running)]
        job = classification.TopJob(opened, graph.shape[0], story.watch)
        entries = tuple(story.entry(rung, None) for rung in (rungs.reference, *rungs.running))
        part, samples = _part(found, options)
        known = {s.name: (s.source.stamp(), classification.truth_of(s)) for s in samples} if options.resume else {}
        protocol = {
            "resize": 256, "crop": 224, "filter": "bilinear (PIL)",
            "labels": f"ReaL {artifacts.sha256_of(options.real_labels)}" if options.real_labels else "ILSVRC2012",
        }  # fmt: skip
        results = story.results(
            "eval imagenet", part, protocol, entries, samples,
            work=lambda some: classification.answer(job, some),
            parse=classification.ImageAnswer.from_json,
            current=lambda line: (line.stamp, line.truth) == known.get(line.name),
            partial=_PartialTop1(),
        )  # fmt: skip
    scores = results.scores()
    if math.isnan(scores[0].value):
        raise DataError(f"No image of {options.root} counts: none has a ReaL label. Score without --real-labels.")
    return gated(Evaluation(results, scores, story.run(), rungs.nothing_ran(), story.journal), options.max_drop)


class _Story:
    """What both evaluations do alike: open rungs, loop over the set, keep a journal, tell how far they are."""

    def __init__(
        self, workspace: Workspace, graph: Graph, rungs: Ladder, options: EvalOptions, progress: Progress
    ) -> None:
        from ffnet_deploy.evaluate.loop import Stopwatch

        self._workspace, self._graph, self._rungs, self._options = workspace, graph, rungs, options
        self._progress = progress
        self._threads = options.threads or runtimes.default_threads()
        self._lanes = _lanes(self._threads, options.at_once)
        self.watch: Stopwatch = Stopwatch()
        self.journal: Path | None = None
        self._seconds = 0.0
        self._taken_over = 0

    def open(self, stack: ExitStack, rung: Rung, align_corners: tuple[bool, ...]) -> Opened:
        from ffnet_deploy.evaluate.segmentation import Opened

        # A lane has few threads, or one: several images at once keep all cores busy, and none waits for another's
        # slowest thread. Idle threads that spin would slow the other lanes.
        per_lane = max(1, self._threads // self._lanes.networks)
        runner = stack.enter_context(runtimes.open_rung(rung, per_lane, self._options.device, spinning=False))
        return Opened(rung.name, runner, self._lanes.network if runner.parallel else Lock(), align_corners)

    def open_reference(self, stack: ExitStack) -> tuple[Any, Any]:
        opened = self.open(stack, self._rungs.reference, ())
        return opened.runner, opened.gate

    def entry(self, rung: Rung, align_corners: bool | None) -> Entry:
        from ffnet_deploy.evaluate.results import Entry

        values = rung_json(rung, self._options.device)
        if rung is self._rungs.reference:
            sha256 = self._graph.record.sources["weights"]["sha256"]
        else:
            assert rung.path is not None
            sha256 = artifacts.load_record(rung.path, remedy="ffnet-deploy build", check=False).sha256
        return Entry(**values, sha256=sha256, align_corners=align_corners)

    def results(
        self,
        command: str,
        part: Part,
        protocol: dict[str, Any],
        entries: tuple[Entry, ...],
        samples: Sequence[Any],
        *,
        work: Callable[[Sequence[Any]], Sequence[Any]],
        parse: Callable[[dict[str, Any]], Any],
        current: Callable[[Any], bool],
        partial: _PartialMiou | _PartialTop1,
    ) -> Results:
        """Loop over the samples, with the journal that belongs to this evaluation."""
        from ffnet_deploy.evaluate.journal import Journal
        from ffnet_deploy.evaluate.loop import run
        from ffnet_deploy.evaluate.results import Results

        record = self._graph.record
        sources = {"graph": record.sha256, "weights": record.sources["weights"]["sha256"]}
        tools = artifacts.tool_versions(*_TOOLS)
        key = {
            "command": command,
            "sources": sources,
            "protocol": protocol,
            # Shards may run side by side, and one that ends must not take what another has done with it.
            "part": asdict(part),
            # What was taken over from a run that wrote no predictions would be missing among them, or older than it.
            "predictions": str(self._options.predictions.resolve()) if self._options.predictions else None,
            "entries": [asdict(entry) for entry in entries],
            "tools": tools,
        }
        started = time.monotonic()
        with Journal(
            self._workspace.engines / "unfinished", key, parse, resume=self._options.resume, current=current
        ) as j:
            self._taken_over = len(j.done)
            for line in j.done.values():
                partial.add(line)
            if j.left and not self._options.resume:
                self._options.tell(
                    f"{len(j.left)} of {len(samples)} images of an interrupted run are kept: stop this and add "
                    "--resume to go on from there"
                )

            def told(line: Any, done: int, total: int) -> None:  # noqa: ANN401 - a result of either kind
                rate = (done - self._taken_over) / (time.monotonic() - started)
                partial.add(line)
                self._progress(f"evaluating, {rate:.2f} images/s, {partial} so far", done, total)

            images = run(work, samples, batch=self._graph.shape[0], lanes=self._lanes, journal=j, told=told)
            self.journal = j.path
        self._seconds = time.monotonic() - started
        return Results(
            command=command,
            model=self._graph.stem,
            sources=sources,
            part=part,
            protocol=protocol,
            entries=entries,
            images=images,
            skipped=tuple((s.rung.name, s.reason) for s in self._rungs.skipped),
            marks=self._rungs.marks,
            tools=tools,
        )

    def run(self) -> dict[str, Any]:
        """How the results were come by, as plain JSON values."""
        return {
            "threads": self._threads,
            "images_at_once": self._lanes.images,
            "networks_at_once": self._lanes.networks,
            "seconds": self._seconds,
            "stages_s": dict(self.watch.seconds),
            "images_taken_over": self._taken_over,
            "environment": environment(),
        }


class _PartialMiou:
    """mIoU of the reference so far, for the progress line."""

    def __init__(self) -> None:
        self._matrix: Any = 0

    def add(self, line: ImageCounts) -> None:
        self._matrix = self._matrix + line.matrices[0]

    def __str__(self) -> str:
        import numpy as np

        from ffnet_deploy import metrics

        return f"mIoU {100 * np.nanmean(metrics.iou(self._matrix)):.1f}" if self._matrix.any() else "no pixel"


class _PartialTop1:
    """Top-1 of the reference so far, for the progress line."""

    def __init__(self) -> None:
        self._right = self._count = 0

    def add(self, line: ImageAnswer) -> None:
        self._right += int(line.best[0, 0]) in line.truth
        self._count += bool(line.truth)

    def __str__(self) -> str:
        return f"top-1 {100 * self._right / max(1, self._count):.1f}"


def _lanes(threads: int, at_once: int | None) -> Lanes:
    from ffnet_deploy.evaluate.loop import Lanes

    images = min(threads, _MOST_IMAGES) if at_once is None else at_once
    return Lanes(images, min(images, threads, _MOST_NETWORKS))


def _part(found: CityscapesSplit | ImageNetSet, options: EvalOptions) -> tuple[Part, Sequence[Any]]:
    """The samples to score, and what they are a part of."""
    from ffnet_deploy.evaluate.results import Part

    samples: Sequence[Any] = found.samples
    if options.limit is not None and options.limit > len(samples):
        raise DataError(
            f"--limit {options.limit} asks for more than the {len(samples)} images of {options.root}. "
            "Leave it out for all of them."
        )
    samples = samples[: options.limit]
    names = hash_json([sample.name for sample in samples])
    part = Part(found.title, found.layout, names, len(samples), options.limit, options.shard)
    if options.shard:
        number, of = options.shard
        if of > len(samples):
            raise UsageError(f"--shard {number}/{of} leaves shards of {len(samples)} images empty. Make fewer shards.")
        samples = samples[number - 1 :: of]
    return part, samples


def _check_options(options: EvalOptions) -> None:
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
    runtimes.check_device(options.device)


def check_gate(max_drop: float) -> None:
    """Hold ``--max-drop`` to a number of points.

    Raises:
        UsageError: it is none.
    """
    if not (math.isfinite(max_drop) and max_drop >= 0):
        raise UsageError(f"--max-drop {max_drop} is no gate (points, 0 or more, were needed). Say: 0.5")


def _identity(graph: Graph, device: int | None) -> dict[str, Any]:
    """All that the reference's labels depend on, but the images and the protocol."""
    return {
        "name": graph.record.model,
        "weights": graph.record.sources["weights"]["sha256"],
        "shape": list(graph.shape),
        "upsampling": graph.spec.upsampling,
        "device": "cpu" if device is None else "cuda",
    }


def _aligned(rung: Rung, protocol: Protocol) -> tuple[bool, ...]:
    """An engine that gives labels has made its choice of the up-sampling; logits are scored with all that are asked."""
    return (rung.ends.align_corners,) if rung.ends.labels_out else protocol.align_corners


def _comparable(rungs: Ladder, graph: Graph, protocol: Protocol, only: Sequence[str]) -> Ladder:
    """Leave out, with the reason, the rungs whose ends do not fit the protocol."""
    running, skipped = [], list(rungs.skipped)
    for rung in rungs.running:
        size = f"{graph.shape[2]}x{graph.shape[3]}"
        scored = f"{protocol.size[0]}x{protocol.size[1]}"
        if (rung.ends.image_in or rung.ends.labels_out) and size != scored:
            skipped.append(Skipped(rung, f"its image or labels are {size}, and the protocol scores {scored}"))
        elif rung.ends.labels_out and rung.ends.align_corners not in protocol.align_corners:
            inside = str(rung.ends.align_corners).lower()
            skipped.append(Skipped(rung, f"it up-samples with align_corners {inside} inside"))
        else:
            running.append(rung)
    named = [item for item in skipped[len(rungs.skipped) :] if item.rung.name in only]
    if named:
        # Asked for by its name and not to be had: as for a rung whose device is missing.
        raise MissingDependencyError(f"{named[0]}. Leave --only {named[0].rung.name!r} out.")
    return Ladder(rungs.reference, tuple(running), tuple(skipped), rungs.reference_alone)


def _protocol(graph: Graph, options: EvalOptions) -> Protocol:
    from ffnet_deploy.evaluate.segmentation import Protocol

    _, _, height, width = graph.shape
    if graph.spec.pre_down_twin:
        return Protocol((2 * height, 2 * width), options.downsample, options.align_corners)
    if options.downsample != "blur":
        raise UsageError(
            f"{graph.record.model} takes the whole image, so --downsample {options.downsample} means nothing. "
            "Leave it out."
        )
    return Protocol((height, width), None, options.align_corners)


def gated(result: Evaluation, max_drop: float | None) -> Evaluation:
    """Fail a result that drops further than was allowed; a failure that is there already stays."""
    if max_drop is None or result.failure:
        return result
    beyond = [
        f"{entry.rung} drops {result.drop(i):.3f}"
        for i, entry in enumerate(result.results.entries)
        if not result.drop(i) <= max_drop
    ]
    if not beyond:
        return result
    failure = GateError(
        f"{'; '.join(beyond)} points (at most {max_drop:g} was allowed). "
        "Look at the figures above, or allow more with --max-drop."
    )
    return replace(result, failure=failure)

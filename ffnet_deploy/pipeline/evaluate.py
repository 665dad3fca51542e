"""Accuracy of the reference and of every rung that can run here."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

from ffnet_deploy.artifacts.workspace import Workspace
from ffnet_deploy.artifacts.writing import sha256_of
from ffnet_deploy.errors import DataError, MissingDependencyError, UsageError
from ffnet_deploy.evaluate.outcome import Evaluation, gated
from ffnet_deploy.evaluate.protocols import ClassificationProtocol, SegmentationProtocol
from ffnet_deploy.evaluate.session import EvalOptions, Session, check_eval_options, part_of
from ffnet_deploy.graph.current import Graph, current_graph
from ffnet_deploy.ladder import Ladder, Skipped, ladder
from ffnet_deploy.progress import Progress, Tell, quiet, unheard
from ffnet_deploy.runtimes.rung import Rung

if TYPE_CHECKING:
    from ffnet_deploy.evaluate.classification import ImageAnswer
    from ffnet_deploy.evaluate.reference import ReferenceModel
    from ffnet_deploy.evaluate.segmentation import ImageCounts, SegmentationJob


def evaluate_cityscapes(
    workspace: Workspace, name: str | None, options: EvalOptions, progress: Progress = quiet, tell: Tell = unheard
) -> Evaluation:
    """Score the reference and every rung that can run here by the published protocol.

    Raises:
        UsageError: the model is no segmentation model, options do not fit, or an unknown rung was named.
        DataError: the set is absent, incomplete or damaged.
        ArtifactError: no current graph, or a damaged or stale engine.
        EngineError, MissingDependencyError, WeightsError: a rung cannot be opened, or gives no numbers.
    """
    from ffnet_deploy.data.cityscapes import find_split
    from ffnet_deploy.evaluate.segmentation import TASK, count, prediction_paths

    check_eval_options(options)
    graph = current_graph(workspace, name)
    if graph.spec.task != "segmentation":
        raise UsageError(f"{graph.record.model} is a classification model. Use eval imagenet for it.")
    split = find_split(options.root)
    protocol = _protocol(graph, options)
    rungs = _comparable(ladder(graph, options.only, emulated=True), graph, protocol, options.only)
    session = Session(graph, rungs, options, progress, tell)
    part, samples = part_of(split.title, split.layout, split.samples, options)
    stamps = cache(lambda: {sample.name: sample.stamp() for sample in samples})
    with ExitStack() as stack:
        job = _segmentation_job(stack, session, graph, rungs, protocol, options)
        by_name = {rung.name: rung for rung in (rungs.reference, *rungs.running)}

        def current(image: ImageCounts) -> bool:
            written = not job.predictions or all(p.is_file() for p in prediction_paths(job, image.name))
            return image.stamp == stamps().get(image.name) and written

        results = session.results(
            TASK,
            part,
            protocol,
            tuple(session.rung(by_name[rung], align) for rung, align in job.entries()),
            samples,
            work=lambda some: count(job, some),
            current=current,
        )
    run = session.run(reference_reused=job.reference.computed == 0)
    scored = results.scored(run=run, failure=rungs.nothing_ran(), journal=session.journal)
    if scored.file.reference_value is None:
        raise DataError(f"No pixel of {options.root} counts: all labels are ignored ones. Check the label files.")
    return gated(scored, options.max_drop)


def _segmentation_job(
    stack: ExitStack,
    session: Session,
    graph: Graph,
    rungs: Ladder,
    protocol: SegmentationProtocol,
    options: EvalOptions,
) -> SegmentationJob:
    from ffnet_deploy.evaluate.reference import Reference
    from ffnet_deploy.evaluate.segmentation import SegmentationJob

    folder, model = graph.workspace.models / "reference", _reference_model(graph, options.device)
    # Opened when a label map is first missing: a second evaluation needs no PyTorch.
    reference = Reference(rungs.reference.name, lambda: session.open_reference(stack), folder, model, protocol)
    opened = [session.open(stack, rung, _aligned(rung, protocol)) for rung in rungs.running]
    return SegmentationJob(protocol, reference, opened, graph.shape[0], session.watch, options.predictions)


def evaluate_imagenet(
    workspace: Workspace, name: str | None, options: EvalOptions, progress: Progress = quiet, tell: Tell = unheard
) -> Evaluation:
    """Top-1 and top-5 of the reference and of every rung that can run here, over all images of a set.

    Raises:
        As :func:`evaluate_cityscapes`; UsageError too for a segmentation model or a graph of another size.
    """
    from ffnet_deploy.data.imagenet import find_set
    from ffnet_deploy.evaluate.classification import TASK, ClassificationJob, answer, truth_of

    check_eval_options(options)
    graph = current_graph(workspace, name)
    if graph.spec.task != "classification":
        raise UsageError(f"{graph.record.model} is a segmentation model. Use eval cityscapes for it.")
    if graph.shape[2:] != graph.spec.input_hw:
        raise UsageError(
            f"{graph.path.name} takes {graph.shape[2]}x{graph.shape[3]}, and the protocol crops to 224x224. "
            f"Run: {graph.run('export')}"
        )
    found = find_set(options.root, real_labels=options.real_labels)
    rungs = ladder(graph, options.only, emulated=True)
    session = Session(graph, rungs, options, progress, tell)
    part, samples = part_of(found.title, found.layout, found.samples, options)
    known = cache(lambda: {sample.name: (sample.source.stamp(), truth_of(sample)) for sample in samples})

    def current(image: ImageAnswer) -> bool:
        return (image.stamp, image.truth) == known().get(image.name)

    labels = f"ReaL {sha256_of(options.real_labels)}" if options.real_labels else "ILSVRC2012"
    with ExitStack() as stack:
        every = (rungs.reference, *rungs.running)
        job = ClassificationJob([session.open(stack, rung, ()) for rung in every], graph.shape[0], session.watch)
        results = session.results(
            TASK,
            part,
            ClassificationProtocol(labels),
            tuple(session.rung(rung, None) for rung in every),
            samples,
            work=lambda some: answer(job, some),
            current=current,
        )
    scored = results.scored(run=session.run(), failure=rungs.nothing_ran(), journal=session.journal)
    if scored.file.reference_value is None:
        raise DataError(f"No image of {options.root} counts: none has a ReaL label. Score without --real-labels.")
    return gated(scored, options.max_drop)


def _reference_model(graph: Graph, device: int | None) -> ReferenceModel:
    from ffnet_deploy.evaluate.reference import ReferenceModel

    return ReferenceModel(
        name=graph.record.model,
        weights=graph.record.weights.sha256,
        shape=graph.shape,
        upsampling=graph.spec.upsampling,
        device="cpu" if device is None else "cuda",
    )


def _aligned(rung: Rung, protocol: SegmentationProtocol) -> tuple[bool, ...]:
    """An engine that gives labels has chosen how to upsample; logits are scored in every way that was asked for."""
    return (rung.ends.align_corners,) if rung.ends.labels_out else protocol.align_corners


def _comparable(rungs: Ladder, graph: Graph, protocol: SegmentationProtocol, only: Sequence[str]) -> Ladder:
    """Leave out, with the reason, the rungs whose inputs or outputs do not fit the protocol."""
    running, skipped = [], list(rungs.skipped)
    for rung in rungs.running:
        size = f"{graph.shape[2]}x{graph.shape[3]}"
        scored = f"{protocol.size[0]}x{protocol.size[1]}"
        if (rung.ends.image_in or rung.ends.labels_out) and size != scored:
            skipped.append(Skipped(rung, f"its image or labels are {size}, and the protocol scores {scored}"))
        elif rung.ends.labels_out and rung.ends.align_corners not in protocol.align_corners:
            inside = str(rung.ends.align_corners).lower()
            skipped.append(Skipped(rung, f"it upsamples with align_corners {inside} inside"))
        else:
            running.append(rung)
    named = [item for item in skipped[len(rungs.skipped) :] if item.rung.name in only]
    if named:
        # Asked for by its name and not to be had: as for a rung whose device is missing.
        raise MissingDependencyError(f"{named[0]}. Leave --only {named[0].rung.name!r} out.")
    return replace(rungs, running=tuple(running), skipped=tuple(skipped))


def _protocol(graph: Graph, options: EvalOptions) -> SegmentationProtocol:
    _, _, height, width = graph.shape
    if graph.spec.pre_down_twin:
        return SegmentationProtocol((2 * height, 2 * width), options.downsample, options.align_corners)
    if options.downsample != "blur":
        raise UsageError(
            f"{graph.record.model} takes the whole image, so --downsample {options.downsample} means nothing. "
            "Leave it out."
        )
    return SegmentationProtocol((height, width), None, options.align_corners)

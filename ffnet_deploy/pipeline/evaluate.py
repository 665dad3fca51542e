"""mIoU of the reference and of every rung that can run here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ffnet_deploy import artifacts, runtimes
from ffnet_deploy.artifacts import Workspace
from ffnet_deploy.errors import DataError, FFNetDeployError, GateError, MissingDependencyError, UsageError
from ffnet_deploy.pipeline.bench import environment
from ffnet_deploy.pipeline.current import Graph, Progress, current_graph, quiet
from ffnet_deploy.pipeline.ladder import Ladder, Skipped, error_json, ladder, rung_json
from ffnet_deploy.runtimes import Rung

if TYPE_CHECKING:
    from ffnet_deploy.evaluate import Protocol, Score


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Scores of the reference (first) and of every rung that could run, on one set."""

    model: str
    title: str
    protocol: Protocol
    rungs: tuple[Rung, ...]
    scores: list[Score]
    skipped: tuple[Skipped, ...]
    marks: tuple[str, ...]
    images_sha256: str
    reference_reused: bool
    threads: int
    device: int | None
    failure: FFNetDeployError | None

    def drop(self, i: int) -> float:
        """Points of mIoU that rung ``i`` is below the reference."""
        return self.scores[0].miou - self.scores[i].miou

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        pairs = enumerate(zip(self.rungs, self.scores, strict=True))
        return {
            "schema": artifacts.SCHEMA,
            "command": "eval cityscapes",
            "model": self.model,
            "set": self.title,
            "images_sha256": self.images_sha256,
            "protocol": asdict(self.protocol),
            "marks": list(self.marks),
            "reference_reused": self.reference_reused,
            "threads": self.threads,
            "rungs": [
                {**rung_json(rung, self.device), **score.to_json(), "drop": self.drop(i)} for i, (rung, score) in pairs
            ],
            "skipped": [{"rung": s.rung.name, "reason": s.reason} for s in self.skipped],
            "environment": environment(),
            "error": error_json(self.failure),
        }


@dataclass(frozen=True, slots=True)
class EvalOptions:
    """What ``eval cityscapes`` can be asked for."""

    root: Path
    only: tuple[str, ...] = ()
    device: int | None = None
    align_corners: bool = False
    max_drop: float | None = None


def evaluate_cityscapes(
    workspace: Workspace, name: str | None, options: EvalOptions, progress: Progress = quiet
) -> Evaluation:
    """Score the reference and every rung that can run here by the published protocol.

    Raises:
        UsageError: the model is no segmentation model, or an unknown rung was named.
        DataError: the set is absent, incomplete or damaged.
        ArtifactError: no current graph, or a damaged or stale engine.
        EngineError, MissingDependencyError, WeightsError: a rung cannot be opened.
    """
    from ffnet_deploy import evaluate as evaluation
    from ffnet_deploy.data.cityscapes import find_split

    _check_options(options)
    graph = current_graph(workspace, name)
    if graph.spec.task != "segmentation":
        raise UsageError(f"{graph.record.model} is a classification model. Name a segmentation model for Cityscapes.")
    split = find_split(options.root)
    protocol = _protocol(graph, options.align_corners)
    rungs = _comparable(ladder(workspace, graph, options.only, emulated=True), graph, protocol, options.only)
    threads = runtimes.default_threads()

    progress("hashing the set", 0, None)
    key = evaluation.reference_key(_identity(graph, options.device), split, protocol)
    with ExitStack() as stack:
        reference = evaluation.Reference(
            lambda: runtimes.open_rung(rungs.reference, threads, options.device),
            evaluation.LabelMaps(workspace.models / "reference", key, protocol.size),
            protocol,
        )
        stack.callback(reference.close)
        # Several runtimes take turns in this process: idle threads that spin would slow the others.
        opened = [
            stack.enter_context(runtimes.open_rung(rung, threads, options.device, spinning=False))
            for rung in rungs.running
        ]
        told = partial(progress, "evaluating")
        scores = evaluation.evaluate(split, protocol, reference, opened, batch=graph.shape[0], progress=told)
    if not scores[0].matrix.any():
        raise DataError(
            f"No pixel of {options.root} counts: every label is one that Cityscapes ignores. Check the label files."
        )
    result = Evaluation(
        model=graph.stem,
        title=split.title,
        protocol=protocol,
        rungs=(rungs.reference, *rungs.running),
        scores=scores,
        skipped=rungs.skipped,
        marks=tuple(graph.record.marks),
        images_sha256=key["images"],
        reference_reused=reference.computed == 0,
        threads=threads,
        device=options.device,
        failure=rungs.nothing_ran(),
    )
    return _gated(result, options.max_drop)


def _check_options(options: EvalOptions) -> None:
    if options.max_drop is not None and not (math.isfinite(options.max_drop) and options.max_drop >= 0):
        raise UsageError(f"--max-drop {options.max_drop} is no gate (points of mIoU, 0 or more, were needed). Say: 0.5")
    runtimes.check_device(options.device)


def _identity(graph: Graph, device: int | None) -> dict[str, Any]:
    """All that the reference's labels depend on, but the images and the protocol."""
    return {
        "name": graph.record.model,
        "weights": graph.record.sources["weights"]["sha256"],
        "shape": list(graph.shape),
        "upsampling": graph.spec.upsampling,
        "device": "cpu" if device is None else "cuda",
    }


def _comparable(rungs: Ladder, graph: Graph, protocol: Protocol, only: Sequence[str]) -> Ladder:
    """Leave out, with the reason, the rungs whose ends do not fit the protocol."""
    running, skipped = [], list(rungs.skipped)
    for rung in rungs.running:
        size = f"{graph.shape[2]}x{graph.shape[3]}"
        scored = f"{protocol.size[0]}x{protocol.size[1]}"
        if (rung.ends.image_in or rung.ends.labels_out) and size != scored:
            skipped.append(Skipped(rung, f"its image or labels are {size}, and the protocol scores {scored}"))
        elif rung.ends.labels_out and rung.ends.align_corners != protocol.align_corners:
            inside = str(rung.ends.align_corners).lower()
            skipped.append(Skipped(rung, f"it up-samples with align_corners {inside} inside"))
        else:
            running.append(rung)
    if only and len(skipped) > len(rungs.skipped):
        raise MissingDependencyError(f"{skipped[-1]}. Leave it out.")
    return Ladder(rungs.reference, tuple(running), tuple(skipped))


def _protocol(graph: Graph, align_corners: bool) -> Protocol:
    from ffnet_deploy.evaluate import Protocol

    _, _, height, width = graph.shape
    if graph.spec.pre_down_twin:
        return Protocol((2 * height, 2 * width), "blur", align_corners)
    return Protocol((height, width), None, align_corners)


def _gated(result: Evaluation, max_drop: float | None) -> Evaluation:
    if max_drop is None or result.failure:
        return result
    beyond = [
        f"{rung.name} drops {result.drop(i):.3f}"
        for i, rung in enumerate(result.rungs)
        if i and not result.drop(i) <= max_drop
    ]
    if not beyond:
        return result
    failure = GateError(
        f"{'; '.join(beyond)} points of mIoU (at most {max_drop:g} was allowed). "
        "Look at the classes above, or allow more with --max-drop."
    )
    return replace(result, failure=failure)

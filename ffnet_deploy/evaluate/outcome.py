"""What an evaluation ends with: scores, how they were computed, and the gate."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ffnet_deploy.artifacts.records import now
from ffnet_deploy.artifacts.writing import hash_json
from ffnet_deploy.errors import FFNetDeployError, GateError, UsageError, facts_of_error
from ffnet_deploy.evaluate.journal import forget
from ffnet_deploy.evaluate.protocols import ClassificationProtocol, SegmentationProtocol
from ffnet_deploy.evaluate.result import (
    Command,
    EvaluatedFiles,
    EvaluationFile,
    EvaluationRun,
    ScoredRung,
    ScoredSet,
    SetPart,
)
from ffnet_deploy.evaluate.tasks import ImageResult, Task
from ffnet_deploy.ladder import SkippedRung


def task_of(command: Command) -> Task[ImageResult]:
    """The kind of evaluation that a command is."""
    if command == "eval imagenet":
        from ffnet_deploy.evaluate import classification

        return classification.TASK
    from ffnet_deploy.evaluate import segmentation

    return segmentation.TASK


@dataclass(frozen=True, slots=True)
class Results:
    """What every rung got on every image, before it is scored."""

    command: Command
    model: str
    """Stem of the graph's file name."""
    sources: EvaluatedFiles
    part: SetPart
    protocol: SegmentationProtocol | ClassificationProtocol
    rungs: tuple[ScoredRung, ...]
    """The reference first."""
    images: Sequence[ImageResult]
    skipped: tuple[SkippedRung, ...]
    marks: tuple[str, ...]
    tools: Mapping[str, str]
    """Versions of what the results depend on."""

    def references(self) -> list[int]:
        """For each rung the number of the reference with the same upsampling."""
        first = {rung.align_corners: i for i, rung in reversed(list(enumerate(self.rungs)))}
        return [first[rung.align_corners] for rung in self.rungs]

    def scored(
        self,
        *,
        run: EvaluationRun | None = None,
        merged: tuple[str, ...] = (),
        failure: FFNetDeployError | None = None,
        journal: Path | None = None,
    ) -> Evaluation:
        """The scores of all rungs.

        Args:
            run: how the results were computed; None after a merge.
            merged: files that were put together.
            failure: what the command ends with although there is a result.
            journal: what has been computed, image by image.
        """
        references = self.references()
        scores = task_of(self.command).scores(self.images, references)
        rungs = tuple(
            score.rung(rung, scores[reference].value - score.value)
            for rung, score, reference in zip(self.rungs, scores, references, strict=True)
        )
        images = tuple(image.facts() for image in self.images)
        sha256 = hash_json([image.sha256 for image in self.images])
        file = EvaluationFile(
            command=self.command,
            created=now(),
            model=self.model,
            sources=self.sources,
            set=ScoredSet(**asdict(self.part), images=len(images), sha256=sha256),
            protocol=self.protocol,
            marks=self.marks,
            tools=self.tools,
            rungs=rungs,
            skipped=self.skipped,
            run=run,
            merged=merged,
            error=facts_of_error(failure),
            images=images,
        )
        return Evaluation(file, failure, journal)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """An evaluation's result, and what the command ends with although there is one."""

    file: EvaluationFile
    failure: FFNetDeployError | None = None
    journal: Path | None = None
    """What has been computed, image by image; kept until the result is in the user's hands."""

    def delivered(self) -> None:
        """Forget the journal."""
        if self.journal:
            forget(self.journal)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return self.file.to_json()


def check_gate(max_drop: float) -> None:
    """Check that ``--max-drop`` is a number of points.

    Raises:
        UsageError: it is none.
    """
    if not (math.isfinite(max_drop) and max_drop >= 0):
        raise UsageError(f"--max-drop {max_drop} is no gate (points, 0 or more, were needed). Say: 0.5")


def gated(result: Evaluation, max_drop: float | None) -> Evaluation:
    """Fail a result that drops further than was allowed; a failure that is there already stays."""
    if max_drop is None or result.failure:
        return result
    beyond = [
        f"{rung.rung} drops {math.nan if rung.drop is None else rung.drop:.3f}"
        for rung in result.file.rungs
        if rung.drop is None or rung.drop > max_drop
    ]
    if not beyond:
        return result
    failure = GateError(
        f"{'; '.join(beyond)} points (at most {max_drop:g} was allowed). "
        "Look at the figures above, or allow more with --max-drop."
    )
    return replace(result, failure=failure, file=replace(result.file, error=facts_of_error(failure)))

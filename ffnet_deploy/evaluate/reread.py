"""A result of ``eval --json`` read back: held to its checksum, and all that it derives to its images."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

from ffnet_deploy.artifacts.reading import error_without_result, schema_of
from ffnet_deploy.artifacts.records import tool_versions
from ffnet_deploy.artifacts.sealing import parse_sealed
from ffnet_deploy.artifacts.writing import hash_json
from ffnet_deploy.errors import DataError
from ffnet_deploy.evaluate.outcome import Results, task_of
from ffnet_deploy.evaluate.protocols import ClassificationProtocol, SegmentationProtocol
from ffnet_deploy.evaluate.result import (
    EVAL_SCHEMA,
    ClassificationRung,
    EvaluationFile,
    ScoredRung,
    SegmentationRung,
    SetPart,
    check_image,
)
from ffnet_deploy.runtimes.rung import REFERENCE

_DRAWN = "drop_interval"
"""Resampled by NumPy: another version of it may draw other images."""


def read_evaluation(path: Path) -> EvaluationFile:
    """Read and validate what ``eval --json`` wrote.

    Raises:
        DataError: absent, no result of this version, damaged, changed, or an error without a result.
    """
    return read_results(path)[0]


def read_results(path: Path) -> tuple[EvaluationFile, Results]:
    """The same, and what every rung got on every image.

    Raises:
        DataError: as :func:`read_evaluation`.
    """
    again = "Evaluate that shard again with --json."
    try:
        text = path.read_bytes()
        file = _parsed(text)
        return file, _results(file)
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
    return parse_sealed(EvaluationFile, text)


def unscored(file: EvaluationFile) -> Results:
    """What is stated once in a result: all that its scores are computed from.

    Raises:
        ValueError: an image's counts or answers are none.
    """
    task = task_of(file.command)
    return Results(
        command=file.command,
        model=file.model,
        sources=file.sources,
        part=SetPart(**{name: getattr(file.set, name) for name in SetPart.__dataclass_fields__}),
        protocol=file.protocol,
        rungs=tuple(_without_scores(rung) for rung in file.rungs),
        images=[task.read(image) for image in file.images],
        skipped=file.skipped,
        marks=file.marks,
        tools=file.tools,
    )


def _results(file: EvaluationFile) -> Results:
    """What is stated once, after all that is stated twice was found to agree."""
    _check_rungs(file)
    _check_set(file)
    for image in file.images:
        check_image(image, file.rungs, file.protocol)
    results = unscored(file)
    # Of a shard, the merge knows all names.
    if (file.set.shard or (1, 1))[1] == 1 and file.set.names != hash_json([image.name for image in file.images]):
        raise ValueError("its images are not those that set.names tells")
    _check_scores(file, results)
    return results


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
    if not in_order or rungs[0][0] != f"{REFERENCE} fp32" or any(way not in ways for _, way in rungs):
        raise ValueError("its rungs are not those of its protocol, the reference first")


def _check_set(file: EvaluationFile) -> None:
    part, names = file.set, [image.name for image in file.images]
    if len(set(names)) != len(names):
        raise ValueError("an image is there twice")
    if part.images != len(names) or part.sha256 != hash_json([image.sha256 for image in file.images]):
        raise ValueError("its images are not those that set.images and set.sha256 tell")
    number, of = part.shard or (1, 1)
    if number > of or len(names) != len(range(number - 1, part.total, of)):
        raise ValueError(f"{len(names)} images are not part {number} of {of} of {part.total}")
    if part.limit not in (None, part.total):
        raise ValueError(f"a limit of {part.limit} does not give {part.total} images")
    if file.run and file.run.images_taken_over > len(names):
        raise ValueError(f"{file.run.images_taken_over} of {len(names)} images were taken over")


def _without_scores(rung: ScoredRung) -> ScoredRung:
    return ScoredRung(**{name: getattr(rung, name) for name in ScoredRung.__dataclass_fields__})


def _check_scores(file: EvaluationFile, results: Results) -> None:
    """Scores are never believed: they are computed anew from the images, by what computed them first."""
    same_draws = file.tools.get("numpy") == tool_versions("numpy")["numpy"]
    for stated, true in zip(file.rungs, results.scored().file.rungs, strict=True):
        wrong = next(_differing(asdict(stated), asdict(true), "" if same_draws else _DRAWN), None)
        if wrong:
            raise ValueError(f"{stated.rung}: {wrong} is not what its images give")


def _differing(stated: object, true: object, passed_over: str, where: str = "") -> Iterator[str]:
    """Places below ``where`` at which two JSON values are not the same, up to rounding."""
    if isinstance(stated, Mapping) and isinstance(true, Mapping) and stated.keys() == true.keys():
        for key in stated:
            if key != passed_over:
                yield from _differing(stated[key], true[key], passed_over, f"{where}.{key}".removeprefix("."))
    elif isinstance(stated, tuple) and isinstance(true, tuple) and len(stated) == len(true):
        for i, pair in enumerate(zip(stated, true, strict=True)):
            yield from _differing(*pair, passed_over, f"{where}.{i}")
    elif isinstance(stated, float) and isinstance(true, float):
        if not math.isclose(stated, true, rel_tol=1e-9, abs_tol=1e-9):
            yield where
    elif stated != true:
        yield where

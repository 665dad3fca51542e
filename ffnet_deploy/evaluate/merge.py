"""One result from the shards of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ffnet_deploy.artifacts.writing import hash_json
from ffnet_deploy.errors import DataError, FFNetDeployError, MissingDependencyError, UsageError
from ffnet_deploy.evaluate.outcome import Evaluation, Results, check_gate, gated
from ffnet_deploy.evaluate.reread import read_results


def merge(files: Sequence[Path], max_drop: float | None = None) -> Evaluation:
    """Put shards together: exactly what the whole set would have given.

    Args:
        files: JSON results of every shard of one evaluation, in any order.
        max_drop: gate on the whole.

    Raises:
        UsageError: no files.
        DataError: a file is no result of this version, shards of different evaluations, one twice, or one missing.
    """
    if max_drop is not None:
        check_gate(max_drop)
    if not files:
        raise UsageError("No file was named (the JSON results of every shard were needed). Name them.")
    parts = [(path, read_results(path)[1]) for path in files]
    first_path, first = parts[0]
    if first.part.shard is None:
        raise DataError(
            f"{first_path} is of a whole set, not of a shard. Make shards with: eval … --shard 1/2 --json FILE"
        )
    for path, other in parts[1:]:
        differs = _difference(first, other)
        if differs:
            raise DataError(f"{path} and {first_path} are of different evaluations: {differs}. Name shards of one.")
    _check_complete([result.part.shard[0] for _, result in parts if result.part.shard], first.part.shard[1])
    images = sorted((image for _, result in parts for image in result.images), key=lambda image: image.name)
    if len(images) != first.part.total:
        raise DataError(
            f"The shards hold {len(images)} images ({first.part.total} were needed). Evaluate the shards again."
        )
    if hash_json([image.name for image in images]) != first.part.names:
        raise DataError("The shards do not hold the images of their set. Evaluate the shards again.")
    results = replace(first, part=replace(first.part, shard=None), images=images)
    merged = tuple(str(path) for path in files)
    scored = results.scored(merged=merged, failure=_nothing_ran(results))
    if scored.file.reference_value is None:
        raise DataError("No pixel or image of these shards counts. Evaluate them again on a set with labels.")
    return gated(scored, max_drop)


def _check_complete(numbers: Sequence[int], of: int) -> None:
    twice = sorted({n for n in numbers if numbers.count(n) > 1})
    missing = sorted(set(range(1, of + 1)) - set(numbers))
    if twice or missing:
        which = f"shard {twice[0]} is there twice" if twice else f"shard {missing[0]} is missing"
        raise DataError(f"{which} (each of the {of} was needed once). Name the files of all {of} shards.")


def _nothing_ran(results: Results) -> FFNetDeployError | None:
    if len({rung.rung for rung in results.rungs}) > 1 or not results.skipped:
        return None
    why = "; ".join(f"{item.rung}: {item.reason}" for item in results.skipped)
    return MissingDependencyError(
        f"Nothing besides the PyTorch reference ran in these shards ({why}). "
        "Evaluate them on a machine where one of these runs, or build engines of ONNX Runtime and evaluate again."
    )


def _difference(a: Results, b: Results) -> str | None:
    """What keeps two shards from being of one evaluation; None if nothing does."""
    for what in ("command", "model", "sources", "protocol", "marks", "tools"):
        if getattr(a, what) != getattr(b, what):
            return f"{what} {getattr(b, what)!r} and {getattr(a, what)!r}"
    if (b.part.shard or (0, 0))[1] != (a.part.shard or (0, 0))[1]:
        return "another number of shards"
    if replace(a.part, shard=None) != replace(b.part, shard=None):
        return f"the set, {b.part} and {a.part}"
    if a.rungs != b.rungs:
        return f"rungs {', '.join(r.rung for r in b.rungs)} and {', '.join(r.rung for r in a.rungs)}, or their files"
    return None

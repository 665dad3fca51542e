"""One result from the shards of an evaluation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ffnet_deploy.errors import DataError, MissingDependencyError, UsageError
from ffnet_deploy.pipeline.evaluate import Evaluation, check_gate, gated

if TYPE_CHECKING:
    from ffnet_deploy.evaluate.results import Results


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
    parts = [(path, _read(path)) for path in files]
    first_path, first = parts[0]
    if first.part.shard is None:
        raise DataError(
            f"{first_path} is of a whole set, not of a shard. Make shards with: eval … --shard 1/2 --json FILE"
        )
    for path, other in parts[1:]:
        differs = _difference(first, other)
        if differs:
            raise DataError(f"{path} and {first_path} are of different evaluations: {differs}. Name shards of one.")
    of = first.part.shard[1]
    numbers = [result.part.shard[0] for _, result in parts if result.part.shard]
    twice = sorted({n for n in numbers if numbers.count(n) > 1})
    missing = sorted(set(range(1, of + 1)) - set(numbers))
    if twice or missing:
        which = f"shard {twice[0]} is there twice" if twice else f"shard {missing[0]} is missing"
        raise DataError(f"{which} (each of the {of} was needed once). Name the files of all {of} shards.")
    images = sorted((image for _, result in parts for image in result.images), key=lambda image: image.name)
    if len(images) != first.part.total:
        raise DataError(
            f"The shards hold {len(images)} images ({first.part.total} were needed). Evaluate the shards again."
        )
    results = replace(first, part=replace(first.part, shard=None), images=images)
    failure = None
    if len({entry.rung for entry in results.entries}) == 1 and results.skipped:
        why = "; ".join(f"{rung}: {reason}" for rung, reason in results.skipped)
        failure = MissingDependencyError(
            f"Nothing besides the PyTorch reference ran in these shards ({why}). "
            "Evaluate them where one of these runs, or run: ffnet-deploy build --runtime onnxruntime"
        )
    return gated(Evaluation(results, results.scores(), {"merged": [str(path) for path in files]}, failure), max_drop)


def _read(path: Path) -> Results:
    from ffnet_deploy.evaluate.results import Results

    try:
        values = json.loads(path.read_text("utf-8"))
        if isinstance(values, dict) and values.get("error") and "images" not in values:
            raise DataError(f"{path} is of a shard that failed ({values['error']['message']}). Evaluate it again.")
        return Results.from_json(values)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}). Name JSON results of eval.") from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        why = f"{type(error).__name__}: {error}"
        raise DataError(
            f"{path} holds no result of eval of this version ({why}). Evaluate that shard again with --json."
        ) from error


def _difference(a: Results, b: Results) -> str | None:
    """What keeps two shards from being of one evaluation; None if nothing does."""
    for what in ("command", "model", "sources", "protocol", "marks", "tools"):
        if getattr(a, what) != getattr(b, what):
            return f"{what} {getattr(b, what)!r} and {getattr(a, what)!r}"
    if (b.part.shard or (0, 0))[1] != (a.part.shard or (0, 0))[1]:
        return "another number of shards"
    if replace(a.part, shard=None) != replace(b.part, shard=None):
        return f"the set, {b.part} and {a.part}"
    if [asdict(entry) for entry in a.entries] != [asdict(entry) for entry in b.entries]:
        return (
            f"rungs {', '.join(e.rung for e in b.entries)} and {', '.join(e.rung for e in a.entries)}, or their files"
        )
    return None

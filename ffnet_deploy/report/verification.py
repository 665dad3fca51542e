"""The ladder's comparison as text: every rung next to PyTorch, and the inner tensors that differ most."""

from __future__ import annotations

from collections import Counter

from ffnet_deploy.report.table import Row, marked_line, size_text, skipped, table
from ffnet_deploy.verify.result import (
    ComparedImages,
    EqualLabels,
    RungLayers,
    Verified,
    VerifiedRung,
    WorstDifference,
)


def verification(result: Verified) -> str:
    """Every rung next to PyTorch on the same images, the first that breaks, and where it starts."""
    file = result.file
    rows = [_compared(rung) for rung in file.rungs]
    headers = ("rung", "largest", "mean", "equal labels", "near borders", "away", "holds")
    text = f"{file.model}: against {file.reference.rung} on {_looked_at(file.images)}\n"
    text += "differences in units of the output's spread, of the worst image"
    first = next((rung for rung in file.rungs if rung.near_borders), None)
    if first and first.near_borders:
        share = 100 * first.near_borders.count / first.labels.count
        text += (
            f"\nlabels at {size_text(first.labels_at)}; near borders: within 3 pixels of another class of the "
            f"reference ({share:.1f} % of the pixels)"
        )
    text += f"\n\n{table(headers, rows)}{skipped(file.skipped)}"
    text += "".join(f"\n\n{_layers(item)}" for item in file.layers)
    verdict = f"{file.first_broken} breaks first" if file.first_broken else "every rung that ran is within its limits"
    return f"{text}\n\n{verdict}{marked_line(file.marks)}"


def _compared(rung: VerifiedRung) -> Row:
    parts = [_percent(part) for part in (rung.labels, rung.near_borders, rung.away_from_borders)]
    differences = [_difference(value) for value in (rung.max_difference, rung.mean_difference)]
    return (rung.rung, *differences, *parts, "no" if rung.beyond else "yes")


def _percent(labels: EqualLabels | None) -> str | None:
    return f"{100 * labels.equal:.3f} %" if labels else None


def _difference(value: WorstDifference) -> str | None:
    return f"{value:.1e}" if isinstance(value, float) else value


def _looked_at(images: ComparedImages) -> str:
    counted = Counter(file.fitted for file in images.files)
    how = ", ".join(f"{count} {fitted}" for fitted, count in counted.items())
    return f"{images.count} images of {images.source}{f' ({how})' if how else ''}"


def _layers(item: RungLayers) -> str:
    by_name = {tensor.node: tensor for tensor in item.tensors}
    rows = [
        (name, f"{float(t.max_difference):.1e}", f"{float(t.mean_difference):.1e}", f"{float(t.sqnr_db):.1f} dB")
        for name in item.worst
        for t in (by_name[name],)
    ]
    jump = f"the error first jumps at {item.first_jump}" if item.first_jump else "the error jumps nowhere"
    gone = f"; {len(item.not_in_this_graph)} tensors are not in this graph" if item.not_in_this_graph else ""
    title = f"{item.rung}: {len(item.tensors)} inner tensors against PyTorch's on the first images{gone}; {jump}"
    return f"{title}\n{table(('the worst', 'largest', 'mean', 'signal to noise'), rows)}"

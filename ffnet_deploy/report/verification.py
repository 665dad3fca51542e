"""The ladder's comparison as text: every rung next to PyTorch, and the inner tensors that differ most."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ffnet_deploy.report import Row, marked_line, size_text, skipped, table

if TYPE_CHECKING:
    from ffnet_deploy.pipeline import Verified
    from ffnet_deploy.pipeline.verify import Compared, Layers


def verification(result: Verified) -> str:
    """Every rung next to PyTorch on the same images, the first that breaks, and where it starts."""
    rows = [_compared(item) for item in result.rungs]
    headers = ("rung", "largest", "mean", "equal labels", "near borders", "away", "within limits")
    text = f"{result.model}: against {result.reference.name} on {_looked_at(result.images)}\n"
    text += "differences in units of the output's spread, of the worst image"
    first = next((item.comparison for item in result.rungs if item.comparison.near), None)
    if first and first.near:
        share = 100 * first.near.count / first.agreement.count
        text += (
            f"\nlabels at {size_text(first.labels_at)}; near: another class of the reference within 3 pixels, in a "
            f"square window ({share:.1f} % of the pixels)"
        )
    text += f"\n\n{table(headers, rows)}{skipped(result.skipped)}"
    text += "".join(f"\n\n{_layers(item)}" for item in result.layers)
    broken = result.first_broken
    verdict = "every rung that ran is within its limits" if broken is None else f"{broken.rung.name} breaks first"
    return f"{text}\n\n{verdict}{marked_line(result.marks)}"


def _compared(item: Compared) -> Row:
    found = item.comparison
    whole = found.agreement
    parts = [part and f"{100 * part.equal:.3f} %" for part in (whole, found.near, found.away)]
    differences = [None if found.labels_only else f"{v:.1e}" for v in (whole.max_difference, whole.mean_difference)]
    return (item.rung.name, *differences, *parts, "no" if item.beyond else "yes")


def _looked_at(images: Mapping[str, Any]) -> str:
    counted = Counter(file["fitted"] for file in images.get("files", ()))
    how = ", ".join(f"{count} {fitted}" for fitted, count in counted.items())
    return f"{images['count']} images of {images['source']}{f' ({how})' if how else ''}"


def _layers(item: Layers) -> str:
    inside = item.inside
    rows = [
        (layer.node, f"{layer.max_difference:.1e}", f"{layer.mean_difference:.1e}", f"{layer.sqnr:.1f} dB")
        for layer in item.worst
    ]
    jump = f"the error first jumps at {inside.jump.node}" if inside.jump else "the error jumps nowhere"
    gone = f"; {len(inside.without)} tensors are not in this graph" if inside.without else ""
    title = f"{item.rung.name}: {len(inside.layers)} inner tensors against PyTorch's on the first images{gone}; {jump}"
    return f"{title}\n{table(('the worst', 'largest', 'mean', 'signal to noise'), rows)}"

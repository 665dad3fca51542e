"""Text tables, and the pieces that every report shares."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ffnet_deploy.foreign import shown

if TYPE_CHECKING:
    from ffnet_deploy.ladder import SkippedRung

Row = Sequence[object]


def table(headers: Sequence[str], rows: Sequence[Row]) -> str:
    """Columns of text: the first to the left, numbers and the other columns as they come, numbers to the right."""
    cells = [[_text(cell) for cell in row] for row in rows]
    widths = [max(len(line[i]) for line in [headers, *cells]) for i in range(len(headers))]
    right = [i > 0 and any(isinstance(row[i], int | float) for row in rows) for i in range(len(headers))]

    def line(values: Sequence[str]) -> str:
        padded = (v.rjust(w) if r else v.ljust(w) for v, w, r in zip(values, widths, right, strict=True))
        return "  ".join(padded).rstrip()

    return "\n".join([line(headers), line(["-" * w for w in widths]), *map(line, cells)])


def _text(cell: object) -> str:
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return "-"
    # Adding zero turns -0.0, and what rounds to it, into 0.00.
    return f"{round(cell, 2) + 0.0:.2f}" if isinstance(cell, float) else shown(cell)


def megabytes(size: int | None) -> str | None:
    """Bytes as "50.3 MB" (10^6)."""
    return None if size is None else f"{size / 1e6:.1f} MB"


def size_text(size: tuple[int, int] | None) -> str | None:
    """(H, W) as "1024x2048"."""
    return None if size is None else f"{size[0]}x{size[1]}"


def skipped(items: Sequence[SkippedRung]) -> str:
    """Rungs that were built but did not run, with the reason; nothing where there are none."""
    return "".join(f"\n{'' if i else chr(10)}not run: {item.rung}: {item.reason}" for i, item in enumerate(items))


def marked(marks: Sequence[str]) -> str:
    return f"  [{', '.join(marks)}]" if marks else ""


def marked_line(marks: Sequence[str]) -> str:
    """The last line of a result: what must be said of it."""
    return f"\n\nNote: {', '.join(marks)}." if marks else ""

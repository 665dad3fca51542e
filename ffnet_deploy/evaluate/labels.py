"""From logits to a full-size label map without full-size logits."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

_CELLS = 512
"""Cells at a time: their values stay in a core's second-level cache."""
_SLACK = 1e-6
"""Of the largest logit: a class this near to being possible is still computed, since rounding may let it win."""


class _Axis(NamedTuple):
    """Output positions along one axis, in runs that read the same two inputs."""

    low: np.ndarray
    """int64 (runs,): the first input."""
    high: np.ndarray
    """int64 (runs,): the second."""
    length: np.ndarray
    """int64 (runs,): how many output positions, at most ``weights.shape[1]``."""
    weights: np.ndarray
    """float32 (runs, K): of the second input; positions beyond ``length`` repeat the last one."""
    positions: np.ndarray
    """int64 (runs, K): output positions; beyond ``length`` the last one again."""


def upsampled_labels(logits: np.ndarray, size: tuple[int, int], *, align_corners: bool) -> np.ndarray:
    """Resize logits bilinearly in FP32 and take the arg-max, as PyTorch's ``interpolate`` and ``argmax`` would.

    Most pixels lie between four logits of which one class is the largest at each: it is the largest between them too.
    Where several classes are possible, they alone are computed. So nothing of the output's size but the labels exists.

    Args:
        logits: float32 (C, h, w), finite.
        size: (H, W) of the label map.
        align_corners: as PyTorch means it.

    Returns:
        uint8 (H, W), class indices; the first of equals wins. A pixel may differ from PyTorch's where two classes are
        equal but for FP32 rounding.
    """
    rows = _axis(logits.shape[1], size[0], align_corners)
    columns = _axis(logits.shape[2], size[1], align_corners)
    possible = _possible(logits)
    cells = np.ix_(rows.low, columns.low)
    first = possible.argmax(axis=0).astype(np.uint8)[cells]
    labels = np.repeat(np.repeat(first, columns.length, axis=1), rows.length, axis=0)
    y, x = np.nonzero((possible.sum(axis=0, dtype=np.uint8) > 1)[cells])
    for at in range(0, len(y), _CELLS):
        some = slice(at, at + _CELLS)
        found = _winners(logits, possible, rows, columns, y[some], x[some])
        labels[rows.positions[y[some]][:, :, None], columns.positions[x[some]][:, None, :]] = found
    return labels


def _axis(inputs: int, outputs: int, align_corners: bool) -> _Axis:
    position = np.arange(outputs, dtype=np.float32)
    if align_corners:
        source = position * np.float32((inputs - 1) / (outputs - 1) if outputs > 1 else 0.0)
    else:
        source = np.maximum((position + np.float32(0.5)) * np.float32(inputs / outputs) - np.float32(0.5), 0)
    low = np.minimum(source.astype(np.int64), inputs - 1)
    weight = np.clip(source - low.astype(np.float32), 0, 1).astype(np.float32)
    longest = max(1, -(-outputs // inputs))
    # A run ends where the next input begins, or when it is as long as most are: the first may be half as long again.
    begins = np.flatnonzero(np.diff(low, prepend=-1))
    lengths = np.diff(begins, append=outputs)
    start = np.concatenate([np.arange(b, b + n, longest) for b, n in zip(begins, lengths, strict=True)])
    length = np.diff(start, append=outputs)
    positions = start[:, None] + np.minimum(np.arange(longest), length[:, None] - 1)
    return _Axis(low[start], np.minimum(low[start] + 1, inputs - 1), length, weight[positions], positions)


def _possible(logits: np.ndarray) -> np.ndarray:
    """Whether a class may be the largest somewhere between a logit and its next ones below and right: bool (C, h, w).

    It cannot be where its largest corner is below the smallest corner of some other class.
    """
    high = _with_next(_with_next(logits, np.maximum, 1), np.maximum, 2)
    low = _with_next(_with_next(logits, np.minimum, 1), np.minimum, 2)
    slack = np.float32(_SLACK * np.abs(logits).max(initial=0.0))
    return np.asarray(high >= low.max(axis=0) - slack)


def _with_next(values: np.ndarray, chosen: np.ufunc, axis: int) -> np.ndarray:
    """The larger or smaller of each value and the next one along an axis; the last one is its own next."""
    result = values.copy()
    here = [slice(None)] * values.ndim
    here[axis] = slice(None, -1)
    after = [slice(None)] * values.ndim
    after[axis] = slice(1, None)
    chosen(values[tuple(here)], values[tuple(after)], out=result[tuple(here)])
    return result


def _winners(
    logits: np.ndarray, possible: np.ndarray, rows: _Axis, columns: _Axis, y: np.ndarray, x: np.ndarray
) -> np.ndarray:
    """uint8 (n, K, K): the labels of n cells, given by their runs."""
    shape = (len(y), rows.weights.shape[1], columns.weights.shape[1])
    best = np.full(shape, -np.inf, np.float32)
    labels = np.zeros(shape, np.uint8)
    for c in range(len(logits)):
        mine = np.flatnonzero(possible[c, rows.low[y], columns.low[x]])
        if not len(mine):
            continue
        value = _between(logits[c], rows, columns, y[mine], x[mine])
        known = best[mine]
        wins = value > known
        best[mine] = np.where(wins, value, known)
        labels[mine] = np.where(wins, np.uint8(c), labels[mine])
    return labels


def _between(plane: np.ndarray, rows: _Axis, columns: _Axis, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """float32 (n, K, K): one class between its corners, in PyTorch's order of operations."""
    right = columns.weights[x]
    left = np.float32(1) - right
    above, below = (
        left * plane[row, columns.low[x]][:, None] + right * plane[row, columns.high[x]][:, None]
        for row in (rows.low[y], rows.high[y])
    )
    lower = rows.weights[y][:, :, None]
    value = (np.float32(1) - lower) * above[:, None, :]
    value += lower * below[:, None, :]
    return np.asarray(value)

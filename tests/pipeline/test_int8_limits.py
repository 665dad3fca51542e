"""What scripts/int8_methods.py says when a limit is missed."""

from __future__ import annotations

from typing import Any

from int8_methods import missed


def measured(loss: float, drop: float, agreement: float) -> dict[str, Any]:
    rows = [
        {"preparation": p, "method": m, "dialect": dialect, "drop": d, "agreement": agreement}
        for p, m, d in (("plain", "max", loss), ("equalised", "percentile", drop))
        for dialect in ("tensorrt", "cpu")
    ]
    return {"fp32": 90.0, "rows": rows}


def test_methods() -> None:
    # The unchanged weights need not be hard.
    assert missed({"demo weights": measured(0.1, 0.1, 99.5), "heavy tail": measured(3.0, -0.2, 99.9)}) == []
    (easy,) = missed({"heavy tail": measured(2.9, 0.0, 99.9)})
    assert easy == "heavy tail: the plain maximum loses 2.90 points (at least 3 was needed)"
    assert len(missed({"demo weights": measured(0.0, 0.11, 99.9)})) == 2
    assert len(missed({"demo weights": measured(0.0, 0.0, 99.4)})) == 2

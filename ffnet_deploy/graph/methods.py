"""How a range is chosen from a histogram: the names, and what is meant where none is given."""

from __future__ import annotations

METHODS = ("entropy", "percentile", "mse", "max")
DEFAULT_METHOD = "percentile"
"""Best of the four on the demo's weights: see docs/measurements.md."""
PERCENTILE = 99.98
"""Of the values that stay within the range."""

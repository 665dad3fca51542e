"""How a range is chosen from a histogram: the names, and the default."""

from __future__ import annotations

from typing import Literal, get_args

Method = Literal["entropy", "percentile", "mse", "max"]
METHODS: tuple[Method, ...] = get_args(Method)
DEFAULT_METHOD: Method = "percentile"
"""Best of the four on the demo's weights: see docs/measurements.md."""
PERCENTILE = 99.98
"""Share of the values that stay within the range, in percent."""

SMALLEST = 2.0**-119
"""The smallest magnitude of a range: its 127th part is no denormal float32."""

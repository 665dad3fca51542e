"""Latency of every rung: how it is measured, what it says, and how two runs compare."""

"""Latencies as text: one table for each mode, warnings at its foot."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ffnet_deploy import report

if TYPE_CHECKING:
    from ffnet_deploy.pipeline import Benchmark

_MEASURED = {
    "compute": "latency of the network alone, inputs on its device, ms",
    "end-to-end": "latency from host image to host labels, ms",
    "throughput": "images per second, host arrays to host arrays",
    "cold": "from a new process to results, ms, files in memory",
}
_PHASES = ("import", "load", "first", "second", "to_first")


def benchmark(result: Benchmark) -> str:
    """Latency of every rung, what is doubtful about it, and what could not run."""
    n, _, height, width = result.shape
    lanes = f", {result.options.concurrency or 1} at a time" if result.mode == "throughput" else ""
    runs = "starts" if result.mode == "cold" else "runs or more"
    title = (
        f"{result.model}: {_MEASURED[result.mode]}\n"
        f"mode {result.mode}, {result.options.runs} {runs} of each in turns, batch {n} of {height}x{width}{lanes}, "
        f"{result.threads} threads, {result.environment['processor']}"
    )
    best = result.rungs[result.fastest_pytorch].name
    columns = {"cold": _PHASES, "throughput": ("images/s", "median ms", "p99 ms")}
    headers = columns.get(result.mode, ("median", "p90", "p99", "CoV"))
    rows = [
        (
            rung.name,
            report.megabytes(rung.size),
            *_figures(result, i),
            f"{result.speed_up(i):.2f}x",
            _interval(result.intervals[i]),
            f"{result.speed_up(i, result.fastest_pytorch):.2f}x",
        )
        for i, rung in enumerate(result.rungs)
    ]
    names = [name.replace("_", " ") for name in headers]
    body = report.table(("rung", "file", *names, "speed-up", "95 %", "over best PyTorch"), rows)
    foot = f"{report.skipped(result.skipped)}{_warnings(result)}{report.note(result.marks)}"
    return f"{title}\n\n{body}\n\nspeed-up: over {result.rungs[0].name}; best PyTorch: {best}{foot}"


def _figures(result: Benchmark, i: int) -> tuple[float | str, ...]:
    if result.mode == "cold":
        return tuple(result.starts[i].median(phase) for phase in _PHASES)
    item = result.latencies[i]
    if result.mode == "throughput":
        return item.images_per_s, item.median, item.percentile(99)
    spread = f"{100 * item.variation:.1f} %"
    return item.median, item.percentile(90), item.percentile(99), spread


def _interval(interval: tuple[float, float] | None) -> str | None:
    return f"{interval[0]:.2f}-{interval[1]:.2f}" if interval else None


def _warnings(result: Benchmark) -> str:
    lines = [f"Warning: {f'{doubt.rung}: ' if doubt.rung else ''}{doubt.text}." for doubt in result.doubts]
    return "".join(f"\n{'' if i else chr(10)}{line}" for i, line in enumerate(lines))

"""Latencies as text: one table for each mode, warnings at its foot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ffnet_deploy import report

if TYPE_CHECKING:
    from ffnet_deploy.bench.doubts import Doubt
    from ffnet_deploy.pipeline import Benchmark, Comparison, Profile
    from ffnet_deploy.pipeline.compare import Warned
    from ffnet_deploy.pipeline.profile import Profiled

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
    foot = f"{report.skipped(result.skipped)}{_warnings(result.doubts)}{report.marked_line(result.marks)}"
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


def _warnings(doubts: Sequence[Doubt]) -> str:
    return _block([_warning(doubt) for doubt in doubts])


def _warning(doubt: Doubt | Warned, of: str = "") -> str:
    return f"Warning{of}: {f'{doubt.rung}: ' if doubt.rung else ''}{doubt.text}."


def _block(lines: Sequence[str]) -> str:
    """Lines after an empty one; nothing if there are none."""
    return "".join(f"\n{'' if i else chr(10)}{line}" for i, line in enumerate(lines))


def profile(result: Profile) -> str:
    """Every layer of every rung, in the order of execution, and the peaks it was held to."""
    n, _, height, width = result.shape
    macs = ", ".join(f"{rate / 1e9:.0f} GMAC/s {name}" for name, rate in result.peaks.macs_per_s.items())
    title = (
        f"{result.model}: time by layer, ms\n"
        f"mode profile, median of {result.runs} runs, batch {n} of {height}x{width}, {result.threads} threads, "
        f"{result.environment['processor']}\n"
        f"peaks measured in this run: {macs}, {result.peaks.bytes_per_s / 1e9:.1f} GB/s"
    )
    foot = f"{report.skipped(result.skipped)}{_warnings(result.doubts)}{report.marked_line(result.marks)}"
    return "\n\n".join([title, *(_layers(item) for item in result.rungs)]) + _peakless(result) + foot


def _peakless(result: Profile) -> str:
    """Which layers were not held to all peaks, and why."""
    layers = [layer for item in result.rungs if item.held_to_peaks for layer in item.layers]
    lacking = {layer.precision or "unknown" for layer in layers if layer.roofline is not None and layer.bound is None}
    lines = [
        f"no {name} peak is measured: of the peak, such convolutions show the memory's share alone"
        for name in sorted(lacking)
    ]
    lines += [
        f"{item.rung.name} ran on another device than the peaks: name it with --device"
        for item in result.rungs
        if not item.held_to_peaks
    ]
    return _block(lines)


def _layers(item: Profiled) -> str:
    rows = [
        (
            layer.module,
            layer.kind,
            layer.precision,
            layer.median_ms,
            f"{100 * layer.median_ms / item.total_ms:.1f} %",
            layer.macs / 1e6,
            report.megabytes(layer.bytes),
            layer.bound,
            None if layer.roofline is None else f"{100 * layer.roofline:.0f} %",
        )
        for layer in item.layers
    ]
    headers = ("module", "layer", "ran in", "ms", "share", "MMACs", "moved", "bound by", "of the peak")
    return f"{item.rung.name}: {item.total_ms:.2f} ms in {len(rows)} layers\n\n{report.table(headers, rows)}"


def comparison(result: Comparison) -> str:
    """Two runs side by side: every rung that both have, and what else differs."""
    unit = "images/s" if result.mode == "throughput" else "ms"
    rows = [
        (
            row.rung,
            row.before,
            row.after,
            f"{row.slowdown:.3f}",
            f"{row.interval[0]:.3f}-{row.interval[1]:.3f}" if row.interval else None,
            "another" if row.other_file else "the same",
        )
        for row in result.rows
    ]
    title = f"{result.model}: mode {result.mode}, batch {result.batch}\nA: {result.paths[0]}\nB: {result.paths[1]}"
    body = report.table(("rung", f"A, {unit}", f"B, {unit}", "time B/A", "95 %", "file"), rows)
    alone = [f"only in {side}: {rung}" for side, rungs in result.alone.items() for rung in rungs]
    differ = report.table(("differs", "A", "B"), [(d.what, d.before, d.after) for d in result.differences])
    warned = _block([_warning(warning, f" of {warning.file}") for warning in result.warnings])
    differ = differ if result.differences else "nothing else differs"
    return f"{title}\n\n{body}{_block(alone)}\n\n{differ}{warned}"

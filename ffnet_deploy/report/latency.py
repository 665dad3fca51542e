"""Latencies as text: one table for each mode, warnings at its foot."""

from __future__ import annotations

from collections.abc import Sequence

from ffnet_deploy.artifacts.values import Interval
from ffnet_deploy.bench.compare import Comparison, Warned
from ffnet_deploy.bench.profiled import Profile, ProfiledRung, ProfileFile
from ffnet_deploy.bench.result import Benchmark, BenchmarkFile, Doubt, RungLatency, RungStarts
from ffnet_deploy.report.table import marked_line, megabytes, skipped, table

_MEASURED = {
    "compute": "latency of the network alone, inputs on its device, ms",
    "end-to-end": "latency from host image to host labels, ms",
    "throughput": "images per second, host arrays to host arrays",
    "cold": "from a new process to results, ms, files in memory",
}
_PHASES = ("import", "load", "first", "second", "to_first")


def benchmark(result: Benchmark) -> str:
    """Latency of every rung, what is doubtful about it, and what could not run."""
    file = result.file
    columns = {"cold": _PHASES, "throughput": ("images/s", "median ms", "p99 ms")}
    headers = columns.get(file.mode, ("median", "p90", "p99", "CoV"))
    rows = [
        (
            rung.rung,
            megabytes(rung.bytes),
            *_figures(file, rung),
            f"{rung.speed_up:.2f}x",
            _interval(rung.speed_up_interval),
            f"{rung.speed_up_fastest_pytorch:.2f}x",
        )
        for rung in file.rungs
    ]
    names = [name.replace("_", " ") for name in headers]
    body = table(("rung", "file", *names, "speed-up", "95 %", "over PyTorch"), rows)
    foot = f"{skipped(file.skipped)}{_warnings(file.warnings)}{marked_line(file.marks)}"
    first = file.rungs[0].rung
    explained = f"speed-up: over {first}; over PyTorch: over its fastest, {file.fastest_pytorch}"
    return f"{_title(file)}\n\n{body}\n\n{explained}{foot}"


def _title(file: BenchmarkFile) -> str:
    n, _, height, width = file.shape
    at_once = f", {file.concurrency} at a time" if file.mode == "throughput" else ""
    runs = "starts" if file.mode == "cold" else "runs or more"
    return (
        f"{file.model}: {_MEASURED[file.mode]}\n"
        f"mode {file.mode}, {file.iters} {runs} of each in turns, batch {n} of {height}x{width}{at_once}, "
        f"{file.threads} threads, {file.environment.processor}"
    )


def _figures(file: BenchmarkFile, rung: RungLatency | RungStarts) -> tuple[float | str, ...]:
    if isinstance(rung, RungStarts):
        return tuple(rung.phases[phase].median_ms for phase in _PHASES)
    if file.mode == "throughput":
        return rung.images_per_s, rung.median_ms, rung.p99_ms
    return rung.median_ms, rung.p90_ms, rung.p99_ms, f"{100 * rung.coefficient_of_variation:.1f} %"


def _interval(interval: Interval | None, digits: int = 2) -> str | None:
    return f"{interval.low:.{digits}f}-{interval.high:.{digits}f}" if interval else None


def _warnings(doubts: Sequence[Doubt]) -> str:
    return _block([_warning(doubt) for doubt in doubts])


def _warning(doubt: Doubt | Warned, of: str = "") -> str:
    return f"Warning{of}: {f'{doubt.rung}: ' if doubt.rung else ''}{doubt.text}."


def _block(lines: Sequence[str]) -> str:
    """Lines after an empty one; nothing if there are none."""
    return "".join(f"\n{'' if i else chr(10)}{line}" for i, line in enumerate(lines))


def profile(result: Profile) -> str:
    """Every layer of every rung, in the order of execution, and the peaks it was compared with."""
    file = result.file
    n, _, height, width = file.shape
    macs = ", ".join(f"{rate / 1e9:.0f} GMAC/s {name}" for name, rate in file.peaks.macs_per_s.items())
    title = (
        f"{file.model}: time by layer, ms\n"
        f"mode profile, median of {file.iters} runs, batch {n} of {height}x{width}, {file.threads} threads, "
        f"{file.environment.processor}\n"
        f"peaks measured in this run: {macs}, {file.peaks.bytes_per_s / 1e9:.1f} GB/s"
    )
    foot = f"{skipped(file.skipped)}{_warnings(file.warnings)}{marked_line(file.marks)}"
    return "\n\n".join([title, *(_layers(item) for item in file.rungs)]) + _peakless(file) + foot


def _peakless(file: ProfileFile) -> str:
    """Which layers were not compared with all peaks, and why."""
    layers = [layer for item in file.rungs if item.held_to_peaks for layer in item.layers]
    lacking = {layer.precision or "unknown" for layer in layers if layer.roofline is not None and layer.bound is None}
    lines = [
        f"no {name} peak is measured: of the peak, such convolutions show the memory's share alone"
        for name in sorted(lacking)
    ]
    lines += [
        f"{item.rung} ran on another device than the peaks: name it with --device"
        for item in file.rungs
        if not item.held_to_peaks
    ]
    return _block(lines)


def _layers(item: ProfiledRung) -> str:
    rows = [
        (
            layer.module,
            layer.kind,
            layer.precision,
            layer.median_ms,
            f"{100 * layer.median_ms / item.total_ms:.1f} %",
            layer.macs / 1e6,
            megabytes(layer.bytes),
            layer.bound,
            None if layer.roofline is None else f"{100 * layer.roofline:.0f} %",
        )
        for layer in item.layers
    ]
    headers = ("module", "layer", "ran in", "ms", "share", "MMACs", "moved", "bound by", "of the peak")
    return f"{item.rung}: {item.total_ms:.2f} ms in {len(rows)} layers\n\n{table(headers, rows)}"


def comparison(result: Comparison) -> str:
    """Two runs side by side: every rung that both have, and what else differs."""
    unit = "images/s" if result.mode == "throughput" else "ms"
    rows = [
        (
            row.rung,
            row.before,
            row.after,
            f"{row.slowdown:.3f}",
            _interval(row.interval, 3),
            "another" if row.other_file else "the same",
        )
        for row in result.rungs
    ]
    title = f"{result.model}: mode {result.mode}, batch {result.batch}\nA: {result.files[0]}\nB: {result.files[1]}"
    body = table(("rung", f"A, {unit}", f"B, {unit}", "time B/A", "95 %", "file"), rows)
    alone = [
        f"only in {side}: {rung}"
        for side, rungs in (("A", result.only_in_a), ("B", result.only_in_b))
        for rung in rungs
    ]
    differ = table(("differs", "A", "B"), [(d.what, d.before, d.after) for d in result.differences])
    warned = _block([_warning(warning, f" of {warning.file}") for warning in result.warnings])
    differ = differ if result.differences else "nothing else differs"
    return f"{title}\n\n{body}{_block(alone)}\n\n{differ}{warned}"

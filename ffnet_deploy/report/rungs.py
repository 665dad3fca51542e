"""Every rung in one table: size, latency and accuracy."""

from __future__ import annotations

from ffnet_deploy.bench.result import Benchmark
from ffnet_deploy.evaluate.outcome import Evaluation
from ffnet_deploy.evaluate.result import SegmentationRung
from ffnet_deploy.report.table import Row, megabytes, table


def ladder_table(bench: Benchmark, scored: Evaluation) -> str:
    """Every rung in one table: size, latency, speed-up, mIoU, drop; a rung that cannot run here says why."""
    scores = {rung.rung: rung for rung in scored.file.rungs if isinstance(rung, SegmentationRung)}
    timed = bench.file.latencies
    rows: list[Row] = [
        (
            rung.rung,
            megabytes(rung.bytes),
            f"{rung.median_ms:.1f} ms",
            f"{rung.speed_up:.2f}x",
            # PyTorch's other ways compute the reference's network.
            *_score(scores.get(rung.rung), "timed only"),
        )
        for rung in timed
    ]
    names = {rung.rung for rung in timed}
    rows += [
        (rung.rung, megabytes(rung.bytes), None, None, *_score(rung, "")[:2], "scored only")
        for rung in scores.values()
        if rung.rung not in names
    ]
    rows += [(item.rung, None, None, None, None, None, f"built; {item.reason}") for item in bench.file.skipped]
    return table(("rung", "file", "latency", "speed-up", "mIoU", "drop", ""), rows)


def _score(rung: SegmentationRung | None, otherwise: str) -> tuple[object, object, str]:
    return (None, None, otherwise) if rung is None else (rung.miou, rung.drop, "")

"""Benchmark files made by hand: as ``bench --json`` writes them, with figures of one's choice."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ffnet_deploy.bench.result import (
    PHASES,
    BenchmarkFile,
    Phase,
    Resources,
    RungLatency,
    RungStarts,
    TurnFacts,
    WarmUp,
)
from ffnet_deploy.bench.samples import summary
from ffnet_deploy.machine.environment import Environment
from ffnet_deploy.machine.load import Load

ENVIRONMENT = Environment(
    processor="one",
    flags=("avx2",),
    virtual=False,
    cores_online=2,
    governor=None,
    most_mhz=None,
    memory_bytes=1 << 30,
    cores=2,
    load_average=(1.0, 2.0, 3.0),
    system="Linux",
    gpus=0,
    tools={"torch": "2.13", "onnx": "1.23"},
)


def rung(name: str, ms: float, *, turns: int = 8, sha256: str = "a") -> dict[str, Any]:
    """A rung whose runs all take ``ms``, but for every third."""
    samples = tuple(ms if i % 3 else 1.2 * ms for i in range(2 * turns))
    return asdict(
        RungLatency(
            rung=name,
            runtime=name.split()[0],
            precision="fp32",
            device="cpu",
            file=None,
            bytes=None,
            sha256=sha256,
            resources=Resources(),
            speed_up=1.0,
            speed_up_interval=None,
            speed_up_fastest_pytorch=1.0,
            **asdict(summary(samples)),
            images_per_s=1000 / ms,
            samples_ms=samples,
            turns=tuple(TurnFacts(2, sum(samples[2 * i : 2 * i + 2]) / 1000) for i in range(turns)),
            warm_up=WarmUp(1.0, 10, True, ms),
        )
    )


def starts(name: str, ms: float) -> dict[str, Any]:
    """The same rung in mode ``cold``: five starts, all but the first of which take ``ms``."""
    timed = rung(name, ms)
    head = {key: timed[key] for key in timed if key in RungStarts.__dataclass_fields__ and key != "kind"}
    samples = (2 * ms, ms, ms, ms, ms)
    one = asdict(Phase(ms, ms, 2 * ms, samples))
    return {**head, "kind": "starts", "phases": dict.fromkeys(PHASES, one)}


def benchmark(*rungs: dict[str, Any], **changed: Any) -> dict[str, Any]:
    values = asdict(
        BenchmarkFile(
            created="2026-01-01T00:00:00+00:00",
            model="a_model",
            mode="compute",
            shape=(1, 3, 64, 128),
            iters=16,
            min_seconds=0.0,
            concurrency=1,
            threads=2,
            marks=(),
            graph_sha256="g",
            weights_sha256="w",
            rungs=(),
            fastest_pytorch="pytorch fp32",
            skipped=(),
            warnings=(),
            load=Load(0.0, 0.0, 0.0, None, None),
            environment=ENVIRONMENT,
            error=None,
        )
    )
    return {**values, "rungs": list(rungs) or [rung("pytorch fp32", 20.0), rung("onnxruntime fp32", 10.0)], **changed}

"""Benchmark files made by hand: as ``bench --json`` writes them, with figures of one's choice."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import numpy as np

from ffnet_deploy.artifacts.reading import parse
from ffnet_deploy.bench.derived import cost_of, turns_of
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
from ffnet_deploy.bench.samples import seconds_each, speed_up, summary
from ffnet_deploy.machine.environment import Environment
from ffnet_deploy.machine.load import Load
from support.seals import resealed

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
    tools={"torch": "2.13", "onnx": "1.23", "numpy": np.__version__},
)


def rung(name: str, ms: float, *, turns: int = 8, sha256: str = "a", precision: str = "fp32") -> dict[str, Any]:
    """A rung whose runs all take ``ms``, but for every third."""
    samples = tuple(ms if i % 3 else 1.2 * ms for i in range(2 * turns))
    return asdict(
        RungLatency(
            rung=name,
            runtime=name.split()[0],
            precision=precision,
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
    parts = {"import": 0.25, "load": 0.25, "first": 0.5, "second": 0.25, "to_first": 1.0}
    one = {
        name: asdict(Phase(part * ms, part * ms, 2 * part * ms, (2 * part * ms, *[part * ms] * 4)))
        for name, part in parts.items()
    }
    return {**head, "kind": "starts", "phases": {name: one[name] for name in PHASES}}


def benchmark(*rungs: dict[str, Any], **changed: Any) -> dict[str, Any]:
    """A benchmark as ``bench --json`` has it, sealed; what a rung derives from the others is made to fit."""
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
    given = list(rungs) or [rung("pytorch fp32", 20.0), rung("onnxruntime fp32", 10.0)]
    whole: dict[str, Any] = json.loads(rederived({**values, "rungs": given, **changed}))
    return whole


def rederived(values: dict[str, Any]) -> str:
    """The JSON of a benchmark whose samples were changed: all that follows from them computed anew, and sealed."""
    values = json.loads(json.dumps(values))
    if values["mode"] == "cold":
        values.update(min_seconds=None, iters=len(values["rungs"][0]["phases"]["to_first"]["samples_ms"]))
    for one in values["rungs"]:
        one.update(speed_up=1.0, speed_up_interval=None, speed_up_fastest_pytorch=1.0)
        if one["kind"] == "latency":
            one.update(asdict(summary(one["samples_ms"])))
    file = parse(BenchmarkFile, json.dumps(values))
    costs = [cost_of(one, file.mode) for one in file.rungs]
    fastest = min((i for i, one in enumerate(file.rungs) if one.runtime == "pytorch"), key=lambda i: costs[i])
    values["fastest_pytorch"] = file.rungs[fastest].rung
    for one, typed, cost in zip(values["rungs"], file.rungs, costs, strict=True):
        one.update(speed_up=costs[0] / cost, speed_up_fastest_pytorch=costs[fastest] / cost)
        if isinstance(typed, RungLatency):
            one["images_per_s"] = file.shape[0] / seconds_each(turns_of(typed))
            reference = file.rungs[0]
            if typed is not reference and isinstance(reference, RungLatency):
                by_wall_clock = file.mode == "throughput"
                found = speed_up(turns_of(reference), turns_of(typed), by_wall_clock=by_wall_clock)
                one["speed_up_interval"] = found and asdict(found)
    return resealed(values)

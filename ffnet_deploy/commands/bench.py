"""``bench``: how fast the rungs are."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ffnet_deploy.commands.arguments import DeviceOption, Json, OptionalName, Threads, WorkspaceOption
from ffnet_deploy.commands.output import deliver, json_errors, progress, space_at, tell_model


class ModeChoice(StrEnum):
    """What ``bench --mode`` takes."""

    compute = "compute"
    end_to_end = "end-to-end"
    throughput = "throughput"
    cold = "cold"


def bench(
    name: OptionalName = None,
    mode: Annotated[
        ModeChoice,
        typer.Option(
            help="What is timed. compute: the network alone. end-to-end: from host image to host labels. throughput: "
            "images per second. cold: from a new process to the first result."
        ),
    ] = ModeChoice.compute,
    iters: Annotated[
        int | None,
        typer.Option(metavar="N", help="Runs of each rung, at least.", show_default="200; 5 starts in mode cold"),
    ] = None,
    min_seconds: Annotated[float, typer.Option(metavar="S", help="Seconds of runs of each rung, at least.")] = 3.0,
    concurrency: Annotated[
        int | None,
        typer.Option(metavar="N", help="Runners at the same time, in mode throughput.", show_default="1"),
    ] = None,
    device: DeviceOption = None,
    threads: Threads = None,
    layers: Annotated[
        bool, typer.Option("--profile", help="Time every layer of every engine instead of whole runs.")
    ] = False,
    json_file: Json = None,
    workspace: WorkspaceOption = Path(),
) -> None:
    """Time PyTorch and every engine that can run here, in turns.

    The modes measure different things. Never compare a figure of one with a figure of another.
    """
    from ffnet_deploy.bench.options import BenchOptions
    from ffnet_deploy.bench.result import BENCH_SCHEMA
    from ffnet_deploy.pipeline import bench as timing
    from ffnet_deploy.pipeline import profile as profiling
    from ffnet_deploy.report import latency

    with json_errors(json_file, "bench", BENCH_SCHEMA):
        options = BenchOptions(mode.value, iters, min_seconds, concurrency, device, threads)
        space = space_at(workspace)
        tell_model(space, name)
        with progress() as told:
            if layers:
                found = profiling.profile(space, name, options, told)
                value, text, failure = found.to_json(), latency.profile(found), found.failure
            else:
                result = timing.bench(space, name, options, told)
                value, text, failure = result.to_json(), latency.benchmark(result), result.failure
        deliver(json_file, value, text)
    if failure:
        raise failure

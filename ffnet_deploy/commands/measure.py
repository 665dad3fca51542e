"""``bench``, ``compare`` and ``verify``: how fast the rungs are, and whether they are still the same network."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ffnet_deploy.commands.options import Device, Json, OptionalName, WorkspaceOption
from ffnet_deploy.commands.output import deliver, json_errors, progress, space_at, tell_model


class Mode(StrEnum):
    """What ``bench --mode`` takes."""

    compute = "compute"
    end_to_end = "end-to-end"
    throughput = "throughput"
    cold = "cold"


def bench(
    name: OptionalName = None,
    mode: Annotated[Mode, typer.Option(help="compute: the network alone. end-to-end: host image to host labels.")] = (
        Mode.compute
    ),
    iters: Annotated[
        int | None, typer.Option(help="Runs of each rung, at least: 200; starts of it in mode cold: 5.")
    ] = None,
    min_seconds: Annotated[float, typer.Option(metavar="S", help="Time in runs of each rung, at least.")] = 3.0,
    concurrency: Annotated[
        int | None, typer.Option(metavar="N", help="Runners at the same time in mode throughput; left out: 1.")
    ] = None,
    device: Device = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads of every rung; left out: all cores.")] = None,
    layers: Annotated[bool, typer.Option("--profile", help="Time every layer of every engine instead.")] = False,
    json_file: Json = None,
    workspace: WorkspaceOption = Path(),
) -> None:
    """Time the reference and every rung that can run here.

    The modes measure different things and are never mixed.
    """
    from ffnet_deploy import pipeline
    from ffnet_deploy.report import latency

    with json_errors(json_file, "bench", pipeline.BENCH_SCHEMA):
        options = pipeline.BenchOptions(mode.value, iters, min_seconds, concurrency, device, threads)
        space = space_at(workspace)
        tell_model(space, name)
        with progress() as told:
            if layers:
                found = pipeline.profile(space, name, options, told)
                value, text, failure = found.to_json(), latency.profile(found), found.failure
            else:
                result = pipeline.bench(space, name, options, told)
                value, text, failure = result.to_json(), latency.benchmark(result), result.failure
        deliver(json_file, value, text)
    if failure:
        raise failure


def compare(
    before: Annotated[Path, typer.Argument(metavar="A.json", help="What bench --json wrote.", show_default=False)],
    after: Annotated[Path, typer.Argument(metavar="B.json", help="The same, of another time.", show_default=False)],
    max_slowdown: Annotated[
        float | None, typer.Option(metavar="RATIO", help="Exit 1 if a rung of B takes more than this of A's time.")
    ] = None,
    json_file: Json = None,
) -> None:
    """Lay two benchmarks side by side.

    Of the same model and mode, from two times, versions or machines.
    """
    from ffnet_deploy import pipeline
    from ffnet_deploy.report import latency

    with json_errors(json_file, "compare", pipeline.BENCH_SCHEMA):
        result = pipeline.compare(before, after, max_slowdown)
        deliver(json_file, result.to_json(), latency.comparison(result))
        failure = result.failure
    if failure:
        raise failure


def verify(
    name: OptionalName = None,
    images: Annotated[
        Path | None, typer.Option(metavar="DIR", help="PNG or JPEG images; left out: two synthetic streets.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Images of DIR at most; left out: 8.")] = None,
    layers: Annotated[bool, typer.Option("--layers", help="Compare inner tensors too.")] = False,
    json_file: Json = None,
    workspace: WorkspaceOption = Path(),
) -> None:
    """Compare every rung with PyTorch on the same images.

    Names the first rung that breaks, and with --layers where in the network it starts.
    """
    from ffnet_deploy import pipeline
    from ffnet_deploy.report import verification

    with json_errors(json_file, "verify"):
        space = space_at(workspace)
        tell_model(space, name)
        with progress() as told:
            result = pipeline.verify_ladder(space, name, pipeline.VerifyOptions(images, limit, layers), told)
        deliver(json_file, result.to_json(), verification.verification(result))
        failure = result.failure
    if failure:
        raise failure

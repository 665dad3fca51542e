"""``compare``: two benchmarks side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ffnet_deploy.commands.arguments import Json
from ffnet_deploy.commands.output import deliver, json_errors


def compare(
    before: Annotated[
        Path, typer.Argument(metavar="A.json", help="A file that bench --json wrote.", show_default=False)
    ],
    after: Annotated[
        Path, typer.Argument(metavar="B.json", help="Another one, to compare with it.", show_default=False)
    ],
    max_slowdown: Annotated[
        float | None,
        typer.Option(
            metavar="RATIO",
            help="Exit with 1 if a rung of B takes more than RATIO times A's time.",
            show_default="no gate",
        ),
    ] = None,
    json_file: Json = None,
) -> None:
    """Compare two benchmarks.

    They must be of the same model and mode. Times, versions or machines may differ.
    """
    from ffnet_deploy.bench import compare as comparing
    from ffnet_deploy.bench.result import BENCH_SCHEMA
    from ffnet_deploy.report import latency

    with json_errors(json_file, "compare", BENCH_SCHEMA):
        result = comparing.compare(before, after, max_slowdown)
        deliver(json_file, result.to_json(), latency.comparison(result))
        failure = result.failure
    if failure:
        raise failure

"""``inspect``: what a file is, and what is in it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ffnet_deploy.commands.arguments import Json, WorkspaceOption
from ffnet_deploy.commands.output import deliver, json_errors, space_at


def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A graph, engine, weight or calibration file.")],
    json_file: Json = None,
    workspace: WorkspaceOption = Path(),
) -> None:
    """Show what a file is and what is in it.

    It shows how the file was made, whether it is current, its inputs and outputs, and the precision of its layers.
    """
    from ffnet_deploy.artifacts.records import RECORD_SCHEMA
    from ffnet_deploy.pipeline import inspect as story
    from ffnet_deploy.report.inspection import inspection

    with json_errors(json_file, "inspect", RECORD_SCHEMA):
        result = story.inspect(space_at(workspace), file)
        deliver(json_file, result.to_json(), inspection(result))

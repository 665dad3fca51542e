"""``verify``: whether the rungs are still the same network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ffnet_deploy.commands.arguments import Json, OptionalName, WorkspaceOption
from ffnet_deploy.commands.output import deliver, json_errors, progress, space_at, tell_model


def verify(
    name: OptionalName = None,
    images: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of images.", show_default="two drawn street scenes"),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(metavar="N", help="Use at most N images of --images DIR.", show_default="8")
    ] = None,
    layers: Annotated[
        bool, typer.Option("--layers", help="Compare inner tensors too, to see where a difference starts.")
    ] = False,
    json_file: Json = None,
    workspace: WorkspaceOption = Path(),
) -> None:
    """Compare every rung with PyTorch on the same images.

    It names the first rung that differs by more than its limit.
    """
    from ffnet_deploy.pipeline import verify as story
    from ffnet_deploy.report import verification
    from ffnet_deploy.verify.result import VERIFY_SCHEMA

    with json_errors(json_file, "verify", VERIFY_SCHEMA):
        space = space_at(workspace)
        tell_model(space, name)
        with progress() as told:
            result = story.verify_ladder(space, name, story.VerifyOptions(images, limit, layers), told)
        deliver(json_file, result.to_json(), verification.verification(result))
        failure = result.failure
    if failure:
        raise failure

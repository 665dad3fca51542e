"""``demo``: a small model, taken through every stage."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ffnet_deploy.commands.output import progress, say


def demo(
    workspace: Annotated[
        Path, typer.Option("--workspace", metavar="DIR", help="Folder for everything that the demo makes.")
    ] = Path("demo"),
) -> None:
    """Take a small model through every stage.

    It makes its own data, and really trains the model on it for less than a minute.
    """
    from ffnet_deploy.demo import story

    with progress() as told:
        for text in story.run(workspace, told):
            say(text)

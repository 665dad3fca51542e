"""``models``: the zoo as a list, or one model's contract."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ffnet_deploy.commands.arguments import WorkspaceOption, complete
from ffnet_deploy.commands.output import say, space_at
from ffnet_deploy.zoo import specs


def models(
    text: Annotated[
        str | None,
        typer.Argument(
            metavar="TEXT",
            help="A model's name, or a part of names.",
            autocompletion=complete,
            show_default="all models",
        ),
    ] = None,
    wide: Annotated[bool, typer.Option("--wide", help="Show all columns. The table is about 170 characters wide.")] = (
        False
    ),
    workspace: WorkspaceOption = Path(),
) -> None:
    """List the published models, or show one model's contract."""
    from ffnet_deploy.pipeline.zoo import list_models
    from ffnet_deploy.report import models as report

    rows = list_models(space_at(workspace), text or "")
    exact = [row for row in rows if row[0].name == text]
    if exact:
        say(report.card(*exact[0]))
    elif rows:
        say(report.models(rows, wide=wide))
    else:
        specs.find(text or "")

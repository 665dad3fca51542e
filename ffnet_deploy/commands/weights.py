"""``weights``: the published weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ffnet_deploy.commands.arguments import WorkspaceOption, complete
from ffnet_deploy.commands.grouped import GroupedCommand
from ffnet_deploy.commands.output import progress, say, space_at
from ffnet_deploy.errors import UsageError
from ffnet_deploy.zoo import specs

weights_app = typer.Typer(help="Download the published weights.", no_args_is_help=True, rich_markup_mode=None)


@weights_app.command("fetch", cls=GroupedCommand)
def weights_fetch(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME", help="Names of models.", autocompletion=complete, show_default=False),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Fetch all 19 archives.")] = False,
    source: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="URL|DIR", help="Fetch from this mirror.", show_default="where the authors publish"
        ),
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Fetch what is in place too. Files with other bytes are replaced.")
    ] = False,
    workspace: WorkspaceOption = Path(),
) -> None:
    """Download published weights and record their SHA-256.

    A download that was interrupted continues where it stopped.
    """
    from ffnet_deploy.pipeline.zoo import fetch_weights

    if bool(names) == everything:
        raise UsageError("Name models, or give --all for every archive. One of the two is needed, and not both.")
    wanted = specs.list_models() if everything else list(names or ())
    with progress() as told:
        fetched = fetch_weights(space_at(workspace), wanted, source=source, again=again, progress=told)
    for item in fetched:
        for file in item.files:
            say(f"{file}{'' if item.origin else '  (already there)'}")

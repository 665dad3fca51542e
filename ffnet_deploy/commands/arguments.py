"""Arguments and options that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ffnet_deploy.zoo import specs


def complete(incomplete: str) -> list[str]:
    """Model names that contain what was typed, for the shell."""
    return [name for name in specs.SPECS if incomplete.lower() in name.lower()]


Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the model.", autocompletion=complete)]
OptionalName = Annotated[
    str | None,
    typer.Argument(
        metavar="NAME", help="Name of the model.", autocompletion=complete, show_default="the model exported last"
    ),
]
WorkspaceOption = Annotated[
    Path, typer.Option("--workspace", metavar="DIR", help="Folder that holds models/, engines/ and calibration/.")
]
Json = Annotated[
    str | None,
    typer.Option("--json", metavar="FILE", help="Also write the result, or the error, as JSON. - writes it to stdout."),
]
DeviceOption = Annotated[int | None, typer.Option("--device", metavar="N", help="CUDA device.", show_default="the CPU")]
Threads = Annotated[int | None, typer.Option(metavar="N", help="CPU threads to use.", show_default="all cores")]

"""Options that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ffnet_deploy.zoo import specs


def complete(incomplete: str) -> list[str]:
    """Model names that contain what was typed, for the shell."""
    return [name for name in specs.SPECS if incomplete.lower() in name.lower()]


_NAME_HELP = "A model's name; left out: the model exported last."
WorkspaceOption = Annotated[
    Path, typer.Option("--workspace", metavar="DIR", help="Folder of models/, engines/ and calibration/.")
]
Name = Annotated[str, typer.Argument(metavar="NAME", help="A model's name.", autocompletion=complete)]
OptionalName = Annotated[
    str | None, typer.Argument(metavar="[NAME]", help=_NAME_HELP, autocompletion=complete, show_default=False)
]
Json = Annotated[
    str | None, typer.Option("--json", metavar="FILE", help="Write the result or the error as JSON; - for stdout.")
]
Device = Annotated[int | None, typer.Option("--device", metavar="N", help="CUDA device; left out: the CPU.")]

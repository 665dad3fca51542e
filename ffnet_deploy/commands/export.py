"""``export``: from a model's name to a verified ONNX graph."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ffnet_deploy.commands.arguments import Name, WorkspaceOption
from ffnet_deploy.commands.output import progress, say, space_at, tell
from ffnet_deploy.zoo import specs

_GRAPH = "The graph"


class UpsamplingChoice(StrEnum):
    """What ``--upsampling`` takes."""

    bilinear = "bilinear"


def export(
    name: Name,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|random",
            help="Weight file to load. Random weights serve for latency work.",
            show_default="the published weights",
            rich_help_panel="Weights",
        ),
    ] = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="Never download missing weights.", rich_help_panel="Weights")
    ] = False,
    height: Annotated[
        int | None, typer.Option(help="Input height.", show_default="the contract's", rich_help_panel=_GRAPH)
    ] = None,
    width: Annotated[
        int | None, typer.Option(help="Input width.", show_default="the contract's", rich_help_panel=_GRAPH)
    ] = None,
    allow_size: Annotated[
        bool,
        typer.Option(
            "--allow-size",
            help="Allow a size other than the contract's, at least 64x64. The graph is marked.",
            rich_help_panel=_GRAPH,
        ),
    ] = False,
    batch: Annotated[int, typer.Option(help="Number of images in a batch.", rich_help_panel=_GRAPH)] = 1,
    dynamic_batch: Annotated[
        bool, typer.Option("--dynamic-batch", help="Accept any batch size.", rich_help_panel=_GRAPH)
    ] = False,
    opset: Annotated[int, typer.Option(help="ONNX opset, from 18 to 23.", rich_help_panel=_GRAPH)] = 20,
    upsampling: Annotated[
        UpsamplingChoice | None,
        typer.Option(
            help="Replace nearest by bilinear upsampling in a mobile model. Accuracy may drop without retraining.",
            show_default="as published",
            rich_help_panel=_GRAPH,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write the graph to this file.",
            show_default="models/NAME.onnx",
        ),
    ] = None,
    workspace: WorkspaceOption = Path(),
) -> None:
    """Export a model to ONNX and verify it against PyTorch."""
    from ffnet_deploy.pipeline import export as story
    from ffnet_deploy.report.made import exported

    spec = specs.find(name)
    asked = (spec.input_hw[0] if height is None else height, spec.input_hw[1] if width is None else width)
    options = story.ExportOptions(
        hw=None if height is None and width is None else asked,
        allow_size=allow_size,
        batch=batch,
        opset=opset,
        weights=Path(weights) if weights and weights != story.RANDOM else weights or None,
        offline=offline,
        output=output,
        dynamic_batch=dynamic_batch,
        upsampling=upsampling.value if upsampling else None,
    )
    with progress() as told:
        result = story.export(space_at(workspace), name, options, told)
    for note in result.notes:
        tell(f"weights: {note}")
    say(exported(result))

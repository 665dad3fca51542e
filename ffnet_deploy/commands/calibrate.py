"""``calibrate``: the ranges that INT8 needs."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ffnet_deploy.calibration.methods import PERCENTILE
from ffnet_deploy.commands.arguments import Json, OptionalName, WorkspaceOption
from ffnet_deploy.commands.output import deliver, json_errors, progress, space_at, tell, tell_model
from ffnet_deploy.errors import UsageError

_IMAGES = "Images"


class MethodChoice(StrEnum):
    """What ``--method`` takes."""

    entropy = "entropy"
    percentile = "percentile"
    mse = "mse"
    max = "max"


def calibrate(
    name: OptionalName = None,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Root of Cityscapes or ImageNet (the train split is used), or a folder of images. Required.",
            rich_help_panel=_IMAGES,
        ),
    ] = None,
    images: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Number of images.", show_default="128, or all there are", rich_help_panel=_IMAGES
        ),
    ] = None,
    allow_val: Annotated[
        bool,
        typer.Option("--allow-val", help="Allow validation images. The results are marked.", rich_help_panel=_IMAGES),
    ] = False,
    method: Annotated[
        MethodChoice, typer.Option(help="Range method that build uses by default. All four are computed.")
    ] = MethodChoice.percentile,
    percentile: Annotated[
        float, typer.Option(help="Share of the values that the percentile method keeps in range, in percent.")
    ] = PERCENTILE,
    json_file: Json = None,
    workspace: WorkspaceOption = Path(),
) -> None:
    """Find the value ranges that INT8 needs, on training images."""
    from ffnet_deploy.calibration.record import CALIBRATION_SCHEMA
    from ffnet_deploy.pipeline import calibrate as story
    from ffnet_deploy.report.made import calibrated

    with json_errors(json_file, "calibrate", CALIBRATION_SCHEMA):
        if data is None:
            raise UsageError(
                "No images were named. Use --data DIR: a root of Cityscapes or ImageNet, or a folder of images."
            )
        space = space_at(workspace)
        tell_model(space, name)
        options = story.CalibrateOptions(data, images, method.value, percentile, allow_val)
        with progress() as told:
            result = story.calibrate(space, name, options, told, tell)
        deliver(json_file, result.to_json(), calibrated(result))

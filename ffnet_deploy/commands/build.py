"""``build``: engines from the exported graph."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ffnet_deploy.commands.arguments import OptionalName, WorkspaceOption
from ffnet_deploy.commands.calibrate import MethodChoice
from ffnet_deploy.commands.output import progress, say, space_at, tell_model

_PRECISION, _ENDS, _RTX, _TRT = "Precision", "Inputs and outputs", "TensorRT-RTX", "TensorRT"
_AGAIN = "May be given several times."


class RuntimeChoice(StrEnum):
    """What ``--runtime`` takes."""

    auto = "auto"
    tensorrt = "tensorrt"
    tensorrt_rtx = "tensorrt-rtx"
    onnxruntime = "onnxruntime"


class IoChoice(StrEnum):
    """What ``--io`` takes."""

    fp32 = "fp32"
    fp16 = "fp16"


def build(
    name: OptionalName = None,
    fp32: Annotated[bool, typer.Option("--fp32", help="FP32. The default.", rich_help_panel=_PRECISION)] = False,
    fp16: Annotated[
        bool, typer.Option("--fp16", help="FP16, with FP32 inputs and outputs.", rich_help_panel=_PRECISION)
    ] = False,
    int8: Annotated[
        bool, typer.Option("--int8", help="INT8. Needs a calibration.", rich_help_panel=_PRECISION)
    ] = False,
    method: Annotated[
        MethodChoice | None,
        typer.Option(help="Range method for INT8.", show_default="the calibration's", rich_help_panel=_PRECISION),
    ] = None,
    keep_fp32: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN",
            help=f"Nodes that stay FP32 in an FP16 engine. {_AGAIN}",
            show_default="none",
            rich_help_panel=_PRECISION,
        ),
    ] = None,
    keep_fp16: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN",
            help=f"Convolutions that stay FP16 in an INT8 engine. {_AGAIN}",
            show_default="none",
            rich_help_panel=_PRECISION,
        ),
    ] = None,
    tf32: Annotated[
        bool,
        typer.Option(
            "--tf32", help="Let FP32 convolutions round to TF32: faster, less exact.", rich_help_panel=_PRECISION
        ),
    ] = False,
    image_in: Annotated[
        bool,
        typer.Option(
            "--image-in", help="Take uint8 images (N, H, W, 3) and normalise them inside.", rich_help_panel=_ENDS
        ),
    ] = False,
    labels_out: Annotated[
        bool,
        typer.Option("--labels-out", help="Give a uint8 label map instead of logits.", rich_help_panel=_ENDS),
    ] = False,
    align_corners: Annotated[
        bool,
        typer.Option(
            "--align-corners",
            help="Upsample with align_corners before the label map. Only with --labels-out.",
            rich_help_panel=_ENDS,
        ),
    ] = False,
    io: Annotated[
        IoChoice, typer.Option(help="Type of an FP16 engine's inputs and outputs.", rich_help_panel=_ENDS)
    ] = IoChoice.fp32,
    batch: Annotated[
        str | None,
        typer.Option(
            metavar="MIN,OPT,MAX",
            help="Batch sizes of the engine, for a graph exported with --dynamic-batch.",
            show_default="the graph's",
            rich_help_panel=_ENDS,
        ),
    ] = None,
    gpu: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SM",
            help=f"Target GPU, such as sm86. {_AGAIN}",
            show_default="sm80, sm86, sm89, sm120 and later",
            rich_help_panel=_RTX,
        ),
    ] = None,
    portable: Annotated[
        bool, typer.Option("--portable", help="Target every GPU that it supports.", rich_help_panel=_RTX)
    ] = False,
    level: Annotated[
        int | None, typer.Option(help="Optimisation level, from 0 to 5.", show_default="3", rich_help_panel=_TRT)
    ] = None,
    workspace_mb: Annotated[
        int | None,
        typer.Option(metavar="MIB", help="Scratch memory in MiB.", show_default="TensorRT's own", rich_help_panel=_TRT),
    ] = None,
    timing_cache: Annotated[
        bool,
        typer.Option("--timing-cache", help="Keep kernel timings for the next build.", rich_help_panel=_TRT),
    ] = False,
    hardware_compatible: Annotated[
        bool,
        typer.Option(
            "--hardware-compatible", help="Make an engine that runs on Ampere and later.", rich_help_panel=_TRT
        ),
    ] = False,
    version_compatible: Annotated[
        bool,
        typer.Option("--version-compatible", help="Make an engine that later versions can load.", rich_help_panel=_TRT),
    ] = False,
    runtime: Annotated[
        RuntimeChoice,
        typer.Option(
            help="Runtime to build for. auto: TensorRT if there is a GPU, else TensorRT-RTX; and always ONNX Runtime "
            "FP32, with --int8 also INT8."
        ),
    ] = RuntimeChoice.auto,
    workspace: WorkspaceOption = Path(),
) -> None:
    """Build engines from the exported graph."""
    from ffnet_deploy.artifacts.values import BatchProfile, EngineOptions, Precision
    from ffnet_deploy.pipeline import build as story
    from ffnet_deploy.pipeline.precision import Int8Options
    from ffnet_deploy.report.made import built

    engine = EngineOptions(
        gpus=tuple(gpu or ()),
        portable=portable,
        tf32=tf32,
        level=level,
        workspace_mb=workspace_mb,
        timing_cache=timing_cache,
        hardware_compatible=hardware_compatible,
        version_compatible=version_compatible,
        batch=BatchProfile.parse(batch) if batch else None,
    )
    choices: tuple[tuple[Precision, bool], ...] = (("fp32", fp32), ("fp16", fp16), ("int8", int8))
    options = story.BuildOptions(
        precisions=tuple(precision for precision, asked in choices if asked) or ("fp32",),
        runtime=runtime.value,
        io=io.value,
        keep_fp32=tuple(keep_fp32 or ()),
        int8=Int8Options(method.value if method else None, tuple(keep_fp16 or ())),
        image_in=image_in,
        labels_out=labels_out,
        align_corners=align_corners,
        engine=engine,
    )
    space = space_at(workspace)
    tell_model(space, name)
    with progress() as told:
        results = story.build(space, name, options, told)
    say(built(results))

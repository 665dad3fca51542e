"""``eval``: accuracy of every rung next to the reference."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ffnet_deploy.commands.options import Device, Json, OptionalName, WorkspaceOption
from ffnet_deploy.commands.output import deliver, json_errors, progress, space_at, tell, tell_model
from ffnet_deploy.errors import FFNetDeployError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ffnet_deploy.pipeline import EvalOptions, Evaluation

eval_app = typer.Typer(
    help="Accuracy of every rung next to the reference.", no_args_is_help=True, rich_markup_mode=None
)


class AlignCorners(StrEnum):
    """What ``--align-corners`` of eval takes."""

    false = "false"
    true = "true"
    auto = "auto"


class Downsample(StrEnum):
    """What ``--downsample`` takes."""

    blur = "blur"
    area = "area"
    bilinear = "bilinear"


Only = Annotated[
    list[str] | None, typer.Option(metavar="RUNG", help="A rung ('onnxruntime fp32') or runtime; may be repeated.")
]
MaxDrop = Annotated[
    float | None, typer.Option(metavar="POINTS", help="Exit 1 if a rung is further below the reference.")
]
Limit = Annotated[int | None, typer.Option(metavar="N", help="The first N images alone.")]
Shard = Annotated[
    str | None, typer.Option(metavar="I/N", help="Every N-th image from the I-th on; put together by eval merge.")
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on where an interrupted run of the same stopped.")]
Threads = Annotated[int | None, typer.Option(metavar="N", help="CPU threads in all; left out: all cores.")]
AtOnce = Annotated[int | None, typer.Option("--images-at-once", metavar="N", help="Images in work; left out: chosen.")]


def _shard(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    number, slash, of = text.partition("/")
    if not (slash and number.isdecimal() and of.isdecimal()):
        raise UsageError(f"--shard {text!r} is not I/N (two whole numbers were needed). Say: --shard 1/4")
    return int(number), int(of)


@eval_app.command("cityscapes")
def eval_cityscapes(
    name: OptionalName = None,
    root: Annotated[
        str | None,
        typer.Option(
            envvar="CITYSCAPES_DATASET", metavar="DIR", help="Folder of leftImg8bit and gtFine, or of the two zips."
        ),
    ] = None,
    only: Only = None,
    device: Device = None,
    align_corners: Annotated[
        AlignCorners, typer.Option(help="Of the final up-sampling; auto scores both.")
    ] = AlignCorners.false,
    downsample: Annotated[
        Downsample, typer.Option(help="In front of models that take 512x1024; they were trained with blur.")
    ] = Downsample.blur,
    max_drop: MaxDrop = None,
    limit: Limit = None,
    shard: Shard = None,
    resume: Resume = False,
    save_predictions: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write every rung's labelIds PNGs, for the official evaluator.")
    ] = None,
    threads: Threads = None,
    images_at_once: AtOnce = None,
    json_file: Json = None,
    workspace: WorkspaceOption = Path(),
) -> None:
    """Score the reference and every rung that can run here on Cityscapes val."""
    from ffnet_deploy import pipeline
    from ffnet_deploy.evaluate.results import SCHEMA

    with json_errors(json_file, "eval cityscapes", SCHEMA):
        if not root:
            raise UsageError("No data set was named. Use --root DIR, or set CITYSCAPES_DATASET.")
        options = pipeline.EvalOptions(
            root=Path(root),
            only=tuple(only or ()),
            device=device,
            max_drop=max_drop,
            limit=limit,
            shard=_shard(shard),
            resume=resume,
            threads=threads,
            at_once=images_at_once,
            align_corners={"false": (False,), "true": (True,), "auto": (False, True)}[align_corners.value],
            downsample=downsample.value,
            predictions=save_predictions,
            tell=tell,
        )
        failure = _evaluate(pipeline.evaluate_cityscapes, name, options, json_file, workspace)
    if failure:
        raise failure


@eval_app.command("imagenet")
def eval_imagenet(
    name: OptionalName = None,
    root: Annotated[
        str | None,
        typer.Option(envvar="IMAGENET_DATASET", metavar="DIR", help="The set, in any of its published layouts."),
    ] = None,
    only: Only = None,
    device: Device = None,
    real_labels: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Score by the ReaL labels (real.json) instead.")
    ] = None,
    max_drop: MaxDrop = None,
    limit: Limit = None,
    shard: Shard = None,
    resume: Resume = False,
    threads: Threads = None,
    images_at_once: AtOnce = None,
    json_file: Json = None,
    workspace: WorkspaceOption = Path(),
) -> None:
    """Top-1 and top-5 of the reference and of every rung that can run here on ImageNet val."""
    from ffnet_deploy import pipeline
    from ffnet_deploy.evaluate.results import SCHEMA

    with json_errors(json_file, "eval imagenet", SCHEMA):
        if not root:
            raise UsageError("No data set was named. Use --root DIR, or set IMAGENET_DATASET.")
        options = pipeline.EvalOptions(
            root=Path(root),
            only=tuple(only or ()),
            device=device,
            max_drop=max_drop,
            limit=limit,
            shard=_shard(shard),
            resume=resume,
            threads=threads,
            at_once=images_at_once,
            real_labels=real_labels,
            tell=tell,
        )
        failure = _evaluate(pipeline.evaluate_imagenet, name, options, json_file, workspace)
    if failure:
        raise failure


@eval_app.command("merge")
def eval_merge(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="The JSON results of every shard.")],
    max_drop: MaxDrop = None,
    json_file: Json = None,
) -> None:
    """Put the shards of one evaluation together: exactly what the whole set gives."""
    from ffnet_deploy import pipeline
    from ffnet_deploy.evaluate.results import SCHEMA
    from ffnet_deploy.report import accuracy

    with json_errors(json_file, "eval merge", SCHEMA):
        result = pipeline.merge(files, max_drop)
        deliver(json_file, result.to_json(), accuracy.evaluation(result))
        failure = result.failure
    if failure:
        raise failure


def _evaluate(
    story: Callable[..., Evaluation],
    name: str | None,
    options: EvalOptions,
    json_file: str | None,
    folder: Path,
) -> FFNetDeployError | None:
    """Run an evaluation and deliver it; returns what the command ends with although there is a result."""
    from ffnet_deploy.report import accuracy

    if options.shard and not json_file:
        raise UsageError("A shard is good for eval merge alone, which reads JSON. Add --json FILE.")
    space = space_at(folder)
    tell_model(space, name)
    with progress() as told:
        result = story(space, name, options, told)
    deliver(json_file, result.to_json(), accuracy.evaluation(result))
    result.delivered()
    return result.failure

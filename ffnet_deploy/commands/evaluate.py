"""``eval``: accuracy of every rung next to the reference."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ffnet_deploy.commands.arguments import DeviceOption, Json, OptionalName, WorkspaceOption
from ffnet_deploy.commands.grouped import GroupedCommand
from ffnet_deploy.commands.output import deliver, json_errors, progress, space_at, tell, tell_model
from ffnet_deploy.errors import FFNetDeployError, UsageError
from ffnet_deploy.foreign import whole_number

if TYPE_CHECKING:
    from collections.abc import Callable

    from ffnet_deploy.evaluate.outcome import Evaluation
    from ffnet_deploy.evaluate.session import EvalOptions

eval_app = typer.Typer(help="Accuracy of every rung next to PyTorch.", no_args_is_help=True, rich_markup_mode=None)


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


_IMAGES, _PROTOCOL, _RUN = "Images", "Protocol", "Run"
Only = Annotated[
    list[str] | None,
    typer.Option(
        metavar="RUNG",
        help="Score this rung ('onnxruntime fp32') or this runtime. May be given several times.",
        show_default="all",
    ),
]
MaxDrop = Annotated[
    float | None,
    typer.Option(
        metavar="POINTS",
        help="Exit with 1 if a rung scores more than POINTS below the reference.",
        show_default="no gate",
    ),
]
Limit = Annotated[
    int | None,
    typer.Option(metavar="N", help="Use the first N images only.", show_default="all", rich_help_panel=_IMAGES),
]
Shard = Annotated[
    str | None,
    typer.Option(
        metavar="I/N",
        help="Score one of N parts: every N-th image from the I-th on. eval merge puts the parts together.",
        show_default="all images",
        rich_help_panel=_IMAGES,
    ),
]
Resume = Annotated[bool, typer.Option("--resume", help="Continue an interrupted evaluation.", rich_help_panel=_RUN)]
EvalThreads = Annotated[
    int | None,
    typer.Option("--threads", metavar="N", help="CPU threads in all.", show_default="all cores", rich_help_panel=_RUN),
]
AtOnce = Annotated[
    int | None,
    typer.Option(
        "--images-at-once",
        metavar="N",
        help="Images processed in parallel.",
        show_default="automatic",
        rich_help_panel=_RUN,
    ),
]


def _shard(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    number, of = (whole_number(part) for part in text.partition("/")[::2])
    if number is None or of is None:
        raise UsageError(f"--shard {text!r} is not I/N (two whole numbers were needed). Say: --shard 1/4")
    return number, of


def _root(root: str | None, variable: str) -> Path:
    if not root:
        raise UsageError(f"No data set was named. Use --root DIR, or set {variable}.")
    return Path(root)


@eval_app.command("cityscapes", cls=GroupedCommand)
def eval_cityscapes(
    name: OptionalName = None,
    root: Annotated[
        str | None,
        typer.Option(
            envvar="CITYSCAPES_DATASET",
            metavar="DIR",
            help="Folder of leftImg8bit and gtFine, or of the two zips. Required.",
            rich_help_panel=_IMAGES,
        ),
    ] = None,
    limit: Limit = None,
    shard: Shard = None,
    align_corners: Annotated[
        AlignCorners,
        typer.Option(help="How logits are upsampled to the labels. auto scores both.", rich_help_panel=_PROTOCOL),
    ] = AlignCorners.false,
    downsample: Annotated[
        Downsample,
        typer.Option(
            help="How the image is halved for models that take 512x1024. They were trained with blur.",
            rich_help_panel=_PROTOCOL,
        ),
    ] = Downsample.blur,
    save_predictions: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Write every rung's labelIds PNGs here, for the official evaluator.",
            show_default="not written",
            rich_help_panel=_RUN,
        ),
    ] = None,
    resume: Resume = False,
    threads: EvalThreads = None,
    images_at_once: AtOnce = None,
    only: Only = None,
    max_drop: MaxDrop = None,
    device: DeviceOption = None,
    json_file: Json = None,
    workspace: WorkspaceOption = Path(),
) -> None:
    """Score PyTorch and every rung on Cityscapes val.

    Rungs that cannot run here are listed, with the reason.
    """
    from ffnet_deploy.evaluate.result import EVAL_SCHEMA
    from ffnet_deploy.evaluate.session import EvalOptions
    from ffnet_deploy.pipeline.evaluate import evaluate_cityscapes

    with json_errors(json_file, "eval cityscapes", EVAL_SCHEMA):
        options = EvalOptions(
            root=_root(root, "CITYSCAPES_DATASET"),
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
        )
        failure = _evaluate(evaluate_cityscapes, name, options, json_file, workspace)
    if failure:
        raise failure


@eval_app.command("imagenet", cls=GroupedCommand)
def eval_imagenet(
    name: OptionalName = None,
    root: Annotated[
        str | None,
        typer.Option(
            envvar="IMAGENET_DATASET",
            metavar="DIR",
            help="The data set, in any of its published layouts. Required.",
            rich_help_panel=_IMAGES,
        ),
    ] = None,
    limit: Limit = None,
    shard: Shard = None,
    real_labels: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Score by the ReaL labels (real.json) instead.",
            show_default="the set's own labels",
            rich_help_panel=_PROTOCOL,
        ),
    ] = None,
    resume: Resume = False,
    threads: EvalThreads = None,
    images_at_once: AtOnce = None,
    only: Only = None,
    max_drop: MaxDrop = None,
    device: DeviceOption = None,
    json_file: Json = None,
    workspace: WorkspaceOption = Path(),
) -> None:
    """Score PyTorch and every rung on ImageNet val.

    Top-1 and top-5 accuracy. Rungs that cannot run here are listed, with the reason.
    """
    from ffnet_deploy.evaluate.result import EVAL_SCHEMA
    from ffnet_deploy.evaluate.session import EvalOptions
    from ffnet_deploy.pipeline.evaluate import evaluate_imagenet

    with json_errors(json_file, "eval imagenet", EVAL_SCHEMA):
        options = EvalOptions(
            root=_root(root, "IMAGENET_DATASET"),
            only=tuple(only or ()),
            device=device,
            max_drop=max_drop,
            limit=limit,
            shard=_shard(shard),
            resume=resume,
            threads=threads,
            at_once=images_at_once,
            real_labels=real_labels,
        )
        failure = _evaluate(evaluate_imagenet, name, options, json_file, workspace)
    if failure:
        raise failure


@eval_app.command("merge", cls=GroupedCommand)
def eval_merge(
    files: Annotated[list[Path], typer.Argument(metavar="FILE", help="The JSON results of all parts.")],
    max_drop: MaxDrop = None,
    json_file: Json = None,
) -> None:
    """Put the parts of one evaluation together.

    The result is exactly what the whole set gives.
    """
    from ffnet_deploy.evaluate.merge import merge
    from ffnet_deploy.evaluate.result import EVAL_SCHEMA
    from ffnet_deploy.report import accuracy

    with json_errors(json_file, "eval merge", EVAL_SCHEMA):
        result = merge(files, max_drop)
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
        raise UsageError("--shard needs --json FILE: eval merge reads the parts from JSON. Add --json FILE.")
    space = space_at(folder)
    tell_model(space, name)
    with progress() as told:
        result = story(space, name, options, told, tell)
    deliver(json_file, result.to_json(), accuracy.evaluation(result))
    result.delivered()
    return result.failure

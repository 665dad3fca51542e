"""The command line: parse, one call into pipeline, print. Tables go to stdout, progress and errors to stderr."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ffnet_deploy import __version__, report
from ffnet_deploy.commands.evaluate import eval_app
from ffnet_deploy.commands.interrupts import CtrlC
from ffnet_deploy.commands.measure import bench, compare, verify
from ffnet_deploy.commands.options import Json, Name, OptionalName, WorkspaceOption, complete
from ffnet_deploy.commands.output import deliver, json_errors, progress, say, space_at, tell, tell_model
from ffnet_deploy.errors import FFNetDeployError, UsageError
from ffnet_deploy.graph.methods import PERCENTILE
from ffnet_deploy.zoo import specs

app = typer.Typer(
    help="From an FFNet's name to a verified ONNX graph, engines, and latency and mIoU next to the PyTorch reference.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
weights_app = typer.Typer(help="The published weights.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(weights_app, name="weights")
app.add_typer(eval_app, name="eval")


class Runtime(StrEnum):
    """What ``--runtime`` takes."""

    auto = "auto"
    tensorrt = "tensorrt"
    tensorrt_rtx = "tensorrt-rtx"
    onnxruntime = "onnxruntime"


class Io(StrEnum):
    """What ``--io`` takes."""

    fp32 = "fp32"
    fp16 = "fp16"


class Method(StrEnum):
    """What ``--method`` takes."""

    entropy = "entropy"
    percentile = "percentile"
    mse = "mse"
    max = "max"


class Upsampling(StrEnum):
    """What ``--upsampling`` takes."""

    bilinear = "bilinear"


def _print_version(asked: bool) -> None:
    if asked:
        say(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    pass


@app.command()
def models(
    text: Annotated[
        str | None,
        typer.Argument(
            metavar="[TEXT]", help="A name, or a part of names.", autocompletion=complete, show_default=False
        ),
    ] = None,
    workspace: WorkspaceOption = Path(),
) -> None:
    """List the zoo, or show one model's contract card."""
    from ffnet_deploy import pipeline

    rows = pipeline.list_models(space_at(workspace), text or "")
    exact = [row for row in rows if row[0].name == text]
    if exact:
        say(report.card(*exact[0]))
    elif rows:
        say(report.models(rows))
    else:
        specs.find(text or "")


@weights_app.command("fetch")
def weights_fetch(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME...", help="Models' names.", autocompletion=complete, show_default=False),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All 19 archives.")] = False,
    source: Annotated[
        str | None, typer.Option("--from", metavar="URL_OR_FOLDER", help="A mirror instead of the published place.")
    ] = None,
    workspace: WorkspaceOption = Path(),
) -> None:
    """Download published weights, resuming what broke off, and record their SHA-256."""
    from ffnet_deploy import pipeline

    if bool(names) == everything:
        raise UsageError(
            "Models and --all do not go together, and one is needed. Name models, or give --all for every archive."
        )
    wanted = specs.list_models() if everything else list(names or ())
    with progress() as told:
        fetched = pipeline.fetch_weights(space_at(workspace), wanted, source=source, progress=told)
    for item in fetched:
        for file in item.files:
            say(f"{file}{'' if item.origin else '  (already there)'}")


@app.command()
def export(
    name: Name,
    height: Annotated[int | None, typer.Option(help="Input height; left out: the contract's.")] = None,
    width: Annotated[int | None, typer.Option(help="Input width; left out: the contract's.")] = None,
    allow_size: Annotated[
        bool, typer.Option("--allow-size", help="Admit a size off the contract, 64x64 or more.")
    ] = False,
    batch: Annotated[int, typer.Option(help="Images at a time.")] = 1,
    opset: Annotated[int, typer.Option(help="ONNX opset, 18 to 23.")] = 20,
    weights: Annotated[
        str | None, typer.Option(metavar="FILE|random", help="A weight file, or random weights for latency work.")
    ] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Never fetch missing weights.")] = False,
    dynamic_batch: Annotated[bool, typer.Option("--dynamic-batch", help="A graph for any batch.")] = False,
    upsampling: Annotated[
        Upsampling | None, typer.Option(help="Of a mobile model on a desktop GPU; ideally re-trained.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Write there instead of models/NAME.onnx.")] = None,
    workspace: WorkspaceOption = Path(),
) -> None:
    """Export a model to ONNX and verify it against PyTorch."""
    from ffnet_deploy import pipeline

    spec = specs.find(name)
    asked = (spec.input_hw[0] if height is None else height, spec.input_hw[1] if width is None else width)
    hw = None if height is None and width is None else asked
    chosen = Path(weights) if weights and weights != pipeline.RANDOM else weights or None
    options = pipeline.ExportOptions(
        hw=hw,
        allow_size=allow_size,
        batch=batch,
        opset=opset,
        weights=chosen,
        offline=offline,
        output=output,
        dynamic_batch=dynamic_batch,
        upsampling=upsampling.value if upsampling else None,
    )
    with progress() as told:
        result = pipeline.export(space_at(workspace), name, options, told)
    for note in result.notes:
        tell(f"weights: {note}")
    say(report.exported(result))


@app.command()
def calibrate(
    name: OptionalName = None,
    data: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="A root of Cityscapes or ImageNet (its train split), or a folder of images."),
    ] = None,
    images: Annotated[
        int | None, typer.Option(metavar="N", help="Images to look at; left out: 128, or all there are.")
    ] = None,
    method: Annotated[Method, typer.Option(help="Ranges that build takes by default.")] = Method.percentile,
    percentile: Annotated[float, typer.Option(help="Of the values that stay within the range.")] = PERCENTILE,
    allow_val: Annotated[bool, typer.Option("--allow-val", help="Take images that scores are taken on.")] = False,
    json_file: Json = None,
    workspace: WorkspaceOption = Path(),
) -> None:
    """Find the ranges that INT8 needs, on train images."""
    from ffnet_deploy import pipeline

    with json_errors(json_file, "calibrate"):
        if data is None:
            raise UsageError(
                "No images were named. Use --data DIR: a root of Cityscapes or ImageNet, or a folder of images."
            )
        space = space_at(workspace)
        tell_model(space, name)
        options = pipeline.CalibrateOptions(data, images, method.value, percentile, allow_val)
        with progress() as told:
            result = pipeline.calibrate(space, name, options, told)
        deliver(json_file, result.to_json(), report.calibrated(result))


@app.command()
def build(
    name: OptionalName = None,
    fp32: Annotated[bool, typer.Option("--fp32", help="FP32 with TF32 off; the default.")] = False,
    fp16: Annotated[bool, typer.Option("--fp16", help="FP16 with FP32 inputs and outputs.")] = False,
    int8: Annotated[bool, typer.Option("--int8", help="INT8 by Q/DQ; needs a calibration.")] = False,
    runtime: Annotated[
        Runtime, typer.Option(help="auto: TensorRT with a GPU, else TensorRT-RTX; and ONNX Runtime FP32 (and INT8).")
    ] = Runtime.auto,
    io: Annotated[Io, typer.Option(help="Type of an FP16 engine's inputs and outputs.")] = Io.fp32,
    keep_fp32: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help="Nodes that stay FP32 in FP16 engines; may be repeated.")
    ] = None,
    method: Annotated[Method | None, typer.Option(help="INT8 ranges; left out: what calibrate was told.")] = None,
    keep_fp16: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help="Convolutions not quantised; may be repeated.")
    ] = None,
    image_in: Annotated[bool, typer.Option("--image-in", help="Take uint8 NHWC; normalise inside.")] = False,
    labels_out: Annotated[bool, typer.Option("--labels-out", help="Give a uint8 label map, not logits.")] = False,
    align_corners: Annotated[bool, typer.Option("--align-corners", help="Of the up-sampling before labels.")] = False,
    batch: Annotated[
        str | None, typer.Option(metavar="MIN,OPT,MAX", help="Batches of an engine from a --dynamic-batch graph.")
    ] = None,
    gpu: Annotated[
        list[str] | None, typer.Option(metavar="SM", help="TensorRT-RTX target such as sm86; may be repeated.")
    ] = None,
    portable: Annotated[bool, typer.Option("--portable", help="Every target that TensorRT-RTX knows.")] = False,
    tf32: Annotated[bool, typer.Option("--tf32", help="Let FP32 convolutions round to TF32.")] = False,
    level: Annotated[int | None, typer.Option(help="TensorRT's optimisation level, 0 to 5.")] = None,
    workspace_mb: Annotated[int | None, typer.Option(metavar="MIB", help="TensorRT's scratch memory.")] = None,
    timing_cache: Annotated[bool, typer.Option("--timing-cache", help="Keep TensorRT's timings.")] = False,
    hardware_compatible: Annotated[
        bool, typer.Option("--hardware-compatible", help="TensorRT engine for Ampere and later GPUs.")
    ] = False,
    version_compatible: Annotated[
        bool, typer.Option("--version-compatible", help="TensorRT engine that later versions load.")
    ] = False,
    workspace: WorkspaceOption = Path(),
) -> None:
    """Build engines from the exported graph."""
    from ffnet_deploy import pipeline
    from ffnet_deploy.runtimes.options import BatchProfile, EngineOptions

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
    options = pipeline.BuildOptions(
        precisions=tuple(p for p, asked in (("fp32", fp32), ("fp16", fp16), ("int8", int8)) if asked) or ("fp32",),
        runtime=runtime.value,
        io=io.value,
        keep_fp32=tuple(keep_fp32 or ()),
        int8=pipeline.Int8Options(method.value if method else None, tuple(keep_fp16 or ())),
        image_in=image_in,
        labels_out=labels_out,
        align_corners=align_corners,
        engine=engine,
    )
    space = space_at(workspace)
    tell_model(space, name)
    with progress() as told:
        results = pipeline.build(space, name, options, told)
    say(report.built(results))


app.command()(bench)
app.command()(compare)
app.command()(verify)


@app.command()
def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A graph, an engine or a weight file.")],
    json_file: Json = None,
    workspace: WorkspaceOption = Path(),
) -> None:
    """Show what a file is, and what is in it.

    What made it, whether it is current, inputs and outputs, and the precision of its layers.
    """
    from ffnet_deploy import pipeline

    with json_errors(json_file, "inspect"):
        result = pipeline.inspect(space_at(workspace), file)
        deliver(json_file, result.to_json(), report.inspection(result))


@app.command()
def doctor() -> None:
    """Show what this machine can do.

    Packages, driver and GPUs, what each command can do here, and how to install what is missing.
    """
    from ffnet_deploy import pipeline

    say(report.diagnosis(pipeline.doctor()))


@app.command()
def demo(
    workspace: Annotated[Path, typer.Option("--workspace", metavar="DIR", help="Folder of the demo.")] = Path("demo"),
) -> None:
    """Take a small model through every stage.

    It is really trained, for about two minutes, on synthetic streets; everything lies below one folder.
    """
    from ffnet_deploy import demo as story

    with progress() as told:
        for text in story.run(workspace, told):
            say(text)


def main() -> None:
    """Entry point: one line on stderr and the error's exit code for every expected failure; 130 on Ctrl-C."""
    try:
        with CtrlC():
            app()
    except FFNetDeployError as error:
        tell(f"error: {error}")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()

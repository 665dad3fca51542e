"""The command that makes a file again, from its record alone."""

from __future__ import annotations

from pathlib import Path

from ffnet_deploy.artifacts.commandline import CommandLine
from ffnet_deploy.artifacts.filenames import ANY_BATCH, FileName
from ffnet_deploy.artifacts.records import AnyRecord, EngineRecord, GraphRecord
from ffnet_deploy.artifacts.values import DEFAULT_OPSET, BatchProfile, Ends, EngineOptions, GraphOptions
from ffnet_deploy.artifacts.workspace import Workspace


def exported_name(model: str, options: GraphOptions) -> FileName:
    """The name of an FP32 graph in ``models/``."""
    batch, _, *hw = options.shape
    return FileName(
        model,
        options.upsampling,
        None if tuple(hw) == options.contract else (hw[0], hw[1]),
        ANY_BATCH if options.dynamic_batch else str(batch),
    )


def again(workspace: Workspace, path: Path, record: AnyRecord) -> CommandLine:
    """The command line that makes a recorded file again in its workspace."""
    if isinstance(record, GraphRecord) and record.graph is None:
        return _export(workspace, path, record)
    if isinstance(record, GraphRecord | EngineRecord):
        return _build(record).in_workspace(workspace.root)
    return workspace.run("demo")


def _export(workspace: Workspace, path: Path, record: GraphRecord) -> CommandLine:
    options, weights = record.options, record.weights
    batch, _, height, width = options.shape
    line = CommandLine.of("export", record.model)
    if weights.file is None:
        line = line.option("--weights", "random")
    elif weights.named:
        # A path below the workspace is stored relative to it, so it stays right when the workspace is moved.
        line = line.option("--weights", workspace.root / weights.file)
    if (height, width) != options.contract:
        line = line.option("--height", height).option("--width", width).flag("--allow-size", asked=True)
    line = line.option("--batch", None if batch == 1 else batch)
    line = line.option("--opset", None if options.opset == DEFAULT_OPSET else options.opset)
    line = line.flag("--dynamic-batch", options.dynamic_batch).option("--upsampling", options.upsampling)
    usual = workspace.path_of(exported_name(record.model, options))
    line = line.option("--output", None if path.resolve() == usual.resolve() else path.resolve())
    return line.in_workspace(workspace.root)


def _build(record: GraphRecord | EngineRecord) -> CommandLine:
    precision = record.precision.removesuffix("-cpu")
    line = CommandLine.of("build", record.model, f"--{precision}")
    if isinstance(record, EngineRecord):
        line = line.option("--runtime", record.runtime)
    if precision == "fp16":
        line = line.options("--keep-fp32", record.options.keep_fp32)
    if precision == "int8":
        line = line.option("--method", record.options.method).options("--keep-fp16", record.options.keep_fp16)
    line = _with_ends(line, record.options.ends)
    if isinstance(record, EngineRecord):
        return _with_engine(line, record.engine)
    # A graph for any batch is the same whatever engines are built from it.
    return line.option("--batch", BatchProfile(1, 4, 8) if record.options.dynamic_batch else None)


def _with_ends(line: CommandLine, ends: Ends) -> CommandLine:
    line = line.option("--io", None if ends.io == "fp32" else ends.io)
    line = line.flag("--image-in", ends.image_in).flag("--labels-out", ends.labels_out)
    return line.flag("--align-corners", ends.align_corners)


def _with_engine(line: CommandLine, options: EngineOptions) -> CommandLine:
    for name, value in options.asked().items():
        if isinstance(value, bool):
            line = line.flag(engine_flag(name), value)
        elif name == "gpus":
            line = line.options(engine_flag(name), options.gpus)
        else:
            line = line.option(engine_flag(name), value)
    return line


def engine_flag(name: str) -> str:
    """The option of ``build`` for a field of :class:`EngineOptions`."""
    return "--gpu" if name == "gpus" else f"--{name.replace('_', '-')}"

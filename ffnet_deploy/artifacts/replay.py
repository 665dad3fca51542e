"""The command that makes a file again, from its record alone."""

from __future__ import annotations

from pathlib import Path

from ffnet_deploy.artifacts.commandline import CommandLine
from ffnet_deploy.artifacts.filenames import ANY_BATCH, FileName
from ffnet_deploy.artifacts.records import AnyRecord, EngineRecord, GraphRecord
from ffnet_deploy.artifacts.renewal import exported_as, with_ends, with_engine
from ffnet_deploy.artifacts.values import DEFAULT_OPSET, BatchProfile, GraphOptions
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
    line = CommandLine.of("export", record.model)
    if weights.file is None:
        line = line.option("--weights", "random")
    elif weights.named:
        # A path below the workspace is stored relative to it, so it stays right when the workspace is moved.
        line = line.option("--weights", workspace.root / weights.file)
    name = exported_name(record.model, options)
    line = exported_as(line, name, None if options.opset == DEFAULT_OPSET else options.opset)
    usual = workspace.path_of(name)
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
    line = with_ends(line, record.options.ends)
    if isinstance(record, EngineRecord):
        return with_engine(line, record.engine)
    # A graph for any batch is the same whatever engines are built from it.
    return line.option("--batch", BatchProfile(1, 4, 8) if record.options.dynamic_batch else None)

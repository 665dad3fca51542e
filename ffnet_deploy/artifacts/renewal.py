"""The options that make a file of a given name or kind: what replay has from records, and errors from names alone."""

from __future__ import annotations

from pathlib import Path

from ffnet_deploy.artifacts.commandline import CommandLine
from ffnet_deploy.artifacts.filenames import ANY_BATCH, FileName, model_of
from ffnet_deploy.artifacts.values import BatchProfile, Ends, EngineOptions


def by_name(file: str) -> CommandLine:
    """The command that makes a file of a workspace again, as far as its name says: for one without a readable record.

    Weights, method and kept nodes do not stand in names. A name that is no name of ours counts as a graph's.
    """
    try:
        name = FileName.parse(file)
    except ValueError:
        return CommandLine.of("export", model_of(file))
    if name == name.exported:
        return exported_as(CommandLine.of("export", name.model), name)
    line = CommandLine.of("build", name.model, f"--{name.precision.removesuffix('-cpu')}")
    line = with_ends(line.option("--runtime", name.runtime), Ends(image_in=name.image_in, labels_out=name.labels_out))
    return with_engine(line, _engine_of(name))


def next_step(path: Path) -> str:
    """What to do about a damaged graph or engine: by its name where it lies in a workspace, else in words."""
    if path.parent.name not in ("models", "engines"):
        return "Export it again."
    return f"Run: {by_name(path.name).in_workspace(path.parent.parent)}"


def _engine_of(name: FileName) -> EngineOptions:
    portable = name.target == "portable"
    gpus = tuple(name.target.split("+")) if name.target and not portable else ()
    # A graph for any batch is the same whatever engines are built from it.
    batch = "1-4-8" if name.batch == ANY_BATCH else name.batch
    profile = BatchProfile.parse(batch.replace("-", ",")) if "-" in batch else None
    return EngineOptions(gpus=gpus, portable=portable, batch=profile)


def exported_as(line: CommandLine, name: FileName, opset: int | None = None) -> CommandLine:
    """``export`` with what gives its graph this name; ``opset`` None is the default."""
    if name.hw:
        line = line.option("--height", name.hw[0]).option("--width", name.hw[1]).flag("--allow-size", asked=True)
    line = line.option("--batch", None if name.batch in ("1", ANY_BATCH) else name.batch)
    line = line.option("--opset", opset).flag("--dynamic-batch", name.batch == ANY_BATCH)
    return line.option("--upsampling", name.upsampling)


def with_ends(line: CommandLine, ends: Ends) -> CommandLine:
    """``build`` with the options that give these ends."""
    line = line.option("--io", None if ends.io == "fp32" else ends.io)
    line = line.flag("--image-in", ends.image_in).flag("--labels-out", ends.labels_out)
    return line.flag("--align-corners", ends.align_corners)


def with_engine(line: CommandLine, options: EngineOptions) -> CommandLine:
    """``build`` with the options that differ from their defaults."""
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

"""From a name to a verified ONNX graph and its record."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ffnet_deploy import artifacts, runtimes
from ffnet_deploy.artifacts import Record, Variant, Workspace
from ffnet_deploy.errors import UsageError, WeightsError
from ffnet_deploy.pipeline.current import Progress, quiet, street_feeds
from ffnet_deploy.pipeline.zoo import fetch_weights
from ffnet_deploy.zoo import specs
from ffnet_deploy.zoo.specs import ModelSpec

if TYPE_CHECKING:
    import onnx

    from ffnet_deploy.zoo.weights import Loaded

RANDOM = "random"
OFF_CONTRACT = "off contract"
BILINEAR = "bilinear up-sampling in place of nearest"
MIN_SIDE = 64
OPSETS = range(18, 24)
_VERIFY_IMAGES = 2
_TOOLS = ("torch", "onnx", "onnxscript", "onnxruntime-gpu", "onnxruntime", "numpy")


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """What ``export`` can be asked for."""

    hw: tuple[int, int] | None = None
    """None is the contract's size."""
    allow_size: bool = False
    batch: int = 1
    opset: int = 20
    weights: Path | str | None = None
    """A file, ``random``, or None for the published place."""
    offline: bool = False
    output: Path | None = None
    dynamic_batch: bool = False
    """Any batch; ``batch`` must be 1."""
    upsampling: str | None = None
    """``bilinear`` for a mobile model: the authors' advice for desktop GPUs, ideally re-trained."""


@dataclass(frozen=True, slots=True)
class Exported:
    """A verified graph, and what the user should know of it."""

    path: Path
    record: Record
    notes: tuple[str, ...]


def export(workspace: Workspace, name: str, options: ExportOptions, progress: Progress = quiet) -> Exported:
    """From a name to a verified ONNX graph and its record.

    Raises:
        UnknownModelError, UsageError: no such model, one that is not for deployment, or options that do not fit.
        WeightsError: no weights, or weights that do not fit.
        ExportError, VerificationError: the exporter failed, or its graph computes something else; no file is kept.
        ArtifactError: the workspace cannot be written.
    """
    height, width = _checked_options(specs.find(name), options)
    spec = specs.changed(name, options.upsampling)
    started = time.monotonic()
    path = _output(workspace, workspace.graph(_variant(spec, (height, width), options).stem), options.output)
    file = _weights_file(workspace, spec, options, progress)

    progress("loading weights", 0, None)
    loaded = _load(workspace, spec, file)
    off = (OFF_CONTRACT,) if (height, width) != spec.input_hw else ()
    changed = (BILINEAR,) if options.upsampling else ()
    marks = (*loaded.marks, *_marks_beside(file), *changed, *off)

    progress("exporting", 0, None)
    shape = (options.batch, 3, height, width)
    graph = _exported(loaded, spec, shape, options, ", ".join(marks))
    data = graph.SerializeToString(deterministic=True)

    progress("verifying against PyTorch", 0, None)
    # A graph for any batch is verified at two of them, or a size that fixes the batch would go unseen.
    batches = (1, 3) if options.dynamic_batch else (options.batch,)
    checks = [_verify(loaded, data, (batch, 3, height, width)) for batch in batches]
    found = {"verification": checks[-1], "operators": _operators(graph)}
    record = artifacts.keep(
        path,
        data,
        lambda sha256, size: Record(
            kind="graph",
            model=name,
            precision="fp32",
            sha256=sha256,
            size=size,
            sources={"weights": {"file": _relative(workspace, file), "sha256": loaded.sha256}},
            options={
                "command": _command(spec, (height, width), options),
                "shape": list(shape),
                "opset": options.opset,
                "contract": list(spec.input_hw),
                "dynamic_batch": options.dynamic_batch,
                "upsampling": spec.upsampling,
            },
            found=found,
            marks=marks,
            seconds=round(time.monotonic() - started, 3),
            tools=artifacts.tool_versions(*_TOOLS),
            created=artifacts.now(),
        ),
    )
    return Exported(path, record, loaded.notes)


def _exported(
    loaded: Loaded, spec: ModelSpec, shape: tuple[int, int, int, int], options: ExportOptions, marks: str
) -> onnx.ModelProto:
    from ffnet_deploy.graph.batch import with_dynamic_batch
    from ffnet_deploy.graph.export import export as export_graph

    metadata = {"model": spec.name, "weights_sha256": loaded.sha256, "marks": marks}
    graph = export_graph(loaded.module, spec, shape, opset=options.opset, metadata=metadata)
    return with_dynamic_batch(graph) if options.dynamic_batch else graph


def _checked_options(spec: ModelSpec, options: ExportOptions) -> tuple[int, int]:
    """The input size to export at."""
    if spec.train:
        trained = f"{spec.name.removesuffix('_train')}"
        near = trained if trained in specs.SPECS else specs.nearest(trained, 1)[0]
        raise UsageError(
            f"{spec.name} is for training: its weight file holds the backbone alone, the head is untrained. "
            f"Export the trained model: ffnet-deploy export {near}"
        )
    if options.batch < 1:
        raise UsageError(f"--batch {options.batch} is no batch (1 or more was needed). Leave it out for 1.")
    if options.dynamic_batch and options.batch != 1:
        raise UsageError("--dynamic-batch takes any batch, so --batch means nothing beside it. Leave one of them out.")
    if options.upsampling and spec.upsampling == "bilinear":
        raise UsageError(f"{spec.name} up-samples bilinearly as published. Leave --upsampling out.")
    if options.opset not in OPSETS:
        raise UsageError(
            f"--opset {options.opset} is not supported ({OPSETS[0]} to {OPSETS[-1]} were needed). Leave it out for 20."
        )
    height, width = options.hw or spec.input_hw
    if (height, width) != spec.input_hw and not options.allow_size:
        raise UsageError(_wrong_size(spec, height, width))
    if min(height, width) < MIN_SIDE:
        raise UsageError(
            f"{height}x{width} is too small (at least {MIN_SIDE}x{MIN_SIDE} was needed). Name a larger size."
        )
    return height, width


def _output(workspace: Workspace, usual: Path, wanted: Path | None) -> Path:
    """Where to write: inside ``models/`` a file's name says what it is, so no other name will do there."""
    if wanted is None or wanted.resolve() == usual.resolve():
        return usual
    if wanted.suffix != ".onnx":
        raise UsageError(f"--output {wanted} does not end in .onnx (runtimes tell files by it). Name it {wanted}.onnx")
    if wanted.resolve().parent == workspace.models.resolve():
        raise UsageError(f"--output {wanted} is in models/, where this graph is called {usual.name}. Leave it out.")
    return wanted


def _command(spec: ModelSpec, hw: tuple[int, int], options: ExportOptions) -> str:
    """The command line that makes this graph again."""
    parts = [f"ffnet-deploy export {spec.name}"]
    if options.weights is not None:
        parts.append(f"--weights {options.weights}")
    if hw != spec.input_hw:
        parts.append(f"--height {hw[0]} --width {hw[1]} --allow-size")
    if options.batch != 1:
        parts.append(f"--batch {options.batch}")
    if options.dynamic_batch:
        parts.append("--dynamic-batch")
    if options.upsampling:
        parts.append(f"--upsampling {options.upsampling}")
    return " ".join(parts)


def _wrong_size(spec: ModelSpec, height: int, width: int) -> str:
    contract = f"{spec.input_hw[0]}x{spec.input_hw[1]}"
    if spec.pre_down and (height, width) == (512, 1024):
        twin = spec.name.removesuffix("_pre_down")
        return (
            f"{spec.name} takes 1024x2048 and halves it inside, by a blur with stride 2; at 512x1024 the image would "
            "be halved twice, which has cost others about 17 points of mIoU. Leave --height and --width out, "
            f"or export {twin}, which takes 512x1024."
        )
    return (
        f"{spec.name} takes {contract}, not {height}x{width}: its accuracy is known at that size only. "
        "Leave --height and --width out, or add --allow-size to go off contract."
    )


def _variant(spec: ModelSpec, hw: tuple[int, int], options: ExportOptions) -> Variant:
    batch = None if options.dynamic_batch else options.batch
    return Variant(spec.name, None if hw == spec.input_hw else hw, batch, options.upsampling)


def _weights_file(workspace: Workspace, spec: ModelSpec, options: ExportOptions, progress: Progress) -> Path | None:
    """The weight file to load, fetched if need be; None for random weights."""
    if options.weights == RANDOM:
        return None
    if options.weights is not None:
        return Path(options.weights)
    file = workspace.weights / spec.weights_file
    if not file.is_file() and options.offline:
        raise WeightsError(
            f"{file} does not exist and --offline forbids to fetch it. Run: ffnet-deploy weights fetch {spec.name}, "
            "name a file with --weights FILE, or use --weights random for latency work."
        )
    if not file.is_file():
        try:
            fetch_weights(workspace, [spec.name], progress=progress)
        except WeightsError as error:
            raise WeightsError(
                f"{str(error).rstrip('.')} (--from is of: ffnet-deploy weights fetch {spec.name}). Or name a file with "
                "--weights FILE; for latency work alone: --weights random"
            ) from error
    if not file.is_file():
        raise WeightsError(
            f"The archive {spec.archive}.zip holds no {spec.weights_file}. Name the file yourself with --weights FILE."
        )
    return file


def _load(workspace: Workspace, spec: ModelSpec, file: Path | None) -> Loaded:
    from ffnet_deploy.zoo.checksums import check_recorded
    from ffnet_deploy.zoo.weights import load, load_random

    if file is None:
        return load_random(spec)
    loaded = load(spec, file)
    # After loading: a file that cannot be read is not worth remembering.
    check_recorded(file, workspace.weights)
    return loaded


def _marks_beside(file: Path | None) -> tuple[str, ...]:
    """What the record beside a weight file, where there is one, says that everything made from it must say."""
    if file is None or not artifacts.record_path(file).exists():
        return ()
    return tuple(artifacts.load_record(file, remedy="the command that made these weights").marks)


def _relative(workspace: Workspace, file: Path | None) -> str | None:
    if file is None:
        return None
    absolute = file.resolve()
    root = workspace.root.resolve()
    return str(absolute.relative_to(root)) if absolute.is_relative_to(root) else str(absolute)


def _verify(loaded: Loaded, graph: bytes, shape: tuple[int, int, int, int]) -> dict[str, Any]:
    from ffnet_deploy.runtimes.onnxruntime import OnnxRuntimeRunner
    from ffnet_deploy.runtimes.pytorch import PyTorchRunner
    from ffnet_deploy.verify import Tolerance, verify

    threads = runtimes.default_threads()
    feeds = street_feeds(shape, _VERIFY_IMAGES)
    with (
        PyTorchRunner(loaded.module, shape, threads=threads) as reference,
        OnnxRuntimeRunner(graph, threads=threads, spinning=False) as other,
    ):
        return verify(reference, other, feeds, Tolerance()).to_json()


def _operators(graph: onnx.ModelProto) -> dict[str, int]:
    from collections import Counter

    return dict(Counter(node.op_type for node in graph.graph.node).most_common())

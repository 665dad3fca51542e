"""From a name to a verified ONNX graph and its record."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ffnet_deploy.artifacts.records import GraphRecord, WeightsRecord, keep, load_record, record_path, stamp
from ffnet_deploy.artifacts.replay import exported_name
from ffnet_deploy.artifacts.values import (
    DEFAULT_OPSET,
    GraphFindings,
    GraphOptions,
    Shape,
    SourceWeights,
    Verification,
)
from ffnet_deploy.artifacts.workspace import Workspace
from ffnet_deploy.errors import UsageError, WeightsError
from ffnet_deploy.machine.devices import default_threads
from ffnet_deploy.pipeline.zoo import fetch_weights
from ffnet_deploy.progress import Progress, quiet
from ffnet_deploy.synthetic.feeds import street_feeds
from ffnet_deploy.zoo import specs
from ffnet_deploy.zoo.specs import ModelSpec

if TYPE_CHECKING:
    import onnx

    from ffnet_deploy.zoo.weights import LoadedWeights

RANDOM = "random"
OFF_CONTRACT = "off contract"
# In the metadata of graphs: another spelling would change the hash of every such graph.
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
    opset: int = DEFAULT_OPSET
    weights: Path | str | None = None
    """A file, ``random``, or None for the published place."""
    offline: bool = False
    output: Path | None = None
    dynamic_batch: bool = False
    """Any batch; ``batch`` must be 1."""
    upsampling: str | None = None
    """``bilinear`` for a mobile model: the authors advise it for desktop GPUs, ideally with retraining."""


@dataclass(frozen=True, slots=True)
class Exported:
    """A verified graph, and what the user should know of it."""

    path: Path
    record: GraphRecord
    notes: tuple[str, ...]


def export(workspace: Workspace, name: str, options: ExportOptions, progress: Progress = quiet) -> Exported:
    """Export a model to ONNX, verify it against PyTorch, and keep it with its record.

    Raises:
        UnknownModelError, UsageError: no such model, one that is not for deployment, or options that do not fit.
        WeightsError: no weights, or weights that do not fit.
        ExportError, VerificationError: the exporter failed, or its graph computes something else; no file is kept.
        ArtifactError: the workspace cannot be written.
    """
    asked = _checked_options(specs.find(name), options)
    spec = specs.changed(name, options.upsampling)
    started = time.monotonic()
    path = _output(workspace, workspace.path_of(exported_name(name, asked)), options.output)
    file = _weights_file(workspace, spec, options, progress)

    progress("loading weights", 0, None)
    loaded = _load(workspace, spec, file)
    marks = (*loaded.marks, *_marks_beside(file), *_marks_of(asked))

    progress("exporting", 0, None)
    graph = _exported(loaded, spec, asked, ", ".join(marks))
    data = graph.SerializeToString(deterministic=True)

    progress("verifying against PyTorch", 0, None)
    # A graph for any batch is verified at two of them, or a size that fixes the batch would go unseen.
    batches = (1, 3) if options.dynamic_batch else (options.batch,)
    checks = [_verify(loaded, data, (batch, *asked.shape[1:])) for batch in batches]
    named = options.weights is not None
    record = keep(
        path,
        data,
        lambda sha256, size: GraphRecord(
            model=name,
            precision="fp32",
            file=stamp(sha256, size, started, _TOOLS),
            marks=marks,
            options=asked,
            weights=SourceWeights(None if file is None else workspace.shown(file), loaded.sha256, named),
            found=GraphFindings(verification=checks[-1], operators=_operators(graph)),
        ),
    )
    return Exported(path, record, loaded.notes)


def _marks_of(asked: GraphOptions) -> tuple[str, ...]:
    changed = (BILINEAR,) if asked.upsampling else ()
    return (*changed, *((OFF_CONTRACT,) if asked.shape[2:] != asked.contract else ()))


def _exported(loaded: LoadedWeights, spec: ModelSpec, asked: GraphOptions, marks: str) -> onnx.ModelProto:
    from ffnet_deploy.graph.batch import with_dynamic_batch
    from ffnet_deploy.graph.from_torch import export as export_graph

    metadata = {"model": spec.name, "weights_sha256": loaded.sha256, "marks": marks}
    graph = export_graph(loaded.module, spec, asked.shape, opset=asked.opset, metadata=metadata)
    return with_dynamic_batch(graph) if asked.dynamic_batch else graph


def _checked_options(spec: ModelSpec, options: ExportOptions) -> GraphOptions:
    """What the graph is to be."""
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
        raise UsageError(f"{spec.name} upsamples bilinearly as published. Leave --upsampling out.")
    if options.opset not in OPSETS:
        raise UsageError(
            f"--opset {options.opset} is not supported ({OPSETS[0]} to {OPSETS[-1]} were needed). "
            f"Leave it out for {DEFAULT_OPSET}."
        )
    height, width = _checked_size(spec, options)
    return GraphOptions(
        shape=(options.batch, 3, height, width),
        opset=options.opset,
        contract=spec.input_hw,
        dynamic_batch=options.dynamic_batch,
        upsampling="bilinear" if options.upsampling else None,
    )


_MOST_PIXELS = 1 << 26


def _checked_size(spec: ModelSpec, options: ExportOptions) -> tuple[int, int]:
    height, width = options.hw or spec.input_hw
    if (height, width) != spec.input_hw and not options.allow_size:
        raise UsageError(_wrong_size(spec, height, width))
    if min(height, width) < MIN_SIDE:
        raise UsageError(
            f"{height}x{width} is too small (at least {MIN_SIDE}x{MIN_SIDE} was needed). Name a larger size."
        )
    if options.batch * height * width > _MOST_PIXELS:
        raise UsageError(
            f"--batch {options.batch} of {height}x{width} has too many pixels (at most {_MOST_PIXELS:,} were needed: "
            "the first layer alone takes 256 bytes for each). Name a smaller size or batch."
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


def _weights_file(workspace: Workspace, spec: ModelSpec, options: ExportOptions, progress: Progress) -> Path | None:
    """The weight file to load, fetched if need be; None for random weights."""
    if options.weights == RANDOM:
        return None
    if options.weights is not None:
        return Path(options.weights)
    file = workspace.weights / spec.weights_file
    if not file.is_file() and options.offline:
        raise WeightsError(
            f"{file} does not exist, and --offline forbids downloading it. Name a file with --weights FILE, use "
            f"--weights random for latency work, or run: {workspace.run('weights', 'fetch', spec.name)}"
        )
    if not file.is_file():
        try:
            fetch_weights(workspace, [spec.name], progress=progress)
        except WeightsError as error:
            if "Run: " in str(error):
                raise
            raise WeightsError(
                f"{error} Or name a file with --weights FILE; for latency work, use --weights random. To use a mirror, "
                f"run: {workspace.run('weights', 'fetch', spec.name, '--from', 'URL')}"
            ) from error
    return file


def _load(workspace: Workspace, spec: ModelSpec, file: Path | None) -> LoadedWeights:
    from ffnet_deploy.zoo.checksums import check_recorded
    from ffnet_deploy.zoo.weights import load, load_random

    if file is None:
        return load_random(spec)
    loaded = load(spec, file)
    # After loading: a file that cannot be read is not worth remembering.
    check_recorded(file, workspace.weights, found=loaded.sha256)
    return loaded


def _marks_beside(file: Path | None) -> tuple[str, ...]:
    """Marks in the record beside a weight file, if there is one; everything made from it carries them."""
    if file is None or not record_path(file).exists():
        return ()
    return load_record(file, WeightsRecord, remedy="ffnet-deploy demo").marks


def _verify(loaded: LoadedWeights, graph: bytes, shape: Shape) -> Verification:
    from ffnet_deploy.runtimes.onnxruntime import OnnxRuntimeRunner
    from ffnet_deploy.runtimes.pytorch import PyTorchRunner
    from ffnet_deploy.verify.agreement import Tolerance, verified

    threads = default_threads()
    feeds = street_feeds(shape, _VERIFY_IMAGES)
    with (
        PyTorchRunner(loaded.module, shape, threads=threads) as reference,
        OnnxRuntimeRunner(graph, threads=threads, spinning=False) as other,
    ):
        return verified(reference, other, feeds, Tolerance())


def _operators(graph: onnx.ModelProto) -> dict[str, int]:
    from collections import Counter

    return dict(Counter(node.op_type for node in graph.graph.node).most_common())

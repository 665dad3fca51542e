"""Ranges for INT8: one pass over images in bounded memory, kept beside the graph and used by both dialects.

A few images are looked at before it: how large each channel is decides how the graph is equalised, and the ranges are
those of the equalised graph's tensors.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ffnet_deploy.artifacts.records import now, tool_versions
from ffnet_deploy.artifacts.values import SourceFile
from ffnet_deploy.artifacts.workspace import Workspace
from ffnet_deploy.artifacts.writing import hash_json
from ffnet_deploy.calibration.methods import DEFAULT_METHOD, METHODS, PERCENTILE, Method
from ffnet_deploy.calibration.observe import (
    ACTIVATION_BUDGET,
    CalibrationState,
    histograms_of,
    partial_path,
    sizes_of_channels,
)
from ffnet_deploy.calibration.record import (
    CALIBRATION_SCHEMA,
    CalibratedImages,
    Calibration,
    CalibrationFile,
    MethodRange,
    TensorRanges,
    read_calibration,
)
from ffnet_deploy.calibration.selection import Images, find_images
from ffnet_deploy.errors import ArtifactError, UsageError
from ffnet_deploy.graph.current import Graph, current_graph
from ffnet_deploy.progress import Progress, Tell, quiet, unheard

if TYPE_CHECKING:
    import numpy as np
    import onnx

    from ffnet_deploy.calibration.histograms import Histogram


@dataclass(frozen=True, slots=True)
class CalibrateOptions:
    """What ``calibrate`` can be asked for."""

    data: Path
    images: int | None = None
    method: Method = DEFAULT_METHOD
    percentile: float = PERCENTILE
    allow_val: bool = False
    budget: int = ACTIVATION_BUDGET


def calibrate(
    workspace: Workspace,
    name: str | None,
    options: CalibrateOptions,
    progress: Progress = quiet,
    tell: Tell = unheard,
) -> Calibration:
    """Find the ranges of every tensor that INT8 needs, or the calibration that has them already.

    Args:
        workspace: where the graph is; gets ``calibration/STEM.json``.
        name: of the model; None is the one exported last.
        options: which images, and what ``build`` will use by default.
        progress: told (what, images done, images in all).
        tell: told when what an interrupted run had seen cannot be used.

    Raises:
        UsageError: options that make no sense.
        DataError: the images cannot be used.
        ArtifactError: no current graph.
        PrecisionError: an activation is not finite.
    """
    from ffnet_deploy.graph.equalise import equalise

    _check(options)
    started = time.monotonic()
    graph = current_graph(workspace, name)
    progress("hashing the images", 0, None)
    images = find_images(graph, options.data, options.images, allow_val=options.allow_val)
    path = workspace.calibration(graph.name)
    model = graph.load()
    known = _reusable(path, graph, model, images, options)
    if known is not None:
        known = known if known.method == options.method else known.with_method(options.method)
        return replace(known, reused=True)
    sizes = sizes_of_channels(model, graph, images, options.budget, progress)
    # Ranges of a graph that was equalised in another way are not to be added to.
    sizes_by_name = {name: size.tolist() for name, size in sizes.items()}
    key = hash_json([CALIBRATION_SCHEMA, graph.record.file.sha256, images.sha256, sizes_by_name])
    state = CalibrationState(partial_path(path), key, tell)
    histograms, resumed = histograms_of(state, equalise(model, sizes).model, graph, images, options.budget, progress)
    progress("choosing ranges", 0, None)
    tensors = _tensors(histograms, sizes, options.percentile)
    file = _file(graph, images, options, tensors, round(time.monotonic() - started, 3), resumed)
    made = Calibration(workspace, path, file)
    made.save()
    state.path.unlink(missing_ok=True)
    return made


def _file(
    graph: Graph,
    images: Images,
    options: CalibrateOptions,
    tensors: Mapping[str, TensorRanges],
    seconds: float,
    resumed: int,
) -> CalibrationFile:
    return CalibrationFile(
        created=now(),
        model=graph.record.model,
        graph=SourceFile(graph.path.name, graph.record.file.sha256),
        images=CalibratedImages(
            title=images.title,
            folder=str(options.data.absolute()),
            asked=options.images,
            allow_val=options.allow_val,
            names=images.names,
            sha256=images.sha256,
            resized=images.resized,
        ),
        method=options.method,
        percentile=options.percentile,
        marks=(*graph.record.marks, *(("calibrated on val",) if images.val else ())),
        tools=tool_versions("onnx", "numpy", "onnxruntime-gpu", "onnxruntime"),
        seconds=seconds,
        resumed_at=resumed,
        tensors=tensors,
    )


def _check(options: CalibrateOptions) -> None:
    if options.method not in METHODS:
        raise UsageError(f"--method {options.method!r} is not known ({', '.join(METHODS)} are). Name one of them.")
    if not 50 < options.percentile < 100:
        raise UsageError(
            f"--percentile {options.percentile:g} is out of range (50 to 100). Leave it out for {PERCENTILE}."
        )


def _tensors(
    histograms: Mapping[str, Histogram], sizes: Mapping[str, np.ndarray], percentile: float
) -> dict[str, TensorRanges]:
    from ffnet_deploy.calibration.histograms import limits

    return {
        name: TensorRanges(
            low=histogram.low,
            high=histogram.high,
            values=histogram.total,
            channels=tuple(float(size) for size in sizes[name]),
            **{method: MethodRange(*found) for method, found in limits(histogram, percentile).items()},
        )
        for name, histogram in histograms.items()
    }


def _reusable(
    path: Path, graph: Graph, model: onnx.ModelProto, images: Images, options: CalibrateOptions
) -> Calibration | None:
    """The calibration that is there already, if it belongs to this graph and these images."""
    from ffnet_deploy.graph.qdq import watched

    try:
        found = read_calibration(graph.workspace, path)
    except ArtifactError:
        return None  # absent or damaged: it is made again
    same = (
        found.file.graph.sha256 == graph.record.file.sha256
        and found.file.images.sha256 == images.sha256
        and found.file.percentile == options.percentile
        and found.file.tensors.keys() == set(watched(model))
    )
    return found if same else None

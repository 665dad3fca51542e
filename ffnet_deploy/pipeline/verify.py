"""The ladder on the same images: how far each rung is from PyTorch, and which is the first that breaks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ffnet_deploy import artifacts, runtimes
from ffnet_deploy.artifacts import Workspace
from ffnet_deploy.errors import FFNetDeployError, UsageError, VerificationError
from ffnet_deploy.pipeline.bench import environment
from ffnet_deploy.pipeline.calibrate import current_calibration
from ffnet_deploy.pipeline.current import Graph, Progress, current_graph, quiet
from ffnet_deploy.pipeline.ladder import Skipped, error_json, ladder, rung_json
from ffnet_deploy.runtimes import Rung

if TYPE_CHECKING:
    import numpy as np

    from ffnet_deploy.data.folder import Picture
    from ffnet_deploy.inner import Inside, Layer
    from ffnet_deploy.metrics import Agreement
    from ffnet_deploy.runtimes.base import Runner
    from ffnet_deploy.verify import Batch, Comparison, Tolerance

SCENES = 2
LIMIT = 8
WORST = 15
"""Inner tensors that are listed as the worst."""

_PRECISIONS = ("fp32", "fp16", "int8")


@dataclass(frozen=True, slots=True)
class VerifyOptions:
    """What ``verify`` can be asked for."""

    images: Path | None = None
    """A folder of photographs; None for synthetic street scenes."""
    limit: int | None = None
    """Of the folder's images; None is ``LIMIT``."""
    layers: bool = False


@dataclass(frozen=True, slots=True)
class Compared:
    """One rung that ran, and what it was held to."""

    rung: Rung
    comparison: Comparison
    tolerance: Tolerance

    @property
    def beyond(self) -> list[str]:
        """What is beyond the tolerance; empty if the rung holds."""
        return self.comparison.beyond(self.tolerance)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values.

        Differences that a rung of labels does not have are null, as is a limit that does not apply; infinite ones are
        text.
        """
        from ffnet_deploy.verify import least_equal

        found = self.comparison
        return {
            **rung_json(self.rung, None),
            **_agreement_json(found.agreement),
            "near_borders": None if found.near is None else _labels_json(found.near),
            "away_from_borders": None if found.away is None else _labels_json(found.away),
            "labels_at": None if found.labels_at is None else list(found.labels_at),
            "tolerance": {
                "max_difference": self.tolerance.max_difference,
                "mean_difference": self.tolerance.mean_difference,
                "equal": least_equal(found.agreement, self.tolerance),
            },
            "beyond": self.beyond,
        }


@dataclass(frozen=True, slots=True)
class Layers:
    """Inner tensors of one rung against PyTorch's, over one batch of images."""

    rung: Rung
    inside: Inside

    @property
    def worst(self) -> list[Layer]:
        """The tensors with the lowest signal to noise, the worst first."""
        return self.inside.worst(WORST)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values: all tensors in the network's order, and the worst ones' names."""
        return {
            "rung": self.rung.name,
            "first_jump": self.inside.jump and self.inside.jump.node,
            "worst": [layer.node for layer in self.worst],
            "tensors": [layer.to_json() for layer in self.inside.layers],
            "not_in_this_graph": list(self.inside.without),
        }


@dataclass(frozen=True, slots=True)
class Verified:
    """Every rung that ran here, in the ladder's order, against PyTorch on the same images."""

    model: str
    reference: Rung
    images: dict[str, Any]
    """What was looked at: ``source``, ``count``, and of a folder each ``file`` with its hash and how it was fitted."""
    rungs: tuple[Compared, ...]
    skipped: tuple[Skipped, ...]
    layers: tuple[Layers, ...]
    """Empty if they were not asked for."""
    marks: tuple[str, ...]
    threads: int

    @property
    def first_broken(self) -> Compared | None:
        """The first rung, in the ladder's order, that is beyond its tolerance."""
        return next((item for item in self.rungs if item.beyond), None)

    @property
    def failure(self) -> FFNetDeployError | None:
        """The error to end with."""
        broken = self.first_broken
        if broken is None:
            return None
        look = "Look at the layers above" if self.layers else "See where it starts: add --layers"
        return VerificationError(
            f"{broken.rung.name} is the first rung that breaks: {'; '.join(broken.beyond)}, differences in units of "
            f"the output's spread. {look}. {broken.tolerance.remedy}"
        )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        from ffnet_deploy.metrics import BORDER

        return {
            "schema": artifacts.SCHEMA,
            "command": "verify",
            "model": self.model,
            "marks": list(self.marks),
            "images": self.images,
            "border": {"distance": BORDER, "metric": "Chebyshev", "pixels": "of the label maps that are compared"},
            "threads": self.threads,
            "reference": rung_json(self.reference, None),
            "rungs": [item.to_json() for item in self.rungs],
            "first_broken": self.first_broken and self.first_broken.rung.name,
            "skipped": [{"rung": s.rung.name, "reason": s.reason} for s in self.skipped],
            "layers": [item.to_json() for item in self.layers],
            "environment": environment(),
            "error": error_json(self.failure),
        }


def verify_ladder(
    workspace: Workspace, name: str | None, options: VerifyOptions, progress: Progress = quiet
) -> Verified:
    """Compare every rung that can run here with PyTorch on the same images.

    Raises:
        UsageError: options that do not fit.
        DataError: the folder has no images, or one that cannot be used.
        ArtifactError: no current graph, or a damaged or stale engine.
        EngineError, MissingDependencyError, WeightsError: a rung cannot be opened.
    """
    from ffnet_deploy.verify import TOLERANCES, compare

    graph = current_graph(workspace, name)
    progress("reading images", 0, None)
    batches, looked_at = _images(graph, options)
    found = ladder(workspace, graph, emulated=True)
    rungs = _in_order(graph, found.running)
    factors = _factors(workspace, graph, rungs) if options.layers else {}
    threads = runtimes.default_threads()
    told = partial(progress, "comparing")
    with ExitStack() as stack:
        # Several runtimes take turns in this process: idle threads that spin would slow the others.
        reference, *opened = [
            stack.enter_context(runtimes.open_rung(rung, threads, None, spinning=False))
            for rung in (found.reference, *rungs)
        ]
        labelled = [_labels_like(rung, graph) for rung in rungs]
        comparisons = compare(reference, opened, _telling(batches, told), labelled)
        layers = _layers(reference, graph, rungs, factors, batches[0], progress) if options.layers else ()
    return Verified(
        model=graph.stem,
        reference=found.reference,
        images=looked_at,
        rungs=tuple(
            Compared(rung, comparison, TOLERANCES[rung.precision])
            for rung, comparison in zip(rungs, comparisons, strict=True)
        ),
        skipped=found.skipped,
        layers=layers,
        marks=found.marks,
        threads=threads,
    )


def _in_order(graph: Graph, running: Sequence[Rung]) -> list[Rung]:
    """The ladder: the exported graph itself, the graphs made from it, the engines; of each kind FP32 first."""
    exported = Rung(
        runtimes.EMULATED,
        "fp32",
        graph.record.model,
        graph.shape,
        graph.path,
        graph.record.size,
        tuple(graph.record.marks),
    )
    ordered = sorted(running, key=lambda r: (r.runtime != runtimes.EMULATED, _PRECISIONS.index(r.precision)))
    return [exported, *ordered]


def _images(graph: Graph, options: VerifyOptions) -> tuple[list[Batch], dict[str, Any]]:
    """Images in batches of the graph's, and what they are."""
    import numpy as np

    from ffnet_deploy.data.folder import find_pictures, load_pictures
    from ffnet_deploy.data.scenes import draw_scene
    from ffnet_deploy.verify import Batch

    if options.limit is not None and options.images is None:
        raise UsageError("--limit is of a folder's images, and none was named. Name one with --images DIR.")
    if options.limit is not None and options.limit < 1:
        raise UsageError(f"--limit {options.limit} leaves no image (1 or more was needed). Leave it out for {LIMIT}.")
    number, _, height, width = graph.shape
    looked_at: dict[str, Any]
    if options.images is None:
        images = [draw_scene(height, width, seed).image for seed in range(SCENES * number)]
        looked_at = {"source": "synthetic street scenes", "count": len(images), "size": [height, width]}
    else:
        paths = find_pictures(options.images, options.limit or LIMIT)
        pictures = list(load_pictures(paths, (height, width), halve=graph.spec.pre_down_twin is not None))
        images = [picture.image for picture in pictures]
        looked_at = {
            "source": str(options.images),
            "count": len(images),
            "size": [height, width],
            "files": [_picture_json(picture, options.images) for picture in pictures],
        }
    filled = images + [images[-1]] * (-len(images) % number)
    batches = [
        Batch(np.stack(filled[start : start + number]), min(number, len(images) - start))
        for start in range(0, len(images), number)
    ]
    return batches, looked_at


def _picture_json(picture: Picture, folder: Path) -> dict[str, Any]:
    return {
        "file": str(picture.path.relative_to(folder)),
        "sha256": picture.sha256,
        "size": list(picture.size),
        "fitted": picture.fitted,
    }


def _telling(batches: Sequence[Batch], told: Callable[[int, int | None], None]) -> Iterator[Batch]:
    for i, batch in enumerate(batches):
        told(i, len(batches))
        yield batch
    told(len(batches), len(batches))


def _labels_like(rung: Rung, graph: Graph) -> Callable[[np.ndarray], np.ndarray]:
    """How the reference's logits become label maps like those of an engine that gives labels."""
    import numpy as np

    from ffnet_deploy.evaluate.labels import upsampled_labels

    size, align_corners = (graph.shape[2], graph.shape[3]), rung.ends.align_corners
    return lambda logits: np.stack([upsampled_labels(one, size, align_corners=align_corners) for one in logits])


def _factors(workspace: Workspace, graph: Graph, rungs: Sequence[Rung]) -> Mapping[str, np.ndarray]:
    """By how much INT8's inner tensors differ in size from the exported graph's: they are made from the equalised one.

    Raises:
        ArtifactError: there is an INT8 graph, and its calibration is gone.
    """
    import onnx

    if not any(rung.runtime == runtimes.EMULATED and rung.precision == "int8" for rung in rungs):
        return {}
    return current_calibration(workspace, graph).equalised(onnx.load(graph.path)).factors


def _layers(
    reference: Runner,
    graph: Graph,
    rungs: Sequence[Rung],
    factors: Mapping[str, np.ndarray],
    batch: Batch,
    progress: Progress,
) -> tuple[Layers, ...]:
    import onnx

    from ffnet_deploy.inner import FLOORS, look_inside
    from ffnet_deploy.runtimes.pytorch import PyTorchRunner
    from ffnet_deploy.verify import feed_of

    assert isinstance(reference, PyTorchRunner)
    graphs = [rung for rung in rungs if rung.runtime == runtimes.EMULATED]
    insides = look_inside(
        reference,
        onnx.load(graph.path),
        [runtimes.as_run(rung) for rung in graphs],
        [FLOORS[rung.precision] for rung in graphs],
        feed_of(reference, batch),
        threads=runtimes.default_threads(),
        factors=[factors if rung.precision == "int8" else {} for rung in graphs],
        progress=partial(progress, "looking inside"),
    )
    return tuple(Layers(rung, inside) for rung, inside in zip(graphs, insides, strict=True))


def _agreement_json(found: Agreement) -> dict[str, Any]:
    return {
        "max_difference": _number(found.max_difference),
        "mean_difference": _number(found.mean_difference),
        **_labels_json(found),
    }


def _labels_json(found: Agreement) -> dict[str, Any]:
    return {"equal": found.equal, "count": found.count}


def _number(value: float) -> float | str | None:
    if math.isnan(value):
        return None
    return value if math.isfinite(value) else "inf"

"""The ladder on the same images: how far each rung is from PyTorch, and which is the first that breaks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ffnet_deploy.artifacts.records import now
from ffnet_deploy.artifacts.workspace import Workspace
from ffnet_deploy.calibration.record import current_calibration
from ffnet_deploy.errors import UsageError, VerificationError, facts_of_error
from ffnet_deploy.graph.current import Graph, current_graph
from ffnet_deploy.ladder import Ladder, exported_rung, facts_of, ladder
from ffnet_deploy.machine.devices import default_threads
from ffnet_deploy.machine.environment import describe_environment
from ffnet_deploy.progress import Progress, quiet
from ffnet_deploy.runtimes.opening import as_run, open_pytorch, open_rung
from ffnet_deploy.runtimes.rung import EMULATED, Rung
from ffnet_deploy.verify.result import (
    ComparedImage,
    ComparedImages,
    RungLayers,
    VerificationFile,
    Verified,
    VerifiedRung,
    rung_layers,
    verified_rung,
)

if TYPE_CHECKING:
    import numpy as np

    from ffnet_deploy.data.pictures import FittedPicture
    from ffnet_deploy.runtimes.pytorch import PyTorchRunner
    from ffnet_deploy.verify.agreement import Batch


SCENES = 2
LIMIT = 8

_PRECISIONS = ("fp32", "fp16", "int8")


@dataclass(frozen=True, slots=True)
class VerifyOptions:
    """What ``verify`` can be asked for."""

    images: Path | None = None
    """A folder of photographs; None for synthetic street scenes."""
    limit: int | None = None
    """Of the folder's images; None is ``LIMIT``."""
    layers: bool = False


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
    from ffnet_deploy.verify.agreement import TOLERANCES, compare

    graph = current_graph(workspace, name)
    progress("reading images", 0, None)
    batches, looked_at = _images(graph, options)
    found = ladder(graph, emulated=True)
    rungs = _in_order(graph, found.running)
    factors = _factors(graph, rungs) if options.layers else {}
    threads = default_threads()
    told = partial(progress, "comparing")
    with ExitStack() as stack:
        # Several runtimes take turns in this process: idle threads that spin would slow the others.
        reference = stack.enter_context(open_pytorch(found.reference, threads, None))
        opened = [stack.enter_context(open_rung(rung, threads, None, spinning=False)) for rung in rungs]
        labelled = [_labels_like(rung, graph) for rung in rungs]
        agreements = compare(reference, opened, _telling(batches, told), labelled)
        layers = _layers(reference, graph, rungs, factors, batches[0], progress) if options.layers else ()
    compared = tuple(
        verified_rung(rung, agreement, TOLERANCES[rung.precision])
        for rung, agreement in zip(rungs, agreements, strict=True)
    )
    return _result(graph, found, compared, layers, looked_at, threads)


def _result(
    graph: Graph,
    found: Ladder,
    compared: tuple[VerifiedRung, ...],
    layers: tuple[RungLayers, ...],
    looked_at: ComparedImages,
    threads: int,
) -> Verified:
    broken = next((rung for rung in compared if rung.beyond), None)
    failure = _failure(broken, bool(layers)) if broken else None
    file = VerificationFile(
        created=now(),
        model=graph.name.stem,
        marks=found.marks,
        images=looked_at,
        threads=threads,
        reference=facts_of(found.reference, None),
        rungs=compared,
        first_broken=broken.rung if broken else None,
        skipped=tuple(item.facts for item in found.skipped),
        layers=layers,
        environment=describe_environment(),
        error=facts_of_error(failure),
    )
    return Verified(file, failure)


def _failure(broken: VerifiedRung, layers: bool) -> VerificationError:
    from ffnet_deploy.verify.agreement import TOLERANCES

    look = "Look at the layers above" if layers else "See where it starts: add --layers"
    return VerificationError(
        f"{broken.rung} is the first rung that breaks: {'; '.join(broken.beyond)}, differences in units of "
        f"the output's spread. {look}. {TOLERANCES[broken.precision].remedy}"
    )


def _in_order(graph: Graph, running: Sequence[Rung]) -> list[Rung]:
    """The ladder: the exported graph itself, the graphs made from it, the engines; of each kind FP32 first."""
    ordered = sorted(running, key=lambda r: (r.runtime != EMULATED, _PRECISIONS.index(r.precision)))
    return [exported_rung(graph), *ordered]


def _images(graph: Graph, options: VerifyOptions) -> tuple[list[Batch], ComparedImages]:
    """Images in batches of the graph's, and what they are."""
    import numpy as np

    from ffnet_deploy.data.images import filled
    from ffnet_deploy.synthetic.scenes import draw_scene
    from ffnet_deploy.verify.agreement import Batch

    if options.limit is not None and options.images is None:
        raise UsageError("--limit works only with --images DIR. Name a folder, or leave it out.")
    if options.limit is not None and options.limit < 1:
        raise UsageError(f"--limit {options.limit} leaves no image (1 or more was needed). Leave it out for {LIMIT}.")
    number, _, height, width = graph.shape
    if options.images is None:
        images = [draw_scene(height, width, seed).image for seed in range(SCENES * number)]
        looked_at = ComparedImages("synthetic street scenes", len(images), (height, width))
    else:
        pictures = _pictures(graph, options.images, options.limit or LIMIT)
        images = [picture.image for picture in pictures]
        files = tuple(
            ComparedImage(str(p.path.relative_to(options.images)), p.sha256, p.size, p.fitted) for p in pictures
        )
        looked_at = ComparedImages(str(options.images), len(images), (height, width), files)
    batches = [
        Batch(np.stack(filled(images[start : start + number], number)), min(number, len(images) - start))
        for start in range(0, len(images), number)
    ]
    return batches, looked_at


def _pictures(graph: Graph, folder: Path, limit: int) -> list[FittedPicture]:
    from ffnet_deploy.data.pictures import evenly, find_pictures, load_pictures

    paths = find_pictures(folder)
    chosen = [paths[i] for i in evenly(len(paths), limit)]
    size = (graph.shape[2], graph.shape[3])
    return list(load_pictures(chosen, size, halve=graph.spec.pre_down_twin is not None))


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


def _factors(graph: Graph, rungs: Sequence[Rung]) -> Mapping[str, np.ndarray]:
    """By how much INT8's inner tensors differ in size from the exported graph's: they are made from the equalised one.

    Raises:
        ArtifactError: there is an INT8 graph, and its calibration is gone; or the exported graph is not sound.
    """
    if not any(rung.runtime == EMULATED and rung.precision == "int8" for rung in rungs):
        return {}
    return current_calibration(graph).equalised(graph.load()).factors


def _layers(
    reference: PyTorchRunner,
    graph: Graph,
    rungs: Sequence[Rung],
    factors: Mapping[str, np.ndarray],
    batch: Batch,
    progress: Progress,
) -> tuple[RungLayers, ...]:
    from ffnet_deploy.verify.agreement import feed_of
    from ffnet_deploy.verify.layers import FLOORS, look_inside

    graphs = [rung for rung in rungs if rung.runtime == EMULATED]
    insides = look_inside(
        reference,
        graph.load(),
        [as_run(rung) for rung in graphs],
        [FLOORS[rung.precision] for rung in graphs],
        feed_of(reference, batch),
        threads=default_threads(),
        factors=[factors if rung.precision == "int8" else {} for rung in graphs],
        progress=partial(progress, "looking inside"),
    )
    return tuple(rung_layers(rung, inside) for rung, inside in zip(graphs, insides, strict=True))

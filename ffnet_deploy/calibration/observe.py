"""One pass over images in bounded memory: how large channels are, and how values are distributed."""

from __future__ import annotations

import io
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ffnet_deploy.artifacts.writing import write_bytes
from ffnet_deploy.calibration.selection import Images, batches
from ffnet_deploy.graph.current import Graph
from ffnet_deploy.machine.devices import default_threads
from ffnet_deploy.progress import Progress

if TYPE_CHECKING:
    import numpy as np
    import onnx

    from ffnet_deploy.calibration.histograms import Histogram


ACTIVATION_BUDGET = 64 << 20
"""Bytes of activations that are in memory at a time."""
_SAVE_EVERY_S = 20.0
_FEW_PIXELS, _FEWEST = 1 << 21, 4
"""How many images give the sizes of channels: as many as have this many pixels together, but at least this many."""


def sizes_of_channels(
    model: onnx.ModelProto, graph: Graph, images: Images, budget: int, progress: Progress
) -> dict[str, np.ndarray]:
    """How large every channel is on a few of the images, before anything is equalised."""
    import numpy as np

    from ffnet_deploy.calibration.histograms import not_finite
    from ffnet_deploy.graph.equalise import channel_sizes
    from ffnet_deploy.graph.qdq import watched

    few = images.some(max(_FEWEST, _FEW_PIXELS // (graph.shape[2] * graph.shape[3])))
    sizes: dict[str, np.ndarray] = {}
    progress("looking at channels", 0, len(few.names))
    for done, seen, tensors in _walks(model, watched(model), graph, few, 0, budget):
        for name, values in tensors:
            if not np.isfinite(values).all():
                raise not_finite(_what(name, seen))
            found = channel_sizes(values[: len(seen)])
            sizes[name] = np.maximum(sizes.get(name, found), found)
        progress("looking at channels", done, len(few.names))
    # Three digits suffice, and hardly ever depend on the order of sums.
    return {name: np.array([float(f"{size:.3g}") for size in found]) for name, found in sizes.items()}


def histograms_of(
    state: CalibrationState,
    model: onnx.ModelProto,
    graph: Graph,
    images: Images,
    budget: int,
    progress: Progress,
) -> tuple[dict[str, Histogram], int]:
    """Histograms over all images, and how many of the images an interrupted run had already seen."""
    from ffnet_deploy.graph.qdq import watched

    names = watched(model)
    histograms, resumed = state.load(names)
    saved = time.monotonic()
    progress("calibrating", resumed, len(images.names))
    for done, seen, tensors in _walks(model, names, graph, images, resumed, budget):
        for name, values in tensors:
            histograms[name].add(values[: len(seen)], _what(name, seen))
        progress("calibrating", done, len(images.names))
        if time.monotonic() - saved >= _SAVE_EVERY_S and done < len(images.names):
            state.save(histograms, done)
            saved = time.monotonic()
    return histograms, resumed


def _what(tensor: str, images: Sequence[str]) -> str:
    return f"{tensor} on {', '.join(images)}"


def _walks(
    model: onnx.ModelProto, names: Sequence[str], graph: Graph, images: Images, start: int, budget: int
) -> Iterator[tuple[int, list[str], Iterator[tuple[str, np.ndarray]]]]:
    """Run the graph on batch after batch.

    Yields:
        How many images are done with this batch, their names in it, and each watched tensor with its values.
    """
    from ffnet_deploy.calibration.segments import cut, walk
    from ffnet_deploy.runtimes.onnxruntime import OnnxRuntimeRunner

    pieces = cut(model, names, budget)
    threads = default_threads()
    with ExitStack() as stack:
        # Between two pieces, NumPy counts their values. Threads that spin meanwhile would take a core from it.
        runners = [
            stack.enter_context(
                OnnxRuntimeRunner(piece.model.SerializeToString(), threads=threads, spinning=False, shared=True)
            )
            for piece in pieces
        ]
        done = start
        for seen, feed in batches(images, graph.shape[0], start):
            done += len(seen)
            yield done, seen, walk(pieces, runners, {"image": feed})


def partial_path(path: Path) -> Path:
    """Where an interrupted calibration leaves what it has seen."""
    return path.with_suffix(".partial.npz")


@dataclass(frozen=True, slots=True)
class CalibrationState:
    """What an interrupted calibration has seen, on disk."""

    path: Path
    key: str
    """Hash of all that its histograms depend on."""

    def save(self, histograms: Mapping[str, Histogram], done: int) -> None:
        """Write the state whole: occupied bins alone, so a few megabytes."""
        import numpy as np

        arrays: dict[str, Any] = {"key": np.array(self.key), "done": np.array(done)}
        for i, histogram in enumerate(histograms.values()):
            bins = np.flatnonzero(histogram.counts)
            arrays[f"bins{i}"], arrays[f"counts{i}"] = bins.astype(np.uint32), histogram.counts[bins]
            arrays[f"ends{i}"] = np.array([histogram.low, histogram.high])
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        write_bytes(self.path, buffer.getvalue())

    def load(self, names: Sequence[str]) -> tuple[dict[str, Histogram], int]:
        """Histograms of the same calibration and how many images they have seen; empty ones otherwise."""
        import numpy as np

        from ffnet_deploy.calibration.histograms import Histogram

        histograms = {name: Histogram() for name in names}
        try:
            with self.path.open("rb") as file, np.load(file, allow_pickle=False) as state:
                if str(state["key"]) != self.key:
                    return histograms, 0
                for i, histogram in enumerate(histograms.values()):
                    histogram.counts[state[f"bins{i}"]] = state[f"counts{i}"]
                    histogram.low, histogram.high = (float(end) for end in state[f"ends{i}"])
                return histograms, int(state["done"])
        except (OSError, EOFError, ValueError, LookupError, zipfile.BadZipFile):
            # Absent or damaged. Starting again only costs time.
            return {name: Histogram() for name in names}, 0

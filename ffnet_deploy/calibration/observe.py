"""One pass over images in bounded memory: how large channels are, and how values are distributed."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ffnet_deploy.artifacts.sealing import parse_sealed, sealed
from ffnet_deploy.artifacts.values import Count, Finite, Size
from ffnet_deploy.artifacts.writing import json_text, write_bytes
from ffnet_deploy.calibration.selection import Images, batches, of_one_colour
from ffnet_deploy.errors import DataError
from ffnet_deploy.graph.current import Graph
from ffnet_deploy.machine.devices import default_threads
from ffnet_deploy.progress import Progress, Tell, unheard

if TYPE_CHECKING:
    import numpy as np
    import onnx

    from ffnet_deploy.calibration.histograms import Histogram


ACTIVATION_BUDGET = 64 << 20
"""Bytes of activations that are in memory at a time."""
_SAVE_EVERY_S = 20.0
_FEW_PIXELS, _FEWEST = 1 << 21, 4
"""How many images give the sizes of channels: as many as have this many pixels together, but at least this many."""

_BIN, _COUNT, _BYTES = "<u4", "<i8", 12
"""Types of a bin's number and of its count in a file, and their bytes together."""
_LONGEST_HEAD = 1 << 20


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
    if all(of_one_colour(read()) for read in few.readers):
        raise DataError(
            f"All {len(few.names)} images that were looked at are of one colour, first {few.names[0]} (ranges need "
            "pictures). Name another folder with --data."
        )
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
    from ffnet_deploy.graph.facts import shapes
    from ffnet_deploy.graph.qdq import watched

    names = watched(model)
    known = shapes(model)
    each = {name: math.prod(known[name][1:]) for name in names}
    histograms, resumed = state.load(each, len(images.names))
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
    return path.with_suffix(".partial")


@dataclass(frozen=True, slots=True)
class _FirstLine:
    """The first line of the file: sealed JSON. All bins follow it, and then all counts, as bytes."""

    key: str
    done: Size
    """Images seen."""
    bins: tuple[Count, ...]
    """How many are occupied, by histogram."""
    ends: tuple[tuple[Finite, Finite], ...]
    """Smallest and largest value, by histogram."""
    sha256: str
    """Of what follows."""


@dataclass(frozen=True, slots=True)
class CalibrationState:
    """What an interrupted calibration has seen, on disk."""

    path: Path
    key: str
    """Hash of all that its histograms depend on."""
    tell: Tell = unheard

    def save(self, histograms: Mapping[str, Histogram], done: int) -> None:
        """Write the state whole: occupied bins alone, so a few megabytes."""
        import numpy as np

        bins = [np.flatnonzero(histogram.counts) for histogram in histograms.values()]
        counts = [histogram.counts[some] for some, histogram in zip(bins, histograms.values(), strict=True)]
        body = np.concatenate(bins).astype(_BIN).tobytes() + np.concatenate(counts).astype(_COUNT).tobytes()
        head = _FirstLine(
            self.key,
            done,
            tuple(map(len, bins)),
            tuple((histogram.low, histogram.high) for histogram in histograms.values()),
            hashlib.sha256(body).hexdigest(),
        )
        write_bytes(self.path, json_text(sealed(asdict(head))).encode() + b"\n" + body)

    def load(self, values: Mapping[str, int], images: int) -> tuple[dict[str, Histogram], int]:
        """Histograms of the same calibration and how many images they have seen; empty ones otherwise.

        Args:
            values: how many values each tensor has for an image, by name.
            images: how many there are in all.
        """
        from ffnet_deploy.calibration.histograms import Histogram

        try:
            head, body = self._parts(len(values))
            if head.key == self.key:
                return _histograms(values, head, body, images), head.done
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            self.tell(f"{self.path} is damaged ({error}): what an interrupted calibration had seen is looked at again")
        return {name: Histogram() for name in values}, 0

    def _parts(self, tensors: int) -> tuple[_FirstLine, bytes]:
        from ffnet_deploy.calibration.histograms import BINS

        most = _LONGEST_HEAD + tensors * BINS * _BYTES
        size = self.path.stat().st_size
        if size > most or not self.path.is_file():
            raise ValueError(f"it has {size} bytes, and {most} are the most")
        first, _, body = self.path.read_bytes().partition(b"\n")
        head = parse_sealed(_FirstLine, first)
        if hashlib.sha256(body).hexdigest() != head.sha256:
            raise ValueError("it was changed since it was written: its checksum does not fit")
        return head, body


def _histograms(values: Mapping[str, int], head: _FirstLine, body: bytes, images: int) -> dict[str, Histogram]:
    """What the file says.

    Raises:
        ValueError: it fits neither these tensors nor so many images, or no values give it.
    """
    import numpy as np

    from ffnet_deploy.calibration.histograms import Histogram

    total = sum(head.bins)
    if not len(values) == len(head.bins) == len(head.ends) or len(body) != total * _BYTES or head.done >= images:
        raise ValueError("it is of other tensors or images")
    at = np.cumsum(head.bins)[:-1]
    bins = np.split(np.frombuffer(body, _BIN, total), at)
    counts = np.split(np.frombuffer(body, _COUNT, total, total * 4), at)
    found = {
        name: Histogram.of(one, many, *ends)
        for name, one, many, ends in zip(values, bins, counts, head.ends, strict=True)
    }
    if any(histogram.total != head.done * values[name] for name, histogram in found.items()):
        raise ValueError(f"its counts are not those of {head.done} images")
    return found

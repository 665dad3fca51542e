"""Ranges for INT8: one pass over images in bounded memory, kept beside the graph and used by both dialects.

A few images are looked at before it: how large each channel is decides how the graph is equalised, and the ranges are
those of the equalised graph's tensors.
"""

from __future__ import annotations

import io
import json
import shlex
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ffnet_deploy import artifacts, runtimes
from ffnet_deploy.artifacts import Record, Workspace
from ffnet_deploy.errors import ArtifactError, UsageError
from ffnet_deploy.graph.methods import DEFAULT_METHOD, METHODS, PERCENTILE
from ffnet_deploy.pipeline.calibration_images import Images, batches, find_images
from ffnet_deploy.pipeline.current import Graph, Progress, current_graph, quiet

if TYPE_CHECKING:
    import numpy as np
    import onnx

    from ffnet_deploy.graph.equalise import Equalised
    from ffnet_deploy.graph.histograms import Histogram, Limits
    from ffnet_deploy.graph.ranges import Range

_VERSION = 2
"""Of what a range means; a calibration of another version is made again."""
_BUDGET = 64 << 20
"""Bytes of activations that are looked at at a time."""
_SAVE_EVERY_S = 20.0
_FEW_PIXELS, _FEWEST = 1 << 21, 4
"""What is looked at for the sizes of channels: images of so many pixels together, and at least so many images."""
_OF_IMAGES = {"from": str, "count": int, "resized": bool, "names": list}
"""What the file says of its images, besides their hash."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """Ranges of one FP32 graph's activations."""

    path: Path
    values: Mapping[str, Any]
    """As in the file."""
    reused: bool = False

    @property
    def method(self) -> str:
        """What ``build`` uses unless it is told otherwise."""
        return str(self.values["method"])

    @property
    def fingerprint(self) -> str:
        """Hash of what an INT8 graph depends on; the default method and the command are not of it."""
        return fingerprint(self.values)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**self.values, "command": "calibrate", "file": str(self.path), "reused": self.reused, "error": None}

    def limits(self, method: str) -> dict[str, Limits]:
        """Ranges by one method.

        Raises:
            UsageError: the file does not hold it.
        """
        from ffnet_deploy.graph.histograms import Limits

        tensors = self.values["tensors"]
        lacking = [name for name, found in tensors.items() if method not in found]
        if lacking or method not in METHODS:
            have = [m for m in METHODS if all(m in found for found in tensors.values())]
            raise UsageError(
                f"{self.path} holds no ranges by {method!r} ({', '.join(have) or 'none'} are there). Name one of them, "
                f"or run: {self.values['command']}"
            )
        return {name: Limits(*found[method]) for name, found in tensors.items()}

    def equalised(self, model: onnx.ModelProto) -> Equalised:
        """The FP32 graph with its channels made more alike, which is what the ranges are of.

        Raises:
            ArtifactError: a tensor has another number of channels in the file.
        """
        import numpy as np

        from ffnet_deploy.graph.equalise import equalise
        from ffnet_deploy.graph.facts import shapes

        sizes = {name: np.array(found["channels"]) for name, found in self.values["tensors"].items()}
        known = shapes(model)
        for name, size in sizes.items():
            if name in known and len(size) != known[name][1]:
                raise ArtifactError(
                    f"{self.path} has {len(size)} channels of {name} ({known[name][1]} were needed). "
                    f"Run: {self.values['command']}"
                )
        return equalise(model, sizes)

    def ranges(self) -> dict[str, Range]:
        """The extremes."""
        from ffnet_deploy.graph.ranges import Range

        return {name: Range(found["low"], found["high"]) for name, found in self.values["tensors"].items()}


@dataclass(frozen=True, slots=True)
class CalibrateOptions:
    """What ``calibrate`` can be asked for."""

    data: Path
    images: int | None = None
    method: str = DEFAULT_METHOD
    percentile: float = PERCENTILE
    allow_val: bool = False
    budget: int = _BUDGET


def calibrate(
    workspace: Workspace, name: str | None, options: CalibrateOptions, progress: Progress = quiet
) -> Calibration:
    """Find the ranges of every tensor that INT8 needs, or the calibration that has them already.

    Args:
        workspace: where the graph is; gets ``calibration/STEM.json``.
        name: of the model; None is the one exported last.
        options: which images, and what ``build`` will use by default.
        progress: told (what, images done, images in all).

    Raises:
        UsageError: options that make no sense.
        DataError: the images cannot be used.
        ArtifactError: no current graph.
        PrecisionError: an activation is not finite.
    """
    import onnx

    from ffnet_deploy.graph.equalise import equalise

    _check(options)
    started = time.monotonic()
    graph = current_graph(workspace, name)
    progress("hashing the images", 0, None)
    images = find_images(graph, options.data, options.images, allow_val=options.allow_val)
    path = workspace.calibration(graph.stem)
    model = onnx.load(graph.path)
    known = _reusable(path, graph, model, images, options)
    if known is not None:
        if known["method"] != options.method:
            known = {**known, "method": options.method, "command": _command(graph, options)}
            artifacts.write_json(path, known)
        return Calibration(path, known, reused=True)
    sizes = _sizes(model, graph, images, options, progress)
    # Ranges of a graph that was equalised in another way are not to be added to.
    key = artifacts.hash_json(
        [_VERSION, graph.record.sha256, images.sha256, {name: size.tolist() for name, size in sizes.items()}]
    )
    state = _State(_partial(path), key)
    histograms, resumed = _observe(state, equalise(model, sizes).model, graph, images, options, progress)
    progress("choosing ranges", 0, None)
    values = {
        **_about(graph, images, options),
        "seconds": round(time.monotonic() - started, 3),
        "resumed_at": resumed,
        "tensors": _tensors(histograms, sizes, options.percentile),
    }
    artifacts.write_json(path, values)
    state.path.unlink(missing_ok=True)
    return Calibration(path, values)


def _about(graph: Graph, images: Images, options: CalibrateOptions) -> dict[str, Any]:
    """What a calibration is of, and what it was asked for."""
    return {
        "schema": artifacts.SCHEMA,
        "kind": "calibration",
        "version": _VERSION,
        "model": graph.record.model,
        "graph": {"file": graph.path.name, "sha256": graph.record.sha256},
        "images": {
            "from": images.title,
            "folder": str(options.data),
            "count": len(images.names),
            "sha256": images.sha256,
            "resized": images.resized,
            "names": list(images.names),
        },
        "method": options.method,
        "percentile": options.percentile,
        "command": _command(graph, options),
        "marks": [*graph.record.marks, *(["calibrated on val"] if images.val else [])],
        "tools": artifacts.tool_versions("onnx", "numpy", "onnxruntime-gpu", "onnxruntime"),
        "created": artifacts.now(),
    }


def _check(options: CalibrateOptions) -> None:
    if options.method not in METHODS:
        raise UsageError(f"--method {options.method!r} is not known ({', '.join(METHODS)} are). Name one of them.")
    if not 50 < options.percentile < 100:
        raise UsageError(
            f"--percentile {options.percentile:g} is out of range (50 to 100). Leave it out for {PERCENTILE}."
        )


def _command(graph: Graph, options: CalibrateOptions) -> str:
    data = shlex.quote(str(options.data))
    parts = [f"ffnet-deploy calibrate {graph.record.model} --data {data} --method {options.method}"]
    parts += [f"--images {options.images}"] if options.images else []
    parts += [f"--percentile {options.percentile:g}"] if options.percentile != PERCENTILE else []
    return " ".join([*parts, *(["--allow-val"] if options.allow_val else [])])


def _tensors(histograms: Mapping[str, Histogram], sizes: Mapping[str, np.ndarray], percentile: float) -> dict[str, Any]:
    from ffnet_deploy.graph.histograms import limits

    return {
        name: {
            "low": histogram.low,
            "high": histogram.high,
            "values": histogram.total,
            "channels": [float(size) for size in sizes[name]],
            **{method: list(found) for method, found in limits(histogram, percentile).items()},
        }
        for name, histogram in histograms.items()
    }


def _reusable(
    path: Path, graph: Graph, model: onnx.ModelProto, images: Images, options: CalibrateOptions
) -> dict[str, Any] | None:
    """What is there already, if it is of this graph and these images, and whole."""
    from ffnet_deploy.graph.qdq import watched

    try:
        values = read_calibration(path)
    except ArtifactError:
        return None  # absent or damaged: it is made again
    same = (
        values["graph"]["sha256"] == graph.record.sha256
        and values["images"]["sha256"] == images.sha256
        and values["percentile"] == options.percentile
        and values["tensors"].keys() == set(watched(model))
        and all(method in found for found in values["tensors"].values() for method in METHODS)
    )
    return values if same else None


def read_calibration(path: Path) -> dict[str, Any]:
    """The file's values, held to what the rest of the code takes for granted.

    Raises:
        ArtifactError: absent, or no calibration of this version.
    """
    again = f"Run: ffnet-deploy calibrate {artifacts.model_of(path.name)} --data DIR"
    try:
        values = json.loads(path.read_text("utf-8"))
        good = (
            values["kind"] == "calibration"
            and (values["schema"], values["version"]) == (artifacts.SCHEMA, _VERSION)
            and all(isinstance(values[key], str) for key in ("model", "method", "command"))
            and isinstance(values["percentile"], float)
            and all(isinstance(values[key]["sha256"], str) for key in ("graph", "images"))
            and isinstance(values["graph"]["file"], str)
            and all(isinstance(mark, str) for mark in _listed(values["marks"]))
            and all(isinstance(values["images"][key], kind) for key, kind in _OF_IMAGES.items())
            and all(_is_range(found) for found in values["tensors"].values())
        )
    except FileNotFoundError:
        raise ArtifactError(f"{path} does not exist. {again}") from None
    except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise ArtifactError(f"{path} is no calibration of this version ({error}). {again}") from error
    if not good:
        raise ArtifactError(f"{path} is no calibration of this version. {again}")
    return dict(values)


def fingerprint(values: Mapping[str, Any]) -> str:
    """Hash of a calibration's graph, images and ranges.

    Args:
        values: of :func:`read_calibration`.
    """
    hashes = [values[key]["sha256"] for key in ("graph", "images")]
    return artifacts.hash_json([*hashes, values["percentile"], values["tensors"]])


def ranges_changed(workspace: Workspace, record: Record) -> bool:
    """Whether an INT8 graph or engine was made from other ranges than its calibration has now.

    Raises:
        ArtifactError: the calibration is damaged.
    """
    if record.precision not in ("int8", "int8-cpu"):
        return False
    source = record.sources.get("calibration", {})
    if not {"file", "fingerprint"} <= source.keys():
        return True
    path = workspace.calibration(source["file"].removesuffix(".json"))
    # Without the file, nothing says that there are newer ranges.
    return path.exists() and fingerprint(read_calibration(path)) != source["fingerprint"]


def _listed(value: object) -> list[Any]:
    """A list; text, which one may iterate over too, is none."""
    if not isinstance(value, list):
        raise TypeError(f"{value!r} is no list")
    return value


def _is_range(found: Mapping[str, Any]) -> bool:
    ends = all(isinstance(found[end], float) for end in ("low", "high"))
    channels = all(isinstance(size, float) for size in _listed(found["channels"]))
    return (
        ends
        and channels
        and all(len(found[m]) == 3 and all(isinstance(v, float) for v in found[m]) for m in METHODS if m in found)
    )


def current_calibration(workspace: Workspace, graph: Graph) -> Calibration:
    """The calibration of a graph.

    Raises:
        ArtifactError: none, a damaged one, or one of another model or an older graph; the message has the command.
    """
    path = workspace.calibration(graph.stem)
    again = f"Run: ffnet-deploy calibrate {graph.record.model} --data DIR"
    if not path.exists():
        raise ArtifactError(f"{path} does not exist (INT8 needs the ranges of activations). {again}")
    values = read_calibration(path)
    if values["model"] != graph.record.model:
        raise ArtifactError(f"{path} is of {values['model']} (one of {graph.record.model} was needed). {again}")
    if values["graph"]["sha256"] != graph.record.sha256:
        raise ArtifactError(
            f"{path} is stale: {graph.path} was exported again since it was made. Run: {values['command']}"
        )
    return Calibration(path, values)


def _sizes(
    model: onnx.ModelProto, graph: Graph, images: Images, options: CalibrateOptions, progress: Progress
) -> dict[str, np.ndarray]:
    """How large every channel is on a few of the images, before anything is equalised."""
    import numpy as np

    from ffnet_deploy.graph.equalise import channel_sizes
    from ffnet_deploy.graph.histograms import not_finite
    from ffnet_deploy.graph.qdq import watched

    few = images.some(max(_FEWEST, _FEW_PIXELS // (graph.shape[2] * graph.shape[3])))
    sizes: dict[str, np.ndarray] = {}
    progress("looking at channels", 0, len(few.names))
    for done, seen, tensors in _walks(model, watched(model), graph, few, 0, options.budget):
        for name, values in tensors:
            if not np.isfinite(values).all():
                raise not_finite(_what(name, seen))
            found = channel_sizes(values[: len(seen)])
            sizes[name] = np.maximum(sizes.get(name, found), found)
        progress("looking at channels", done, len(few.names))
    # Three digits suffice, and hardly ever depend on the order of sums.
    return {name: np.array([float(f"{size:.3g}") for size in found]) for name, found in sizes.items()}


def _observe(
    state: _State, model: onnx.ModelProto, graph: Graph, images: Images, options: CalibrateOptions, progress: Progress
) -> tuple[dict[str, Histogram], int]:
    """Histograms of all images, those of an interrupted run included, and how many images that had seen."""
    from ffnet_deploy.graph.qdq import watched

    names = watched(model)
    histograms, resumed = state.load(names)
    saved = time.monotonic()
    progress("calibrating", resumed, len(images.names))
    for done, seen, tensors in _walks(model, names, graph, images, resumed, options.budget):
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
    from ffnet_deploy.graph.segments import cut, walk
    from ffnet_deploy.runtimes.onnxruntime import OnnxRuntimeRunner

    pieces = cut(model, names, budget)
    threads = runtimes.default_threads()
    with ExitStack() as stack:
        # Between two pieces their tensors are counted: threads that spin meanwhile would take a core from that.
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


def _partial(path: Path) -> Path:
    """Where an interrupted calibration leaves what it has seen."""
    return path.with_suffix(".partial.npz")


@dataclass(frozen=True, slots=True)
class _State:
    """What an interrupted calibration has seen, on disk."""

    path: Path
    key: str
    """Of all that its histograms depend on."""

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
        artifacts.write_bytes(self.path, buffer.getvalue())

    def load(self, names: Sequence[str]) -> tuple[dict[str, Histogram], int]:
        """Histograms of the same calibration and how many images they have seen; empty ones otherwise."""
        import numpy as np

        from ffnet_deploy.graph.histograms import Histogram

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
            # Absent, or left by something else: it costs time to begin again, and nothing else.
            return {name: Histogram() for name in names}, 0

"""Where does it start? Inner tensors of PyTorch and of the graphs made from it, compared one by one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ffnet_deploy.graph.taps import Tap, grouped, tapped, taps
from ffnet_deploy.runtimes.onnxruntime import OnnxRuntimeRunner

if TYPE_CHECKING:
    import onnx

    from ffnet_deploy.runtimes.pytorch import PyTorchRunner
    from ffnet_deploy.runtimes.runner import Feeds


BUDGET = 512 * 10**6
"""Bytes of inner tensors that are held at once, PyTorch's and one graph's together."""
JUMP = 10.0
"""An error jumps where it is this much larger than in everything that the node reads."""
FLOORS = {"fp32": 1e-4, "fp16": 1e-2, "int8": 0.2}
"""Relative errors up to these are a precision's own and no jump: some fifty times what one rounding does."""
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class InnerTensor:
    """How one inner tensor of a graph compares with PyTorch's."""

    node: str
    """Name of the graph's node: the PyTorch module, ``/``, the operator, and a number from its second call on."""
    max_difference: float
    """Largest absolute difference, divided by the reference tensor's standard deviation."""
    mean_difference: float
    """Mean absolute difference, divided by the same."""
    noise: float
    """Root of (energy of the difference / energy of the reference)."""

    @property
    def module(self) -> str:
        """PyTorch's name of the module that computes it, its batch norm included."""
        return self.node.rpartition("/")[0] or "the network itself"

    @property
    def sqnr(self) -> float:
        """Signal to quantisation noise, dB; infinite where nothing differs."""
        if self.noise == 0:
            return math.inf
        return -20 * math.log10(self.noise) if math.isfinite(self.noise) else -math.inf


@dataclass(frozen=True, slots=True)
class Inside:
    """All inner tensors of one graph, in the network's order."""

    layers: tuple[InnerTensor, ...]
    jump: InnerTensor | None
    """The first whose error is far beyond that of everything it is computed from."""
    without: tuple[str, ...]
    """Nodes of the exported graph whose tensors this graph no longer has."""

    def worst(self, count: int) -> list[InnerTensor]:
        """The layers with the lowest signal to noise, the worst first."""
        return sorted(self.layers, key=lambda layer: layer.sqnr)[:count]


def look_inside(
    reference: PyTorchRunner,
    exported: onnx.ModelProto,
    graphs: Sequence[onnx.ModelProto],
    floors: Sequence[float],
    feed: Feeds,
    *,
    threads: int,
    factors: Sequence[Mapping[str, np.ndarray]] | None = None,
    budget: int = BUDGET,
    progress: Callable[[int, int], None] | None = None,
) -> list[Inside]:
    """Compare every inner tensor of some graphs with PyTorch's, on one batch of images.

    The network runs again for each group of tensors that fits the budget, so memory does not grow with its depth.

    Args:
        reference: the module that the graphs were made from.
        exported: the FP32 graph; its nodes are named after PyTorch's modules.
        graphs: FP32 graphs with the exported graph's names for tensors, run as they stand.
        floors: for each graph, the relative error below which nothing is a jump.
        feed: normalised float32 images.
        threads: of every session.
        factors: for each graph, by tensor, what its channels are multiplied with to be the exported graph's; float32
            (C,), of :class:`ffnet_deploy.graph.equalise.Equalised`.
        budget: bytes of tensors held at once; a single larger tensor is held all the same.
        progress: told (tensors done, tensors).

    Raises:
        EngineError: PyTorch ran no operator of a node's name, or ONNX Runtime refuses a graph.
    """
    inner = taps(exported)
    batch = len(feed["image"])
    given = [{name for node in graph.graph.node for name in node.output} for graph in graphs]
    layers: list[dict[str, InnerTensor]] = [{} for _ in graphs]
    undo = factors or [{}] * len(graphs)
    done = 0
    for group in grouped([tap._replace(size=2 * batch * tap.size) for tap in inner], budget):
        wanted = reference.inner(feed, [tap.node for tap in group])
        for graph, names, found, by in zip(graphs, given, layers, undo, strict=True):
            some = [tap for tap in group if tap.tensor in names]
            found.update(_compared(some, wanted, _Scaled(graph, by), feed, threads))
        done += len(group)
        if progress:
            progress(done, len(inner))
    return [
        Inside(
            tuple(found.values()),
            _first_jump(inner, found, floor),
            tuple(tap.node for tap in inner if tap.tensor not in found),
        )
        for found, floor in zip(layers, floors, strict=True)
    ]


class _Scaled(NamedTuple):
    """A graph, and what its tensors' channels are multiplied with before they are compared."""

    graph: onnx.ModelProto
    factors: Mapping[str, np.ndarray]

    def undone(self, name: str, values: np.ndarray) -> np.ndarray:
        if name not in self.factors:
            return values
        undone: np.ndarray = values * self.factors[name].reshape(-1, *[1] * (values.ndim - 2))
        return undone


def _compared(
    group: Sequence[Tap], wanted: Mapping[str, np.ndarray], scaled: _Scaled, feed: Feeds, threads: int
) -> Iterator[tuple[str, InnerTensor]]:
    if not group:
        return
    part = tapped(scaled.graph, [tap.tensor for tap in group]).SerializeToString()
    with OnnxRuntimeRunner(part, threads=threads, spinning=False, optimised=False) as runner:
        outputs = runner({"image": feed["image"].astype(runner.inputs[0].dtype, copy=False)})
    for tap in group:
        values = scaled.undone(tap.tensor, outputs.pop(tap.tensor))
        yield tap.tensor, differing(tap.node, wanted[tap.node], values)


def differing(node: str, reference: np.ndarray, other: np.ndarray) -> InnerTensor:
    """Compare two tensors of one shape, in pieces so that no double-precision copy of a large one exists.

    Args:
        node: names the result.
        reference: floats.
        other: floats; NaN counts as infinitely far.
    """
    assert reference.shape == other.shape, node
    ours, theirs = reference.ravel(), other.ravel()
    total = energy = largest = apart = noise = 0.0
    for start in range(0, len(ours), _CHUNK):
        piece = ours[start : start + _CHUNK].astype(np.float64)
        difference = np.abs(piece - theirs[start : start + _CHUNK])
        difference = np.nan_to_num(difference, copy=False, nan=np.inf, posinf=np.inf)
        total += float(piece.sum())
        energy += float(piece @ piece)
        largest = max(largest, float(difference.max()))
        apart += float(difference.sum())
        noise += float(difference @ difference)
    count = len(ours)
    spread = math.sqrt(max(energy / count - (total / count) ** 2, 0.0)) or 1.0
    relative = math.sqrt(noise / energy) if energy else math.inf if noise else 0.0
    return InnerTensor(node, largest / spread, apart / count / spread, relative)


def _first_jump(inner: Sequence[Tap], found: Mapping[str, InnerTensor], floor: float) -> InnerTensor | None:
    """The first tensor whose error no tensor that it is computed from explains."""
    # A tensor that a graph no longer has passes on the error of what it was computed from.
    noises: dict[str, float] = {}
    for tap in inner:
        before = max((noises.get(name, 0.0) for name in tap.inputs), default=0.0)
        layer = found.get(tap.tensor)
        noises[tap.tensor] = before if layer is None else layer.noise
        if layer is not None and layer.noise > max(floor, JUMP * before):
            return layer
    return None

"""Where most commands start: the graph exported last, if it is still current, and inputs for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ffnet_deploy import artifacts
from ffnet_deploy.artifacts import Record, Workspace
from ffnet_deploy.errors import ArtifactError
from ffnet_deploy.runtimes import Ends
from ffnet_deploy.zoo import specs
from ffnet_deploy.zoo.specs import ModelSpec

Progress = Callable[[str, int, int | None], None]
"""Told (what is going on, how much is done, out of how much or None)."""


def quiet(what: str, done: int, total: int | None) -> None:
    """The progress callback of callers that show none."""


@dataclass(frozen=True, slots=True)
class Graph:
    """An FP32 graph that is current: undamaged, and made from the weights that are there."""

    path: Path
    record: Record

    @property
    def spec(self) -> ModelSpec:
        return specs.changed(self.record.model, self.record.options.get("upsampling"))

    @property
    def command(self) -> str:
        """The command that makes it again."""
        return str(self.record.options.get("command") or f"ffnet-deploy export {self.record.model}")

    @property
    def stem(self) -> str:
        """File name without ending: the model and what differs from its contract."""
        return self.path.name.removesuffix(".onnx")

    @property
    def dynamic(self) -> bool:
        """Whether the batch is free; ``shape`` has 1 then."""
        return bool(self.record.options.get("dynamic_batch"))

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(N, 3, H, W) of the input."""
        n, c, h, w = self.record.options["shape"]
        return n, c, h, w


def current_graph(workspace: Workspace, name: str | None) -> Graph:
    """The graph exported last, of ``name`` or of any model.

    Raises:
        UnknownModelError: no such model.
        ArtifactError: none was exported, or it is damaged or stale; the message names the command that renews it.
    """
    if name is not None:
        specs.find(name)
    found = workspace.graphs(name)
    if not found:
        what = f"No graph of {name} is" if name else "No graph is"
        raise ArtifactError(
            f"{what} in {workspace.models} (an exported one was needed). Run: ffnet-deploy export {name or 'NAME'}"
        )
    path, listed = found[0]
    if listed.model not in specs.SPECS or not path.name.startswith(listed.model):
        raise ArtifactError(f"{path} has a record of {listed.model!r}, which it is not. Run: ffnet-deploy export NAME")
    graph = Graph(path, artifacts.load_record(path, remedy=f"ffnet-deploy export {listed.model}"))
    _check_weights(workspace, graph)
    return graph


def _check_weights(workspace: Workspace, graph: Graph) -> None:
    file = reference_weights(workspace, graph)
    weights = graph.record.sources["weights"]
    if file is not None and file.is_file() and artifacts.sha256_of(file) != weights["sha256"]:
        raise ArtifactError(f"{graph.path} is stale: {file} has changed since it was exported. Run: {graph.command}")


def reference_weights(workspace: Workspace, graph: Graph) -> Path | None:
    """The file that a graph was exported from; None for random weights."""
    file = graph.record.sources["weights"]["file"]
    return None if file is None else workspace.root / file


def street_feeds(shape: tuple[int, int, int, int], count: int, ends: Ends | None = None) -> list[dict[str, Any]]:
    """Real-looking inputs: synthetic street scenes in the form that an engine takes.

    Args:
        shape: (N, 3, H, W) of the network's input.
        count: of feeds.
        ends: what the engine takes; by default float32 of ``shape``, normalised.
    """
    import numpy as np

    from ffnet_deploy.data.images import normalise
    from ffnet_deploy.data.scenes import draw_scene

    ends = ends or Ends()
    batch, _, height, width = shape
    scenes = [draw_scene(height, width, seed).image for seed in range(count * batch)]
    if ends.image_in:
        images = [scene[None] for scene in scenes]
    else:
        images = [normalise(scene).astype("float16" if ends.io == "fp16" else "float32") for scene in scenes]
    return [{"image": np.concatenate(images[i * batch : (i + 1) * batch])} for i in range(count)]

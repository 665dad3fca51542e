"""Where most commands start: the graph that was exported last, if it is still current."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ffnet_deploy.artifacts.commandline import CommandLine
from ffnet_deploy.artifacts.filenames import FileName, model_of
from ffnet_deploy.artifacts.records import GraphRecord, check_file
from ffnet_deploy.artifacts.replay import again, exported_name
from ffnet_deploy.artifacts.values import Shape
from ffnet_deploy.artifacts.workspace import Workspace
from ffnet_deploy.artifacts.writing import sha256_of
from ffnet_deploy.errors import ArtifactError
from ffnet_deploy.zoo import specs
from ffnet_deploy.zoo.specs import ModelSpec

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True, slots=True)
class Graph:
    """A graph of a workspace. It is undamaged, and was made from the weights that are there."""

    workspace: Workspace
    path: Path
    record: GraphRecord

    @property
    def spec(self) -> ModelSpec:
        return specs.changed(self.record.model, self.record.options.upsampling)

    @property
    def name(self) -> FileName:
        """What its file name says."""
        return FileName.parse(self.path.name)

    @property
    def again(self) -> CommandLine:
        """The command that makes it again."""
        return again(self.workspace, self.path, self.record)

    @property
    def dynamic(self) -> bool:
        """Whether it takes any batch; ``shape`` then has 1."""
        return self.record.options.dynamic_batch

    @property
    def shape(self) -> Shape:
        """(N, 3, H, W) of the network's input."""
        return self.record.options.shape

    @property
    def weights(self) -> Path | None:
        """The file that it was exported from; None for random weights."""
        file = self.record.weights.file
        return None if file is None else self.workspace.root / file

    def load(self) -> onnx.ModelProto:
        """What is in the file.

        Raises:
            ArtifactError: no sound graph, or not the network that the record describes.
        """
        from ffnet_deploy.graph.loading import load_network

        sides = (None, *self.shape[1:]) if self.dynamic else self.shape
        return load_network(self.path, sides, remedy=str(self.again))

    def run(self, *words: str) -> CommandLine:
        """A command on its model, in its workspace: ``graph.run("export", "--dynamic-batch")``."""
        command, *options = words
        return self.workspace.run(command, self.record.model, *options)


def current_graph(workspace: Workspace, name: str | None) -> Graph:
    """The graph that was exported last, of ``name`` or of any model.

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
            f"{what} in {workspace.models} (an exported one was needed). Run: {workspace.run('export', name or 'NAME')}"
        )
    graph = Graph(workspace, *found[0])
    record = graph.record
    if record.model not in specs.SPECS or model_of(graph.path.name) != record.model:
        raise ArtifactError(
            f"{graph.path} has the record of another model, {record.model!r}. Run: {workspace.run('export', 'NAME')}"
        )
    usual = exported_name(record.model, record.options)
    if graph.path.name != str(usual):
        raise ArtifactError(
            f"{graph.path} has the record of {usual} (a graph with its own name was needed). Rename both back, or "
            "delete them."
        )
    check_file(graph.path, record, remedy=str(graph.again))
    _check_weights(graph)
    return graph


def _check_weights(graph: Graph) -> None:
    file = graph.weights
    if file is not None and file.is_file() and sha256_of(file) != graph.record.weights.sha256:
        raise ArtifactError(f"{graph.path} is stale: {file} has changed since it was exported. Run: {graph.again}")

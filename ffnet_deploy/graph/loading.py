"""Graphs from files that may come from anywhere: whole, sound, and with all their data inside."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import onnx
from onnx import TensorProto

from ffnet_deploy.artifacts.renewal import next_step
from ffnet_deploy.errors import ArtifactError
from ffnet_deploy.foreign import reason


def load_graph(path: Path, *, remedy: str | None = None) -> onnx.ModelProto:
    """A graph that passes ONNX's own checks: sorted, each input made by someone, types and shapes that agree.

    Args:
        path: it alone is read, and no other file that it names.
        remedy: the command that makes it again, for the message; None is what its name says.

    Raises:
        ArtifactError: it is no such graph, or keeps data in other files.
        OSError: it cannot be read.
    """
    return checked(parsed(path, remedy=remedy), path, remedy=remedy)


def checked(model: onnx.ModelProto, path: Path, *, remedy: str | None = None) -> onnx.ModelProto:
    """The same graph, if it passes ONNX's own checks.

    Args:
        model: it has operators of ONNX alone.
        path: where it comes from, for the message.
        remedy: as for :func:`load_graph`.

    Raises:
        ArtifactError: it does not.
    """
    try:
        onnx.checker.check_model(model, full_check=True)
    except MemoryError:
        raise
    except Exception as error:  # the checker, shape inference and their bindings each raise their own
        raise _unsound(path, reason(error), remedy) from error
    return model


def load_network(path: Path, sides: Sequence[int | None], *, remedy: str) -> onnx.ModelProto:
    """A sound graph that has what every pass over ours relies on: ``image`` alone as input, and a name for each node.

    Args:
        path: it alone is read.
        sides: of ``image``; None is a symbolic one.
        remedy: the command that makes it again, for the message.

    Raises:
        ArtifactError: it is not such a graph.
        OSError: it cannot be read.
    """
    model = load_graph(path, remedy=remedy)
    found = {value.name: _sides(value) for value in model.graph.input}
    wanted = {"image": tuple(sides)}
    if found != wanted:
        raise ArtifactError(f"{path} takes {_listed(found)} ({_listed(wanted)} was needed). Run: {remedy}")
    names = Counter(node.name for node in model.graph.node)
    if "" in names or max(names.values()) > 1:
        what = "a node without a name" if "" in names else f"{max(names.values())} nodes of one name"
        raise ArtifactError(f"{path} has {what} (a graph that export wrote was needed). Run: {remedy}")
    return model


def _sides(value: onnx.ValueInfoProto) -> tuple[int | None, ...]:
    sides = value.type.tensor_type.shape.dim
    return tuple(side.dim_value if side.HasField("dim_value") else None for side in sides)


def _listed(inputs: Mapping[str, tuple[int | None, ...]]) -> str:
    shown = {name: ", ".join("any" if side is None else str(side) for side in sides) for name, sides in inputs.items()}
    return ", ".join(f"{name} ({sides})" for name, sides in shown.items()) or "nothing"


def parsed(path: Path, *, remedy: str | None = None) -> onnx.ModelProto:
    """A graph that may hold operators of a runtime's own, which ONNX cannot check.

    Args:
        path: it alone is read.
        remedy: as for :func:`load_graph`.

    Raises:
        ArtifactError: it is no ONNX graph, or keeps data in other files.
        OSError: it cannot be read.
    """
    try:
        model = onnx.load_model_from_string(path.read_bytes())
    except (OSError, MemoryError):
        raise
    except Exception as error:  # protobuf raises errors of its own
        raise _unsound(path, reason(error), remedy) from error
    if not model.graph.node:
        raise _unsound(path, "it has no nodes", remedy)
    outside = next((t.name for t in _tensors(model) if t.data_location == TensorProto.EXTERNAL), None)
    if outside is not None:
        # Whose path may lead anywhere.
        raise ArtifactError(
            f"{path} keeps the data of {outside!r} in another file (a graph in one file was needed). "
            f"{_step(path, remedy)}"
        )
    return model


def _unsound(path: Path, why: str, remedy: str | None) -> ArtifactError:
    return ArtifactError(f"{path} is no ONNX graph ({why}). {_step(path, remedy)}")


def _step(path: Path, remedy: str | None) -> str:
    return f"Run: {remedy}" if remedy else next_step(path)


def _tensors(model: onnx.ModelProto) -> Iterator[TensorProto]:
    """All that hold data, in nodes' attributes and inner graphs too."""
    yield from _tensors_of(model.graph)
    for function in model.functions:
        yield from _tensors_in(function.node)


def _tensors_of(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _tensors_in(graph.node)


def _tensors_in(nodes: Iterable[onnx.NodeProto]) -> Iterator[TensorProto]:
    for attribute in (attribute for node in nodes for attribute in node.attribute):
        yield from (attribute.t, *attribute.tensors)
        for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
            yield from (sparse.values, sparse.indices)
        for graph in (attribute.g, *attribute.graphs):
            yield from _tensors_of(graph)

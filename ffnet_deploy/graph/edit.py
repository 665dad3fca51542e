"""The start and the end of every pass over a graph: copy it, change the copy, check the result."""

from __future__ import annotations

from collections.abc import Iterable

import onnx

from ffnet_deploy.graph.facts import without_weights


def copied(model: onnx.ModelProto) -> onnx.ModelProto:
    """A deep copy. A pass changes the copy, so that the caller's graph stays as it is."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def replace_nodes(graph: onnx.GraphProto, nodes: Iterable[onnx.NodeProto]) -> None:
    """Make ``nodes`` the nodes of a graph, in their order. They may be some of its own."""
    new = list(nodes)
    del graph.node[:]
    graph.node.extend(new)


def replace_initializers(graph: onnx.GraphProto, tensors: Iterable[onnx.TensorProto]) -> None:
    """Make ``tensors`` the initializers of a graph, in their order. They may be some of its own."""
    new = list(tensors)
    del graph.initializer[:]
    graph.initializer.extend(new)


def drop_unused_initializers(graph: onnx.GraphProto) -> None:
    """Remove the initializers that no node reads; the others keep their order."""
    used = {name for node in graph.node for name in node.input}
    replace_initializers(graph, [tensor for tensor in graph.initializer if tensor.name in used])


def finished(model: onnx.ModelProto) -> onnx.ModelProto:
    """The result of a pass: shapes and types of all tensors inferred again, and checked.

    Args:
        model: the changed copy. Its inferred shapes may be out of date; they are removed from it.

    Raises:
        onnx.shape_inference.InferenceError: the shapes or types contradict each other.
        onnx.checker.ValidationError: the graph is invalid.
    """
    graph = model.graph
    del graph.value_info[:]
    inferred = onnx.shape_inference.infer_shapes(without_weights(model), strict_mode=True).graph
    graph.value_info.extend(inferred.value_info)
    del graph.output[:]
    graph.output.extend(inferred.output)
    return checked(model)


def checked(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model, checked.

    Raises:
        onnx.checker.ValidationError: the graph is invalid.
    """
    onnx.checker.check_model(model, full_check=True)
    return model

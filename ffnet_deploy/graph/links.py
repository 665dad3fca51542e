"""Which node makes each tensor of a graph, and which nodes read it."""

from __future__ import annotations

import onnx


class Links:
    """Makers, readers and constants of a graph, by the tensor's name.

    Attributes:
        maker: the node that computes the tensor; inputs of the graph have none.
        readers: the nodes that read the tensor, in the graph's order; one that reads it twice comes twice.
        constants: the graph's initializers.
        ends: names of the graph's outputs.
    """

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.maker = {name: node for node in graph.node for name in node.output}
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self.ends = {value.name for value in graph.output}

    def only_reader(self, name: str, op_type: str) -> onnx.NodeProto | None:
        """The single node that reads a tensor, if it has that type and the tensor is no output of the graph."""
        readers = self.readers.get(name, [])
        alone = len(readers) == 1 and name not in self.ends
        return readers[0] if alone and readers[0].op_type == op_type else None

    def data_inputs(self, node: onnx.NodeProto) -> list[str]:
        """The inputs of a node that are activations: neither constants nor left out."""
        return [name for name in node.input if name and name not in self.constants]

"""Who makes and who reads each tensor of a graph."""

from __future__ import annotations

import onnx


class Links:
    """Makers, readers and constants by the tensor's name."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.maker = {name: node for node in graph.node for name in node.output}
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self.ends = {value.name for value in graph.output}

    def only_reader(self, name: str, op_type: str) -> onnx.NodeProto | None:
        """The single node that reads a tensor, if it is of that type and the tensor is no output of the graph."""
        readers = self.readers.get(name, [])
        alone = len(readers) == 1 and name not in self.ends
        return readers[0] if alone and readers[0].op_type == op_type else None

    def data_inputs(self, node: onnx.NodeProto) -> list[str]:
        """Inputs that are activations."""
        return [name for name in node.input if name and name not in self.constants]

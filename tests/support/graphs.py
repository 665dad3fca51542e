"""Small graphs for tests: written as text, filled with weights, and put into a workspace as export does."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from ffnet_deploy.artifacts.records import GraphRecord, Stamp, keep, now
from ffnet_deploy.artifacts.replay import exported_name
from ffnet_deploy.artifacts.values import GraphOptions, SourceWeights
from ffnet_deploy.artifacts.workspace import Workspace
from ffnet_deploy.calibration.segments import cut, walk
from ffnet_deploy.graph.equalise import channel_sizes
from ffnet_deploy.graph.qdq import watched
from ffnet_deploy.graph.ranges import Limits
from ffnet_deploy.runtimes.onnxruntime import OnnxRuntimeRunner
from support.fakes import SMALL, SMALL_SHAPE

HEAD = """
    net (float[1,3,8,8] image) => (float[1,2,8,8] logits)
    <float[4,3,1,1] w0, float[4,3,2,2] w1, float[4,8,1,1] w2, float[2,4,1,1] w3, int64[4] sizes>
    {
        [c0] a = Conv(image, w0) [r0] r = Relu(a)
        [c1] b = Conv<strides = [2, 2]>(image, w1) [r1] s = Relu(b)
        [up] u = Resize<mode = "nearest", coordinate_transformation_mode = "asymmetric", nearest_mode = "floor">
            (s, , , sizes)
        [cat] v = Concat<axis = 1>(r, u)
        [c2] e = Conv(v, w2) [r2] f = Relu(e)
        [last] logits = Conv(f, w3)
    }
"""


def filled(text: str, seed: int = 0) -> onnx.ModelProto:
    """A graph from text whose weights, which the text only declares, are random and very uneven by channel."""
    body, _, nodes = text.partition("{")
    head, _, declared = body.partition("<")
    rng = np.random.default_rng(seed)
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]> {head} {{ {nodes}')
    for declaration in declared.strip().rstrip(">").split(", "):
        kind, name = declaration.split()
        shape = [int(side) for side in kind.removeprefix("float[").rstrip("]").split(",")]
        uneven = 2.0 ** rng.integers(-4, 5, (shape[0], *[1] * (len(shape) - 1)))
        values = (rng.standard_normal(shape) * uneven).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    return model


def sizes(model: onnx.ModelProto, feed: np.ndarray) -> dict[str, np.ndarray]:
    """How large each channel of every tensor that INT8 looks at is, on one input."""
    names = watched(model)
    pieces = cut(model, names, 1 << 30)
    runners = [OnnxRuntimeRunner(piece.model.SerializeToString(), threads=1) for piece in pieces]
    return {name: channel_sizes(values) for name, values in walk(pieces, runners, {"image": feed})}


def head() -> onnx.ModelProto:
    model = filled(HEAD.replace(", int64[4] sizes", ""))
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 4, 8, 8]), "sizes"))
    return model


def of(model: onnx.ModelProto, magnitude: float = 4.0, **others: float) -> dict[str, Limits]:
    """Ranges of everything, ReLU's outputs from 0 on."""
    relus = {node.output[0] for node in model.graph.node if node.op_type in ("Relu", "Resize", "Gather", "Concat")}
    found = {}
    for node in model.graph.node:
        for name in node.output:
            m = others.get(name, magnitude)
            found[name] = Limits(m, 0.0 if name in relus else -m, m)
    return found


def put_graph(workspace: Workspace, data: bytes) -> None:
    """Keep a graph as export does, without PyTorch."""
    options = GraphOptions(shape=SMALL_SHAPE, opset=20, contract=(512, 1024))
    keep(
        workspace.path_of(exported_name(SMALL, options)),
        data,
        lambda sha256, size: GraphRecord(
            model=SMALL,
            precision="fp32",
            file=Stamp(sha256=sha256, size=size, seconds=0.0, tools={}, created=now()),
            marks=("untrained",),
            options=options,
            weights=SourceWeights(None, "0" * 64),
        ),
    )

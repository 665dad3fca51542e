"""Graphs from files that may come from anywhere: whatever is wrong with one is one line of error."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.cli_runner import Cli
from support.graphs import put_graph

from ffnet_deploy.artifacts.workspace import Workspace
from ffnet_deploy.errors import ArtifactError, EngineError
from ffnet_deploy.graph.loading import load_graph, load_network, parsed
from ffnet_deploy.runtimes.onnxruntime import OnnxRuntimeRunner

Change = Callable[[onnx.ModelProto], object]
TEXT = """
    <ir_version: 10, opset_import: ["" : 20]>
    net (float[1,3,64,128] image) => (float[1,2,64,128] logits) { [c0] a = Conv(image, w0) [last] logits = Relu(a) }
"""


def small() -> onnx.ModelProto:
    model = onnx.parser.parse_model(TEXT)
    model.graph.initializer.append(numpy_helper.from_array(np.ones((2, 3, 1, 1), np.float32), "w0"))
    return model


def weight(model: onnx.ModelProto) -> Any:
    return model.graph.initializer[0]


def image(model: onnx.ModelProto) -> Any:
    return model.graph.input[0].type.tensor_type


def any_height(model: onnx.ModelProto) -> None:
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[2].dim_param = "rows"


def outside(tensor: onnx.TensorProto, place: str | None) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    if place is not None:
        tensor.external_data.add(key="location", value=place)


def inside_a_branch(model: onnx.ModelProto) -> None:
    """A constant of a graph inside a node's attribute."""
    value = numpy_helper.from_array(np.ones(1, np.float32), "v")
    outside(value, "/etc/hostname")
    branch = helper.make_graph([helper.make_node("Constant", [], ["b"], value=value)], "branch", [], [])
    model.graph.node[0].attribute.append(helper.make_attribute("then_branch", branch))


UNSOUND: dict[str, Change] = {
    "a cycle": lambda m: m.graph.node[0].input.__setitem__(0, "logits"),
    "an input that nobody makes": lambda m: m.graph.node[0].input.__setitem__(0, "gone"),
    "no weight": lambda m: m.graph.initializer.pop(),
    "a negative side": lambda m: weight(m).dims.__setitem__(0, -2),
    "too many values": lambda m: weight(m).dims.__setitem__(0, 2**62),
    "the largest side": lambda m: weight(m).dims.__setitem__(0, 2**63 - 1),
    "too little data": lambda m: setattr(weight(m), "raw_data", b"123"),
    "a weight of no known type": lambda m: setattr(weight(m), "data_type", 99),
    "a weight without a type": lambda m: setattr(weight(m), "data_type", 0),
    "an input of no known type": lambda m: setattr(image(m), "elem_type", 99),
    "a negative input": lambda m: setattr(image(m).shape.dim[2], "dim_value", -8),
    "a huge input": lambda m: setattr(image(m).shape.dim[2], "dim_value", 2**62),
    "an input without a shape": lambda m: image(m).ClearField("shape"),
    "an operator that does not exist": lambda m: setattr(m.graph.node[0], "op_type", "Foo"),
    "an operator of nobody": lambda m: setattr(m.graph.node[0], "domain", "x.y"),
    "another output": lambda m: setattr(m.graph.output[0].type.tensor_type.shape.dim[1], "dim_value", 7),
    "an output that nobody makes": lambda m: setattr(m.graph.output[0], "name", "nothing"),
    "no opset": lambda m: m.opset_import.pop(),
    "a version of the future": lambda m: setattr(m, "ir_version", 10**6),
    "a wrong attribute": lambda m: m.graph.node[0].attribute.append(helper.make_attribute("pads", [1, 1])),
    "two makers": lambda m: m.graph.node.append(m.graph.node[0]),
    "no nodes": lambda m: m.graph.ClearField("node"),
    "nothing": lambda m: m.Clear(),
}
OUTSIDE: dict[str, Change] = {
    "elsewhere": lambda m: outside(weight(m), "/etc/hostname"),
    "above": lambda m: outside(weight(m), "../../secret.bin"),
    "absent": lambda m: outside(weight(m), "w.bin"),
    "nowhere": lambda m: outside(weight(m), None),
    "inside a branch": inside_a_branch,
}
BYTES = {"text": b"no graph at all", "empty": b"", "json": b"{}", "nested": b"\x3a\x80\x01" * 5000}


def saved(folder: Path, change: Change) -> Path:
    model = small()
    change(model)
    path = folder / "graph.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def test_a_sound_graph_is_what_is_in_the_file(tmp_path: Path) -> None:
    path = saved(tmp_path, lambda _: None)
    assert load_graph(path) == parsed(path) == small()
    assert load_network(path, (1, 3, 64, 128), remedy="it") == small()


@pytest.mark.parametrize("case", UNSOUND)
def test_an_unsound_graph_is_refused(tmp_path: Path, case: str) -> None:
    path = saved(tmp_path, UNSOUND[case])
    with pytest.raises(ArtifactError, match=r"graph\.onnx is no ONNX graph \(.+\)\. Export it again\.$") as caught:
        load_graph(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("case", BYTES)
def test_what_is_no_graph_is_refused(tmp_path: Path, case: str) -> None:
    (tmp_path / "graph.onnx").write_bytes(BYTES[case])
    with pytest.raises(ArtifactError, match=r"graph\.onnx is no ONNX graph \(.+\)\. Export it again\.$"):
        parsed(tmp_path / "graph.onnx")


@pytest.mark.parametrize(
    ("place", "step"),
    [
        ("models/a@64x128.onnx", "export a --height 64 --width 128 --allow-size"),
        ("models/a.fp16.onnx", "build a --fp16"),
        ("models/a.image.int8-cpu.onnx", "build a --int8 --image-in"),
        ("engines/a.fp16.onnxruntime.onnx", "build a --fp16 --runtime onnxruntime"),
    ],
)
def test_the_next_step_makes_the_damaged_graph_again(tmp_path: Path, place: str, step: str) -> None:
    path = tmp_path / place
    path.parent.mkdir()
    path.write_bytes(b"no graph at all")
    with pytest.raises(ArtifactError) as caught:
        parsed(path)
    assert str(caught.value).endswith(f"Run: ffnet-deploy {step} --workspace {tmp_path}")
    with pytest.raises(EngineError) as refused:
        OnnxRuntimeRunner(path, threads=1)
    assert str(refused.value).endswith(f"Run: ffnet-deploy {step} --workspace {tmp_path}")
    with pytest.raises(ArtifactError, match=r"Run: what the record says$"):
        load_network(path, (1, 3, 64, 128), remedy="what the record says")


@pytest.mark.parametrize("cut", [1, 20, 100])
def test_a_graph_that_is_cut_off_is_refused(tmp_path: Path, cut: int) -> None:
    data = small().SerializeToString()
    (tmp_path / "graph.onnx").write_bytes(data[:-cut])
    with pytest.raises(ArtifactError, match=r"graph\.onnx is no ONNX graph \(.+\)\. Export it again\.$"):
        load_graph(tmp_path / "graph.onnx")


@pytest.mark.parametrize("case", OUTSIDE)
def test_data_in_other_files_are_never_looked_at(tmp_path: Path, case: str) -> None:
    path = saved(tmp_path, OUTSIDE[case])
    with pytest.raises(
        ArtifactError, match=r"keeps the data of '\w+' in another file \(a graph in one file was needed"
    ):
        parsed(path)
    if case != "inside a branch":  # which no operator of this graph takes
        with pytest.raises(EngineError, match="refused by ONNX Runtime"):
            OnnxRuntimeRunner(path, threads=1)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (any_height, r"takes image \(1, 3, any, 128\) \(image \(1, 3, 64, 128\) was needed"),
        (lambda m: m.graph.node[0].ClearField("name"), r"a node without a name \(a graph that export wrote was needed"),
        (lambda m: setattr(m.graph.node[0], "name", "last"), "2 nodes of one name"),
    ],
)
def test_another_network_than_the_records_is_refused(tmp_path: Path, change: Change, says: str) -> None:
    path = saved(tmp_path, change)
    with pytest.raises(ArtifactError, match=says + r".*Run: it$"):
        load_network(path, (1, 3, 64, 128), remedy="it")


@pytest.mark.parametrize("command", ["verify", "build --fp32", "build --fp16", "build --int8", "calibrate", "inspect"])
@pytest.mark.parametrize("case", ["a cycle", "elsewhere"])
def test_every_command_says_it_in_one_line(
    run: Cli, workspace: Workspace, trained_streets: Path, command: str, case: str
) -> None:
    model = small()
    {**UNSOUND, **OUTSIDE}[case](model)
    put_graph(workspace, model.SerializeToString())
    (path,) = workspace.models.glob("*.onnx")
    more = {"calibrate": ["--data", str(trained_streets)], "inspect": [str(path)]}.get(command, [])
    result = run(*command.split(), *more, "--workspace", workspace.root)
    assert result.code == 3
    lines = [line for line in result.err.splitlines() if not line.startswith("model: ")]
    assert len(lines) == 1
    assert lines[0].startswith("error: ")

"""ONNX Runtime's graphs of integers in other operators: the same numbers, and what cannot be said so is left alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper
from support.graphs import filled, head, of

from ffnet_deploy.graph.integers import in_fast_operators
from ffnet_deploy.graph.qdq import plan, quantise
from ffnet_deploy.runtimes.onnxruntime import OnnxRuntimeRunner, build


def quantised(model: onnx.ModelProto) -> onnx.ModelProto:
    return quantise(model, of(model), "cpu").model


def operators(model: onnx.ModelProto) -> list[str]:
    moved = ("Resize", "Transpose", "Reshape", "Expand", "Gemm")
    return [node.op_type for node in model.graph.node if node.op_type in moved]


def unoptimised(model: onnx.ModelProto, image: np.ndarray) -> np.ndarray:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"image": image})[0])


def image(batch: int = 1) -> np.ndarray:
    return np.random.default_rng(3).uniform(-2, 2, (batch, 3, 8, 8)).astype(np.float32)


def test_the_same_numbers_in_other_operators() -> None:
    model = quantised(head())
    fast = in_fast_operators(model)
    assert operators(model) == ["Resize"]
    assert operators(fast) == [
        *("Transpose", "Reshape", "Expand", "Reshape", "Transpose"),
        *("Transpose", "Reshape", "Gemm", "Reshape", "Transpose"),
    ]
    # What does the work has the name that its layer has elsewhere.
    assert [node.name for node in fast.graph.node if node.op_type in ("Expand", "Gemm")] == ["up", "last"]
    expected = unoptimised(model, image())
    assert unoptimised(fast, image()) == pytest.approx(expected, abs=1e-5 * float(np.abs(expected).max()))


def test_the_graph_given_is_not_changed() -> None:
    model = quantised(head())
    before = model.SerializeToString(deterministic=True)
    in_fast_operators(model)
    assert model.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_any_batch(tmp_path: Path, mode: str) -> None:
    model = head()
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    # By factors of two axes, as graphs of any batch are exported.
    (up,) = (node for node in model.graph.node if node.op_type == "Resize")
    model.graph.initializer.append(numpy_helper.from_array(np.array([2, 2], np.float32), "factors"))
    up.input[:] = [up.input[0], "", "factors"]
    up.attribute.append(helper.make_attribute("axes", [2, 3]))
    next(a for a in up.attribute if a.name == "mode").s = mode.encode()
    integers = quantised(model)
    onnx.save(integers, tmp_path / "graph.onnx")
    found = build(tmp_path / "graph.onnx", tmp_path / "engine.onnx")
    assert found.layers["QGemm"] == 1
    expected = unoptimised(integers, image(3))
    for graph in (tmp_path / "engine.onnx", tmp_path / "graph.onnx"):
        with OnnxRuntimeRunner(graph, threads=1, exact=True) as runner:
            given = runner({"image": image(3)})["logits"]
        # An integer may be rounded the other way: at most a step here and there.
        assert given.shape == (3, 2, 8, 8)
        assert np.abs(given - expected).mean() < 0.01 * expected.std()


@pytest.mark.parametrize(
    ("attribute", "value"),
    [("mode", "linear"), ("nearest_mode", "ceil"), ("coordinate_transformation_mode", "half_pixel")],
)
def test_other_resizes_stay(attribute: str, value: str) -> None:
    model = head()
    (up,) = (node for node in model.graph.node if node.op_type == "Resize")
    next(a for a in up.attribute if a.name == attribute).s = value.encode()
    assert operators(in_fast_operators(quantised(model)))[0] == "Resize"


def test_a_resize_by_no_whole_factor_stays() -> None:
    text = """
        net (float[1,3,8,8] image) => (float[1,2,12,12] logits)
        <float[4,3,1,1] w0, float[2,4,1,1] w1>
        {
            [c0] a = Conv(image, w0)
            [up] u = Resize<mode = "nearest", coordinate_transformation_mode = "asymmetric", nearest_mode = "floor">
                (a, , , sizes)
            [last] logits = Conv(u, w1)
        }
    """
    model = filled(text)
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 4, 12, 12]), "sizes"))
    assert operators(in_fast_operators(quantised(model)))[0] == "Resize"


def test_a_last_classifier_with_neighbours_stays_float() -> None:
    text = """
        net (float[1,3,8,8] image) => (float[1,2,6,6] logits)
        <float[4,3,1,1] w0, float[2,4,3,3] w1>
        { [c0] a = Conv(image, w0) [r0] r = Relu(a) [last] logits = Conv(r, w1) }
    """
    model = filled(text)
    assert plan(model, "cpu").nodes == ("c0",)
    assert plan(model, "cpu").declined["last"].startswith("the last classifier: kernels for more than one pixel")
    assert operators(in_fast_operators(quantised(model))) == []


def test_a_classifier_that_was_kept_stays_float() -> None:
    model = head()
    kept = quantise(model, of(model), "cpu", keep=["last"]).model
    assert "Gemm" not in operators(in_fast_operators(kept))

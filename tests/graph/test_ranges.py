"""Extremes of every activation: against NumPy over all tensors, over several inputs, and never in silence."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import TensorProto, helper
from support.fakes import SMALL_SHAPE, small_graph, street_feeds

from ffnet_deploy.errors import PrecisionError
from ffnet_deploy.graph.ranges import Range, observe, with_extremes
from ffnet_deploy.runtimes.onnxruntime import OnnxRuntimeRunner

SQRT = """
    <ir_version: 10, opset_import: ["" : 20]>
    net (float[2] image) => (float[2] logits) { [root] r = Sqrt(image) [rest] logits = Neg(r) }
"""


def observed(model: onnx.ModelProto, feeds: list[dict[str, np.ndarray]]) -> dict[str, Range]:
    with OnnxRuntimeRunner(with_extremes(model).SerializeToString(), threads=1) as runner:
        return observe(model, runner, feeds)


def root() -> onnx.ModelProto:
    return onnx.parser.parse_model(SQRT)


def test_extremes_of_a_real_graph_are_those_of_all_its_tensors() -> None:
    model = onnx.load_from_string(small_graph())
    feeds = [dict(feed) for feed in street_feeds(SMALL_SHAPE, 2)]
    ranges = observed(model, feeds)
    tensors = ["image", *(name for node in model.graph.node for name in node.output)]
    assert list(ranges) == tensors
    opened = onnx.ModelProto()
    opened.CopyFrom(model)
    del opened.graph.output[:]
    for name in tensors[1:]:
        opened.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    with OnnxRuntimeRunner(opened.SerializeToString(), threads=1) as runner:
        seen = [{**feed, **runner(feed)} for feed in feeds]
    for name in tensors:
        values = np.concatenate([one[name].ravel() for one in seen])
        assert ranges[name] == pytest.approx((float(values.min()), float(values.max())), rel=1e-4, abs=1e-5), name
    # Two scenes are two: neither alone has all extremes.
    assert any(ranges["image"] != (float(one["image"].min()), float(one["image"].max())) for one in seen)


def test_several_inputs_combine() -> None:
    model = root()
    feeds = [{"image": np.array(values, np.float32)} for values in ((4.0, 9.0), (1.0, 4.0), (4.0, 16.0))]
    assert observed(model, feeds) == {"image": (1, 16), "r": (1, 4), "logits": (-4, -1)}


@pytest.mark.parametrize("value", [-1.0, np.inf, np.nan])
def test_what_is_not_finite_is_named(value: float) -> None:
    feeds = [{"image": np.array([1.0, 2.0], np.float32)}, {"image": np.array([1.0, value], np.float32)}]
    name = "r" if value == -1 else "image"
    with pytest.raises(PrecisionError, match=rf"^{name} is not finite on a calibration image \("):
        observed(root(), feeds)


def test_magnitude_is_of_the_larger_end() -> None:
    assert Range(-3, 2).magnitude == 3
    assert Range(-1, 2).magnitude == 2


def test_the_watched_graph_gives_scalars_alone_and_the_model_stays() -> None:
    model = root()
    before = model.SerializeToString(deterministic=True)
    watching = with_extremes(model)
    assert model.SerializeToString(deterministic=True) == before
    assert [value.name for value in watching.graph.output] == [
        f"{name}/{op}" for name in ("image", "r", "logits") for op in ("ReduceMin", "ReduceMax", "AnyNaN")
    ]
    assert all(not value.type.tensor_type.shape.dim for value in watching.graph.output)

"""Four channels in front of FP16 networks: the same sums, and no plane of zeros in the engine."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import helper, numpy_helper
from support.fakes import SMALL_SHAPE, small_graph, street_feeds

from ffnet_deploy.graph.channels import with_four_channels
from ffnet_deploy.graph.facts import macs_by_node, shapes
from ffnet_deploy.graph.fp16 import rounded, to_fp16
from ffnet_deploy.runtimes.onnxruntime import OnnxRuntimeRunner
from ffnet_deploy.runtimes.tensorrt import TensorRTBuilder
from ffnet_deploy.runtimes.worker import Worker

needs_rtx = pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx has no wheel for this platform")


def convolution(*, channels: int, groups: int = 1, size: tuple[int, int] = (8, 8)) -> onnx.ModelProto:
    """One 3x3 convolution of an image, FP32."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((6, channels // groups, 3, 3)).astype(np.float32)
    out = [1, 6, size[0] - 2, size[1] - 2]
    graph = helper.make_graph(
        [helper.make_node("Conv", ["image", "weight"], ["logits"], "first/Conv", group=groups)],
        "net",
        [helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, [1, channels, *size])],
        [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, out)],
        [numpy_helper.from_array(weight, "weight")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def test_a_filter_of_three_channels_gets_a_fourth_plane_of_zeros() -> None:
    half = to_fp16(convolution(channels=3)).model
    wide = with_four_channels(half)
    assert operators(half) == ["Cast", "Conv", "Cast"]
    assert operators(wide) == ["Cast", "Pad", "Conv", "Cast"]
    before, after = (numpy_helper.to_array(model.graph.initializer[0]) for model in (half, wide))
    assert after.shape == (6, 4, 3, 3)
    assert np.array_equal(after[:, :3], before)
    assert not after[:, 3].any()
    assert shapes(wide)[wide.graph.node[2].input[0]] == (1, 4, 8, 8)


@pytest.mark.parametrize(("channels", "groups"), [(3, 3), (4, 1), (6, 2)], ids=["depthwise", "four", "grouped"])
def test_other_convolutions_stay_as_they_are(channels: int, groups: int) -> None:
    half = to_fp16(convolution(channels=channels, groups=groups)).model
    assert with_four_channels(half) == half


def test_a_convolution_kept_in_fp32_stays_as_it_is() -> None:
    kept = to_fp16(convolution(channels=3), {"first/Conv": "asked for"}).model
    assert with_four_channels(kept) == kept


def test_a_real_network_computes_the_same() -> None:
    half = to_fp16(onnx.load_from_string(small_graph())).model
    (feed,) = street_feeds(SMALL_SHAPE, 1)
    with (
        OnnxRuntimeRunner(rounded(half).SerializeToString(), threads=1) as three,
        OnnxRuntimeRunner(rounded(with_four_channels(half)).SerializeToString(), threads=1) as four,
    ):
        expected = three(feed)["logits"]
        # Zeros add nothing; another number of channels lets ONNX Runtime sum in another order before the rounding.
        assert np.abs(four(feed)["logits"] - expected).max() < 0.02 * expected.std()


@needs_rtx
def test_the_engine_stores_no_plane_of_zeros(tmp_path: Path) -> None:
    size = (512, 1024)
    half = to_fp16(convolution(channels=3, size=size)).model
    sizes = []
    with Worker("the test", TensorRTBuilder, "tensorrt-rtx") as builder:
        for name, model in (("three", half), ("four", with_four_channels(half))):
            graph, engine = tmp_path / f"{name}.onnx", tmp_path / f"{name}.engine"
            onnx.save(model, graph)
            found = builder.call("build", graph, engine, macs_by_node(model))
            assert found.share == {"fp16": 1.0}
            sizes.append(engine.stat().st_size)
    plane = 2 * size[0] * size[1]
    assert sizes[0] - sizes[1] > 0.9 * plane

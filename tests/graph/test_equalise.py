"""Equalisation: the same function, channels of like size; what cannot be scaled stays."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper
from support.fakes import SMALL_SHAPE, small_graph, street_feeds
from support.graphs import filled, sizes

from ffnet_deploy.graph.equalise import channel_sizes, equalise
from ffnet_deploy.runtimes.onnxruntime import OnnxRuntimeRunner

PAIR = """
    net (float[1,3,8,8] image) => (float[1,2,8,8] logits)
    <float[4,3,1,1] w0, float[4] b0, float[2,4,1,1] w1, float[2] b1>
    { a = Conv(image, w0, b0) r = Relu(a) logits = Conv(r, w1, b1) }
"""
STREAM = """
    net (float[1,3,8,8] image) => (float[1,2,8,8] logits)
    <float[4,3,1,1] w0, float[4,4,1,1] w1, float[4,4,1,1] w2, float[2,4,1,1] w3, float[3,4,1,1] w4, float[4,7,1,1] w5>
    {
        a = Conv(image, w0) r = Relu(a)
        b = Conv(r, w1) s = Relu(b) c = Conv(s, w2)
        d = Add(c, r) t = Relu(d)
        e = Conv(t, w4) u = Relu(e)
        cat = Concat<axis = 1>(t, u)
        f = Conv(cat, w5)
        logits = Conv(f, w3)
    }
"""


def run(model: onnx.ModelProto, image: np.ndarray) -> np.ndarray:
    with OnnxRuntimeRunner(model.SerializeToString(), threads=1) as runner:
        return runner({"image": image})["logits"]


def weights(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def image() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((1, 3, 8, 8)).astype(np.float32)


def test_sizes_leave_out_one_value_in_a_thousand() -> None:
    values = np.zeros((2, 3, 50, 50), np.float32)
    values[:, 1] = -2.0
    values[0, 2] = np.linspace(0, 1, 2500).reshape(50, 50)
    values[0, 1, 0, 0] = 1e6  # one of 5000
    assert channel_sizes(values) == pytest.approx([0, 2, 0.998], abs=2e-3)
    # A channel of a few values has its largest, and so has one that is nearly always 0.
    assert channel_sizes(np.array([[[1.0, 3.0]]], np.float32)).tolist() == [3.0]
    rare = np.zeros((1, 1, 128, 128), np.float32)
    rare[0, 0, 5, 7] = -4
    assert channel_sizes(rare).tolist() == [4.0]


@pytest.mark.parametrize("column", [0, 1, 64])
def test_sizes_are_of_all_columns(column: int) -> None:
    # As wide as a power of two, as images are: a step that divides the width would see the same columns in each row.
    values = np.full((1, 1, 512, 1024), 5.0, np.float32)
    values[..., column::128] = 0
    assert channel_sizes(values).tolist() == [5.0]


def test_a_pair_has_channels_of_like_size() -> None:
    model = filled(PAIR)
    before = model.SerializeToString(deterministic=True)
    size = sizes(model, image())
    found = equalise(model, size)
    assert model.SerializeToString(deterministic=True) == before
    assert found.streams == 1
    old, new = weights(model), weights(found.model)
    factors = found.factors["r"]
    assert new["w0"] == pytest.approx(old["w0"] / factors.reshape(-1, 1, 1, 1))
    assert new["b0"] == pytest.approx(old["b0"] / factors)
    assert new["w1"] == pytest.approx(old["w1"] * factors.reshape(1, -1, 1, 1))
    # Three quarters of what was uneven is gone from the activation, in octaves, and went to the filter that reads it.
    read = np.abs(old["w1"]).max(axis=(0, 2, 3))
    before_relu = {"a", "r"} & size.keys()
    octaves = 0.75 * np.log2(np.max([size[name] for name in before_relu], axis=0)) - 0.25 * np.log2(read)
    assert np.log2(factors) == pytest.approx(octaves - octaves.mean(), abs=1e-4)
    after = sizes(found.model, image())["r"]
    assert after.max() / after.min() < size["r"].max() / size["r"].min()
    assert run(found.model, image()) == pytest.approx(run(model, image()), rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("factors", [(1, 64, 1 / 8, 1), (1, 4096, 1, 1), (1 / 16, 1, 1, 1)])
def test_factors_made_before_are_undone(factors: tuple[float, ...]) -> None:
    """A hostile copy of a graph becomes what the graph itself becomes, down to 1/64 of its median channel."""
    model, hostile = filled(PAIR), filled(PAIR)
    made = np.array(factors, np.float32)
    for tensor in hostile.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if tensor.name in ("w0", "b0"):
            values = values * made.reshape(-1, *[1] * (values.ndim - 1))
        elif tensor.name == "w1":
            values = values / made.reshape(1, -1, 1, 1)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    found = [weights(equalise(m, sizes(m, image())).model) for m in (model, hostile)]
    # Up to a factor common to all channels.
    ratio = found[1]["w0"] / found[0]["w0"]
    assert ratio == pytest.approx(np.full_like(ratio, ratio.flat[0]), rel=1e-4)


def test_streams_of_unknown_size_and_channels_hardly_seen() -> None:
    model = filled(PAIR)
    assert equalise(model, {}).model == model
    size = np.array([1, 1, 1, 1e-9], np.float32)
    factors = equalise(model, {"r": size}).factors["r"]
    floored = equalise(model, {"r": np.array([1, 1, 1, 2**-6], np.float32)}).factors["r"]
    assert np.array_equal(factors, floored)


def test_a_residual_stream_and_a_concat_have_common_factors() -> None:
    model = filled(STREAM)
    found = equalise(model, sizes(model, image()))
    # r with d and t; s; u; f.
    assert found.streams == 4
    old, new = weights(model), weights(found.model)
    stream = old["w0"][:, 0, 0, 0] / new["w0"][:, 0, 0, 0]
    inner = old["w1"][:, 0, 0, 0] * stream[0] / new["w1"][:, 0, 0, 0]
    assert new["w2"] * stream.reshape(-1, 1, 1, 1) == pytest.approx(old["w2"] * inner.reshape(1, -1, 1, 1), rel=1e-4)
    narrow = old["w4"][:, 0, 0, 0] * stream[0] / new["w4"][:, 0, 0, 0]
    last = old["w5"][:, 0, 0, 0] * stream[0] / new["w5"][:, 0, 0, 0]
    both = np.concatenate([stream, narrow]).reshape(1, -1, 1, 1)
    assert new["w5"] * last.reshape(-1, 1, 1, 1) == pytest.approx(old["w5"] * both, rel=1e-4)
    assert run(found.model, image()) == pytest.approx(run(model, image()), rel=1e-4, abs=1e-4)


@pytest.mark.parametrize(
    "nodes",
    [
        "a = Conv(image, w0, b0) logits = Conv(a, w1, b1) extra = Conv(image, w0, b0)",  # a shared filter
        "a = Conv(image, w0, b0) r = Sigmoid(a) logits = Conv(r, w1, b1)",
        "a = Conv(image, w0, b0) r = Add(a, b0c) logits = Conv(r, w1, b1)",
    ],
    ids=["shared", "sigmoid", "constant"],
)
def test_what_does_not_commute_stays(nodes: str) -> None:
    declared = "float[4,3,1,1] w0, float[4] b0, float[2,4,1,1] w1, float[2] b1, float[1,4,1,1] b0c"
    model = filled(f"net (float[1,3,8,8] image) => (float[1,2,8,8] logits) <{declared}> {{ {nodes} }}")
    found = equalise(model, dict.fromkeys(("a", "r"), np.array([1, 2, 3, 4], np.float32)))
    assert found.streams == 0
    assert found.model == model


def test_a_dead_channel_is_left_alone() -> None:
    model = filled(PAIR)
    values = weights(model)["w0"].copy()
    values[1] = 0
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(values, "w0"))
    new = weights(equalise(model, {"r": np.array([1, 0, 2, 4], np.float32)}).model)
    assert np.array_equal(new["w1"][:, 1], weights(model)["w1"][:, 1])
    assert all(np.isfinite(array).all() for array in new.values())


def test_a_whole_network_computes_the_same() -> None:
    model = onnx.load_from_string(small_graph())
    (feed,) = street_feeds(SMALL_SHAPE, 1)
    found = equalise(model, sizes(model, feed["image"]))
    # 22 blocks inside, three stages, two before them, and the head: all but the image and the logits.
    assert found.streams == 37
    difference = run(found.model, feed["image"]) - run(model, feed["image"])
    assert np.abs(difference).max() < 1e-4 * run(model, feed["image"]).std()

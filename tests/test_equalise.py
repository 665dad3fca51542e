"""Equalisation: the same function, channels of like size; what cannot be scaled stays."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest
from fakes import SMALL_SHAPE, small_graph, street_feeds
from onnx import numpy_helper

from ffnet_deploy.graph.equalise import equalise
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


def run(model: onnx.ModelProto, image: np.ndarray) -> np.ndarray:
    with OnnxRuntimeRunner(model.SerializeToString(), threads=1) as runner:
        return runner({"image": image})["logits"]


def weights(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def image() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((1, 3, 8, 8)).astype(np.float32)


def test_a_pair_has_channels_of_like_size() -> None:
    model = filled(PAIR)
    before = model.SerializeToString(deterministic=True)
    found = equalise(model)
    assert model.SerializeToString(deterministic=True) == before
    assert found.streams == 1
    old, new = weights(model), weights(found.model)
    factors = old["w0"][:, 0, 0, 0] / new["w0"][:, 0, 0, 0]
    assert not np.array_equal(factors, np.ones(4))
    assert np.array_equal(np.log2(factors), np.round(np.log2(factors)))
    assert np.array_equal(new["w0"] * factors.reshape(-1, 1, 1, 1), old["w0"])
    assert np.array_equal(new["b0"] * factors, old["b0"])
    assert np.array_equal(new["w1"] / factors.reshape(1, -1, 1, 1), old["w1"])
    # Up to the rounding to powers of two, both sides have the same largest weight, channel by channel.
    ratio = np.abs(new["w0"]).max(axis=(1, 2, 3)) / np.abs(new["w1"]).max(axis=(0, 2, 3))
    assert ratio.max() / ratio.min() <= 4
    assert np.array_equal(run(found.model, image()), run(model, image()))


def test_a_residual_stream_and_a_concat_have_common_factors() -> None:
    model = filled(STREAM)
    found = equalise(model)
    # r with d and t; s; u; f.
    assert found.streams == 4
    old, new = weights(model), weights(found.model)
    stream = old["w0"][:, 0, 0, 0] / new["w0"][:, 0, 0, 0]
    inner = old["w1"][:, 0, 0, 0] * stream[0] / new["w1"][:, 0, 0, 0]
    assert np.array_equal(new["w2"] * stream.reshape(-1, 1, 1, 1), old["w2"] * inner.reshape(1, -1, 1, 1))
    narrow = old["w4"][:, 0, 0, 0] * stream[0] / new["w4"][:, 0, 0, 0]
    last = old["w5"][:, 0, 0, 0] * stream[0] / new["w5"][:, 0, 0, 0]
    both = np.concatenate([stream, narrow]).reshape(1, -1, 1, 1)
    assert np.array_equal(new["w5"] * last.reshape(-1, 1, 1, 1), old["w5"] * both)
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
    assert equalise(model).streams == 0
    assert equalise(model).model == model


def test_a_dead_channel_is_left_alone() -> None:
    model = filled(PAIR)
    values = weights(model)["w0"].copy()
    values[1] = 0
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(values, "w0"))
    new = weights(equalise(model).model)
    assert np.array_equal(new["w1"][:, 1], weights(model)["w1"][:, 1])
    assert all(np.isfinite(array).all() for array in new.values())


def test_a_whole_network_computes_the_same() -> None:
    model = onnx.load_from_string(small_graph())
    found = equalise(model)
    # 22 blocks inside, three stages, two before them, and the head: all but the image and the logits.
    assert found.streams == 37
    (feed,) = street_feeds(SMALL_SHAPE, 1)
    difference = run(found.model, feed["image"]) - run(model, feed["image"])
    assert np.abs(difference).max() < 1e-4 * run(model, feed["image"]).std()

"""Nearest up-sampling copies PyTorch's pixels: every pair of lengths that occurs, and whole networks at odd sizes."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from support.fakes import street_feeds
from support.graphs import filled, of

from ffnet_deploy.graph import from_torch
from ffnet_deploy.graph.batch import with_dynamic_batch
from ffnet_deploy.graph.facts import resize_scales
from ffnet_deploy.graph.fp16 import rounded, to_fp16
from ffnet_deploy.graph.nearest import by_factor, factor_of_sizes, pixels, with_exact_nearest
from ffnet_deploy.graph.qdq import Dialect, quantise
from ffnet_deploy.graph.taps import taps
from ffnet_deploy.runtimes.onnxruntime import OnnxRuntimeRunner, build
from ffnet_deploy.runtimes.pytorch import PyTorchRunner
from ffnet_deploy.zoo.specs import SPECS, find
from ffnet_deploy.zoo.weights import load_random

LENGTHS = range(64, 2200)
"""Of images; the shortest is the shortest that export takes."""
MOBILE = "segmentation_ffnet46NS_CCC_mobile"
NEAREST = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
ODD = """
    net (float[2,3,10,18] image) => (float[2,2,38,69] logits)
    <float[4,3,1,1] w0, float[5,4,1,1] w1, float[2,5,1,1] w2>
    {
        [c0] a = Conv(image, w0) [r0] r = Relu(a)
        [up] up = Resize<mode = "nearest", coordinate_transformation_mode = "asymmetric", nearest_mode = "floor">
            (r, , , sizes)
        [c1] b = Conv(up, w1) [last] logits = Conv(b, w2)
    }
"""
SIZES = (
    *((600, 800), (100, 150), (64, 152), (97, 161), (488, 64), (900, 64)),
    *((64, 1200), (142, 284), (65, 1000), (231, 1420)),
)


def halved(length: int, times: int) -> int:
    """The length of a map behind some strided layers, which pad as published."""
    return -(-length // (1 << times))


@cache
def pairs() -> tuple[tuple[int, int], ...]:
    """Every two lengths between which any FFNet resizes an image of ``LENGTHS``: rows and columns, blurred or not."""
    finest = set()
    for length in LENGTHS:
        # The blur in front of ``_pre_down`` pads rows by one on each side, and columns not at all.
        for seen in (length, (length - 3) // 2 + 1, (length - 5) // 2 + 1):
            finest |= {halved(seen, 2), halved(seen, 3)}
    maps = {halved(length, k) for length in finest for k in range(3)}
    return tuple(sorted({(halved(length, k), length) for length in maps for k in (1, 2, 3)}))


def all_resizes() -> onnx.ModelProto:
    """A Resize of columns for every pair, as export writes it: to a constant size, at batch 1."""
    before = sorted({pair[0] for pair in pairs()})
    nodes = [
        helper.make_node("Resize", [f"x{a}", "", "", f"s{b}"], [f"{a}/{b}"], f"{a}/{b}", **NEAREST) for a, b in pairs()
    ]
    sizes = [numpy_helper.from_array(np.array([1, 1, 1, b]), f"s{b}") for b in sorted({pair[1] for pair in pairs()})]
    inputs = [row(f"x{a}", a) for a in before]
    graph = helper.make_graph(nodes, "all", inputs, [row(f"{a}/{b}", b) for a, b in pairs()], sizes)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def row(name: str, length: int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, 1, 1, length))


def wrong(model: onnx.ModelProto, batch: int) -> list[tuple[int, int]]:
    """The pairs of lengths at which ONNX Runtime copies other pixels than PyTorch."""
    feeds = {
        value.name: np.arange(batch * value.type.tensor_type.shape.dim[3].dim_value, dtype=np.float32)
        for value in model.graph.input
    }
    feeds = {name: row.reshape(batch, 1, 1, -1) for name, row in feeds.items()}
    with OnnxRuntimeRunner(model.SerializeToString(), threads=1, optimised=False) as runner:
        given = runner(feeds)
    rows = {a: torch.from_numpy(feeds[f"x{a}"]) for a, _ in pairs()}
    wanted = {(a, b): torch.nn.functional.interpolate(rows[a], size=(1, b), mode="nearest").numpy() for a, b in pairs()}
    return [pair for pair in pairs() if not np.array_equal(given[f"{pair[0]}/{pair[1]}"], wanted[pair])]


def test_every_pair_of_lengths_of_all_networks_gives_the_pixels_of_pytorch() -> None:
    model = all_resizes()
    assert len(pairs()) == 1644
    static, dynamic = with_exact_nearest(model), with_dynamic_batch(model)
    assert wrong(static, 1) == []
    assert wrong(dynamic, 2) == []
    # As few as possible: Resizes are faster, and what is right stays as it was.
    assert sum(node.op_type == "Gather" for node in static.graph.node) == 2 * 21
    assert sum(node.op_type == "Gather" for node in dynamic.graph.node) == 2 * 72


@pytest.mark.parametrize("pair", [(16, 122), (6, 46), (38, 75), (7, 7), (5, 10)])
def test_the_list_of_pixels_is_that_of_pytorch(pair: tuple[int, int]) -> None:
    row = torch.arange(pair[0], dtype=torch.float32).reshape(1, 1, 1, -1)
    wanted = torch.nn.functional.interpolate(row, size=(1, pair[1]), mode="nearest")
    assert pixels(*pair).tolist() == wanted.long().ravel().tolist()


def test_no_contract_size_needs_gathers() -> None:
    """Rows and columns of all maps: the Resizes stay, static or for any batch, and so do the hashes of those graphs."""
    sides = {side for spec in SPECS.values() for side in spec.output_hw(*spec.input_hw) or (56,)}
    maps = {(halved(side, i + k), halved(side, i)) for side in sides for i in (0, 1, 2) for k in (1, 2, 3)}
    assert len(maps) > 10
    for before, after in maps:
        for factor in (factor_of_sizes(before, after), float(resize_scales((before,), (after,))[0])):
            assert np.array_equal(by_factor(before, after, factor), pixels(before, after)), (before, after)


def odd() -> onnx.ModelProto:
    """A network whose Resize must become Gathers in a graph of any batch: (10, 18) to (38, 69)."""
    model = filled(ODD)
    model.graph.initializer.append(numpy_helper.from_array(np.array([2, 4, 38, 69]), "sizes"))
    return with_dynamic_batch(model)


def image() -> np.ndarray:
    return np.random.default_rng(3).uniform(-2, 2, (2, 3, 10, 18)).astype(np.float32)


def test_rows_and_columns_of_one_resize() -> None:
    model = odd()
    assert [node.op_type for node in model.graph.node] == ["Conv", "Relu", "Gather", "Gather", "Conv", "Conv"]
    with OnnxRuntimeRunner(model.SerializeToString(), threads=1) as runner:
        given = runner({"image": image()})["logits"]
    w0, w1, w2 = (torch.from_numpy(numpy_helper.to_array(t).copy()) for t in filled(ODD).graph.initializer)
    inner = torch.relu(torch.conv2d(torch.from_numpy(image()), w0))
    resized = torch.nn.functional.interpolate(inner, size=(38, 69), mode="nearest")
    wanted = torch.conv2d(torch.conv2d(resized, w1), w2).numpy()
    assert given == pytest.approx(wanted, abs=1e-5 * float(wanted.std()))


def test_a_look_inside_has_pytorchs_tensors_alone() -> None:
    found = {tap.node: tap for tap in taps(odd())}
    assert list(found) == ["c0", "r0", "up", "c1", "last"]
    # What is between rows and columns is no tensor of PyTorch's: the error comes from what the Resize reads.
    assert found["up"].inputs == ("r",)
    assert found["up"].size == 4 * 4 * 38 * 69


def test_fp16_moves_halves() -> None:
    half = to_fp16(odd()).model
    types = {value.name: value.type.tensor_type.elem_type for value in half.graph.value_info}
    assert types["up"] == types["up.rows"] == TensorProto.FLOAT16
    with OnnxRuntimeRunner(rounded(half).SerializeToString(), threads=1) as runner:
        assert runner({"image": image()})["logits"].shape == (2, 2, 38, 69)


@pytest.mark.parametrize("dialect", ["tensorrt", "cpu"])
def test_int8_moves_integers_on_one_scale(dialect: Dialect) -> None:
    model = quantise(odd(), of(odd(), r=4.0, **{"up.rows": 3.0, "up": 2.0}), dialect).model
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    pairs = {node.name: node.input[1] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    scales = {float(constants[pairs[f"{name}/DequantizeLinear"]]) for name in ("r", "up.rows", "up")}
    assert scales == {float(np.float32(4 / 255))} if dialect == "cpu" else len(scales) == 1


def test_onnx_runtimes_engine_moves_integers(tmp_path: Path) -> None:
    onnx.save(quantise(odd(), of(odd()), "cpu").model, tmp_path / "graph.onnx")
    found = build(tmp_path / "graph.onnx", tmp_path / "engine.onnx")
    assert found.layers["Gather"] == 2
    assert found.layers["QuantizeLinear"] == 1  # of the image alone
    with OnnxRuntimeRunner(tmp_path / "engine.onnx", threads=1) as runner:
        assert runner({"image": image()})["logits"].shape == (2, 2, 38, 69)


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_network_of_any_batch_at_odd_sizes_is_pytorchs(size: tuple[int, int]) -> None:
    spec = find(MOBILE)
    module = load_random(spec).module
    static = from_torch.export(module, spec, (1, 3, *size), opset=20, metadata={})
    (feed,) = street_feeds((2, 3, *size), 1)
    wanted = PyTorchRunner(module, (2, 3, *size))(feed)["logits"]
    with OnnxRuntimeRunner(with_dynamic_batch(static).SerializeToString(), threads=1) as runner:
        given = runner(feed)["logits"]
    assert np.abs(given - wanted).max() < 1e-4 * wanted.std()
    with OnnxRuntimeRunner(static.SerializeToString(), threads=1) as runner:
        assert np.abs(runner({"image": feed["image"][:1]})["logits"] - wanted[:1]).max() < 1e-4 * wanted.std()

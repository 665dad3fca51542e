"""Q/DQ graphs of both dialects: where pairs stand and where not, scales, what is declined, and what it computes."""

from __future__ import annotations

from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, numpy_helper
from support.fakes import SMALL_SHAPE, small_graph, street_feeds
from support.graphs import filled, head, of

from ffnet_deploy.calibration.histograms import Histogram, limits
from ffnet_deploy.calibration.segments import cut, walk
from ffnet_deploy.errors import PrecisionError, UsageError
from ffnet_deploy.graph.facts import macs_by_node
from ffnet_deploy.graph.fp16 import rounded, to_fp16
from ffnet_deploy.graph.pairs import cpu_edges, tensorrt_edges
from ffnet_deploy.graph.qdq import Dialect, input_limits, plan, quantise, watched
from ffnet_deploy.graph.ranges import Limits
from ffnet_deploy.runtimes.onnxruntime import OnnxRuntimeRunner, build
from ffnet_deploy.runtimes.tensorrt import TensorRTBuilder
from ffnet_deploy.runtimes.worker import Worker

needs_rtx = pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx has no wheel for this platform")

BLOCK = """
    net (float[1,3,8,8] image) => (float[1,2,8,8] logits)
    <float[4,3,1,1] w0, float[4] b0, float[4,4,1,1] w1, float[4] b1, float[4,4,1,1] w2, float[2,4,1,1] w3>
    {
        [c0] a = Conv(image, w0, b0) [r0] r = Relu(a)
        [c1] b = Conv(r, w1, b1) [r1] s = Relu(b) [c2] c = Conv(s, w2)
        [add] d = Add(c, r) [r2] t = Relu(d)
        [last] logits = Conv(t, w3)
    }
"""


def flow(model: onnx.ModelProto) -> dict[str, list[str]]:
    """Inputs of every node that is no Q or DQ; ``x'`` is x behind a pair, and constants have their plain name."""
    pairs = {}
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0].endswith("/integers"):
            pairs[node.output[0]] = node.input[0].removesuffix("/integers") + "'"
        elif node.op_type == "DequantizeLinear":
            pairs[node.output[0]] = node.input[0].removesuffix("/quantised") + "'"
    others = (n for n in model.graph.node if n.op_type not in ("QuantizeLinear", "DequantizeLinear"))
    return {n.name: [pairs.get(name, name) for name in n.input if name] for n in others}


def constants(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    # Of an activation x as x/scale and x/zero.
    return {t.name.replace("/quantised/", "/"): numpy_helper.to_array(t) for t in model.graph.initializer}


def test_tensorrt_leaves_room_for_its_fusions() -> None:
    model = filled(BLOCK)
    found = quantise(model, of(model), "tensorrt")
    assert found.nodes == ("c0", "c1", "c2")
    assert flow(found.model) == {
        "c0": ["image'", "w0'", "b0"],
        "r0": ["a"],
        "c1": ["r'", "w1'", "b1"],
        "r1": ["b"],
        "c2": ["s'", "w2'"],
        # The convolution's own result stays float: Conv, Add and ReLU become one. The branch is int8.
        "add": ["c", "r'"],
        "r2": ["d"],
        # The last classifier is not quantised, and so nothing in front of it.
        "last": ["t", "w3"],
    }


def test_onnxruntime_has_integers_behind_every_operator() -> None:
    model = filled(BLOCK)
    assert flow(quantise(model, of(model), "cpu").model) == {
        "c0": ["image'", "w0'", "b0'"],
        "r0": ["a"],
        "c1": ["r'", "w1'", "b1'"],
        "r1": ["b"],
        "c2": ["s'", "w2'"],
        "add": ["c'", "r'"],
        "r2": ["d"],
        # The last classifier reads integers too, and its result stays float.
        "last": ["t'", "w3'"],
    }


def test_of_two_convolutions_into_an_add_one_fuses() -> None:
    text = BLOCK.replace("[add] d = Add(c, r)", "[c4] e = Conv(r, w4) [add] d = Add(c, e)")
    model = filled(text.replace("float[2,4,1,1] w3", "float[2,4,1,1] w3, float[4,4,1,1] w4"))
    assert flow(quantise(model, of(model), "tensorrt").model)["add"] == ["c", "e'"]
    assert flow(quantise(model, of(model), "cpu").model)["add"] == ["c'", "e'"]


@pytest.mark.parametrize("dialect", ["tensorrt", "cpu"])
def test_concat_and_resize_have_one_scale(dialect: Dialect) -> None:
    model = head()
    found = quantise(model, of(model, r=1.0, s=2.0, u=2.0, v=3.0), dialect)
    assert flow(found.model) | {"last": []} == {
        "c0": ["image'", "w0'"],
        "r0": ["a"],
        "c1": ["image'", "w1'"],
        "r1": ["b"],
        "up": ["s'", "sizes"],
        "cat": ["r'", "u'"],
        "c2": ["v'", "w2'"],
        "r2": ["e"],
        "last": [],
    }
    values = constants(found.model)
    scales = {name: float(values[f"{name}/scale"]) for name in "rsuv"}
    assert set(scales.values()) == {scales["v"]}
    assert scales["v"] == pytest.approx(3 / (127 if dialect == "tensorrt" else 255), rel=1e-3)


def test_types_and_scales_of_tensorrt() -> None:
    model = filled(BLOCK)
    found = quantise(model, of(model), "tensorrt").model
    values, old = constants(found), constants(model)
    for name in ("image", "r", "s"):
        zero, scale = values[f"{name}/zero"], values[f"{name}/scale"]
        assert (str(zero.dtype), int(zero), zero.shape, scale.shape) == ("int8", 0, (), ())
        # FP16 holds it exactly, and what was seen does not leave int8.
        assert float(np.float16(scale)) == float(scale)
    assert 4 <= 127 * float(values["r/scale"]) <= 4 * 1.001
    # The image's range is known: (0 - 0.485) / 0.229 to (1 - 0.406) / 0.225.
    assert 127 * float(values["image/scale"]) == pytest.approx(2.64, rel=1e-3)
    for name in ("w0", "w1", "w2"):
        integers, scale = values[f"{name}/integers"], values[f"{name}/scale"]
        assert (str(integers.dtype), scale.shape) == ("int8", (4,))
        assert np.abs(integers.astype(int)).max() <= 127
        back = integers * scale.reshape(-1, 1, 1, 1)
        assert (np.abs(back - old[name]) <= scale.reshape(-1, 1, 1, 1) / 2 + 1e-7).all()
        largest = np.abs(old[name]).max(axis=(1, 2, 3))
        assert scale == pytest.approx(largest / 127, rel=1e-3)
    assert np.array_equal(values["b0"], old["b0"])
    assert all(v.dtype != np.uint8 for v in values.values())
    half = to_fp16(found).model
    kinds = Counter(t.data_type for t in half.graph.initializer if t.name.endswith("/scale") or t.name == "b0")
    assert kinds == {TensorProto.FLOAT16: 7}
    assert half.opset_import[0].version >= 19


def test_types_and_scales_of_onnxruntime() -> None:
    model = filled(BLOCK)
    values = constants(quantise(model, of(model), "cpu").model)
    assert {name: (str(values[f"{name}/zero"].dtype), int(values[f"{name}/zero"])) for name in "rsct"} == {
        "r": ("uint8", 0),
        "s": ("uint8", 0),
        "c": ("uint8", 127),
        "t": ("uint8", 0),
    }
    assert float(values["r/scale"]) == pytest.approx(4 / 255)
    assert float(values["c/scale"]) == pytest.approx(8 / 255)
    # The bias counts in products of both scales.
    assert values["b1/integers"].dtype == np.int32
    assert values["b1/scale"] == pytest.approx(values["r/scale"] * values["w1/scale"])
    assert values["b1/integers"] * values["b1/scale"] == pytest.approx(constants(model)["b1"], abs=1e-3)


def test_a_bias_beyond_int32_widens_its_filter() -> None:
    model = filled(BLOCK)
    for tensor in model.graph.initializer:
        if tensor.name == "w1":
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1e-12), "w1"))
    values = constants(quantise(model, of(model), "cpu").model)
    assert values["b1/integers"] * values["b1/scale"].astype(np.float64) == pytest.approx(
        constants(model)["b1"], rel=1e-3
    )


def test_a_filter_of_zeros_has_a_scale() -> None:
    model = filled(BLOCK)
    zeros = numpy_helper.to_array(model.graph.initializer[2]).copy()
    zeros[1] = 0
    model.graph.initializer[2].CopyFrom(numpy_helper.from_array(zeros, "w1"))
    for dialect in ("tensorrt", "cpu"):
        values = constants(quantise(model, of(model), dialect).model)
        assert (values["w1/scale"] > 0).all()
        assert not values["w1/integers"][1].any()


def test_every_reason() -> None:
    model = filled(BLOCK)
    chosen = plan(model, "tensorrt", of(model, r=0.0), keep=["c*2"], beyond={"c0": "a reaches 1e+05"})
    assert chosen.nodes == ()
    assert chosen.declined == {
        "c0": "a reaches 1e+05",
        "c1": "r was 0 on every calibration image, which gives no range",
        "c2": "asked for by 'c*2'",
        "last": "the last classifier: its small differences decide the labels",
    }
    with pytest.raises(PrecisionError, match=r"^No convolution can be INT8, first c0: a reaches 1e\+05 \("):
        quantise(model, of(model, r=0.0), "tensorrt", keep=["c*2"], beyond={"c0": "a reaches 1e+05"})


def test_a_pattern_that_no_convolution_has() -> None:
    model = filled(BLOCK)
    with pytest.raises(UsageError, match=r"^--keep-fp16 'r\*' names no convolution \(the first is 'c0'\)\."):
        quantise(model, of(model), "cpu", keep=["r*"])


def test_a_tensor_without_a_range_is_named() -> None:
    model = filled(BLOCK)
    some = {name: found for name, found in of(model).items() if name != "s"}
    with pytest.raises(PrecisionError, match=r"^1 tensors have no range, first s .* Run: ffnet-deploy calibrate"):
        quantise(model, some, "cpu")


def test_what_is_kept_is_counted_and_reads_floats() -> None:
    model = filled(BLOCK)
    found = quantise(model, of(model), "tensorrt", keep=["c1"])
    assert (found.nodes, list(found.declined)) == (("c0", "c2"), ["c1", "last"])
    assert flow(found.model)["c1"] == ["r", "w1", "b1"]
    macs = macs_by_node(model)
    assert found.share == (macs["c0"] + macs["c2"]) / sum(macs.values())
    assert found.possible == (macs["c0"] + macs["c1"] + macs["c2"]) / sum(macs.values())


def test_the_exact_range_passes_padding_and_the_blur() -> None:
    text = """
        net (float[1,3,8,8] image) => (float[1,2,7,7] logits)
        <float[3,1,2,2] blur, float[4,3,1,1] w0, float[2,4,1,1] w1>
        { [blur] a = Conv<group = 3>(image, blur) [c0] b = Conv(a, w0) [last] logits = Conv(b, w1) }
    """
    model = filled(text)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.full((3, 1, 2, 2), 0.25, np.float32), "blur"))
    exact = input_limits(model)
    assert list(exact) == ["image", "a"]
    assert exact["a"] == pytest.approx((2.64, -2.1179, 2.64), abs=1e-4)
    assert plan(model, "cpu").declined["blur"].startswith("a grouped convolution")
    # What is not an average may exceed it.
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.full((3, 1, 2, 2), 0.5, np.float32), "blur"))
    assert list(input_limits(model)) == ["image"]


def test_one_calibration_serves_both_dialects() -> None:
    model = onnx.load_from_string(small_graph())
    needed = {
        *tensorrt_edges(model, plan(model, "tensorrt").nodes),
        *cpu_edges(model, plan(model, "cpu").nodes),
    }
    assert {*watched(model), "image"} == needed


# --- a whole network -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def calibrated() -> tuple[onnx.ModelProto, dict[str, Limits], dict[str, np.ndarray]]:
    model = onnx.load_from_string(small_graph())
    feeds = [dict(feed) for feed in street_feeds(SMALL_SHAPE, 2)]
    names = watched(model)
    pieces = cut(model, names, 1 << 30)
    runs = [OnnxRuntimeRunner(piece.model.SerializeToString(), threads=1) for piece in pieces]
    histograms = {name: Histogram() for name in names}
    for feed in feeds:
        for name, values in walk(pieces, runs, feed):
            histograms[name].add(values, name)
    return model, {name: limits(found)["max"] for name, found in histograms.items()}, feeds[0]


Calibrated = tuple[onnx.ModelProto, dict[str, Limits], dict[str, np.ndarray]]


def logits(model: onnx.ModelProto, feed: dict[str, np.ndarray], **options: Any) -> np.ndarray:
    with OnnxRuntimeRunner(model.SerializeToString(), threads=1, **options) as runner:
        return runner(feed)["logits"]


def unoptimised(model: onnx.ModelProto, feed: dict[str, np.ndarray]) -> np.ndarray:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, feed)[0])


def spread_of_difference(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one - other).mean() / other.std())


@pytest.mark.parametrize("emulated", [True, False], ids=["emulated", "fp32 around it"])
def test_the_scored_run_is_the_unoptimised_one(calibrated: Calibrated, emulated: bool) -> None:
    model, found, feed = calibrated
    quantised = quantise(model, found, "tensorrt").model
    if emulated:
        quantised = rounded(to_fp16(quantised).model)
    wanted = unoptimised(quantised, feed)
    # Sums in another order move a value across a step of int8 here and there; a bias rounded to int32 moves all.
    assert spread_of_difference(logits(quantised, feed, exact=True), wanted) < 0.01


@pytest.mark.parametrize("dialect", ["tensorrt", "cpu"])
def test_integers_compute_nearly_what_floats_do(calibrated: Calibrated, dialect: Dialect) -> None:
    model, found, feed = calibrated
    quantised = quantise(model, found, dialect).model
    if dialect == "tensorrt":
        quantised = rounded(to_fp16(quantised).model)
    assert spread_of_difference(logits(quantised, feed, exact=True), logits(model, feed)) < 0.1


def test_the_whole_chain_runs_in_integer_kernels(calibrated: Calibrated, tmp_path: Path) -> None:
    model, found, _ = calibrated
    quantised = quantise(model, found, "cpu")
    onnx.save(quantised.model, tmp_path / "graph.onnx")
    operators = build(tmp_path / "graph.onnx", tmp_path / "engine.onnx").layers
    assert operators["QLinearConv"] == len(quantised.nodes) - 1 == 62
    assert (operators["QLinearAdd"], operators["QLinearConcat"], operators["QGemm"]) == (25, 1, 1)
    assert not {"Relu", "Add", "Concat", "Conv", "Gemm", "Resize", "DequantizeLinear"} & operators.keys()
    # The layout is chosen at load: the image is turned once on the way in, the logits on the way out.
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "loaded.onnx")
    ort.InferenceSession(tmp_path / "engine.onnx", options, providers=["CPUExecutionProvider"])
    loaded = Counter(node.op_type for node in onnx.load(tmp_path / "loaded.onnx").graph.node)
    assert (loaded["QuantizeLinear"], loaded["Transpose"], loaded["QLinearConv"]) == (1, 2, 62)


@needs_rtx
def test_tensorrt_rtx_finds_int8_where_it_was_planned(calibrated: Calibrated, tmp_path: Path) -> None:
    model, found, _ = calibrated
    quantised = quantise(model, found, "tensorrt", keep=["backbone_model.layer2.3.conv1/Conv"])
    half = to_fp16(quantised.model).model
    onnx.save(half, tmp_path / "graph.onnx")
    with Worker("a build", TensorRTBuilder, "tensorrt-rtx") as worker:
        built = worker.call("build", tmp_path / "graph.onnx", tmp_path / "engine", macs_by_node(half))
    precision = dict.fromkeys(quantised.nodes, "int8") | dict.fromkeys(quantised.declined, "fp16")
    assert built.precision == precision
    assert built.share["int8"] == pytest.approx(quantised.share, abs=1e-5)

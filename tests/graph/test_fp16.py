"""FP32 graph to FP16, one small graph in ONNX's text form for each case, and one real graph."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.fakes import SMALL_SHAPE, small_graph, street_feeds

from ffnet_deploy.errors import PrecisionError, UsageError, VerificationError
from ffnet_deploy.graph.fp16 import FP16_MAX, MARGIN, must_stay_fp32, rounded, to_fp16
from ffnet_deploy.graph.ranges import Range, observe, with_extremes
from ffnet_deploy.runtimes.onnxruntime import OnnxRuntimeRunner
from ffnet_deploy.verify.agreement import FP16, Tolerance, verified


def parsed(text: str) -> onnx.ModelProto:
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]> {text}')
    onnx.checker.check_model(model, full_check=True)
    return model


def nodes(model: onnx.ModelProto) -> list[tuple[str, list[str], list[str]]]:
    return [(node.op_type, list(node.input), list(node.output)) for node in model.graph.node]


def weights(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def element_types(model: onnx.ModelProto) -> dict[str, int]:
    graph = model.graph
    return {v.name: v.type.tensor_type.elem_type for v in (*graph.input, *graph.value_info, *graph.output)}


def test_weights_are_halved_and_the_ends_stay_fp32() -> None:
    model = parsed("""
        net (float[1,2] image) => (float[1,2] logits)
        <float[2,2] weight = {0.1, -2.0, 65504.0, 0.00001}, float[2] bias = {1.0, 3.0}>
        {
            hidden = Gemm(image, weight, bias)
            logits = Relu(hidden)
        }
    """)
    half = to_fp16(model).model
    assert nodes(half) == [
        ("Cast", ["image"], ["image/fp16"]),
        ("Gemm", ["image/fp16", "weight", "bias"], ["hidden"]),
        ("Relu", ["hidden"], ["logits/fp16"]),
        ("Cast", ["logits/fp16"], ["logits"]),
    ]
    assert [node.name for node in half.graph.node if node.op_type == "Cast"] == ["image/Cast", "logits/Cast"]
    assert [onnx.helper.get_node_attr_value(half.graph.node[i], "to") for i in (0, -1)] == [
        TensorProto.FLOAT16,
        TensorProto.FLOAT,
    ]
    found = weights(half)
    assert found["weight"].tolist() == np.array([[0.1, -2.0], [65504.0, 0.00001]], np.float16).tolist()
    assert {array.dtype.name for array in found.values()} == {"float16"}
    assert element_types(half) == {
        "image": TensorProto.FLOAT,
        "image/fp16": TensorProto.FLOAT16,
        "hidden": TensorProto.FLOAT16,
        "logits/fp16": TensorProto.FLOAT16,
        "logits": TensorProto.FLOAT,
    }


def test_the_graph_that_was_given_stays_as_it_was() -> None:
    model = parsed("net (float[2] image) => (float[2] logits) <float[2] w = {1.0, 2.0}> { logits = Add(image, w) }")
    before = model.SerializeToString(deterministic=True)
    to_fp16(model)
    assert model.SerializeToString(deterministic=True) == before


def test_every_reader_of_the_input_gets_the_half_one() -> None:
    half = to_fp16(parsed("net (float[2] image) => (float[2] logits) { a = Relu(image) logits = Add(a, image) }")).model
    assert nodes(half)[1:3] == [
        ("Relu", ["image/fp16"], ["a"]),
        ("Add", ["a", "image/fp16"], ["logits/fp16"]),
    ]


def test_an_output_that_is_read_inside_too_is_read_in_half() -> None:
    half = to_fp16(
        parsed("""
            net (float[2] image) => (float[2] first, float[2] second)
            { first = Relu(image) second = Add(first, first) }
        """)
    ).model
    types = element_types(half)
    assert types["first"] == types["second"] == TensorProto.FLOAT
    assert nodes(half)[1:] == [
        ("Relu", ["image/fp16"], ["first/fp16"]),
        ("Cast", ["first/fp16"], ["first"]),
        ("Add", ["first/fp16", "first/fp16"], ["second/fp16"]),
        ("Cast", ["second/fp16"], ["second"]),
    ]


def test_sizes_stay_int64() -> None:
    half = to_fp16(
        parsed("""
            net (float[1,1,2,2] image) => (float[1,1,4,6] logits) <int64[4] sizes = {1, 1, 4, 6}>
            {
                logits = Resize<
                    mode = "nearest", coordinate_transformation_mode = "asymmetric", nearest_mode = "floor"
                >(image, , , sizes)
            }
        """)
    ).model
    sizes = weights(half)["sizes"]
    assert sizes.dtype == np.int64
    assert sizes.tolist() == [1, 1, 4, 6]
    assert nodes(half)[1] == ("Resize", ["image/fp16", "", "", "sizes"], ["logits/fp16"])


@pytest.mark.parametrize("value", [65536.0, -70000.0])
def test_a_weight_beyond_fp16_is_refused(value: float) -> None:
    model = parsed(
        f"net (float[2] image) => (float[2] logits) <float[2] w = {{1.0, {value}}}> {{ logits = Add(image, w) }}"
    )
    with pytest.raises(
        PrecisionError, match=r"^w holds .* \(at most 65504 fits into FP16\)\. Keep its node with --keep-fp32\.$"
    ):
        to_fp16(model)


@pytest.mark.parametrize(("kind", "name"), [("double", "DOUBLE"), ("float16", "FLOAT16"), ("int8", "INT8")])
def test_a_graph_that_is_not_fp32_is_refused(kind: str, name: str) -> None:
    model = parsed(f"net ({kind}[2] image) => ({kind}[2] logits) <{kind}[2] w = {{1, 2}}> {{ logits = Add(image, w) }}")
    with pytest.raises(PrecisionError, match=rf"^w is {name} \(FP32 was needed\)\."):
        to_fp16(model)


def test_a_half_graph_is_not_halved_again() -> None:
    model = parsed("net (float[2] image) => (float[2] logits) <float[2] w = {1.0, 2.0}> { logits = Add(image, w) }")
    with pytest.raises(PrecisionError, match="w is FLOAT16"):
        to_fp16(to_fp16(model).model)


@pytest.fixture(scope="module")
def real() -> tuple[onnx.ModelProto, onnx.ModelProto]:
    model = onnx.load_from_string(small_graph())
    return model, to_fp16(model).model


def test_every_weight_of_a_real_graph_is_halved(real: tuple[onnx.ModelProto, onnx.ModelProto]) -> None:
    full, half = (weights(model) for model in real)
    assert set(full) == set(half)
    for name, values in full.items():
        if values.dtype == np.int64:
            assert np.array_equal(half[name], values)
        else:
            assert half[name].dtype == np.float16
            assert np.array_equal(half[name], values.astype(np.float16))
    convolutions = [node for node in real[1].graph.node if node.op_type == "Conv"]
    assert len(convolutions) == 63
    assert all(half[name].dtype == np.float16 for node in convolutions for name in node.input[1:])
    assert real[1].ByteSize() < 0.55 * real[0].ByteSize()


def test_a_real_graph_is_half_between_its_ends(real: tuple[onnx.ModelProto, onnx.ModelProto]) -> None:
    full, half = real
    onnx.checker.check_model(half, full_check=True)
    types = element_types(half)
    assert types["image"] == types["logits"] == TensorProto.FLOAT
    between = {name for node in half.graph.node for name in node.output} - {"logits"}
    assert {types[name] for name in between} == {TensorProto.FLOAT16}
    assert [n.name for n in half.graph.node][1:-1] == [n.name for n in full.graph.node]


# --- what must stay FP32 --------------------------------------------------------------------------------------------

LIMIT = FP16_MAX / MARGIN
CHAIN = """
    net (float[1,1,4,4] image) => (float[1,1] logits)
    <float[1,1,1,1] w1 = {1.0}, float[1,1,1,1] w2 = {2.0}>
    {
        [first] a = Conv(image, w1)
        [second] b = Relu(a)
        [third] c = Conv(b, w2)
        [pool] d = GlobalAveragePool(c)
        [last] logits = Flatten(d)
    }
"""


def calm(**wild: float) -> dict[str, Range]:
    """Ranges of the chain's tensors: small, but for those named, whose lowest value it is."""
    return {name: Range(min(wild.get(name, 0.0), 0.0), 1.0) for name in ("image", "a", "b", "c", "d", "logits")}


def test_only_reductions_stay_fp32_in_a_calm_graph() -> None:
    kept = must_stay_fp32(parsed(CHAIN), calm())
    assert list(kept) == ["pool"]
    assert "a reduction" in kept["pool"]


def test_who_makes_and_who_reads_a_large_tensor_stays_fp32_and_the_reason_names_it() -> None:
    kept = must_stay_fp32(parsed(CHAIN), calm(b=-1.01 * LIMIT))
    assert list(kept) == ["second", "third", "pool"]
    for name in ("second", "third"):
        assert kept[name].startswith(f"b reaches {1.01 * LIMIT:.4g}; with a margin of 4")


def test_just_within_the_margin_is_halved() -> None:
    assert list(must_stay_fp32(parsed(CHAIN), calm(b=-0.999 * LIMIT))) == ["pool"]


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        (("first",), ["first", "pool"]),
        (("*ir*",), ["first", "third", "pool"]),
        (("last", "s?cond"), ["second", "pool", "last"]),
        (("*",), ["first", "second", "third", "pool", "last"]),
    ],
)
def test_patterns_keep_what_they_match(patterns: tuple[str, ...], names: list[str]) -> None:
    kept = must_stay_fp32(parsed(CHAIN), calm(), patterns)
    assert list(kept) == names
    asked = [name for name, reason in kept.items() if reason.startswith("asked for by ")]
    assert {*asked, "pool"} == set(names)


@pytest.mark.parametrize("pattern", ["firs", "FIRST", "conv*", ""])
def test_a_pattern_that_names_no_node_is_a_usage_error(pattern: str) -> None:
    with pytest.raises(UsageError) as caught:
        must_stay_fp32(parsed(CHAIN), calm(), ["first", pattern])
    assert str(caught.value).startswith(f"--keep-fp32 {pattern!r} names no node (the first is 'first')")
    assert caught.value.exit_code == 2


def test_a_node_with_a_weight_beyond_fp16_stays_fp32() -> None:
    model = parsed(CHAIN.replace("w2 = {2.0}", "w2 = {-65536.0}"))
    kept = must_stay_fp32(model, calm())
    assert list(kept) == ["third", "pool"]
    assert kept["third"] == "w2 holds 6.554e+04, beyond FP16"
    to_fp16(model, kept)


# --- keeping nodes --------------------------------------------------------------------------------------------------


def test_casts_stand_where_a_tensor_crosses_and_the_reasons_come_along() -> None:
    half = to_fp16(parsed(CHAIN), {"second": "why not", "third": "neither"})
    assert half.kept == {"second": "why not", "third": "neither"}
    assert nodes(half.model) == [
        ("Cast", ["image"], ["image/fp16"]),
        ("Conv", ["image/fp16", "w1"], ["a"]),
        ("Cast", ["a"], ["a/fp32"]),
        ("Relu", ["a/fp32"], ["b"]),
        ("Conv", ["b", "w2/fp32"], ["c"]),
        ("Cast", ["c"], ["c/fp16"]),
        ("GlobalAveragePool", ["c/fp16"], ["d"]),
        ("Flatten", ["d"], ["logits/fp16"]),
        ("Cast", ["logits/fp16"], ["logits"]),
    ]
    types = element_types(half.model)
    assert {name for name, kind in types.items() if kind == TensorProto.FLOAT} == {
        "image", "a/fp32", "b", "c", "logits"
    }  # fmt: skip
    assert {name: array.dtype.name for name, array in weights(half.model).items()} == {
        "w1": "float16",
        "w2/fp32": "float32",
    }


def test_readers_on_the_other_side_share_one_cast() -> None:
    model = parsed("""
        net (float[2] image) => (float[2] logits)
        {
            [a] a = Relu(image)
            [k1] b = Neg(a)
            [k2] c = Abs(a)
            [h1] d = Add(b, c)
            [h2] e = Mul(b, d)
            [h3] logits = Add(e, a)
        }
    """)
    half = to_fp16(model, {"k1": "", "k2": ""}).model
    casts = [(node.input[0], node.output[0]) for node in half.graph.node if node.op_type == "Cast"]
    assert casts == [
        ("image", "image/fp16"),
        ("a", "a/fp32"),
        ("b", "b/fp16"),
        ("c", "c/fp16"),
        ("logits/fp16", "logits"),
    ]


def test_a_weight_that_a_kept_and_a_halved_node_read_is_there_twice() -> None:
    model = parsed("""
        net (float[1] image) => (float[1] logits) <float[1] w = {0.1}>
        { [kept] a = Add(image, w) [halved] logits = Add(a, w) }
    """)
    half = to_fp16(model, {"kept": ""}).model
    found = weights(half)
    assert found["w"].dtype == np.float16
    assert found["w/fp32"].dtype == np.float32
    assert found["w/fp32"][0] == np.float32(0.1) != found["w"][0]
    readers = {node.name: list(node.input) for node in half.graph.node if node.op_type == "Add"}
    assert readers == {"kept": ["image", "w/fp32"], "halved": ["a/fp16", "w"]}


def test_a_kept_node_at_the_ends_needs_no_cast() -> None:
    model = parsed("net (float[2] image) => (float[2] logits) { [only] logits = Relu(image) }")
    assert nodes(to_fp16(model, {"only": ""}).model) == [("Relu", ["image"], ["logits"])]


def test_ends_in_fp16_need_casts_only_at_kept_nodes() -> None:
    half = to_fp16(parsed(CHAIN), io="fp16").model
    assert not [node for node in half.graph.node if node.op_type == "Cast"]
    assert set(element_types(half).values()) == {TensorProto.FLOAT16}
    kept = to_fp16(parsed(CHAIN), {"first": "", "last": ""}, io="fp16").model
    casts = [(list(node.input), list(node.output)) for node in kept.graph.node if node.op_type == "Cast"]
    assert casts == [
        (["image"], ["image/fp32"]),
        (["a"], ["a/fp16"]),
        (["d"], ["d/fp32"]),
        (["logits/fp32"], ["logits"]),
    ]
    types = element_types(kept)
    assert types["image"] == types["logits"] == TensorProto.FLOAT16


@pytest.mark.parametrize("kept", [False, True])
def test_factors_of_a_resize_stay_fp32(kept: bool) -> None:
    model = parsed("""
        net (float[1,1,2,2] image) => (float[1,1,4,4] logits) <float[2] factors = {2.0, 2.0}>
        { [up] logits = Resize<mode = "linear", axes = [2, 3]>(image, , factors) }
    """)
    half = to_fp16(model, {"up": ""} if kept else {}).model
    (up,) = [node for node in half.graph.node if node.op_type == "Resize"]
    assert list(up.input)[1:] == ["", "factors"]
    assert weights(half)["factors"].dtype == np.float32


# --- the check that proves something --------------------------------------------------------------------------------

IMAGE = {"image": np.random.default_rng(0).uniform(0.5, 1.0, (1, 1, 4, 4)).astype(np.float32)}


def run(model: onnx.ModelProto, feeds: dict[str, np.ndarray] | None = None) -> np.ndarray:
    with OnnxRuntimeRunner(model.SerializeToString(), threads=1) as runner:
        return runner(feeds or IMAGE)["logits"]


def overflow() -> onnx.ModelProto:
    """A graph whose activation reaches 200 000 and comes back to 4."""
    return parsed("""
        net (float[1,1,4,4] image) => (float[1,2,4,4] logits)
        <float[1,1,1,1] large = {40000.0}, float[1,1,1,1] five = {5.0}, float[2,1,1,1] tiny = {0.00001, -0.00002}>
        {
            [grow] a = Conv(image, large)
            [grow_more] b = Conv(a, five)
            [shrink] logits = Conv(b, tiny)
        }
    """)


def test_an_overflow_hides_from_onnx_runtime_and_not_from_the_rounded_graph() -> None:
    model = overflow()
    wanted = run(model)
    assert 1 < np.abs(wanted).max() < 10
    half = to_fp16(model).model
    # ONNX Runtime computes the FP16 convolutions in FP32 all along: nothing is seen.
    assert np.isfinite(run(half)).all()
    assert not np.isfinite(run(rounded(half))).any()
    with (
        OnnxRuntimeRunner(model.SerializeToString(), threads=1) as reference,
        OnnxRuntimeRunner(half.SerializeToString(), threads=1) as plain,
        OnnxRuntimeRunner(rounded(half).SerializeToString(), threads=1) as emulated,
    ):
        verified(reference, plain, [IMAGE], FP16)
        with pytest.raises(VerificationError, match=r"The FP16 graph does not compute .*--keep-fp32 PATTERN"):
            verified(reference, emulated, [IMAGE], FP16)


def test_what_ranges_keep_in_fp32_makes_the_rounded_graph_pass() -> None:
    model = overflow()
    with OnnxRuntimeRunner(with_extremes(model).SerializeToString(), threads=1) as runner:
        ranges = observe(model, runner, [IMAGE])
    kept = must_stay_fp32(model, ranges)
    assert list(kept) == ["grow", "grow_more", "shrink"]
    assert kept["grow"].startswith("a reaches ")
    assert kept["shrink"].startswith("b reaches ")
    half = to_fp16(model, kept).model
    with (
        OnnxRuntimeRunner(model.SerializeToString(), threads=1) as reference,
        OnnxRuntimeRunner(rounded(half).SerializeToString(), threads=1) as emulated,
    ):
        assert verified(reference, emulated, [IMAGE], FP16).max_difference < 1e-3


def test_each_result_is_rounded_once_and_weights_hold_fp16_values() -> None:
    model = parsed("""
        net (float[2] image) => (float[2] logits) <float[2] w = {0.1, 3.0}>
        { a = Add(image, w) b = Mul(a, a) logits = Sub(b, image) }
    """)
    image = np.array([1.2345678, -7.654321], np.float32)
    x, w = image.astype(np.float16), np.array([0.1, 3.0], np.float16)
    # NumPy's half arithmetic computes in FP32 and rounds each result.
    expected = ((x + w) * (x + w) - x).astype(np.float32)
    emulated = rounded(to_fp16(model).model)
    assert run(emulated, {"image": image}).tolist() == expected.tolist()
    assert run(model, {"image": image}).tolist() != expected.tolist()
    assert {v.type.tensor_type.elem_type for v in (*emulated.graph.input, *emulated.graph.output)} == {1}
    assert {array.dtype.name for array in weights(emulated).values()} == {"float32"}


@pytest.mark.parametrize("io", ["fp32", "fp16"])
def test_the_rounded_graph_takes_and_gives_fp32_whatever_the_ends(io: str) -> None:
    half = to_fp16(parsed(CHAIN), io="fp16" if io == "fp16" else "fp32").model
    out = run(rounded(half), {"image": np.full((1, 1, 4, 4), 0.1, np.float32)})
    assert out.dtype == np.float32
    assert out[0, 0] == np.float32(np.float16(0.1) * np.float16(2))


def with_all_outputs(model: onnx.ModelProto) -> onnx.ModelProto:
    opened = onnx.ModelProto()
    opened.CopyFrom(model)
    there = {value.name for value in opened.graph.output}
    for name in (name for node in model.graph.node for name in node.output):
        if name not in there and not name.endswith(("/half", "/exact")):
            opened.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    return opened


def test_a_real_rounded_graph_is_near_fp32_and_not_equal_to_it(real: tuple[onnx.ModelProto, onnx.ModelProto]) -> None:
    model, half = real
    feeds = street_feeds(SMALL_SHAPE)
    with (
        OnnxRuntimeRunner(model.SerializeToString(), threads=1) as reference,
        OnnxRuntimeRunner(rounded(half).SerializeToString(), threads=1) as emulated,
    ):
        found = verified(reference, emulated, feeds, FP16)
        # Two FP32 runtimes differ by 1e-5; rounding is far above that, or it did not happen.
        assert found.max_difference > 1e-3
        with pytest.raises(VerificationError):
            verified(reference, emulated, feeds, Tolerance(1e-5, 1e-6, 1))


def test_every_activation_of_a_real_rounded_graph_is_an_fp16_value(
    real: tuple[onnx.ModelProto, onnx.ModelProto],
) -> None:
    emulated = rounded(real[1])
    with OnnxRuntimeRunner(with_all_outputs(emulated).SerializeToString(), threads=1) as runner:
        outputs = runner(street_feeds(SMALL_SHAPE, 1)[0])
    assert len(outputs) > 140
    wrong = [n for n, a in outputs.items() if not np.array_equal(a, a.astype(np.float16).astype(np.float32))]
    assert wrong == []


def test_rounding_survives_onnx_runtimes_optimiser() -> None:
    """The optimised graph alone: no intermediate output forces anything to stay."""
    model = parsed("""
        net (float[1,1,1,1] image) => (float[1,1,1,1] logits) <float[1,1,1,1] w1 = {1.0}, float[1,1,1,1] w2 = {1.0}>
        { a = Conv(image, w1) b = Relu(a) logits = Conv(b, w2) }
    """)
    image = np.array([[[[1.0001]]]], np.float32)
    assert run(rounded(to_fp16(model).model), {"image": image}).item() == 1.0
    assert run(model, {"image": image}).item() == pytest.approx(1.0001)

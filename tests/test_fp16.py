"""FP32 graph to FP16, one small graph in ONNX's text form for each case, and one real graph."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest
from fakes import small_graph
from onnx import TensorProto, numpy_helper

from ffnet_deploy.errors import PrecisionError
from ffnet_deploy.graph.fp16 import to_fp16


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
    half = to_fp16(model)
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
    half = to_fp16(
        parsed("net (float[2] image) => (float[2] logits) { a = Relu(image) logits = Add(a, image) }"),
    )
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
    )
    types = element_types(half)
    assert types["first"] == types["second"] == TensorProto.FLOAT
    assert nodes(half)[-2:] == [("Cast", ["first/fp16"], ["first"]), ("Cast", ["second/fp16"], ["second"])]


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
    )
    sizes = weights(half)["sizes"]
    assert sizes.dtype == np.int64
    assert sizes.tolist() == [1, 1, 4, 6]
    assert nodes(half)[1] == ("Resize", ["image/fp16", "", "", "sizes"], ["logits/fp16"])


@pytest.mark.parametrize("value", [65536.0, -70000.0])
def test_a_weight_beyond_fp16_is_refused(value: float) -> None:
    model = parsed(
        f"net (float[2] image) => (float[2] logits) <float[2] w = {{1.0, {value}}}> {{ logits = Add(image, w) }}"
    )
    with pytest.raises(PrecisionError, match=r"^w holds .* \(FP16 ends at 65504\)\. Build this model with --fp32\.$"):
        to_fp16(model)


@pytest.mark.parametrize(
    ("kind", "name"), [("double", "DOUBLE"), ("float16", "FLOAT16"), ("int8", "INT8"), ("int32", "INT32")]
)
def test_a_graph_that_is_not_fp32_is_refused(kind: str, name: str) -> None:
    model = parsed(f"net ({kind}[2] image) => ({kind}[2] logits) <{kind}[2] w = {{1, 2}}> {{ logits = Add(image, w) }}")
    with pytest.raises(PrecisionError, match=rf"^w is {name} \(FP32 was needed\)\."):
        to_fp16(model)


def test_a_half_graph_is_not_halved_again() -> None:
    model = parsed("net (float[2] image) => (float[2] logits) <float[2] w = {1.0, 2.0}> { logits = Add(image, w) }")
    with pytest.raises(PrecisionError, match="w is FLOAT16"):
        to_fp16(to_fp16(model))


@pytest.fixture(scope="module")
def real() -> tuple[onnx.ModelProto, onnx.ModelProto]:
    model = onnx.load_from_string(small_graph())
    return model, to_fp16(model)


def test_every_weight_of_a_real_graph_is_halved(real: tuple[onnx.ModelProto, onnx.ModelProto]) -> None:
    full, half = (weights(model) for model in real)
    assert list(full) == list(half)
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

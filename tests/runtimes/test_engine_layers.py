"""What TensorRT-RTX prints of an engine, read back: a real log of a mixed build, and cases made by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from ffnet_deploy.artifacts.values import EngineFindings
from ffnet_deploy.runtimes.engine_layers import EngineLayer, EngineTensor, parse_log, precision_by_node, summary

LOG = (Path(__file__).parents[1] / "support" / "golden" / "build_log.txt").read_text("utf-8")
"""TensorRT-RTX 1.7.1, segmentation_ffnet46NS_CCC_mobile at 64x128, FP16 but for ``head.layers.3``; a few layers."""
STEM = "backbone_model.conv0/Conv"
ADAPTER = "head.layers.0.adapter_conv.2.layers.0/Conv"
LAST = ("head.layers.3.last_layer.0/Conv", "head.layers.3.last_layer.3/Conv")


def tensor(dtype: str, *shape: int, name: str = "t") -> EngineTensor:
    return EngineTensor(name, shape, dtype)


def layer(
    taken: str,
    weight: str | None = None,
    *,
    kind: str = "correlation",
    nodes: tuple[str, ...] = ("a",),
    given: str = "half",
    filter_shape: tuple[int, ...] = (8, 4, 3, 3),
) -> EngineLayer:
    constants = (tensor(weight, *filter_shape), tensor("float", 1)) if weight else ()
    return EngineLayer("layer", kind, (tensor(taken, 1, 4, 6, 6),), constants, (tensor(given, 1, 8, 6, 6),), nodes)


def test_a_real_log_gives_every_layer_in_order() -> None:
    layers = parse_log(LOG.splitlines())
    assert [item.kind for item in layers] == [
        "kgen", "correlation", "signal", "wait", "runtime_function", "runtime_fusion", "kgen", "correlation",
        "correlation",
    ]  # fmt: skip
    # TensorRT-RTX puts all lines into one message.
    assert parse_log([LOG]) == layers
    assert parse_log(["nothing of the kind", ""]) == []


def test_a_convolution_of_a_real_log_is_read_in_full() -> None:
    stem = parse_log([LOG])[1]
    assert stem.name == "backbone_model.conv0/Conv_U0_myl0_1"
    assert [(t.shape, t.dtype) for t in stem.inputs] == [((1, 4, 64, 128), "half")]
    assert [(t.shape, t.dtype) for t in stem.constants] == [
        ((64, 4, 3, 3), "half"),
        ((1,), "float"),
        ((1,), "float"),
        ((1, 64, 1, 1), "half"),
    ]
    assert [(t.shape, t.dtype) for t in stem.outputs] == [((1, 64, 32, 64), "half")]
    assert stem.weight == stem.constants[0]
    assert stem.nodes == (STEM, "backbone_model.relu/Relu")
    assert stem.precision == "fp16"


def test_a_signal_has_no_tensors() -> None:
    signal = parse_log([LOG])[2]
    assert (signal.inputs, signal.constants, signal.outputs, signal.nodes) == ((), (), (), ())
    assert signal.weight is None


def test_precision_of_a_real_mixed_engine() -> None:
    nodes = (STEM, ADAPTER, *LAST, "somewhere.else/Conv")
    # `kgen` names the stem too, and takes the FP32 image: what pointwise work does is no precision of a convolution.
    assert precision_by_node(parse_log([LOG]), nodes) == {
        STEM: "fp16",
        ADAPTER: "fp16",
        LAST[0]: "fp32",
        LAST[1]: "fp32",
    }


def test_the_summary_of_a_real_mixed_engine() -> None:
    macs = {STEM: 300, ADAPTER: 100, LAST[0]: 400, LAST[1]: 100, "hidden": 100}
    found = summary(parse_log([LOG]), macs)
    assert found.share == {"fp16": 0.4, "fp32": 0.5, "unknown": 0.1}
    assert found.layers == {
        "kgen": 2, "correlation": 3, "signal": 1, "wait": 1, "runtime_function": 1, "runtime_fusion": 1
    }  # fmt: skip
    written = 2 * (4 * 64 * 128 + 64 * 32 * 64 + 128 * 4 * 8 + 128 * 4 * 8) + 4 * (176 + 128 + 19) * 16 * 32
    assert found.bytes_between_layers == written
    assert "hidden" not in found.precision


@pytest.mark.parametrize(
    ("taken", "weight", "precision"),
    [
        ("half", "half", "fp16"),
        ("float", "half", "fp32"),
        ("half", "float", "fp32"),
        ("int8", "int8", "int8"),
        ("half", "int8", "fp16"),
        ("int8", "float", "fp32"),
        ("bfloat16", "bfloat16", "bf16"),
        ("int4", "int4", "int4"),
    ],
)
def test_the_wider_of_input_and_filter_decides(taken: str, weight: str, precision: str) -> None:
    # What is written, and the FP32 scales among the constants, do not.
    for given in ("float", "half", "int8"):
        assert layer(taken, weight, given=given).precision == precision


def test_the_filter_is_the_largest_constant_with_two_sides() -> None:
    scales = tensor("float", 1, 512, 1, 1)
    small = tensor("half", 8, 1, 3, 3)
    item = EngineLayer("l", "correlation", (), (scales, small), (), ())
    assert item.weight == small
    assert EngineLayer("l", "correlation", (), (scales,), (), ()).weight is None


@pytest.mark.parametrize("kind", ["kgen", "runtime_function", "signal", "wait", "reformat", "shape_call"])
def test_what_is_no_convolution_says_nothing_of_one(kind: str) -> None:
    assert precision_by_node([layer("half", "half", kind=kind)], ["a"]) == {}


def test_a_layer_without_a_filter_leaves_its_nodes_unknown() -> None:
    found = summary([layer("half"), layer("half", "half", nodes=("b",))], {"a": 30, "b": 10})
    assert found.share == {"unknown": 0.75, "fp16": 0.25}
    assert found.precision == {"b": "fp16"}


def test_nothing_known_is_all_unknown() -> None:
    found = summary([layer("half"), layer("half", "half", kind="kgen", nodes=("b",))], {"a": 3, "b": 4})
    assert (found.precision, found.share) == ({}, {"unknown": 1.0})


def test_no_layers_say_nothing() -> None:
    """Nothing at all: a share would say that something was found."""
    assert summary([], {"a": 3, "b": 4}) == EngineFindings()


def test_bytes_of_tensors() -> None:
    assert tensor("half", 1, 3, 4, 5).bytes == 120
    assert tensor("float", 2, 2).bytes == 16
    assert tensor("int8", 7).bytes == 7
    assert tensor("int64", 3).bytes == 24


def test_an_engine_for_several_batches_writes_no_fixed_number_of_bytes() -> None:
    item = EngineLayer("l", "correlation", (), (), (tensor("half", -1, 4, 5), tensor("half", 2)), ())
    assert summary([item], {"a": 1}).bytes_between_layers is None
    assert summary([layer("half")], {"a": 1}).bytes_between_layers is not None

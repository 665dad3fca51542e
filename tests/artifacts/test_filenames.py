"""One grammar for names: what formats a name also parses it, and every other name is foreign."""

from __future__ import annotations

from itertools import product

import pytest

from ffnet_deploy.artifacts.filenames import FileName, model_of
from ffnet_deploy.artifacts.values import BatchProfile, Ends

RUNTIMES = (
    (None, ""),
    ("onnxruntime", ""),
    ("tensorrt", ""),
    ("tensorrt-rtx", ""),
    ("tensorrt-rtx", "portable"),
    ("tensorrt-rtx", "sm86"),
    ("tensorrt-rtx", "sm86+sm89"),
)
EVERY = [
    FileName(model, upsampling, hw, batch, image_in, labels_out, precision, runtime, target)
    for model, upsampling, hw, batch, image_in, labels_out, precision, (runtime, target) in product(
        ("segmentation_ffnet46NS_CCC_mobile", "NAME-2"),
        (None, "bilinear"),
        (None, (64, 128)),
        ("1", "4", "12", "dynamic", "1-4-8"),
        (False, True),
        (False, True),
        ("fp32", "fp16", "int8", "int8-cpu"),
        RUNTIMES,
    )
]


def test_every_name_is_read_back_and_no_two_are_the_same() -> None:
    assert [FileName.parse(str(name)) for name in EVERY] == EVERY
    assert len({str(name) for name in EVERY}) == len(EVERY) == 4480


def test_a_calibration_has_the_name_of_its_graph() -> None:
    for name in EVERY:
        graph = name.exported
        assert FileName.parse(f"{graph.stem}.json") == graph
        assert graph.exported == graph
        assert (graph.precision, graph.runtime, graph.image_in, graph.labels_out) == ("fp32", None, False, False)
        assert (graph.model, graph.hw, graph.upsampling) == (name.model, name.hw, name.upsampling)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (FileName("NAME"), "NAME.onnx"),
        (FileName("NAME", hw=(64, 128)), "NAME@64x128.onnx"),
        (FileName("NAME", batch="4"), "NAME.b4.onnx"),
        (FileName("NAME", batch="dynamic"), "NAME.bdynamic.onnx"),
        (FileName("NAME", None, (64, 128), "2"), "NAME@64x128.b2.onnx"),
        (FileName("NAME", "bilinear", (64, 128), "2"), "NAME.bilinear@64x128.b2.onnx"),
        (FileName("NAME", precision="fp16"), "NAME.fp16.onnx"),
        (FileName("NAME", precision="int8-cpu"), "NAME.int8-cpu.onnx"),
        (FileName("NAME", image_in=True, labels_out=True), "NAME.image.labels.onnx"),
        (FileName("NAME", precision="fp16", runtime="tensorrt-rtx"), "NAME.fp16.tensorrt-rtx.engine"),
        (FileName("NAME", precision="fp32", runtime="onnxruntime"), "NAME.fp32.onnxruntime.onnx"),
        (
            FileName("NAME", None, None, "1-4-8", True, False, "int8", "tensorrt-rtx", "sm86+sm89"),
            "NAME.b1-4-8.image.int8.tensorrt-rtx-sm86+sm89.engine",
        ),
    ],
    ids=str,
)
def test_what_differs_from_the_contract_stands_in_the_name(name: FileName, text: str) -> None:
    assert str(name) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".onnx",
        "NAME",
        "NAME.pth",
        "NAME.onnx.json",
        "NAME.onnx.part",
        "NAME.partial.npz",
        "NAME.onnx\n",
        "@64x128.onnx",
        "NAME@64.onnx",
        "NAME@64x128x3.onnx",
        "NAME@064x128.onnx",
        "NAME@64x128@64x128.onnx",
        "NAME.b.onnx",
        "NAME.b1.onnx",
        "NAME.b04.onnx",
        "NAME.b1-4.onnx",
        "NAME.b4@64x128.onnx",
        "NAME.cubic.onnx",
        "NAME.labels.image.onnx",
        "NAME.fp64.onnx",
        "NAME.fp32.onnx",
        "NAME.fp16.int8.onnx",
        "NAME.engine",
        "NAME.fp16.engine",
        "NAME.tensorrt-rtx.engine",
        "NAME.fp16.tensorrt-rtx.onnx",
        "NAME.fp32.onnxruntime.engine",
        "NAME.fp16.tensorrt-rtx-.engine",
        "NAME.fp16.openvino.engine",
        "NAME.fp16.json",
        "NAME.image.json",
        "NAME.b1-4-8.json",
        "NAME.copy.onnx",
    ],
)
def test_foreign_names_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no name of a graph, an engine or a calibration") as caught:
        FileName.parse(text)
    assert repr(text) in str(caught.value)


def test_an_engine_of_a_profile_goes_back_to_the_graph_for_any_batch() -> None:
    graph = FileName("NAME", hw=(64, 128), batch="dynamic")
    profiled = graph.with_profile(BatchProfile(1, 4, 8))
    assert (profiled.batch, profiled.exported) == ("1-4-8", graph)
    assert graph.with_profile(None) == graph


def test_ends_stand_in_the_name() -> None:
    name = FileName("NAME").with_ends(Ends(image_in=True, labels_out=True, align_corners=True))
    assert (name.stem, name.exported.stem) == ("NAME.image.labels", "NAME")
    assert name.with_ends(Ends()) == FileName("NAME")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (FileName("NAME", "bilinear", (64, 128), "4", precision="fp16"), ""),
        (
            FileName("NAME", batch="1-4-8", image_in=True, labels_out=True, target="portable"),
            "b1-4-8 image labels portable",
        ),
        (FileName("NAME", labels_out=True, target="sm86+sm89"), "labels sm86+sm89"),
    ],
    ids=["graph", "all", "some"],
)
def test_what_an_engine_is_beyond_its_graph_in_words(name: FileName, words: str) -> None:
    assert name.variant == words


@pytest.mark.parametrize("text", ["NAME", "NAME.onnx", "NAME@64x128.b4.fp16.onnx", "NAME.b2", "NAME.what.ever"])
def test_the_model_stands_first_in_any_name(text: str) -> None:
    assert model_of(text) == "NAME"

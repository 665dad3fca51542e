"""A graph for any batch: equal to the static graph at every batch, by operators that TensorRT-RTX takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from support.fakes import street_feeds

from ffnet_deploy.artifacts.values import BatchProfile, EngineOptions
from ffnet_deploy.errors import ExportError
from ffnet_deploy.graph.batch import with_dynamic_batch
from ffnet_deploy.graph.facts import macs_by_node, resize_scales
from ffnet_deploy.graph.fp16 import to_fp16
from ffnet_deploy.runtimes.onnxruntime import OnnxRuntimeRunner
from ffnet_deploy.runtimes.runner import TensorSpec
from ffnet_deploy.runtimes.tensorrt import TensorRTBuilder
from ffnet_deploy.runtimes.worker import Worker

MOBILE = "segmentation_ffnet46NS_CCC_mobile"
BILINEAR = "segmentation_ffnet34_ABB"
CLASSIFIER = "classification_ffnet46NS_CBX_mobile"
CASES = ((MOBILE, (64, 128)), (MOBILE, (100, 152)), (BILINEAR, (97, 161)), (CLASSIFIER, (64, 64)))
needs_rtx = pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx has no wheel for this platform")


Exported = Callable[[str, tuple[int, int]], bytes]


@pytest.fixture(scope="module")
def builder() -> Iterator[Worker]:
    with Worker("the builder", TensorRTBuilder, "tensorrt-rtx") as worker:
        yield worker


@pytest.mark.parametrize(("name", "size"), CASES, ids=lambda value: str(value))
def test_every_batch_gives_what_the_static_graph_gives(exported: Exported, name: str, size: tuple[int, int]) -> None:
    static = exported(name, size)
    model = onnx.load_from_string(static)
    dynamic = with_dynamic_batch(model)
    operators = [node.op_type for node in dynamic.graph.node]
    assert not {"Shape", "Slice"} & set(operators)
    # Factors copy other pixels in one Resize of this size, and in none of the others.
    assert operators.count("Gather") == (2 if size == (100, 152) else 0)
    (image,) = street_feeds((3, 3, *size), 1)
    with (
        OnnxRuntimeRunner(static, threads=1) as one,
        OnnxRuntimeRunner(dynamic.SerializeToString(), threads=1) as many,
    ):
        assert many.inputs == [TensorSpec("image", (None, 3, *size), "float32")]
        assert many.outputs[0].shape == (None, *one.outputs[0].shape[1:])
        wanted = np.concatenate([one({"image": image["image"][i : i + 1]})["logits"] for i in range(3)])
        for batch in (1, 2, 3):
            found = many({"image": image["image"][:batch]})["logits"]
            assert found.shape == (batch, *wanted.shape[1:])
            spread = float(wanted.std())
            assert np.abs(found - wanted[:batch]).max() < 1e-4 * spread


def test_the_graph_that_was_given_stays_static(exported: Exported) -> None:
    model = onnx.load_from_string(exported(MOBILE, (64, 128)))
    before = model.SerializeToString(deterministic=True)
    dynamic = with_dynamic_batch(model)
    assert model.SerializeToString(deterministic=True) == before
    resizes = [node for node in dynamic.graph.node if node.op_type == "Resize"]
    assert len(resizes) == 6
    assert all(onnx.helper.get_node_attr_value(node, "axes") == [2, 3] for node in resizes)
    assert all(len(node.input) == 3 for node in resizes)  # no sizes


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            (
                "net (float[1,1,2,2] image) => (float[1,1,4,4] logits) <float[4] f = {1, 1, 2, 2}> "
                "{ [up] logits = Resize(image, , f) }"
            ),
            "up has no constant sizes",
        ),
        (
            (
                "net (float[1,4] image) => (float[1,4] logits) <int64[2] s = {1, 4}> "
                "{ [in] a = Relu(image) [re] b = Reshape(a, s) logits = Relu(b) }"
            ),
            r"b has a fixed batch \(a symbolic one was needed\)\. Export without --dynamic-batch",
        ),
    ],
)
def test_what_holds_the_batch_elsewhere_is_refused(text: str, says: str) -> None:
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]> {text}')
    with pytest.raises(ExportError, match=says):
        with_dynamic_batch(model)


def test_factors_give_the_exact_size_for_every_pair_of_small_sides() -> None:
    for before in range(1, 70):
        for after in range(1, 200, 7):
            (factor,) = resize_scales((before,), (after,))
            assert factor.dtype == np.float32
            assert int(np.floor(before * float(factor))) == after, (before, after)


@needs_rtx
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize(("name", "size"), [CASES[1], CASES[2]], ids=str)
def test_tensorrt_rtx_builds_it_with_a_profile(
    tmp_path: Path, exported: Exported, builder: Worker, name: str, size: tuple[int, int], precision: str
) -> None:
    model = with_dynamic_batch(onnx.load_from_string(exported(name, size)))
    model = to_fp16(model).model if precision == "fp16" else model
    graph = tmp_path / "graph.onnx"
    onnx.save(model, graph)
    options = EngineOptions(batch=BatchProfile(1, 2, 3))
    found = builder.call("build", graph, tmp_path / "engine", macs_by_node(model), options)
    assert found.share == {precision: pytest.approx(1.0)}
    assert (tmp_path / "engine").stat().st_size > 1_000_000

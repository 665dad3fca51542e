"""The deployable graph against the PyTorch computation of the same, pixel for pixel but for ties."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
import torch
from torch.nn import functional as F

from ffnet_deploy.data.images import normalise
from ffnet_deploy.errors import PrecisionError
from ffnet_deploy.graph.deploy import with_image_in, with_labels_out
from ffnet_deploy.graph.facts import macs_by_node
from ffnet_deploy.graph.fp16 import must_stay_fp32, rounded, to_fp16
from ffnet_deploy.runtimes.onnxruntime import OnnxRuntimeRunner
from ffnet_deploy.runtimes.runner import TensorSpec
from ffnet_deploy.runtimes.tensorrt import TensorRTBuilder
from ffnet_deploy.runtimes.worker import Worker
from ffnet_deploy.synthetic.scenes import draw_scene
from ffnet_deploy.zoo.network import FFNet
from ffnet_deploy.zoo.specs import find
from ffnet_deploy.zoo.weights import load_random

needs_rtx = pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx has no wheel for this platform")
MOBILE = "segmentation_ffnet46NS_CCC_mobile"
PRE_DOWN = "segmentation_ffnet46NS_CCC_mobile_pre_down"
BILINEAR = "segmentation_ffnet34_ABB"
CASES = ((MOBILE, (97, 161)), (PRE_DOWN, (130, 258)), (BILINEAR, (97, 161)))
TIES = 0.9999


@dataclass
class Case:
    """A model with random weights at one size, its graph, two scenes, and PyTorch's logits of them."""

    module: FFNet
    graph: onnx.ModelProto
    size: tuple[int, int]

    @cached_property
    def scenes(self) -> list[np.ndarray]:
        return [draw_scene(*self.size, seed).image for seed in (1, 2)]

    @cached_property
    def logits(self) -> list[torch.Tensor]:
        with torch.inference_mode():
            return [self.module(torch.from_numpy(normalise(scene))) for scene in self.scenes]

    def labels(self, *, align_corners: bool) -> np.ndarray:
        maps = [F.interpolate(one, self.size, mode="bilinear", align_corners=align_corners) for one in self.logits]
        return torch.cat(maps).argmax(dim=1).to(torch.uint8).numpy()

    @cached_property
    def fp16(self) -> onnx.ModelProto:
        return to_fp16(self.graph, must_stay_fp32(self.graph, {})).model


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0]}@{case[1][0]}x{case[1][1]}")
def case(request: pytest.FixtureRequest, exported: Callable[[str, tuple[int, int]], bytes]) -> Case:
    name, size = request.param
    torch.set_num_threads(1)
    return Case(load_random(find(name)).module, onnx.load_from_string(exported(name, size)), size)


@pytest.fixture(scope="module")
def builder() -> Iterator[Worker]:
    with Worker("the builder", TensorRTBuilder, "tensorrt-rtx") as worker:
        yield worker


def run(model: onnx.ModelProto, images: list[np.ndarray], output: str) -> np.ndarray:
    with OnnxRuntimeRunner(model.SerializeToString(), threads=1) as runner:
        assert [spec.name for spec in runner.outputs] == [output]
        return np.concatenate([runner({"image": image})[output] for image in images])


def equal(found: np.ndarray, wanted: np.ndarray) -> float:
    assert found.dtype == np.uint8
    assert found.shape == wanted.shape
    return float((found == wanted).mean())


def test_the_scenes_have_several_labels(case: Case) -> None:
    assert len(np.unique(case.labels(align_corners=False))) > 2


def test_an_image_in_gives_the_modules_logits(case: Case) -> None:
    model = with_image_in(case.graph)
    (spec,) = OnnxRuntimeRunner(model.SerializeToString(), threads=1).inputs
    assert spec == TensorSpec("image", (1, *case.size, 3), "uint8")
    found = run(model, [scene[None] for scene in case.scenes], "logits")
    wanted = torch.cat(case.logits).numpy()
    assert np.abs(found - wanted).max() < 1e-4 * wanted.std()


@pytest.mark.parametrize("align_corners", [False, True])
def test_labels_out_are_pytorchs_pixel_for_pixel(case: Case, align_corners: bool) -> None:
    model = with_labels_out(case.graph, case.size, align_corners=align_corners)
    found = run(model, [normalise(scene) for scene in case.scenes], "labels")
    assert equal(found, case.labels(align_corners=align_corners)) >= TIES
    # And it matters which of the two.
    assert equal(found, case.labels(align_corners=not align_corners)) < TIES


@pytest.mark.parametrize("align_corners", [False, True])
def test_image_in_and_labels_out_together(case: Case, align_corners: bool) -> None:
    model = with_labels_out(with_image_in(case.graph), case.size, align_corners=align_corners)
    found = run(model, [scene[None] for scene in case.scenes], "labels")
    assert equal(found, case.labels(align_corners=align_corners)) >= TIES


def test_fp16_with_both_ends_is_the_fp16_graph_between_them(case: Case) -> None:
    """Rounded, since ONNX Runtime has no FP16 kernels: the ends are FP32 and change nothing."""
    half = case.fp16
    logits = run(rounded(half), [normalise(scene) for scene in case.scenes], "logits")
    full = F.interpolate(torch.from_numpy(logits), case.size, mode="bilinear", align_corners=False)
    wanted = full.argmax(dim=1).to(torch.uint8).numpy()
    emulated = with_labels_out(with_image_in(rounded(half)), case.size, align_corners=False)
    found = run(emulated, [scene[None] for scene in case.scenes], "labels")
    assert equal(found, wanted) >= 0.999
    assert equal(found, case.labels(align_corners=False)) > 0.98


def test_ends_of_an_fp16_graph_keep_normalisation_and_up_sampling_in_fp32(case: Case) -> None:
    deployed = with_labels_out(with_image_in(case.fp16), case.size, align_corners=False)
    types = {v.name: v.type.tensor_type.elem_type for v in deployed.graph.value_info}
    float32 = onnx.TensorProto.FLOAT
    assert {types[n] for n in ("image/float", "image/scaled", "image/shifted", "labels/float", "labels/full")} == {
        float32
    }
    # The ends give what the runner of FP16 gives: nothing between them is computed in another precision than before.
    run(deployed, [scene[None] for scene in case.scenes], "labels")


@needs_rtx
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_tensorrt_rtx_builds_all_of_them(case: Case, builder: Worker, tmp_path: Path, precision: str) -> None:
    model = case.fp16 if precision == "fp16" else case.graph
    image = with_image_in(model)
    # One end alone is parsed as beside the other; the precision does not matter to the ends, which are FP32.
    variants = {"both": with_labels_out(image, case.size, align_corners=True)}
    if precision == "fp32":
        variants["labels"] = with_labels_out(model, case.size, align_corners=False)
        variants["image"] = image
    for name, variant in variants.items():
        path = tmp_path / f"{name}.onnx"
        onnx.save(variant, path)
        found = builder.call("build", path, tmp_path / f"{name}.engine", macs_by_node(variant))
        assert found.share == {precision: pytest.approx(1.0)}, name


def test_only_a_map_has_labels() -> None:
    model = onnx.parser.parse_model("""
        <ir_version: 10, opset_import: ["" : 20]>
        net (float[1,3] image) => (float[1,3] logits) { logits = Relu(image) }
    """)
    with pytest.raises(PrecisionError, match=r"logits has 2 axes .*Leave --labels-out away"):
        with_labels_out(model, (4, 4), align_corners=False)


def test_the_graph_that_was_given_stays(case: Case) -> None:
    before = case.graph.SerializeToString(deterministic=True)
    with_labels_out(with_image_in(case.graph), case.size, align_corners=False)
    assert case.graph.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("value", [0, 1, 127, 128, 254, 255])
def test_every_shade_is_normalised_as_data_does(value: int) -> None:
    model = onnx.parser.parse_model("""
        <ir_version: 10, opset_import: ["" : 20]>
        net (float[1,3,2,2] image) => (float[1,3,2,2] logits) { logits = Identity(image) }
    """)
    shade = np.full((1, 2, 2, 3), value, np.uint8)
    shade[..., 1] = 255 - value  # the channels are told apart
    found = run(with_image_in(model), [shade], "logits")
    assert found == pytest.approx(normalise(shade[0]), abs=1e-6)

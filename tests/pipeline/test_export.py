"""Every family's graph at small sizes: what is in it, that ONNX Runtime agrees with PyTorch, and what is caught."""

from __future__ import annotations

import copy
import hashlib
import inspect
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper
from support.fakes import street_feeds
from torch import Tensor, nn

from ffnet_deploy.artifacts.values import Verification
from ffnet_deploy.errors import ExportError, VerificationError
from ffnet_deploy.graph import from_torch
from ffnet_deploy.graph.from_torch import _ensure_contract, export, fold_batch_norm
from ffnet_deploy.runtimes.onnxruntime import OnnxRuntimeRunner
from ffnet_deploy.runtimes.pytorch import PyTorchRunner
from ffnet_deploy.verify.agreement import Tolerance, verified
from ffnet_deploy.zoo.network import FFNet
from ffnet_deploy.zoo.specs import ModelSpec, deployable, find
from ffnet_deploy.zoo.weights import load_random

Shape = tuple[int, int, int, int]

# The smallest of each family, where the size does not matter.
FAMILIES = (
    "segmentation_ffnet34_AAA",
    "segmentation_ffnet34_ABB",
    "segmentation_ffnet18_dAAA",
    "segmentation_ffnet18_dAAC",
    "segmentation_ffnet50_AAA",
    "segmentation_ffnet86S_BBB",
    "segmentation_ffnet46N_CBB",
    "segmentation_ffnet40S_BBB_mobile",
    "segmentation_ffnet40S_BCC_mobile",
    "segmentation_ffnet40S_dBBB_mobile",
    "segmentation_ffnet46NS_CBB_mobile",
    "segmentation_ffnet46NS_CCC_mobile",
    "segmentation_ffnet40S_BCC_mobile_pre_down",
    "segmentation_ffnet46NS_CCC_mobile_pre_down",
    "classification_ffnet18_AAX",
    "classification_ffnet50_AAX",
    "classification_ffnet40S_BBX_mobile",
    "classification_ffnet46N_CBX",
    "classification_ffnet46NS_CBX_mobile",
)
STRIDED = "segmentation_ffnet18_dAAA"
NEAREST = "segmentation_ffnet40S_BBB_mobile"
PRE_DOWN = "segmentation_ffnet46NS_CCC_mobile_pre_down"
CLASSIFIER = "classification_ffnet18_AAX"
ODD = (1, 3, 97, 161)
OPERATORS = {
    "Conv",
    "Relu",
    "Add",
    "Resize",
    "Concat",
    "MaxPool",
    "Pad",
    "ReduceMean",
    "GlobalAveragePool",
    "Flatten",
    "Gemm",
}
THREADS = 1
"""At these sizes more threads cost more than they bring, above all beside other work."""


@pytest.fixture(scope="module", autouse=True)
def _really_traced() -> Iterator[None]:
    """Other files share what the exporter gives; this one is about it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(from_torch, "_traced", inspect.unwrap(from_torch._traced))
        yield


@pytest.fixture(scope="module", autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def small_shape(spec: ModelSpec, batch: int = 1) -> Shape:
    if spec.pre_down:
        return batch, 3, 128, 256
    return (batch, 3, 64, 128) if spec.task == "segmentation" else (batch, 3, 64, 64)


@dataclass
class Case:
    """A model with random weights, and its graph."""

    spec: ModelSpec
    module: FFNet
    shape: Shape
    opset: int = 20

    @cached_property
    def graph(self) -> onnx.ModelProto:
        return export(self.module, self.spec, self.shape, opset=self.opset, metadata={"model": self.spec.name})

    def verify(self, graph: onnx.ModelProto | None = None) -> Verification:
        """Hold a graph (this one's by default) to the module on two street scenes."""
        data = (graph or self.graph).SerializeToString()
        with (
            PyTorchRunner(self.module, self.shape, threads=THREADS) as reference,
            OnnxRuntimeRunner(data, threads=THREADS) as other,
        ):
            return verified(reference, other, street_feeds(self.shape), Tolerance())

    def attributes(self, kind: str) -> list[dict[str, object]]:
        nodes = [node for node in self.graph.graph.node if node.op_type == kind]
        return [{a.name: onnx.helper.get_attribute_value(a) for a in node.attribute} for node in nodes]


def case(name: str, shape: Shape | None = None, *, batch: int = 1, opset: int = 20) -> Case:
    spec = find(name)
    return Case(spec, load_random(spec).module, shape or small_shape(spec, batch), opset)


def static_shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Shapes of all tensors that the graph describes; 0 stands for a size that is not known."""
    graph = model.graph
    return {
        value.name: tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
        for value in (*graph.input, *graph.value_info, *graph.output)
    }


# --- every family ---------------------------------------------------------------------------------------------------


AT_ODD_SIZES = {STRIDED: "strided", NEAREST: "nearest", PRE_DOWN: "blurred", "segmentation_ffnet46N_CBB": "wide"}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> Case:
    """One of each; beside those that other tests look at too, at most one is in memory."""
    shared = AT_ODD_SIZES.get(request.param)
    found: Case = request.getfixturevalue(shared) if shared else case(request.param)
    return found


def test_every_family_is_here() -> None:
    def forms(names: Sequence[str]) -> set[tuple[object, ...]]:
        found: set[tuple[object, ...]] = set()
        for spec in map(find, names):
            form = "".join(c for c in spec.backbone if c.isalpha())
            form = "bottleneck" if spec.backbone in ("50", "101") else form or "plain"
            # The head and the stride belong to the whole network, a bottleneck and the blur to a part of it.
            whole = "plain" if form == "bottleneck" else form
            found |= {
                (whole, spec.task, spec.up_head, spec.segmentation_head, spec.strided),
                (form, spec.task),
                (spec.task, spec.upsampling, spec.strided),
                (form, spec.pre_down),
            }
        return found

    assert forms(FAMILIES) == forms(deployable())


def test_only_allowed_operators_remain(family: Case) -> None:
    counts = Counter(node.op_type for node in family.graph.graph.node)
    assert set(counts) <= OPERATORS
    convolutions = sum(isinstance(m, nn.Conv2d) for m in family.module.modules())
    assert counts["Conv"] == convolutions + (1 if family.spec.pre_down else 0)
    segmentation = family.spec.task == "segmentation"
    assert counts["Resize"] == (6 if segmentation else 3)
    assert counts["Concat"] == (1 if segmentation else 0)
    assert counts["Gemm"] == (0 if segmentation else 1)
    assert counts["Pad"] == (1 if family.spec.pre_down else 0)


def test_resizes_are_those_of_the_deployment(family: Case) -> None:
    for attributes in family.attributes("Resize"):
        if family.spec.deployment == "mobile":
            assert attributes["mode"] == b"nearest"
            assert attributes["coordinate_transformation_mode"] == b"asymmetric"
            assert attributes["nearest_mode"] == b"floor"
        else:
            assert attributes["mode"] == b"linear"
            assert attributes["coordinate_transformation_mode"] == b"align_corners"
        assert not attributes.get("antialias", 0)


def test_every_shape_is_static(family: Case) -> None:
    shapes = static_shapes(family.graph)
    assert shapes["image"] == family.shape
    out = family.spec.output_hw(*family.shape[2:])
    assert shapes["logits"] == ((1, 19, *out) if out else (1, 1000))
    for node in family.graph.graph.node:
        for name in node.output:
            assert shapes[name], name
            assert all(size > 0 for size in shapes[name]), name
    ends = (*family.graph.graph.input, *family.graph.graph.output)
    assert [(v.name, v.type.tensor_type.elem_type) for v in ends] == [
        ("image", TensorProto.FLOAT),
        ("logits", TensorProto.FLOAT),
    ]


def test_onnx_runtime_agrees_with_pytorch(family: Case) -> None:
    found = family.verify()
    assert found.images == 2
    out = family.spec.output_hw(*family.shape[2:])
    assert found.count == 2 * (out[0] * out[1] if out else 1)
    # The tolerance is wide; sums in another order give some 1e-6.
    assert found.max_difference < 1e-4


def test_nothing_tells_where_the_graph_was_made(family: Case) -> None:
    bare = onnx.ModelProto()
    bare.CopyFrom(family.graph)
    for tensor in bare.graph.initializer:
        # Random weights may spell anything.
        tensor.ClearField("raw_data")
        assert not tensor.external_data
    text = bare.SerializeToString()
    here = (b"site-packages", b".py", b"Traceback", b"File ", b"pkg.torch", b"namespace", os.fsencode(Path.cwd()))
    assert [found for found in here if found in text] == []
    graph = bare.graph
    for holder in (graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        assert not holder.metadata_props
        assert not holder.doc_string
    assert not bare.doc_string
    assert {p.key: p.value for p in bare.metadata_props} == {"ffnet_deploy.model": family.spec.name}
    assert {(o.domain, o.version) for o in bare.opset_import} == {("", 20)}
    assert not bare.functions


def test_names_are_those_of_the_modules(family: Case) -> None:
    modules = {name for name, _ in family.module.named_modules()}
    nodes = [node.name for node in family.graph.graph.node]
    assert len(set(nodes)) == len(nodes)
    for node in family.graph.graph.node:
        assert node.name.rpartition("/")[0] in modules, node.name
        assert node.name.rpartition("/")[2].partition("_")[0] == node.op_type
        assert node.output[0] in (node.name, "logits")
    # A convolution that a batch norm was folded into may have a bias that the state dict lacks.
    keys = set(family.module.state_dict())
    floats = {t.name for t in family.graph.graph.initializer if t.data_type == TensorProto.FLOAT}
    assert {name for name in floats if not name.endswith(".bias")} <= keys
    assert {name.rpartition(".")[0] for name in floats} <= modules
    assert {t.data_type for t in family.graph.graph.initializer} <= {TensorProto.FLOAT, TensorProto.INT64}


# --- one model each -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def strided() -> Case:
    return case(STRIDED, ODD)


@pytest.fixture(scope="module")
def nearest() -> Case:
    return case(NEAREST, ODD)


@pytest.fixture(scope="module")
def blurred() -> Case:
    return case(PRE_DOWN, ODD)


@pytest.fixture(scope="module")
def wide() -> Case:
    return case("segmentation_ffnet46N_CBB", ODD)


@cache
def of_two(name: str, opset: int) -> Case:
    """A batch of 2 at another opset."""
    return case(name, batch=2, opset=opset)


@pytest.mark.parametrize(("name", "opset"), [(STRIDED, 18), (STRIDED, 22), (NEAREST, 22), (CLASSIFIER, 18)])
def test_other_opsets_work(name: str, opset: int) -> None:
    other = of_two(name, opset) if opset == 18 else case(name, opset=opset)
    assert {(o.domain, o.version) for o in other.graph.opset_import} == {("", opset)}
    other.verify()


def test_exact_names_and_the_blur(blurred: Case) -> None:
    nodes = {node.name: node for node in blurred.graph.graph.node}
    names = [node.name for node in blurred.graph.graph.node]
    assert names[:6] == [
        "smoothing/Pad",
        "smoothing/Conv",
        "backbone_model.conv0/Conv",
        "backbone_model.relu/Relu",
        "backbone_model.conv1/Conv",
        "backbone_model.relu/Relu_1",
    ]
    assert names[-5:] == [
        "head.layers.2/Resize_2",
        "head.layers.2/Concat",
        "head.layers.3.last_layer.0/Conv",
        "head.layers.3.last_layer.2/Relu",
        "head.layers.3.last_layer.3/Conv",
    ]
    assert {"backbone_model.layer1.0.downsample.0/Conv", "head.layers.1.fam_32_up.layers.0/Conv"} <= set(names)
    # The blur: a depthwise convolution whose weights are constant, rows padded by reflection.
    blur = nodes["smoothing/Conv"]
    assert list(blur.input) == ["smoothing/Pad", "smoothing.weight"]
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in blur.attribute}
    assert (attributes["group"], list(attributes["strides"])) == (3, [2, 2])
    assert onnx.helper.get_node_attr_value(nodes["smoothing/Pad"], "mode") == b"reflect"
    constants = {t.name: numpy_helper.to_array(t) for t in blurred.graph.graph.initializer}
    kernel = constants["smoothing.weight"]
    assert kernel.shape == (3, 1, 5, 5)
    np.testing.assert_allclose(kernel.sum(axis=(1, 2, 3)), 1, atol=1e-6)
    assert static_shapes(blurred.graph)["smoothing/Conv"] == (1, 3, 48, 79)


@pytest.mark.parametrize(
    ("fixture", "size"), [("strided", (13, 21)), ("nearest", (25, 41)), ("wide", (25, 41)), ("blurred", (12, 20))]
)
def test_odd_sizes_agree(request: pytest.FixtureRequest, fixture: str, size: tuple[int, int]) -> None:
    odd: Case = request.getfixturevalue(fixture)
    assert static_shapes(odd.graph)["logits"][2:] == size == odd.spec.output_hw(97, 161)
    assert odd.verify().count == 2 * size[0] * size[1]


@pytest.mark.parametrize("name", [STRIDED, CLASSIFIER])
def test_a_batch_of_2_is_two_runs(name: str) -> None:
    two = of_two(name, 18)
    image = street_feeds(two.shape, 1)[0]["image"]
    with OnnxRuntimeRunner(two.graph.SerializeToString(), threads=THREADS) as runner, torch.inference_mode():
        found = runner({"image": image})["logits"]
        alone = np.concatenate([two.module(torch.from_numpy(image[i : i + 1])).numpy() for i in range(2)])
    assert found.shape[0] == 2
    assert float(np.abs(alone[0] - alone[1]).max()) > 0.1 * alone.std()
    np.testing.assert_allclose(found, alone, atol=1e-5 * alone.std(), rtol=0)


def test_the_module_stays_as_it_was(strided: Case) -> None:
    module = strided.module
    assert strided.graph.graph.node
    fresh = load_random(strided.spec).module
    before, kinds = fresh.state_dict(), [type(m) for m in fresh.modules()]
    after = module.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert [type(m) for m in module.modules()] == kinds
    assert kinds.count(nn.BatchNorm2d) == sum(name.endswith("running_var") for name in before) > 20
    assert not any(m.training for m in module.modules())


@pytest.mark.parametrize("name", [STRIDED, "segmentation_ffnet50_AAA", PRE_DOWN, "classification_ffnet46N_CBX"])
def test_folding_leaves_no_batch_norm_and_the_same_function(name: str) -> None:
    module = load_random(find(name)).module
    image = torch.from_numpy(street_feeds(small_shape(find(name)), 1)[0]["image"])
    with torch.inference_mode():
        before = module(image)
        folded = fold_batch_norm(copy.deepcopy(module))
        after = folded(image)
    assert any(isinstance(m, nn.BatchNorm2d) for m in module.modules())
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    assert float((after - before).abs().max()) < 1e-4 * float(before.std())


def test_another_folder_and_another_process_give_the_same_bytes(strided: Case, tmp_path: Path) -> None:
    code = f"""if True:
        import hashlib
        from ffnet_deploy.graph.from_torch import export
        from ffnet_deploy.zoo.specs import find
        from ffnet_deploy.zoo.weights import load_random
        spec = find({STRIDED!r})
        model = export(load_random(spec).module, spec, {strided.shape}, opset=20, metadata={{"model": spec.name}})
        print(hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest())
    """
    env = {**os.environ, "PYTHONHASHSEED": "1"}
    child = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, stdout=subprocess.PIPE, text=True, check=True
    )
    here = hashlib.sha256(strided.graph.SerializeToString(deterministic=True)).hexdigest()
    assert child.stdout.strip() == here


# --- what is caught -------------------------------------------------------------------------------------------------


def replaced(module: FFNet, name: str, other: nn.Module) -> FFNet:
    """A copy with one of its modules exchanged."""
    changed = copy.deepcopy(module)
    parent, _, child = name.rpartition(".")
    assert hasattr(changed.get_submodule(parent), child)
    setattr(changed.get_submodule(parent), child, other)
    return changed


BEFORE = {
    "backbone_model.bn1": "backbone_model.conv1",
    "backbone_model.layer4.1.bn2": "backbone_model.layer4.1.conv2",
    "head.layers.3.last_layer.1": "head.layers.3.last_layer.0",
}
"""Some batch norms and their convolutions."""


@pytest.mark.parametrize("name", BEFORE)
def test_a_dropped_batch_norm_fails_verification(strided: Case, name: str) -> None:
    assert isinstance(strided.module.get_submodule(name), nn.BatchNorm2d)
    # A graph without it has the convolution's own weights: nothing was folded into them.
    layer = BEFORE[name]
    convolution = strided.module.get_submodule(layer)
    assert isinstance(convolution, nn.Conv2d)
    bias = torch.zeros(convolution.out_channels) if convolution.bias is None else convolution.bias
    own = {f"{layer}.weight": convolution.weight, f"{layer}.bias": bias}
    graph = onnx.ModelProto()
    graph.CopyFrom(strided.graph)
    exchanged = [tensor for tensor in graph.graph.initializer if tensor.name in own]
    assert len(exchanged) == 2
    for tensor in exchanged:
        tensor.CopyFrom(numpy_helper.from_array(own[tensor.name].detach().numpy(), tensor.name))
    with pytest.raises(VerificationError, match="largest difference"):
        strided.verify(graph)


def flipped_resizes(model: onnx.ModelProto, to: str) -> onnx.ModelProto:
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    modes = {
        "bilinear": {"mode": "linear", "coordinate_transformation_mode": "align_corners"},
        "nearest": {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
        "rounded": {
            "mode": "nearest",
            "coordinate_transformation_mode": "half_pixel",
            "nearest_mode": "round_prefer_floor",
        },
        "half a pixel": {"mode": "linear", "coordinate_transformation_mode": "half_pixel"},
    }
    for node in changed.graph.node:
        if node.op_type == "Resize":
            del node.attribute[:]
            node.attribute.extend(onnx.helper.make_attribute(*item) for item in modes[to].items())
    return changed


@pytest.mark.parametrize("to", ["nearest", "half a pixel"])
def test_bilinear_resizes_that_became_others_fail_verification(strided: Case, to: str) -> None:
    strided.verify(flipped_resizes(strided.graph, "bilinear"))
    with pytest.raises(VerificationError):
        strided.verify(flipped_resizes(strided.graph, to))


def test_nearest_resizes_that_became_bilinear_fail_verification(nearest: Case) -> None:
    nearest.verify(flipped_resizes(nearest.graph, "nearest"))
    with pytest.raises(VerificationError):
        nearest.verify(flipped_resizes(nearest.graph, "bilinear"))


def test_a_module_with_the_other_resize_is_not_exported() -> None:
    found = case(STRIDED)
    found.module.get_submodule("head.layers.1").upsampling = "nearest"  # type: ignore[assignment]
    with pytest.raises(
        ExportError, match=r"^head\.layers\.1/Resize was exported as .*\(needed .*align_corners"
    ) as caught:
        _ = found.graph
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("to", ["bilinear", "rounded"])
def test_a_graph_whose_resize_is_not_the_phones_breaks_the_contract(nearest: Case, to: str) -> None:
    _ensure_contract(flipped_resizes(nearest.graph, "nearest"), nearest.spec)
    with pytest.raises(ExportError, match=r"\(needed .*asymmetric"):
        _ensure_contract(flipped_resizes(nearest.graph, to), nearest.spec)


def test_an_operator_beyond_the_contract_is_named(strided: Case) -> None:
    changed = replaced(strided.module, "head.layers.3.last_layer.2", nn.SiLU())
    with pytest.raises(ExportError, match=rf"^The graph of {STRIDED} has Mul, Sigmoid \(only Add, Concat, Conv,"):
        export(changed, strided.spec, strided.shape, opset=20, metadata={})


class Fickle(nn.Module):
    """Decides by the data, which no static graph can."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if float(x.sum()) > 0 else x


def test_a_module_that_cannot_be_traced_is_one_line(strided: Case) -> None:
    changed = replaced(strided.module, "head.layers.3.last_layer.2", Fickle())
    with pytest.raises(ExportError, match=rf"could not export {STRIDED} at opset 20 \(.+\)\.") as caught:
        export(changed, strided.spec, strided.shape, opset=20, metadata={})
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 3

"""Inner tensors have PyTorch's names, a broken layer is where the error first jumps, and memory is bounded."""

from __future__ import annotations

from functools import cache

import hostile
import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from support.fakes import SMALL, SMALL_SHAPE, small_graph, street_feeds
from support.graphs import sizes
from torch import nn

from ffnet_deploy.errors import EngineError
from ffnet_deploy.graph.equalise import equalise
from ffnet_deploy.graph.fp16 import rounded, to_fp16
from ffnet_deploy.graph.from_torch import export
from ffnet_deploy.graph.taps import Tap, grouped, tapped, taps
from ffnet_deploy.runtimes.onnxruntime import OnnxRuntimeRunner
from ffnet_deploy.runtimes.pytorch import PyTorchRunner
from ffnet_deploy.runtimes.rung import Rung
from ffnet_deploy.verify.layers import FLOORS, Inside, differing, look_inside
from ffnet_deploy.verify.result import rung_layers
from ffnet_deploy.zoo.specs import find
from ffnet_deploy.zoo.weights import load_random

LAYER = "backbone_model.layer2.3.conv1"
FEED = street_feeds(SMALL_SHAPE, 1)[0]


@cache
def network() -> nn.Module:
    return load_random(find(SMALL)).module


def reference() -> PyTorchRunner:
    return PyTorchRunner(network(), SMALL_SHAPE)


def graph() -> onnx.ModelProto:
    return onnx.load_model_from_string(small_graph())


def altered(model: onnx.ModelProto, layer: str = LAYER) -> onnx.ModelProto:
    """A copy with one weight of one layer moved far beyond the others."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    (weight,) = (tensor for tensor in changed.graph.initializer if tensor.name == f"{layer}.weight")
    values = numpy_helper.to_array(weight).copy()
    values.flat[0] += 100 * values.std()
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    return changed


def inside(*graphs: onnx.ModelProto, budget: int = 10**9, precision: str = "fp32") -> list[Inside]:
    return look_inside(reference(), graph(), graphs, [FLOORS[precision]] * len(graphs), FEED, threads=1, budget=budget)


@cache
def healthy_and_broken() -> tuple[Inside, Inside]:
    good, bad = inside(graph(), altered(graph()))
    return good, bad


# --- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "segmentation_ffnet46NS_CCC_mobile_pre_down",  # blur, nearest up-sampling
        "classification_ffnet18_AAX",  # max pooling, bottlenecks, bilinear up-sampling, the classifier
    ],
)
def test_every_node_of_every_kind_of_network_is_found_in_pytorch(name: str) -> None:
    spec = find(name)
    shape = (1, 3, 64, 64)
    module = load_random(spec).module
    model = export(module, spec, shape, opset=20, metadata={})
    with PyTorchRunner(module, shape) as runner:
        (found,) = look_inside(runner, model, [model], [FLOORS["fp32"]], street_feeds(shape, 1)[0], threads=1)
    assert [layer.node for layer in found.layers] == [node.name for node in model.graph.node]
    assert found.without == ()
    assert found.jump is None
    assert max(layer.max_difference for layer in found.layers) < 1e-3
    assert min(layer.sqnr for layer in found.layers) > 80


def test_a_convolution_is_compared_with_its_batch_norm() -> None:
    with reference() as runner:
        found = runner.inner(FEED, [f"{LAYER}/Conv", "backbone_model.relu/Relu_1"])
    assert found[f"{LAYER}/Conv"].shape == (1, 128, 4, 8)
    assert found[f"{LAYER}/Conv"].min() < 0  # the ReLU behind it, which works in place, came later
    assert found["backbone_model.relu/Relu_1"].min() == 0


def test_looking_leaves_the_module_as_it_was() -> None:
    with reference() as runner:
        before = runner(FEED)["logits"]
        inner = runner.inner(FEED, ["head.layers.3.last_layer.3/Conv"])
        assert np.array_equal(inner["head.layers.3.last_layer.3/Conv"], before)
        assert np.array_equal(runner(FEED)["logits"], before)
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in runner._module.modules())


def test_a_node_that_pytorch_does_not_run_is_an_error() -> None:
    with reference() as runner, pytest.raises(EngineError, match=r"nothing that is called backbone_model\.conv9/Conv"):
        runner.inner(FEED, ["backbone_model.conv9/Conv"])


# --- where it starts ------------------------------------------------------------------------------------------------


def test_the_altered_layer_is_the_first_jump() -> None:
    good, bad = healthy_and_broken()
    assert good.jump is None
    assert bad.jump
    assert bad.jump.node == f"{LAYER}/Conv"
    assert bad.jump.module == LAYER
    at = [layer.node for layer in bad.layers].index(bad.jump.node)
    assert all(layer.sqnr > 100 for layer in bad.layers[:at])
    assert bad.jump.sqnr < 60


def test_the_altered_layer_of_a_half_precision_graph_is_the_first_jump() -> None:
    good, bad = (rounded(to_fp16(model).model) for model in (graph(), altered(graph())))
    healthy, broken = inside(good, bad, precision="fp16")
    assert healthy.jump is None
    assert len(healthy.layers) == len(graph().graph.node)
    assert 40 < min(layer.sqnr for layer in healthy.layers) < 80
    assert broken.jump
    assert broken.jump.module == LAYER


def test_the_worst_come_first() -> None:
    _, found = healthy_and_broken()
    worst = found.worst(4)
    assert len(worst) == 4
    assert [layer.sqnr for layer in worst] == sorted(layer.sqnr for layer in found.layers)[:4]


def test_a_tensor_that_a_graph_no_longer_has_is_said_so_and_explains_no_jump() -> None:
    changed = altered(graph())
    for node in changed.graph.node:
        node.output[:] = [name.replace(f"{LAYER}/Conv", "renamed") for name in node.output]
        node.input[:] = [name.replace(f"{LAYER}/Conv", "renamed") for name in node.input]
    (found,) = inside(changed)
    assert found.without == (f"{LAYER}/Conv",)
    assert found.jump
    assert found.jump.node == "backbone_model.layer2.3.relu/Relu"


# --- memory ---------------------------------------------------------------------------------------------------------


def test_the_budget_changes_nothing_but_the_number_of_runs() -> None:
    budget = 6 * 10**6
    groups = list(grouped([tap._replace(size=2 * tap.size) for tap in taps(graph())], budget))
    assert len(groups) > 1
    assert inside(graph(), altered(graph()), budget=budget) == list(healthy_and_broken())


def test_groups_fit_the_budget() -> None:
    items = [Tap(str(i), str(i), size, ()) for i, size in enumerate([3, 3, 3, 9, 1, 1])]
    assert [[tap.size for tap in group] for group in grouped(items, 7)] == [[3, 3], [3], [9], [1, 1]]
    assert list(grouped([], 7)) == []


def test_a_tapped_graph_gives_those_tensors_and_holds_nothing_behind_them() -> None:
    names = ["backbone_model.conv0/Conv", "backbone_model.layer1.0/Add"]
    cut = tapped(graph(), names)
    assert len(cut.graph.node) == 11
    assert len(cut.graph.initializer) == 12
    with OnnxRuntimeRunner(cut.SerializeToString(), threads=1, optimised=False) as runner:
        assert list(runner(FEED)) == names


def test_taps_tell_what_each_node_reads_and_gives() -> None:
    first, second, *_, last = taps(graph())
    assert first == Tap("backbone_model.conv0/Conv", "backbone_model.conv0/Conv", 4 * 64 * 32 * 64, ("image",))
    assert second.inputs == (first.tensor,)
    assert (last.node, last.tensor) == ("head.layers.3.last_layer.3/Conv", "logits")


# --- one tensor -----------------------------------------------------------------------------------------------------


def test_differences_as_numpy_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ffnet_deploy.verify.layers._CHUNK", 7)
    rng = np.random.default_rng(0)
    a = rng.normal(3, 2, (2, 3, 5, 4)).astype(np.float32)
    b = a + rng.normal(0, 0.01, a.shape).astype(np.float32)
    found = differing("x", a, b)
    apart = np.abs(a.astype(np.float64) - b)
    assert found.max_difference == pytest.approx(apart.max() / a.std(dtype=np.float64))
    assert found.mean_difference == pytest.approx(apart.mean() / a.std(dtype=np.float64))
    power, noise = (a.astype(np.float64) ** 2).sum(), (apart**2).sum()
    assert found.sqnr == pytest.approx(10 * np.log10(power / noise))


def test_equal_tensors_have_no_noise_and_nan_has_all() -> None:
    zeros, ones = np.zeros((1, 2, 3), np.float32), np.ones((1, 2, 3), np.float32)
    assert differing("x", zeros, zeros).sqnr == np.inf
    assert differing("x", zeros, ones).sqnr == -np.inf
    nan = ones.copy()
    nan[0, 0, 0] = np.nan
    found = differing("x", ones, nan)
    assert (found.max_difference, found.sqnr) == (np.inf, -np.inf)
    rung = Rung("onnxruntime", "fp32", SMALL, SMALL_SHAPE)
    (told,) = rung_layers(rung, Inside((found,), found, ())).tensors
    assert (told.max_difference, told.sqnr_db) == ("inf", "-inf")


def test_factors_of_equalisation_are_undone_on_hostile_weights() -> None:
    module = load_random(find(SMALL)).module
    module.load_state_dict(hostile.tailed(hostile.scaled(module.state_dict())))
    hard = export(module, find(SMALL), SMALL_SHAPE, opset=20, metadata={})
    found = equalise(hard, sizes(hard, FEED["image"]))
    floors = [FLOORS["fp32"]] * 2
    with PyTorchRunner(module, SMALL_SHAPE) as runner:
        undone, plain = look_inside(
            runner, hard, [found.model] * 2, floors, FEED, threads=1, factors=[found.factors, {}]
        )
    assert plain.jump is not None
    assert undone.jump is None
    # Behind a Concat too.
    assert max(layer.noise for layer in undone.layers) < FLOORS["fp32"]

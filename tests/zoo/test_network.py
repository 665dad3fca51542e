"""The network against the published definitions: their state dicts, their outputs, and any size of image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.golden import RECORDED, published_shapes, recorded, recorded_names
from support.golden.deterministic import fill_state_dict, make_input
from torch import Tensor, nn

from ffnet_deploy import build_model
from ffnet_deploy.zoo.network import FFNet, Smoothing, resize_to
from ffnet_deploy.zoo.specs import SPECS, find

# The smallest model of each family: stem, heads, stride, deployment, blur.
FAMILIES = (
    "segmentation_ffnet40S_BBB_mobile",
    "segmentation_ffnet40S_BCC_mobile",
    "segmentation_ffnet46NS_CBB_mobile",
    "segmentation_ffnet46NS_CCC_mobile",
    "segmentation_ffnet40S_BBB_mobile_pre_down",
    "segmentation_ffnet40S_BCC_mobile_pre_down",
    "segmentation_ffnet46NS_CBB_mobile_pre_down",
    "segmentation_ffnet46NS_CCC_mobile_pre_down",
    "segmentation_ffnet40S_dBBB_mobile",
    "segmentation_ffnet34_AAA",
    "segmentation_ffnet50_AAA",
    "segmentation_ffnet34_ABB",
    "segmentation_ffnet86S_BBB",
    "segmentation_ffnet46N_CBB",
    "segmentation_ffnet18_dAAA",
    "segmentation_ffnet50_dAAA",
    "segmentation_ffnet18_dAAC",
    "segmentation_ffnet86S_dBBB",
)
CLASSIFIERS = (
    "classification_ffnet40S_BBX_mobile",
    "classification_ffnet46NS_CBX_mobile",
    "classification_ffnet18_AAX",
    "classification_ffnet50_AAX",
    "classification_ffnet86S_BBX",
    "classification_ffnet46N_CBX",
)


def filled(name: str) -> FFNet:
    """The model with the weights of the recorded outputs."""
    model = FFNet(find(name)).eval()
    drawn = fill_state_dict(published_shapes()[name], 0)
    model.load_state_dict({**model.state_dict(), **{key: torch.from_numpy(v) for key, v in drawn.items()}})
    return model


def run(model: nn.Module, image: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        output: Tensor = model(torch.from_numpy(image))
    return output.numpy()


def kind(name: str) -> tuple[object, ...]:
    spec = SPECS[name]
    return spec.deployment, spec.stem, spec.up_head, spec.segmentation_head, spec.strided, spec.pre_down


def test_every_family_is_tried() -> None:
    wanted = {kind(name) for name, spec in SPECS.items() if not spec.train}
    assert wanted == {kind(name) for name in (*FAMILIES, *CLASSIFIERS)}


@pytest.mark.parametrize("name", SPECS)
def test_state_dict_has_the_published_keys_and_shapes(name: str) -> None:
    with torch.device("meta"):
        state = FFNet(find(name)).state_dict()
    assert {key: tuple(value.shape) for key, value in state.items()} == published_shapes()[name]


def test_all_recorded_outputs_are_tried() -> None:
    assert recorded_names() == sorted(RECORDED)
    assert len(RECORDED) == 16


@pytest.fixture(scope="module", params=RECORDED)
def model(request: pytest.FixtureRequest) -> tuple[str, FFNet]:
    """A model with the weights of its recorded output, made once for all tests of it."""
    name = str(request.param)
    return name, filled(name)


def test_output_is_the_recorded_one(model: tuple[str, FFNet]) -> None:
    name, module = model
    wanted = recorded(name)
    output = run(module, make_input(wanted.input_shape, 0))
    assert output.shape == wanted.output_shape
    assert output.dtype == np.float32
    difference = np.abs(output.reshape(-1)[wanted.flat_index] - wanted.value).max()
    assert difference <= 1e-4 * wanted.value.std()


def test_batch_2_is_two_runs_of_batch_1(model: tuple[str, FFNet]) -> None:
    images = make_input((2, 3, 64, 96), 1)
    together = run(model[1], images)
    apart = np.concatenate([run(model[1], images[:1]), run(model[1], images[1:])])
    assert together.shape == apart.shape
    assert np.abs(together - apart).max() <= 1e-5 * apart.std()
    # The two images are not one.
    assert np.abs(apart[0] - apart[1]).max() > 1e-2 * apart.std()


def logits_of(name: str, height: int, width: int) -> tuple[int, int]:
    """Size of the logits, said anew: the blur shrinks to (H-3)//2 + 1 and (W-5)//2 + 1, each stride rounds up."""
    if name.endswith("_pre_down"):
        height, width = (height - 3) // 2 + 1, (width - 5) // 2 + 1
    stride = 8 if name.split("_")[2].startswith("d") else 4
    return -(-height // stride), -(-width // stride)


def test_odd_size_computes(model: tuple[str, FFNet]) -> None:
    name, module = model
    output = run(module, make_input((1, 3, 97, 161), 0))
    wanted = (1, 1000) if name.startswith("classification") else (1, 19, *logits_of(name, 97, 161))
    assert output.shape == wanted
    assert np.isfinite(output).all()
    assert output.std() > 0


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("segmentation_ffnet46NS_CCC_mobile", (129, 257)),
        ("segmentation_ffnet46NS_CCC_mobile_pre_down", (64, 128)),
        ("segmentation_ffnet18_dAAC", (65, 129)),
    ],
)
def test_odd_size_of_a_whole_image(name: str, size: tuple[int, int]) -> None:
    output = run(build_model(name), make_input((1, 3, 513, 1025), 0))
    assert output.shape == (1, 19, *size)
    assert logits_of(name, 513, 1025) == size


def without_norms(model: nn.Module) -> nn.Module:
    """The same network for looking at shapes: norms change none, and take most of the time on the meta device."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, nn.Identity())
    return model


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_takes_any_size(name: str) -> None:
    with torch.device("meta"):
        module = without_norms(FFNet(find(name)).eval())
        for size in ((97, 161), (513, 1025), (64, 67), find(name).input_hw):
            logits = tuple(module(torch.zeros(1, 3, *size)).shape)
            assert logits == (1, 19, *logits_of(name, *size))
            assert find(name).output_hw(*size) == logits[2:]


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classification_keeps_the_batch_axis(name: str) -> None:
    with torch.device("meta"):
        model = FFNet(find(name)).eval()
        shapes = [tuple(model(torch.zeros(n, 3, 224, 224)).shape) for n in (1, 2)]
    assert shapes == [(1, 1000), (2, 1000)]
    assert find(name).output_hw(224, 224) is None


@pytest.mark.parametrize("name", [name for name, spec in SPECS.items() if spec.task == "classification"])
def test_dropout_is_in_the_narrow_classifiers_alone(name: str) -> None:
    with torch.device("meta"):
        model = FFNet(find(name))
    rates = [module.p for module in model.modules() if isinstance(module, nn.Dropout) and module.p]
    assert rates == ([0.2] if find(name).stem == "C" else [])


def test_dropout_drops_in_training_only() -> None:
    model = FFNet(find("classification_ffnet46NS_CBX_mobile")).eval()
    image = make_input((1, 3, 64, 64), 0)
    assert np.array_equal(run(model, image), run(model, image))
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.train()
    assert not np.array_equal(run(model, image), run(model, image))


def test_blur_is_the_published_sum() -> None:
    image = make_input((1, 3, 10, 13), 0)
    blur = Smoothing()
    assert blur.state_dict().keys() == {"weight"}
    kernel = blur.weight.numpy()[0, 0]
    assert kernel.shape == (5, 5)
    padded = np.pad(image, ((0, 0), (0, 0), (1, 1), (0, 0)), mode="reflect")
    wanted = np.empty((1, 3, 4, 5))
    for y in range(4):
        for x in range(5):
            wanted[..., y, x] = (padded[..., 2 * y : 2 * y + 5, 2 * x : 2 * x + 5] * kernel).sum((-2, -1))
    assert np.abs(run(blur, image) - wanted).max() < 1e-6


def test_upsampling_reaches_the_exact_size_of_the_finer_map() -> None:
    """Nearest takes floor(i * from / to); bilinear puts the corners of both maps on each other."""
    ramp = torch.arange(5.0).view(1, 1, 1, 5)
    finer = torch.zeros(1, 1, 1, 9)
    assert resize_to(ramp, finer, "nearest").flatten().tolist() == [i * 5 // 9 for i in range(9)]
    assert resize_to(ramp, finer, "bilinear").flatten().tolist() == [i / 2 for i in range(9)]

"""From a weight file to a module: what fits is loaded, what is known is adjusted, everything else is refused."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.golden import published_shapes
from support.golden.deterministic import make_input, tensor_values
from support.refusals import refusal
from torch import Tensor

from ffnet_deploy import build_model
from ffnet_deploy.artifacts.writing import sha256_of
from ffnet_deploy.errors import UnknownModelError
from ffnet_deploy.zoo import checkpoint, weights
from ffnet_deploy.zoo.specs import SPECS, find

SMALL = "segmentation_ffnet46NS_CCC_mobile"
PRE_DOWN = f"{SMALL}_pre_down"
BLUR = "smoothing.weight"
MISFIT = "segmentation_ffnet18_dAAC"
TRAIN = [name for name, spec in SPECS.items() if spec.train]
VALUE = 0.25

State = dict[str, Tensor]


def hollow(shapes: dict[str, tuple[int, ...]]) -> State:
    """A state dict whose file is small: every tensor is one number, seen through strides of zero."""
    return {
        key: (torch.tensor(7) if key.endswith("num_batches_tracked") else torch.tensor(VALUE)).expand(shape)
        for key, shape in shapes.items()
    }


def published(name: str) -> State:
    return hollow(published_shapes()[name])


def saved(folder: Path, state: object) -> Path:
    path = folder / "some.pth"
    torch.save(state, path)
    return path


# --- what fits ------------------------------------------------------------------------------------------------------


def test_public_signature() -> None:
    assert str(inspect.signature(build_model)) == "(name: 'str', weights: 'str | Path | None' = None) -> 'nn.Module'"


def test_build_model_without_weights_is_fresh_and_in_eval_mode() -> None:
    first, second = build_model(SMALL), build_model(SMALL)
    assert not any(module.training for module in first.modules())
    assert all(p.dtype == torch.float32 and p.device.type == "cpu" for p in first.parameters())
    key = "head.layers.3.last_layer.3.weight"
    assert not torch.equal(first.state_dict()[key], second.state_dict()[key])


def test_build_model_of_no_model() -> None:
    with pytest.raises(UnknownModelError, match=SMALL):
        build_model(SMALL.removesuffix("e"))


def test_round_trip(tmp_path: Path) -> None:
    made = weights.load_random(find(SMALL)).module
    path = saved(tmp_path, made.state_dict())
    for given in (path, str(path)):
        model = build_model(SMALL, given)
        assert not any(module.training for module in model.modules())
        assert all(torch.equal(value, made.state_dict()[key]) for key, value in model.state_dict().items())
    image = torch.from_numpy(make_input((1, 3, 64, 64), 0))
    with torch.inference_mode():
        assert torch.equal(model(image), made(image))


def test_a_plain_file_has_no_marks(tmp_path: Path) -> None:
    path = saved(tmp_path, published(SMALL))
    loaded = weights.load(find(SMALL), path)
    assert (loaded.sha256, loaded.marks, loaded.notes) == (sha256_of(path), (), ())


def test_the_hash_is_of_the_file_that_was_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path, published(SMALL))
    before, read = sha256_of(path), checkpoint.Checkpoint.state

    def replaced_meanwhile(file: checkpoint.Checkpoint) -> State:
        other = path.with_suffix(".new")
        other.write_bytes(b"of another process")
        other.replace(path)
        return read(file)

    monkeypatch.setattr(checkpoint.Checkpoint, "state", replaced_meanwhile)
    assert weights.load(find(SMALL), path).sha256 == before


# --- the known adjustments ------------------------------------------------------------------------------------------


def test_the_blur_is_dropped_for_the_plain_twin(tmp_path: Path) -> None:
    loaded = weights.load(find(SMALL), saved(tmp_path, published(PRE_DOWN)))
    assert BLUR not in loaded.module.state_dict()
    assert (loaded.marks, loaded.notes) == ((), (f"{BLUR} dropped",))


def test_the_blur_is_added_where_the_file_lacks_it(tmp_path: Path) -> None:
    loaded = weights.load(find(PRE_DOWN), saved(tmp_path, published(SMALL)))
    assert loaded.module.state_dict()[BLUR].sum() == pytest.approx(3, abs=1e-6)
    assert loaded.module.state_dict()[BLUR][0, 0, 2, 2] == pytest.approx(0.32472423, abs=1e-7)
    assert (loaded.marks, loaded.notes) == ((), (f"{BLUR} added",))


@pytest.mark.parametrize("name", TRAIN)
def test_train_models_take_the_backbone_of_their_imagenet_model(name: str, tmp_path: Path) -> None:
    spec = find(name)
    parent = published(str(spec.imagenet_model))
    loaded = weights.load(spec, saved(tmp_path, parent))
    assert any("head" in note for note in loaded.notes)
    found = loaded.module.state_dict()
    for key, value in found.items():
        if key in parent and key.startswith("backbone_model."):
            assert torch.equal(value, parent[key]), key
        elif not key.endswith(("bias", "running_mean", "num_batches_tracked")):
            assert not (value == VALUE).all(), key
    # ImageNet's first stage has no stride, so a strided one has a shortcut that no file knows.
    own = {key for key in found if key.startswith("backbone_model.") and key not in parent}
    assert all(key.startswith("backbone_model.layer1.0.downsample.") for key in own)
    assert bool(own) == spec.strided


def test_train_models_need_the_whole_backbone(tmp_path: Path) -> None:
    name = "segmentation_ffnet86S_BBB_train"
    state = published("classification_ffnet86S_BBX")
    del state["backbone_model.layer3.2.conv1.weight"]
    message = refusal(lambda: weights.load(find(name), saved(tmp_path, state)))
    assert "1 missing: backbone_model.layer3.2.conv1.weight." in message


@pytest.mark.parametrize(("letters", "middle"), [("AA", 512), ("AB", 256)])
def test_a_daac_file_with_another_head_is_loaded_and_marked(letters: str, middle: int, tmp_path: Path) -> None:
    other = replace(find(MISFIT), up_head=letters[0], segmentation_head=letters[1])
    loaded = weights.load(find(MISFIT), saved(tmp_path, hollow(weights.shapes_of(other))))
    assert loaded.marks == (f"head {letters} from the weight file instead of AC",)
    assert loaded.notes == loaded.marks
    assert loaded.module.state_dict()["head.layers.3.last_layer.0.weight"].shape[0] == middle
    with torch.inference_mode():
        assert loaded.module(torch.zeros(1, 3, 64, 64)).shape == (1, 19, 8, 8)


def test_a_daac_file_that_fits_is_not_marked(tmp_path: Path) -> None:
    loaded = weights.load(find(MISFIT), saved(tmp_path, published(MISFIT)))
    assert (loaded.marks, loaded.notes) == ((), ())
    assert loaded.module.state_dict()["head.layers.3.last_layer.0.weight"].shape[0] == 128


def test_a_daac_file_that_fits_no_head_is_refused(tmp_path: Path) -> None:
    state = published(MISFIT)
    for key, value in state.items():
        if key.startswith("head.layers.3.") and value.ndim:
            state[key] = torch.tensor(VALUE).expand(300, *value.shape[1:])
    message = refusal(lambda: weights.load(find(MISFIT), saved(tmp_path, state)))
    assert "head.layers.3.last_layer.0.weight (300, 512, 3, 3) instead of (128, 512, 3, 3)" in message


@pytest.mark.parametrize(
    ("name", "file"),
    [("segmentation_ffnet18_dAAA", MISFIT), (SMALL, "segmentation_ffnet46NS_CBB_mobile"), (MISFIT, SMALL)],
)
def test_no_other_file_gets_another_head(name: str, file: str, tmp_path: Path) -> None:
    message = refusal(lambda: weights.load(find(name), saved(tmp_path, published(file))))
    assert f"does not fit {name}: " in message
    assert f"ffnet-deploy weights fetch {name}" in message


# --- what does not fit ----------------------------------------------------------------------------------------------


def test_keys_that_do_not_fit_are_listed(tmp_path: Path) -> None:
    state = published(SMALL)
    key = "head.layers.3.last_layer.3.bias"
    del state["backbone_model.conv0.weight"]
    state["extra.weight"] = torch.ones(2)
    state[key] = torch.zeros(21)
    message = refusal(lambda: weights.load(find(SMALL), saved(tmp_path, state)))
    assert "1 missing: backbone_model.conv0.weight; " in message
    assert "1 unexpected: extra.weight; " in message
    assert f"1 misshapen: {key} (21,) instead of (19,). " in message


def test_a_long_list_is_cut(tmp_path: Path) -> None:
    state = {key: value for key, value in published(SMALL).items() if not key.startswith("backbone_model.layer1.")}
    missing = [key for key in published(SMALL) if key not in state]
    message = refusal(lambda: weights.load(find(SMALL), saved(tmp_path, state)))
    assert f"{len(missing)} missing: {', '.join(missing[:4])} and {len(missing) - 4} more. " in message


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_named(value: float, tmp_path: Path) -> None:
    state = published(SMALL)
    key = "backbone_model.layer2.1.bn1.running_var"
    state[key] = state[key].clone()
    state[key][3] = value
    message = refusal(lambda: weights.load(find(SMALL), saved(tmp_path, state)))
    assert f"not finite in {key}. " in message


# --- random weights -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 3])
@pytest.mark.parametrize("name", [PRE_DOWN, "classification_ffnet18_AAX"])
def test_draw_is_that_of_the_recorded_outputs(name: str, seed: int) -> None:
    for key, shape in published_shapes()[name].items():
        wanted, drawn = tensor_values(key, shape, seed), weights.draw(key, shape, seed)
        if wanted is None:
            assert drawn is None
            continue
        assert drawn is not None
        assert drawn.dtype == wanted.dtype == np.float32
        assert np.array_equal(drawn, wanted), key


def test_random_weights_are_marked_and_the_same_every_time() -> None:
    spec = find(PRE_DOWN)
    first, second, other = weights.load_random(spec), weights.load_random(spec), weights.load_random(spec, 1)
    assert first.marks == ("untrained",)
    assert (first.sha256, other.sha256) == ("random-0", "random-1")
    assert not any(module.training for module in first.module.modules())
    assert equal(first.module.state_dict(), second.module.state_dict())
    assert not equal(first.module.state_dict(), other.module.state_dict())
    assert torch.equal(first.module.state_dict()[BLUR], other.module.state_dict()[BLUR])


def equal(a: State, b: State) -> bool:
    pairs: Iterable[tuple[Tensor, Tensor]] = ((a[key], b[key]) for key in a)
    return a.keys() == b.keys() and all(torch.equal(x, y) for x, y in pairs)


def test_random_batch_norms_would_be_missed() -> None:
    """A lost batch norm must show: no scale near 1 with shift, mean near 0."""
    state = weights.load_random(find(SMALL)).module.state_dict()
    scale = {key: value for key, value in state.items() if ".bn1." in key}
    assert scale
    for key, value in scale.items():
        if not key.endswith("num_batches_tracked"):
            assert value.std() > 0.02, key

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from ffnet_deploy.data.cityscapes import CityscapesSample, find_split
from ffnet_deploy.demo import training
from ffnet_deploy.demo.training import train
from ffnet_deploy.synthetic.scenes import write_cityscapes
from ffnet_deploy.zoo.network import FFNet
from ffnet_deploy.zoo.specs import find

SPEC = find("segmentation_ffnet46NS_CCC_mobile")
SIZE = (128, 256)


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> tuple[CityscapesSample, ...]:
    root = tmp_path_factory.mktemp("synthetic")
    write_cityscapes(root, "train", {"altburg": 2}, seed=0, size=SIZE)
    return find_split(root, "train").samples


def weights(path: Path) -> dict[str, torch.Tensor]:
    return dict(torch.load(path, weights_only=True))


def test_weights_fit_the_published_layout(samples: tuple[CityscapesSample, ...], tmp_path: Path) -> None:
    seen: list[tuple[int, int, float]] = []
    before, threads = torch.random.get_rng_state(), torch.get_num_threads()
    path = train(SPEC, samples, tmp_path / "w.pth", steps=2, size=SIZE, progress=lambda *call: seen.append(call))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.get_num_threads() == threads
    assert [call[:2] for call in seen] == [(1, 2), (2, 2)]
    assert all(math.isfinite(loss) for *_, loss in seen)
    state = torch.load(path, weights_only=True)
    FFNet(SPEC).load_state_dict(state, strict=True)
    assert all(value.is_contiguous() and not value.requires_grad for value in state.values())
    assert [p.name for p in tmp_path.iterdir()] == ["w.pth"]


class StoppedError(Exception):
    pass


def test_an_interrupted_training_ends_with_the_same_weights(
    samples: tuple[CityscapesSample, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "_SAVE_EVERY", 2)
    whole = weights(train(SPEC, samples, tmp_path / "whole.pth", steps=3, size=SIZE))

    def stop(done: int, steps: int, loss: float) -> None:
        if done == 2:
            raise StoppedError(f"{steps} {loss}")

    path = tmp_path / "broken.pth"
    with pytest.raises(StoppedError):
        train(SPEC, samples, path, steps=3, size=SIZE, progress=stop)
    assert not path.exists()
    first: list[int] = []
    again = weights(train(SPEC, samples, path, steps=3, size=SIZE, progress=lambda done, *_: first.append(done)))
    assert first == [3]
    assert whole.keys() == again.keys()
    assert all(torch.equal(whole[key], again[key]) for key in whole)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["broken.pth", "whole.pth"]


def test_a_foreign_or_damaged_state_is_not_continued(samples: tuple[CityscapesSample, ...], tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    for state in (b"damaged", None):
        partial = path.with_name("w.pth.partial")
        if state is None:
            torch.save({"identity": "another", "done": 1}, partial)
        else:
            partial.write_bytes(state)
        first: list[int] = []
        train(SPEC, samples, path, steps=1, size=SIZE, progress=lambda done, *_, seen=first: seen.append(done))
        assert first == [1]


def test_evened_matrices_keep_directions_and_have_singular_values_near_one() -> None:
    draw = torch.Generator().manual_seed(0)
    for shape in ((2, 8, 40), (2, 40, 8)):
        matrices = torch.randn(shape, generator=draw)
        u, _, vt = torch.linalg.svd(matrices, full_matrices=False)
        found = training.evened(matrices)
        turned = u.mT @ found @ vt.mT
        values = turned.diagonal(dim1=1, dim2=2)
        assert float(values.min()) > 0.6
        assert float(values.max()) < 1.3
        assert float((turned - torch.diag_embed(values)).abs().max()) < 1e-3
    assert not training.evened(torch.zeros(1, 4, 6)).any()


def test_kernels_turn_and_keep_their_length() -> None:
    kernel = torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(1))
    before = kernel.clone()
    turning = training.Turning([kernel])
    kernel.grad = torch.zeros_like(kernel)
    turning.step(0.1)
    assert torch.allclose(kernel, before)
    kernel.grad = torch.randn(kernel.shape, generator=torch.Generator().manual_seed(2))
    turning.step(0.1)
    assert float(kernel.norm()) == pytest.approx(float(before.norm()), rel=1e-5)
    assert 0.05 < float((kernel - before).norm() / before.norm()) < 0.15
    # Against the gradient.
    assert float(((kernel - before) * kernel.grad).sum()) < 0

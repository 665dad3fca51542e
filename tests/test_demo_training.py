from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from ffnet_deploy import demo_training
from ffnet_deploy.data.cityscapes import Sample, find_split
from ffnet_deploy.data.scenes import write_cityscapes
from ffnet_deploy.demo_training import train
from ffnet_deploy.zoo.network import FFNet
from ffnet_deploy.zoo.specs import find

SPEC = find("segmentation_ffnet46NS_CCC_mobile")
SIZE = (128, 256)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    # On crops this small threads wait for each other, minutes long on a busy machine.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> tuple[Sample, ...]:
    root = tmp_path_factory.mktemp("synthetic")
    write_cityscapes(root, "train", {"altburg": 2}, seed=0, size=SIZE)
    return find_split(root, "train").samples


def weights(path: Path) -> dict[str, torch.Tensor]:
    return dict(torch.load(path, weights_only=True))


def test_weights_fit_the_published_layout(samples: tuple[Sample, ...], tmp_path: Path) -> None:
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
    samples: tuple[Sample, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo_training, "_SAVE_EVERY", 2)
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


def test_a_foreign_or_damaged_state_is_not_continued(samples: tuple[Sample, ...], tmp_path: Path) -> None:
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

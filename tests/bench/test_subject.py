"""What is timed, in this process: inputs in turn, lanes side by side, from host image to host labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from support.fakes import SMALL, SMALL_SHAPE, FakeRunner, street_feeds

from ffnet_deploy.artifacts.values import Ends
from ffnet_deploy.bench import subject as subjects
from ffnet_deploy.bench.options import Mode
from ffnet_deploy.bench.subject import ColdStart, RunSettings, Subject
from ffnet_deploy.data.images import normalise
from ffnet_deploy.runtimes.opening import open_rung
from ffnet_deploy.runtimes.pytorch import PyTorchRunner, labelled, normalised
from ffnet_deploy.runtimes.rung import REFERENCE, Rung, Style
from ffnet_deploy.synthetic.scenes import draw_scene

if TYPE_CHECKING:
    from ffnet_deploy.runtimes.runner import Feeds

RUNG = Rung("onnxruntime", "fp32", SMALL, SMALL_SHAPE)
REFERENCE_RUNG = Rung(REFERENCE, "fp32", SMALL, SMALL_SHAPE)
JOB = RunSettings("compute", threads=1)
LAST = Style(channels_last=True)


@pytest.fixture
def rung(small_engine: Path) -> Rung:
    return replace(RUNG, path=small_engine, size=small_engine.stat().st_size)


@pytest.mark.parametrize("mode", ["compute", "throughput"])
def test_inputs_are_taken_in_turn_over_all_calls(rung: Rung, monkeypatch: pytest.MonkeyPatch, mode: Mode) -> None:
    seen: list[float] = []

    def note(image: np.ndarray) -> np.ndarray:
        seen.append(float(image[0, 0, 0, 0]))
        return image[:, :1]

    class Noting(FakeRunner):
        def latencies(self, feeds: list[Feeds], iters: int) -> list[float]:  # type: ignore[override]
            return [float(self(feeds[i % len(feeds)])["logits"].size) for i in range(iters)]

    runner = Noting(note)
    seen.clear()
    monkeypatch.setattr(subjects, "open_rung", lambda *_, **__: runner)
    feeds: list[Feeds] = [{"image": np.full(SMALL_SHAPE, n, np.float32)} for n in range(4)]
    subject = Subject(rung, feeds, replace(JOB, mode=mode))
    for runs in (1, 2, 6):
        assert len(subject.run(runs).samples) == runs
    assert seen == [0, 1, 2, 3, 0, 1, 2, 3, 0]


def test_concurrent_runners_share_the_work_and_the_threads(rung: Rung) -> None:
    subject = Subject(rung, street_feeds(SMALL_SHAPE), RunSettings("throughput", threads=3, concurrency=2))
    done = subject.run(9)
    assert len(done.samples) == 9
    assert max(done.samples) / 1000 <= done.seconds <= sum(done.samples) / 1000 + 1
    assert len(subject._runners) == 2
    assert subject._runners[0] is not subject._runners[1]


def test_from_host_image_to_host_labels_all_rungs_say_the_same(rung: Rung) -> None:
    image = np.stack([draw_scene(64, 128, 5).image])
    both = replace(REFERENCE_RUNG, ends=Ends(image_in=True, labels_out=True))
    maps = []
    for one in (REFERENCE_RUNG, both, rung):
        with open_rung(one, 1, None) as runner:
            maps.append(subjects.labels(runner, image))
    for found in maps:
        assert (str(found.dtype), found.shape) == ("uint8", (1, 64, 128))
        assert (found == maps[0]).mean() > 0.999
    assert len(np.unique(maps[0])) > 1


def test_what_is_done_around_an_engine_keeps_to_its_threads(rung: Rung, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def noting(*arguments: object) -> np.ndarray:
        seen.append(torch.get_num_threads())
        return real(*arguments)

    real: Callable[..., np.ndarray] = subjects._label_map
    monkeypatch.setattr(subjects, "_label_map", noting)
    images: list[Feeds] = [{"image": np.stack([draw_scene(64, 128, 5).image])}]
    for threads in (3, 1):
        Subject(rung, images, RunSettings("end-to-end", threads)).run(1)
    assert seen == [3, 1]


def test_from_host_image_to_the_class_of_a_classifier() -> None:
    name = "classification_ffnet46NS_CBX_mobile"
    shape = (1, 3, 64, 64)
    image = np.stack([draw_scene(64, 64, 5).image])
    plain = Rung(REFERENCE, "fp32", name, shape)
    classes = []
    for one in (plain, replace(plain, ends=Ends(image_in=True, labels_out=True))):
        with open_rung(one, 1, None) as runner:
            assert runner.outputs[0].shape == runner(_fed(runner, image))[runner.outputs[0].name].shape
            classes.append(subjects.labels(runner, image))
    assert [(str(found.dtype), found.shape) for found in classes] == [("int64", (1,))] * 2
    assert classes[0] == classes[1]


def _fed(runner: object, image: np.ndarray) -> Feeds:
    uint8 = getattr(runner, "inputs")[0].dtype == "uint8"  # noqa: B009 - the union of runners has no common type
    return {"image": image if uint8 else normalise(image[0])}


def test_torch_normalises_and_labels_as_numpy_does() -> None:
    image = draw_scene(64, 128, 7).image
    assert np.allclose(normalised(torch.from_numpy(image[None])).numpy(), normalise(image), atol=1e-6)
    logits = torch.randn(2, 19, 4, 8)
    found = labelled(logits, (8, 16), align_corners=True)
    full = torch.nn.functional.interpolate(logits, size=(8, 16), mode="bilinear", align_corners=True)
    assert torch.equal(found, full.argmax(1).byte())
    assert torch.equal(labelled(torch.eye(3), (1, 1), align_corners=False), torch.arange(3))


@pytest.mark.parametrize(("half", "style"), [(False, LAST), (True, Style()), (True, LAST)])
def test_every_style_computes_the_same_network(half: bool, style: Style) -> None:
    from ffnet_deploy.zoo.specs import find
    from ffnet_deploy.zoo.weights import load_random

    (feed,) = street_feeds(SMALL_SHAPE, 1)
    with PyTorchRunner(load_random(find(SMALL)).module, SMALL_SHAPE) as plain:
        wanted = plain(feed)["logits"]
    with PyTorchRunner(load_random(find(SMALL)).module, SMALL_SHAPE, half=half, style=style) as runner:
        assert runner.outputs == plain.outputs
        found = runner(feed)["logits"]
        assert len(runner.latencies([feed], 2)) == 2
    assert found.dtype == np.float32
    assert np.abs(found - wanted).max() < (0.05 if half else 1e-4) * wanted.std()
    assert not half or not np.array_equal(found, wanted)


def test_a_start_in_this_process_is_not_cold_but_works(rung: Rung) -> None:
    start = ColdStart(rung, street_feeds(SMALL_SHAPE, 1), JOB)
    assert start.run()["first"] > 0
    assert (start.resources().peak_host_bytes or 0) > 0

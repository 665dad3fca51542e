"""Top-1 and top-5 against slow loops; and the real ``eval imagenet`` on drawn pictures."""

from __future__ import annotations

import json
import math
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from support.cli_runner import Cli
from support.fakes import FakeRunner

from ffnet_deploy.artifacts.reading import parse
from ffnet_deploy.data.imagenet import find_set
from ffnet_deploy.errors import EngineError
from ffnet_deploy.evaluate.classification import ClassificationJob, ImageAnswer, answer, scores
from ffnet_deploy.evaluate.loop import Stopwatch
from ffnet_deploy.evaluate.reference import Opened
from ffnet_deploy.evaluate.result import AnswerFacts
from ffnet_deploy.synthetic.objects import write_objects

MODEL = "classification_ffnet46NS_CBX_mobile"
SHAPE = (1, 3, 224, 224)


def network(seed: int, batch: int = 1) -> FakeRunner:
    """Logits that depend on the mean colour alone."""
    mix = np.random.default_rng(seed).normal(size=(3, 1000)).astype(np.float32)
    return FakeRunner(lambda image: image.mean(axis=(2, 3)) @ mix, (batch, *SHAPE[1:]))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pictures")
    write_objects(root, train=1, val=1, seed=0)
    return root


def job(*runners: FakeRunner, batch: int = 1) -> ClassificationJob:
    rungs = [Opened(f"rung {i}", runner, nullcontext(), ()) for i, runner in enumerate(runners)]
    return ClassificationJob(rungs, batch, Stopwatch())


def drawn(count: int, rungs: int) -> list[ImageAnswer]:
    rng = np.random.default_rng(1)
    return [
        ImageAnswer(
            f"{i:03}", "a" * 64, "0", (int(rng.integers(8)),),
            np.stack([rng.permutation(8)[:5] for _ in range(rungs)]).astype(np.int64),
        )
        for i in range(count)
    ]  # fmt: skip


def test_scores_are_those_of_a_loop_over_all_images() -> None:
    answers = drawn(37, 3)
    for i, score in enumerate(scores(answers)):
        first = [a.best[i, 0] in a.truth for a in answers]
        five = [any(b in a.truth for b in a.best[i]) for a in answers]
        same = [a.best[i, 0] == a.best[0, 0] for a in answers]
        for value, wanted in ((score.top1, first), (score.top5, five), (score.agreement, same)):
            assert value == pytest.approx(100 * sum(wanted) / 37, rel=1e-12)
        assert (score.drop is None) == (i == 0)


def test_an_image_without_a_right_class_does_not_count() -> None:
    answers = drawn(10, 2)
    without = ImageAnswer("999", "a" * 64, "0", (), answers[0].best)
    assert scores([*answers, without]) == scores(answers)
    assert math.isnan(scores([without])[0].value)


def test_any_of_several_right_classes_is_right() -> None:
    best = np.array([[3, 1, 2, 0, 4]])
    several = ImageAnswer("a", "a" * 64, "0", (7, 3), best)
    fifth = ImageAnswer("b", "a" * 64, "0", (4, 9), best)
    assert (scores([several])[0].top1, scores([fifth])[0].top1, scores([fifth])[0].top5) == (100, 0, 100)


def test_json_comes_back_as_it_went() -> None:
    (one,) = drawn(1, 2)
    back = ImageAnswer.of(parse(AnswerFacts, json.dumps(asdict(one.facts()))))
    assert (back.name, back.truth, back.best.tolist()) == (one.name, one.truth, one.best.tolist())


def test_a_batch_that_is_not_full_asks_about_each_image_once(pictures: Path) -> None:
    samples = find_set(pictures / "val").samples[:3]
    single = [answer(job(network(0), network(1)), [sample])[0] for sample in samples]
    many = answer(job(network(0, 4), network(1, 4), batch=4), samples)
    assert [m.name for m in many] == [s.name for s in samples]
    for a, b in zip(single, many, strict=True):
        assert np.array_equal(a.best, b.best)
        assert (a.sha256, a.truth) == (b.sha256, b.truth)
    assert len({m.sha256 for m in many}) == 3


def test_logits_that_are_no_numbers_are_an_error(pictures: Path) -> None:
    broken = FakeRunner(lambda image: np.full((len(image), 1000), np.nan, np.float32), SHAPE)
    with pytest.raises(EngineError, match="rung 1 gives logits that are not finite"):
        answer(job(network(0), broken), find_set(pictures / "val").samples[:1])


def test_the_command_scores_and_goes_on_but_not_with_another_truth(run: Cli, pictures: Path, tmp_path: Path) -> None:
    space = ("--workspace", tmp_path)
    assert run("export", MODEL, "--weights", "random", *space).code == 0
    assert run("build", "--runtime", "onnxruntime", *space).code == 0
    flat = tmp_path / "flat"
    flat.mkdir()
    files = sorted((pictures / "val").glob("*/*"))[:6]
    for i, file in enumerate(files):
        (flat / f"{i}.JPEG").write_bytes(file.read_bytes())
    truth = flat / "val.txt"
    truth.write_text("".join(f"{i}.JPEG {i}\n" for i in range(6)))
    evaluate = ("eval", "imagenet", "--root", flat, "--threads", "2", *space)
    # A result that has no place to go: its journal stays.
    assert run(*evaluate, "--json", "/dev/full").code == 3
    truth.write_text("".join(f"{i}.JPEG {i or 999}\n" for i in range(6)))
    result = run(*evaluate, "--resume", "--json", "-")
    assert result.code == 0, result.err
    values = json.loads(result.out)
    assert values["run"]["images_taken_over"] == 5
    assert [rung["rung"] for rung in values["rungs"]] == ["pytorch fp32", "onnxruntime fp32"]
    assert values["rungs"][1]["agreement"] == 100
    assert values["images"][0]["truth"] == [999]
    assert values["set"]["images"] == 6
    assert "top-1" in result.err
    assert run("eval", "cityscapes", "--root", flat, *space).code == 2

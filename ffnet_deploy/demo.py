"""The demo: a small model, really trained on synthetic streets, taken through every stage in a workspace of its own."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ffnet_deploy import artifacts, demo_classifier, demo_training, pipeline, report
from ffnet_deploy.artifacts import Workspace
from ffnet_deploy.data import objects, scenes
from ffnet_deploy.data.cityscapes import find_split
from ffnet_deploy.data.imagenet import find_set
from ffnet_deploy.demo_training import STEPS, train
from ffnet_deploy.errors import ArtifactError
from ffnet_deploy.pipeline import Progress
from ffnet_deploy.report import accuracy
from ffnet_deploy.report import latency as latency_report
from ffnet_deploy.zoo import specs

MODEL = "segmentation_ffnet46NS_CCC_mobile"
CLASSIFIER = "classification_ffnet46NS_CBX_mobile"
MARK = demo_classifier.MARK
"""Stands on everything made from them."""
_SEED = 7


@dataclass(frozen=True, slots=True)
class Plan:
    """How large the demo is; other values train again."""

    size: tuple[int, int] = (1024, 2048)
    """(H, W) of the scenes; the model takes half of it."""
    train: Mapping[str, int] = field(default_factory=lambda: {"ahornstadt": 12, "birkenau": 12})
    """Scenes for each invented city."""
    val: Mapping[str, int] = field(default_factory=lambda: {"eichenfurt": 6, "lindenhafen": 6})
    steps: int = STEPS
    iters: int = 40
    pictures: tuple[int, int] = (10, 6)
    """Of each of the 20 classes: to fit the classifier, and to score it."""

    def training(self) -> dict[str, Any]:
        """What the weights depend on."""
        versions = [scenes.VERSION, demo_training.VERSION]
        return {
            "size": list(self.size),
            "cities": dict(self.train),
            "steps": self.steps,
            "seed": _SEED,
            "versions": versions,
        }


def run(folder: Path, progress: Progress, plan: Plan | None = None) -> Iterator[str]:
    """Make data and weights, export, build, bench, eval; yields what to print as it goes.

    Args:
        folder: workspace of the demo; what is complete there is not made again.
        progress: told how far the stage is.
        plan: sizes; the real ones by default.
    """
    plan = plan or Plan()
    workspace = Workspace(folder)
    data = folder / "cityscapes"
    count = f"{sum(plan.train.values())} + {sum(plan.val.values())}"
    yield f"1/8  drawing {count} street scenes, {plan.size[0]}x{plan.size[1]} -> {data}"
    _draw(data, plan, progress)

    checkpoint = folder / "weights" / "ffnet46NS_CCC_demo.pth"
    if _is_trained(checkpoint, plan):
        yield f"2/8  trained before -> {checkpoint}"
    else:
        yield f"2/8  training {MODEL} on the train scenes -> {checkpoint}"
        _train(data, checkpoint, plan, progress)

    yield f"3/8  ffnet-deploy export {MODEL} --weights {checkpoint}"
    half = (plan.size[0] // 2, plan.size[1] // 2)
    options = pipeline.ExportOptions(hw=half, allow_size=True, weights=checkpoint, offline=True)
    yield report.exported(pipeline.export(workspace, MODEL, options, progress))

    yield "4/8  ffnet-deploy build --fp32 --fp16"
    yield report.built(pipeline.build(workspace, MODEL, pipeline.BuildOptions(("fp32", "fp16")), progress))

    yield f"5/8  ffnet-deploy bench --iters {plan.iters} --min-seconds 0"
    latency = pipeline.bench(workspace, MODEL, pipeline.BenchOptions(iters=plan.iters, min_seconds=0.0), progress)
    yield latency_report.benchmark(latency)

    yield f"6/8  ffnet-deploy eval cityscapes --root {data}"
    scores = pipeline.evaluate_cityscapes(workspace, MODEL, pipeline.EvalOptions(root=data), progress)
    yield accuracy.evaluation(scores)
    scores.delivered()
    yield from _classify(workspace, plan, progress)
    yield f"{MODEL}, {MARK}, synthetic streets: the ladder\n\n{report.ladder(latency, scores)}"


def _classify(workspace: Workspace, plan: Plan, progress: Progress) -> Iterator[str]:
    """A classification model, fitted to drawn pictures, through export, build and eval imagenet."""
    train, val = plan.pictures
    root = workspace.root / "imagenet"
    checkpoint = workspace.root / "weights" / "ffnet46NS_CBX_demo.pth"
    yield f"7/8  drawing {train} + {val} pictures of 20 classes -> {root}, fitting {CLASSIFIER} to them -> {checkpoint}"
    told = partial(progress, "drawing pictures")
    objects.write_objects(root, train=train, val=val, seed=_SEED, progress=told)
    told = partial(progress, "fitting")
    demo_classifier.fit_classifier(
        specs.find(CLASSIFIER), find_set(root / "train").samples, checkpoint, seed=_SEED, progress=told
    )

    yield f"8/8  ffnet-deploy export, build --fp16 and eval imagenet {CLASSIFIER} --root {root}"
    options = pipeline.ExportOptions(weights=checkpoint, offline=True)
    yield report.exported(pipeline.export(workspace, CLASSIFIER, options, progress))
    yield report.built(pipeline.build(workspace, CLASSIFIER, pipeline.BuildOptions(("fp16",)), progress))
    top = pipeline.evaluate_imagenet(workspace, CLASSIFIER, pipeline.EvalOptions(root=root), progress)
    top.delivered()
    yield f"{accuracy.evaluation(top)}\n"


def _draw(data: Path, plan: Plan, progress: Progress) -> None:
    for split, cities in (("train", plan.train), ("val", plan.val)):
        report_to = partial(progress, f"drawing {split} scenes")
        scenes.write_cityscapes(data, split, cities, seed=_SEED, size=plan.size, progress=report_to)


def _is_trained(checkpoint: Path, plan: Plan) -> bool:
    try:
        record = artifacts.load_record(checkpoint, remedy="ffnet-deploy demo")
    except ArtifactError:
        return False
    return record.options == plan.training()


def _train(data: Path, checkpoint: Path, plan: Plan, progress: Progress) -> None:
    started = time.monotonic()
    train(
        specs.find(MODEL),
        find_split(data, "train").samples,
        checkpoint,
        steps=plan.steps,
        seed=_SEED,
        size=plan.size,
        progress=lambda done, total, _loss: progress("training", done, total),
    )
    record = artifacts.Record(
        kind="weights",
        model=MODEL,
        precision="fp32",
        sha256=artifacts.sha256_of(checkpoint),
        size=checkpoint.stat().st_size,
        sources={},
        options=plan.training(),
        marks=(MARK,),
        seconds=round(time.monotonic() - started, 1),
        tools=artifacts.tool_versions("torch", "numpy"),
        created=artifacts.now(),
    )
    artifacts.save_record(checkpoint, record)

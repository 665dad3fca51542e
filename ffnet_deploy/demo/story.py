"""The demo: a small model, really trained on synthetic streets, taken through every stage in a workspace of its own."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from ffnet_deploy.artifacts.records import WeightsRecord, load_record, save_record, stamp_of
from ffnet_deploy.artifacts.workspace import Workspace
from ffnet_deploy.artifacts.writing import hash_json
from ffnet_deploy.bench.options import BenchOptions
from ffnet_deploy.bench.turns import BenchPlan
from ffnet_deploy.data.cityscapes import find_split
from ffnet_deploy.data.imagenet import find_set
from ffnet_deploy.demo import classifier, training
from ffnet_deploy.errors import ArtifactError
from ffnet_deploy.evaluate.session import EvalOptions
from ffnet_deploy.pipeline.bench import bench
from ffnet_deploy.pipeline.build import BuildOptions, build
from ffnet_deploy.pipeline.evaluate import evaluate_cityscapes, evaluate_imagenet
from ffnet_deploy.pipeline.export import ExportOptions, export
from ffnet_deploy.progress import Progress
from ffnet_deploy.report import accuracy
from ffnet_deploy.report import latency as latency_report
from ffnet_deploy.report.made import built, exported
from ffnet_deploy.report.rungs import ladder_table
from ffnet_deploy.synthetic import objects, scenes
from ffnet_deploy.zoo import specs

MODEL = "segmentation_ffnet46NS_CCC_mobile"
CLASSIFIER = "classification_ffnet46NS_CBX_mobile"
MARK = classifier.MARK
"""Stands on everything made from them."""
_SEED = 7
"""Of everything drawn."""
_TRAINING_SEED = 8


@dataclass(frozen=True, slots=True)
class DemoPlan:
    """How large the demo is; other values train again."""

    size: tuple[int, int] = (1024, 2048)
    """(H, W) of the scenes; the model takes half of it."""
    train: Mapping[str, int] = field(default_factory=lambda: {"ahornstadt": 12, "birkenau": 12})
    """Scenes for each invented city."""
    val: Mapping[str, int] = field(default_factory=lambda: {"eichenfurt": 3, "lindenhafen": 3})
    steps: int = training.STEPS
    iters: int = 6
    pictures: tuple[int, int] = (4, 2)
    """Of each of the 20 classes: to fit the classifier, and to score it."""

    @property
    def recipe(self) -> str:
        """Hash of all that the weights depend on."""
        versions = [scenes.VERSION, training.VERSION]
        return hash_json([self.size, dict(self.train), self.steps, _SEED, _TRAINING_SEED, versions])


def run(folder: Path, progress: Progress, plan: DemoPlan | None = None) -> Iterator[str]:
    """Make data and weights, export, build, bench, eval; yields what to print as it goes.

    Args:
        folder: workspace of the demo; what is complete there is not made again.
        progress: told how far the stage is.
        plan: sizes; the real ones by default.
    """
    plan = plan or DemoPlan()
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
    options = ExportOptions(hw=half, allow_size=True, weights=checkpoint, offline=True)
    yield exported(export(workspace, MODEL, options, progress))

    yield "4/8  ffnet-deploy build --fp16"
    yield built(build(workspace, MODEL, BuildOptions(("fp16",)), progress))

    yield f"5/8  ffnet-deploy bench --iters {plan.iters} --min-seconds 0, with short warm-ups"
    # To see figures soon, not to rely on: few runs, and threads that leave the cores to other work.
    brief = BenchPlan(plan.iters, 0.0, rounds=2, most_warm_up_s=1.0, block_runs=1, spinning=False)
    latency = bench(workspace, MODEL, BenchOptions(iters=plan.iters, min_seconds=0.0), progress, brief)
    yield latency_report.benchmark(latency)

    yield f"6/8  ffnet-deploy eval cityscapes --root {data}"
    scores = evaluate_cityscapes(workspace, MODEL, EvalOptions(root=data), progress)
    yield accuracy.evaluation(scores)
    scores.delivered()
    yield from _classify(workspace, plan, progress)
    yield f"{MODEL}, {MARK}, synthetic streets: the ladder\n\n{ladder_table(latency, scores)}"


def _classify(workspace: Workspace, plan: DemoPlan, progress: Progress) -> Iterator[str]:
    """A classification model, fitted to drawn pictures, through export, build and eval imagenet."""
    train, val = plan.pictures
    root = workspace.root / "imagenet"
    checkpoint = workspace.root / "weights" / "ffnet46NS_CBX_demo.pth"
    yield f"7/8  drawing {train} + {val} pictures of 20 classes -> {root}, fitting {CLASSIFIER} to them -> {checkpoint}"
    told = partial(progress, "drawing pictures")
    objects.write_objects(root, train=train, val=val, seed=_SEED, progress=told)
    told = partial(progress, "fitting")
    classifier.fit_classifier(
        specs.find(CLASSIFIER), find_set(root / "train").samples, checkpoint, seed=_SEED, progress=told
    )

    yield f"8/8  ffnet-deploy export, build --runtime onnxruntime and eval imagenet {CLASSIFIER} --root {root}"
    options = ExportOptions(weights=checkpoint, offline=True)
    yield exported(export(workspace, CLASSIFIER, options, progress))
    yield built(build(workspace, CLASSIFIER, BuildOptions(runtime="onnxruntime"), progress))
    top = evaluate_imagenet(workspace, CLASSIFIER, EvalOptions(root=root), progress)
    top.delivered()
    yield f"{accuracy.evaluation(top)}\n"


def _draw(data: Path, plan: DemoPlan, progress: Progress) -> None:
    for split, cities in (("train", plan.train), ("val", plan.val)):
        report_to = partial(progress, f"drawing {split} scenes")
        scenes.write_cityscapes(data, split, cities, seed=_SEED, size=plan.size, progress=report_to)


def _is_trained(checkpoint: Path, plan: DemoPlan) -> bool:
    try:
        return load_record(checkpoint, WeightsRecord, remedy="ffnet-deploy demo").recipe == plan.recipe
    except ArtifactError:
        return False


def _train(data: Path, checkpoint: Path, plan: DemoPlan, progress: Progress) -> None:
    started = time.monotonic()
    training.train(
        specs.find(MODEL),
        find_split(data, "train").samples,
        checkpoint,
        steps=plan.steps,
        seed=_TRAINING_SEED,
        size=plan.size,
        progress=lambda done, total, _loss: progress("training", done, total),
    )
    file = stamp_of(checkpoint, started, ("torch", "numpy"))
    save_record(checkpoint, WeightsRecord(model=MODEL, file=file, marks=(MARK,), recipe=plan.recipe))

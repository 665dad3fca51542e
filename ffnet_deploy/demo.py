"""The demo: a small model, really trained on synthetic streets, taken through every stage in a workspace of its own."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ffnet_deploy import artifacts, demo_training, pipeline, report, report_bench
from ffnet_deploy.artifacts import Workspace
from ffnet_deploy.data import scenes
from ffnet_deploy.data.cityscapes import find_split
from ffnet_deploy.demo_training import STEPS, train
from ffnet_deploy.errors import ArtifactError
from ffnet_deploy.pipeline import Progress
from ffnet_deploy.zoo import specs

MODEL = "segmentation_ffnet46NS_CCC_mobile"
MARK = "demo weights"
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
    yield f"1/6  drawing {count} street scenes, {plan.size[0]}x{plan.size[1]} -> {data}"
    _draw(data, plan, progress)

    checkpoint = folder / "weights" / "ffnet46NS_CCC_demo.pth"
    if _is_trained(checkpoint, plan):
        yield f"2/6  trained before -> {checkpoint}"
    else:
        yield f"2/6  training {MODEL} on the train scenes -> {checkpoint}"
        _train(data, checkpoint, plan, progress)

    yield f"3/6  ffnet-deploy export {MODEL} --weights {checkpoint}"
    half = (plan.size[0] // 2, plan.size[1] // 2)
    options = pipeline.ExportOptions(hw=half, allow_size=True, weights=checkpoint, offline=True)
    yield report.exported(pipeline.export(workspace, MODEL, options, progress))

    yield "4/6  ffnet-deploy build --fp32 --fp16"
    yield report.built(pipeline.build(workspace, MODEL, pipeline.BuildOptions(("fp32", "fp16")), progress))

    yield f"5/6  ffnet-deploy bench --iters {plan.iters} --min-seconds 0"
    latency = pipeline.bench(workspace, MODEL, pipeline.BenchOptions(iters=plan.iters, min_seconds=0.0), progress)
    yield report_bench.benchmark(latency)

    yield f"6/6  ffnet-deploy eval cityscapes --root {data}"
    scores = pipeline.evaluate_cityscapes(workspace, MODEL, pipeline.EvalOptions(root=data), progress)
    yield report.evaluation(scores)
    yield f"{MODEL}, {MARK}, synthetic streets: the ladder\n\n{report.ladder(latency, scores)}"


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

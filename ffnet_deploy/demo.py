"""The demo: a small model, really trained on synthetic streets, taken through every stage in a workspace of its own."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from ffnet_deploy import artifacts, pipeline, report
from ffnet_deploy.artifacts import Workspace
from ffnet_deploy.errors import ArtifactError
from ffnet_deploy.pipeline import Progress
from ffnet_deploy.zoo import specs

MODEL = "segmentation_ffnet46NS_CCC_mobile"
MARK = "demo weights"
"""Stands on everything made from them."""
TRAIN = {"ahornstadt": 12, "birkenau_am_see": 12}
VAL = {"eichenfurt": 6, "lindenhafen": 6}
_SEED = 7
_ITERS = 40
_TRAINING = {"seed": _SEED, "train": TRAIN}
"""What the weights depend on; other values train again."""


def run(folder: Path, progress: Progress) -> Iterator[str]:
    """Make data and weights, export, build, bench, eval; yields what to print as it goes.

    Args:
        folder: workspace of the demo; what is complete there is not made again.
        progress: told how far the stage is.
    """
    workspace = Workspace(folder)
    data = folder / "cityscapes"
    yield f"1/6  drawing {sum(TRAIN.values())} + {sum(VAL.values())} street scenes, 1024x2048 -> {data}"
    _draw(data, progress)

    checkpoint = folder / "weights" / "ffnet46NS_CCC_demo.pth"
    if _is_trained(checkpoint):
        yield f"2/6  trained before -> {checkpoint}"
    else:
        yield f"2/6  training {MODEL} on the train scenes -> {checkpoint}"
        _train(data, checkpoint, progress)

    yield f"3/6  ffnet-deploy export {MODEL} --weights {checkpoint}"
    options = pipeline.ExportOptions(weights=checkpoint, offline=True)
    yield report.exported(pipeline.export(workspace, MODEL, options, progress))

    yield "4/6  ffnet-deploy build --fp32 --fp16"
    yield report.built(pipeline.build(workspace, MODEL, ("fp32", "fp16"), progress=progress))

    yield f"5/6  ffnet-deploy bench --iters {_ITERS}"
    latency = pipeline.bench(workspace, MODEL, iters=_ITERS, progress=progress)
    yield report.benchmark(latency)

    yield f"6/6  ffnet-deploy eval cityscapes --root {data}"
    scores = pipeline.evaluate_cityscapes(workspace, MODEL, pipeline.EvalOptions(root=data), progress)
    yield report.evaluation(scores)
    yield f"{MODEL}, {MARK}, synthetic streets: the ladder\n\n{report.ladder(latency, scores)}"


def _draw(data: Path, progress: Progress) -> None:
    from ffnet_deploy.data.scenes import write_cityscapes

    for split, cities in (("train", TRAIN), ("val", VAL)):
        write_cityscapes(
            data,
            split,
            cities,
            seed=_SEED,
            progress=lambda done, total, split=split: progress(f"drawing {split} scenes", done, total),  # type: ignore[misc]
        )


def _is_trained(checkpoint: Path) -> bool:
    try:
        record = artifacts.load_record(checkpoint, remedy="ffnet-deploy demo")
    except ArtifactError:
        return False
    return record.options == _TRAINING


def _train(data: Path, checkpoint: Path, progress: Progress) -> None:
    from ffnet_deploy.data.cityscapes import find_split
    from ffnet_deploy.demo_training import train

    started = time.monotonic()
    train(
        specs.find(MODEL),
        find_split(data, "train").samples,
        checkpoint,
        seed=_SEED,
        progress=lambda done, total, _loss: progress("training", done, total),
    )
    record = artifacts.Record(
        kind="weights",
        model=MODEL,
        precision="fp32",
        sha256=artifacts.sha256_of(checkpoint),
        size=checkpoint.stat().st_size,
        sources={},
        options=_TRAINING,
        marks=(MARK,),
        seconds=round(time.monotonic() - started, 1),
        tools=artifacts.tool_versions("torch", "numpy"),
        created=artifacts.now(),
    )
    artifacts.save_record(checkpoint, record)

"""The commands that write, each with the small folder that it runs in."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from support.calibrated import block
from support.fakes import SMALL
from support.graphs import filled, put_graph
from support.mirror import CONTENTS, MODELS

from ffnet_deploy import cli
from ffnet_deploy.artifacts.records import GraphRecord, Stamp, keep, now
from ffnet_deploy.artifacts.values import GraphOptions, SourceWeights
from ffnet_deploy.artifacts.workspace import Workspace
from ffnet_deploy.bench import turns
from ffnet_deploy.data.imagenet import find_set
from ffnet_deploy.demo import story
from ffnet_deploy.demo.classifier import fit_classifier
from ffnet_deploy.progress import quiet
from ffnet_deploy.synthetic import objects
from ffnet_deploy.synthetic.scenes import write_cityscapes
from ffnet_deploy.zoo.specs import find
from kills.killing import Scenario

_CLASSIFIER = "classification_ffnet46NS_CBX_mobile"
_CLASSES = """
    net (float[1,3,224,224] image) => (float[1,1000] logits)
    <float[8,3,32,32] w0, float[1000,8,1,1] w1>
    {
        [c0] a = Conv<strides = [32, 32]>(image, w0) [r0] r = Relu(a)
        [c1] b = Conv(r, w1) [p] p = GlobalAveragePool(b) [f] logits = Flatten(p)
    }
"""
_TINY = story.DemoPlan(
    size=(128, 256), train={"ahornstadt": 2}, val={"eichenfurt": 1, "lindenhafen": 1}, steps=2, iters=2, pictures=(2, 1)
)
_ROUND = ("--threads", "1", "--resume", "--json", "result.json")


def _command(*words: str) -> None:
    sys.argv = ["ffnet-deploy", *words]
    # A warm-up is the longest part of a benchmark, and writes nothing.
    turns.BenchPlan = partial(turns.BenchPlan, warm_up_s=0.0, most_warm_up_s=0.0)  # type: ignore[misc,assignment]
    cli.main()


def _demo() -> None:
    """What the demo writes itself, data and weights; the rest of it are commands that are killed by themselves."""
    torch.set_num_threads(1)
    space = Path("demo")
    for told in story.run(space, quiet, _TINY):
        if told.startswith("3/8"):
            break
    objects.write_objects(space / "imagenet", train=1, val=1, seed=7)
    samples = find_set(space / "imagenet" / "train").samples
    fit_classifier(find(_CLASSIFIER), samples, space / "weights" / "classifier.pth")


def _with_graph(folder: Path) -> None:
    put_graph(Workspace(folder), block())


def _with_streets(folder: Path) -> None:
    _with_graph(folder)
    write_cityscapes(folder / "streets", "train", {"ahornstadt": 3}, seed=1, size=(128, 256))
    write_cityscapes(folder / "streets", "val", {"eichenfurt": 6}, seed=1, size=(128, 256))


def _with_ranges(folder: Path) -> None:
    from ffnet_deploy.pipeline.calibrate import CalibrateOptions, calibrate

    _with_streets(folder)
    calibrate(Workspace(folder), None, CalibrateOptions(folder / "streets"))


def _with_engines(folder: Path) -> None:
    from ffnet_deploy.pipeline.build import BuildOptions, build

    _with_streets(folder)
    build(Workspace(folder), None, BuildOptions(runtime="onnxruntime"))


def _with_classes(folder: Path) -> None:
    from ffnet_deploy.pipeline.build import BuildOptions, build

    space = Workspace(folder)
    data = filled(_CLASSES).SerializeToString(deterministic=True)
    options = GraphOptions(shape=(1, 3, 224, 224), opset=20, contract=(224, 224))
    keep(
        space.models / f"{_CLASSIFIER}.onnx",
        data,
        lambda sha256, size: GraphRecord(
            model=_CLASSIFIER,
            precision="fp32",
            file=Stamp(sha256=sha256, size=size, seconds=0.0, tools={}, created=now()),
            options=options,
            weights=SourceWeights(None, "random-0"),
        ),
    )
    for number, (wnid, kind) in enumerate(list(objects.OBJECT_KINDS.items())[:4]):
        (folder / "pictures" / "val" / wnid).mkdir(parents=True)
        for i in range(2):
            Image.fromarray(objects.draw_object(kind, 2 * number + i)).save(
                folder / "pictures" / "val" / wnid / f"{i}.JPEG"
            )
    build(space, None, BuildOptions(runtime="onnxruntime"))


def _with_archive(folder: Path) -> None:
    (folder / "source").mkdir()
    for name, data in CONTENTS.items():
        (folder / "source" / name).write_bytes(data)


def scenarios() -> list[Scenario]:
    """Every command that writes; those that take long get fewer kills."""
    export = ("export", SMALL, "--weights", "random", "--allow-size", "--height", "64", "--width", "128")
    streets, pictures = ("eval", "cityscapes", "--root", "streets"), ("eval", "imagenet", "--root", "pictures")
    archive = ("weights", "fetch", MODELS[0], "--from", "source")
    bench = ("bench", "--iters", "2", "--min-seconds", "0", "--json", "result.json")

    def of(name: str, prepare: object, share: int, *words: str) -> Scenario:
        return Scenario(name, partial(_command, *words), prepare, share)  # type: ignore[arg-type]

    return [
        of("weights fetch", _with_archive, 12, *archive),
        of("build fp32", _with_graph, 12, "build", "--fp32", "--runtime", "onnxruntime"),
        of("build fp16", _with_graph, 10, "build", "--fp16", "--runtime", "tensorrt-rtx"),
        of("build int8", _with_ranges, 12, "build", "--int8", "--runtime", "onnxruntime"),
        of("calibrate", _with_streets, 12, "calibrate", "--data", "streets"),
        of("eval cityscapes", _with_engines, 10, *streets, *_ROUND),
        of("eval predictions", _with_engines, 10, *streets, *_ROUND, "--save-predictions", "predictions"),
        of("eval imagenet", _with_classes, 8, *pictures, *_ROUND),
        of("bench", _with_engines, 3, *bench),
        of("export", _with_graph, 6, *export),
        Scenario("demo", _demo, share=4),
    ]

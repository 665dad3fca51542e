"""Results of evaluations made by hand: of both kinds, as ``eval`` holds them before they are scored."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ffnet_deploy.artifacts.writing import hash_json
from ffnet_deploy.evaluate.classification import ImageAnswer
from ffnet_deploy.evaluate.outcome import Results
from ffnet_deploy.evaluate.protocols import ClassificationProtocol, SegmentationProtocol
from ffnet_deploy.evaluate.result import EvaluatedFiles, EvaluationRun, ScoredRung, SetPart
from ffnet_deploy.evaluate.segmentation import ImageCounts
from ffnet_deploy.evaluate.tasks import ImageResult
from ffnet_deploy.ladder import SkippedRung
from support.benchmarks import ENVIRONMENT

IMAGES = 5
RUN = EvaluationRun(
    threads=2,
    images_at_once=2,
    networks_at_once=2,
    seconds=1.5,
    stages_s={"count": 0.5},
    images_taken_over=0,
    reference_reused=False,
    environment=ENVIRONMENT,
)


def image(number: int, rungs: int) -> ImageCounts:
    """Counts of 64x128 pixels: every rung has the same truth, and labels of its own."""
    rng = np.random.default_rng(number)
    truth = np.where(rng.random(19) < 0.5, rng.integers(1, 400, 19), 0)
    matrices = np.array([[rng.multinomial(pixels, [1 / 19] * 19) for pixels in truth] for _ in range(rungs)])
    # As many labels of the reference as the counts allow, and some less.
    ignored = 8192 - int(matrices[0].sum())
    own = (0, 1, 0, 1, 1)
    alike = [int(np.minimum(one, matrices[mine]).sum()) + ignored - 1 for one, mine in zip(matrices, own, strict=False)]
    equal = (8192, 8192, *alike[2:])[:rungs]
    return ImageCounts(f"city/{number}", f"{number:064x}", f"{number}:1 2:3", 8192, equal, matrices)


def entry(rung: str, align: bool | None, sha256: str | None = "a" * 64) -> ScoredRung:
    return ScoredRung(
        rung=rung,
        runtime=rung.split()[0],
        precision="fp32",
        device="cpu",
        file=f"{rung}.onnx",
        bytes=123,
        sha256=sha256,
        align_corners=align,
    )


def part(images: Sequence[ImageResult]) -> SetPart:
    return SetPart("custom set, 5 images", "zip, label ids", hash_json([one.name for one in images]), len(images))


def counted(rungs: tuple[ScoredRung, ...]) -> Results:
    images = [image(i, len(rungs)) for i in range(IMAGES)]
    return Results(
        command="eval cityscapes",
        model="segmentation_ffnet46NS_CCC_mobile@64x128",
        sources=EvaluatedFiles("b" * 64, "random-0"),
        part=part(images),
        protocol=SegmentationProtocol((64, 128), None, (False, True)),
        rungs=rungs,
        images=images,
        skipped=(SkippedRung("tensorrt fp32", "needs an NVIDIA GPU"),),
        marks=("untrained",),
        tools={"numpy": "2.4.6"},
    )


RESULTS = counted(
    (
        entry("pytorch fp32", False, None),
        entry("pytorch fp32", True, None),
        entry("onnxruntime fp32", False),
        entry("onnxruntime fp32", True),
        entry("onnxruntime fp32 labels", True),
    )
)


def answered() -> Results:
    rng = np.random.default_rng(0)
    images = [
        ImageAnswer(
            f"val_{i}",
            f"{i:064x}",
            "0",
            (i,),
            np.stack([rng.permutation(8)[:5] for _ in range(2)]).astype(np.int64),
        )
        for i in range(IMAGES)
    ]
    return Results(
        command="eval imagenet",
        model="classification_ffnet46NS_CBX_mobile",
        sources=EvaluatedFiles("b" * 64, "random-0"),
        part=part(images),
        protocol=ClassificationProtocol("ILSVRC2012"),
        rungs=(entry("pytorch fp32", None), entry("onnxruntime fp32", None)),
        images=images,
        skipped=(),
        marks=(),
        tools={"numpy": "2.4.6"},
    )


ANSWERS = answered()

"""Accuracy as text: scores of every rung, IoU by class, and what they rest on."""

from __future__ import annotations

from collections.abc import Sequence

from ffnet_deploy.artifacts.values import Interval
from ffnet_deploy.evaluate.outcome import Evaluation
from ffnet_deploy.evaluate.protocols import ClassificationProtocol
from ffnet_deploy.evaluate.result import ClassificationRung, EvaluationFile, ScoredRung, SegmentationRung
from ffnet_deploy.report.table import marked_line, skipped, table

_DOWNSAMPLED = {
    None: "",
    "blur": ", blur and stride 2 before the network",
    "area": ", mean of 2x2 pixels before the network (not the blur that the weights were trained with)",
    "bilinear": ", PIL's bilinear half before the network (not the blur that the weights were trained with)",
}


def evaluation(result: Evaluation) -> str:
    """Score of every rung, and what could not run."""
    file = result.file
    rungs = [rung for rung in file.rungs if isinstance(rung, SegmentationRung)]
    answers = [rung for rung in file.rungs if isinstance(rung, ClassificationRung)]
    body = _segmentation(rungs) if rungs else _classification(answers)
    title = f"{file.model}: {file.set}\n{_protocol(file)}\n{_hashes(file)}"
    return f"{title}\n\n{body}{skipped(file.skipped)}{marked_line(file.marks)}"


def _protocol(file: EvaluationFile) -> str:
    protocol = file.protocol
    if isinstance(protocol, ClassificationProtocol):
        return (
            f"short side resized to {protocol.resize} (bilinear, PIL), centre crop {protocol.crop}, "
            f"{protocol.labels.split()[0]} labels, all images alike"
        )
    height, width = protocol.size
    choices = " and ".join(str(choice).lower() for choice in protocol.align_corners)
    inside = _DOWNSAMPLED[protocol.downsample]
    return f"logits resized bilinearly (align_corners {choices}) to {height}x{width}{inside}"


def _hashes(file: EvaluationFile) -> str:
    return f"{file.set.layout}; images {file.set.sha256[:12]}, weights {file.sources.weights[:12]}"


def _segmentation(rungs: Sequence[SegmentationRung]) -> str:
    names = _names(rungs)
    rows = [
        (
            name,
            rung.miou,
            None if rung.drop_interval is None else rung.drop,
            _interval(rung.drop_interval),
            f"{rung.agreement:.3f} %",
            rung.pixel_accuracy,
            rung.mean_class_accuracy,
            rung.miou_categories,
        )
        for name, rung in zip(names, rungs, strict=True)
    ]
    headers = ("rung", "mIoU", "drop", "95 % of drop", "agreement", "pixels", "classes", "categories")
    few = set(rungs[0].few_pixels)
    classes = [(f"{name} *" if name in few else name, *(rung.iou[name] for rung in rungs)) for name in rungs[0].iou]
    groups = [(name, *(rung.iou_categories[name] for rung in rungs)) for name in rungs[0].iou_categories]
    by_class = table(("IoU", *names), classes)
    by_category = table(("IoU of categories", *names), groups)
    note = "\n* few pixels or few images: an image more or less may move it by points" if few else ""
    return f"{table(headers, rows)}\n\n{by_class}{note}\n\n{by_category}"


def _names(rungs: Sequence[ScoredRung]) -> list[str]:
    """Rungs, with the choice of ``align_corners`` where both were scored."""
    several = len({rung.align_corners for rung in rungs}) > 1
    return [
        f"{rung.rung} (align_corners {str(rung.align_corners).lower()})" if several else rung.rung for rung in rungs
    ]


def _classification(rungs: Sequence[ClassificationRung]) -> str:
    rows = [
        (
            rung.rung,
            rung.top1,
            rung.top5,
            None if rung.drop_interval is None else rung.drop,
            _interval(rung.drop_interval),
            None if rung.agreement is None else f"{rung.agreement:.3f} %",
        )
        for rung in rungs
    ]
    return table(("rung", "top-1", "top-5", "drop", "95 % of drop", "agreement"), rows)


def _interval(interval: Interval | None) -> str | None:
    return f"{interval.low:+.2f} to {interval.high:+.2f}" if interval else None

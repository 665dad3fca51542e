"""Accuracy as text: scores of every rung, IoU by class, and what they rest on."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from ffnet_deploy.report import marked_line, skipped, table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ffnet_deploy.evaluate.classification import TopScore
    from ffnet_deploy.evaluate.results import Entry, Results
    from ffnet_deploy.evaluate.segmentation import Score
    from ffnet_deploy.pipeline import Evaluation


def evaluation(result: Evaluation) -> str:
    """Score of every rung, and what could not run."""
    results = result.results
    body = _classification(result) if results.command == "eval imagenet" else _segmentation(result)
    skipped_rungs = skipped([f"{rung}: {why}" for rung, why in results.skipped])
    title = f"{results.model}: {results.part}\n{_protocol(results)}\n{_hashes(results)}"
    return f"{title}\n\n{body}{skipped_rungs}{marked_line(results.marks)}"


def _protocol(results: Results) -> str:
    protocol = results.protocol
    if results.command == "eval imagenet":
        return (
            f"short side resized to {protocol['resize']} (bilinear, PIL), centre crop {protocol['crop']}, "
            f"{protocol['labels'].split()[0]} labels, all images alike"
        )
    height, width = protocol["size"]
    inside = {
        None: "",
        "blur": ", blur and stride 2 before the network",
        "area": ", mean of 2x2 pixels before the network (not the blur that the weights were trained with)",
        "bilinear": ", PIL's bilinear half before the network (not the blur that the weights were trained with)",
    }[protocol["downsample"]]
    choices = " and ".join(str(choice).lower() for choice in protocol["align_corners"])
    return f"logits resized bilinearly (align_corners {choices}) to {height}x{width}{inside}"


def _hashes(results: Results) -> str:
    weights = str(results.sources["weights"])[:12]
    return f"{results.part.layout}; images {results.sha256()[:12]}, weights {weights}"


def _segmentation(result: Evaluation) -> str:
    entries, scores = result.results.entries, _scores(result)
    names = _names(entries)
    rows = [
        (
            name,
            score.miou,
            None if score.drop is None else result.drop(i),
            f"{score.drop.low:+.2f} to {score.drop.high:+.2f}" if score.drop else None,
            f"{score.agreement:.3f} %",
            score.pixel_accuracy,
            score.mean_class_accuracy,
            score.miou_categories,
        )
        for i, (name, score) in enumerate(zip(names, scores, strict=True))
    ]
    headers = ("rung", "mIoU", "drop", "95 % of drop", "agreement", "pixels", "classes", "categories")
    few = set(scores[0].few)
    classes = [
        (f"{name} *" if name in few else name, *(score.classes()[name] for score in scores))
        for name in scores[0].classes()
    ]
    groups = [(name, *(score.categories()[name] for score in scores)) for name in scores[0].categories()]
    by_class = table(("IoU", *names), classes)
    by_category = table(("IoU of categories", *names), groups)
    note = "\n* few pixels or few images: an image more or less may move it by points" if few else ""
    return f"{table(headers, rows)}\n\n{by_class}{note}\n\n{by_category}"


def _scores(result: Evaluation) -> Sequence[Score]:
    return cast("Sequence[Score]", result.scores)


def _names(entries: Sequence[Entry]) -> list[str]:
    """Rungs, with the choice of ``align_corners`` where both were scored."""
    several = len({entry.align_corners for entry in entries}) > 1
    return [
        f"{entry.rung} (align_corners {str(entry.align_corners).lower()})" if several else entry.rung
        for entry in entries
    ]


def _classification(result: Evaluation) -> str:
    scores = cast("Sequence[TopScore]", result.scores)
    rows = [
        (
            entry.rung,
            score.top1,
            score.top5,
            None if score.drop is None else result.drop(i),
            f"{score.drop.low:+.2f} to {score.drop.high:+.2f}" if score.drop else None,
            f"{score.agreement:.3f} %",
        )
        for i, (entry, score) in enumerate(zip(result.results.entries, scores, strict=True))
    ]
    return table(("rung", "top-1", "top-5", "drop", "95 % of drop", "agreement"), rows)

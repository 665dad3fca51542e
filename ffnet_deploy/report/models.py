"""The zoo as text: the list, and one model's card."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ffnet_deploy.report.table import size_text, table

if TYPE_CHECKING:
    from ffnet_deploy.zoo.specs import Cost, ModelSpec

_WIDTH = 80


def models(rows: Sequence[tuple[ModelSpec, Cost, bool]], *, wide: bool = False, presence: bool = True) -> str:
    """The zoo, one line a model.

    Args:
        rows: spec, cost, and whether the weights are in the workspace.
        wide: all columns, about 170 characters; otherwise five that fit 80.
        presence: show the column that says whether the weights are there.
    """
    columns = _columns(rows)
    names = list(columns) if wide else ["model", "input", "GMACs", "mIoU", "here"]
    shown = [name for name in names if presence or name != "here"]
    text = table(shown, list(zip(*(columns[name] for name in shown), strict=True)))
    hint = (
        "\n\nhere: whether the weights are in the workspace. More columns: add --wide.\n"
        "One model's contract: ffnet-deploy models NAME"
    )
    return text if wide else text + hint


def _columns(rows: Sequence[tuple[ModelSpec, Cost, bool]]) -> dict[str, list[object]]:
    specs, costs = [spec for spec, _, _ in rows], [cost for _, cost, _ in rows]
    return {
        "model": [spec.name for spec in specs],
        "task": [spec.task for spec in specs],
        "for": [spec.deployment.replace("_", " ") for spec in specs],
        "input": [size_text(spec.input_hw) for spec in specs],
        "output": [size_text(spec.output_hw(*spec.input_hw)) or str(spec.classes) for spec in specs],
        "params M": [cost.parameters / 1e6 for cost in costs],
        "GMACs": [f"{cost.macs / 1e9:.1f}" for cost in costs],
        "mIoU": [None if spec.published.miou is None else f"{spec.published.miou:.1f}" for spec in specs],
        "FP32 ms": [spec.published.fp32_ms for spec in specs],
        "FP16 ms": [spec.published.fp16_ms for spec in specs],
        "here": ["yes" if present else "no" for _, _, present in rows],
    }


def card(spec: ModelSpec, cost: Cost, present: bool) -> str:
    """A model's contract: what goes in, what is inside, what comes out, where it comes from."""
    height, width = spec.input_hw
    out = spec.output_hw(height, width)
    lines = [
        ("task", f"{spec.task}, {spec.classes} classes"),
        ("deployment", spec.deployment.replace("_", " ")),
        ("input", f"float32 (1, 3, {height}, {width}) RGB/255, normalised by ImageNet's mean and std"),
        ("fed with", _fed_with(spec)),
        ("blur inside", "yes: Gaussian 5x5, stride 2, in front of the network" if spec.pre_down else "no"),
        ("upsampling", "nearest" if spec.upsampling == "nearest" else "bilinear, align_corners"),
        ("output", f"float32 (1, 19, {out[0]}, {out[1]}) logits, no soft-max" if out else "float32 (1, 1000) logits"),
        ("to labels", "resize the logits to the image bilinearly, then arg-max" if out else "arg-max"),
        ("parameters", f"{cost.parameters / 1e6:.2f} M"),
        ("compute", f"{cost.macs / 1e9:.2f} GMACs (convolutions and linear layers, batch 1)"),
        ("published", _published(spec)),
        ("weights", f"models/weights/{spec.weights_file} ({'present' if present else 'absent'})"),
        ("backbone from", spec.imagenet_model or "itself (trained on ImageNet)"),
    ]
    if spec.train:
        lines.append(("export", "refused: only the backbone has weights, so it is for training"))
    width = max(len(name) for name, _ in lines)
    return "\n".join([spec.name, *(_wrapped(f"  {name.ljust(width)}  ", text) for name, text in lines)])


def _wrapped(start: str, text: str) -> str:
    """A row within the width of a terminal; a path stays whole."""
    indent = " " * len(start)
    return textwrap.fill(
        text, _WIDTH, initial_indent=start, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def _fed_with(spec: ModelSpec) -> str:
    if spec.pre_down_twin:
        return f"the 1024x2048 image after the blur and stride of {spec.pre_down_twin} (eval does it)"
    if spec.task == "classification":
        return "short side resized to 256 (PIL bilinear), centre crop 224"
    return "the 1024x2048 image as it is; never a half-size one" if spec.pre_down else "the 1024x2048 image as it is"


def _published(spec: ModelSpec) -> str:
    figures = spec.published
    if figures.miou is None:
        return "no figure"
    times = f"; {figures.fp32_ms:g} ms FP32, {figures.fp16_ms:g} ms FP16 (2080 Ti)" if figures.fp16_ms else ""
    return f"{figures.miou:.1f} mIoU on Cityscapes val{times}"

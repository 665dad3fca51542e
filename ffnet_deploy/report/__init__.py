"""Results as text: what tables, cards and summaries look like."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ffnet_deploy.graph.methods import METHODS

if TYPE_CHECKING:
    from ffnet_deploy.pipeline import Benchmark, Built, Calibration, Diagnosis, Evaluation, Exported, Inspection
    from ffnet_deploy.zoo.specs import Cost, ModelSpec

Row = Sequence[object]


def table(headers: Sequence[str], rows: Sequence[Row]) -> str:
    """Columns of text: the first to the left, numbers and the other columns as they come, numbers to the right."""
    cells = [[_text(cell) for cell in row] for row in rows]
    widths = [max(len(line[i]) for line in [headers, *cells]) for i in range(len(headers))]
    right = [i > 0 and any(isinstance(row[i], int | float) for row in rows) for i in range(len(headers))]

    def line(values: Sequence[str]) -> str:
        padded = (v.rjust(w) if r else v.ljust(w) for v, w, r in zip(values, widths, right, strict=True))
        return "  ".join(padded).rstrip()

    return "\n".join([line(headers), line(["-" * w for w in widths]), *map(line, cells)])


def _text(cell: object) -> str:
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return "-"
    # Adding zero turns -0.0, and what rounds to it, into 0.00.
    return f"{round(cell, 2) + 0.0:.2f}" if isinstance(cell, float) else str(cell)


def megabytes(size: int | None) -> str | None:
    """Bytes as "50.3 MB" (10^6)."""
    return None if size is None else f"{size / 1e6:.1f} MB"


def size_text(size: tuple[int, int] | None) -> str | None:
    """(H, W) as "1024x2048"."""
    return None if size is None else f"{size[0]}x{size[1]}"


def models(rows: Sequence[tuple[ModelSpec, Cost, bool]], *, presence: bool = True) -> str:
    """The zoo, one line a model; with ``presence`` the last column says whether its weights are in the workspace."""
    headers = ("model", "task", "for", "input", "output", "params M", "GMACs", "mIoU", "FP32 ms", "FP16 ms", "weights")
    cells = [
        (
            spec.name,
            spec.task,
            spec.deployment.replace("_", " "),
            size_text(spec.input_hw),
            size_text(spec.output_hw(*spec.input_hw)) or str(spec.classes),
            cost.parameters / 1e6,
            cost.macs / 1e9,
            None if spec.published.miou is None else f"{spec.published.miou:.1f}",
            spec.published.fp32_ms,
            spec.published.fp16_ms,
            "yes" if present else "no",
        )
        for spec, cost, present in rows
    ]
    shown = len(headers) if presence else len(headers) - 1
    return table(headers[:shown], [row[:shown] for row in cells])


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
        ("up-sampling", "nearest" if spec.upsampling == "nearest" else "bilinear, align_corners"),
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
    return "\n".join([spec.name, *(f"  {name.ljust(width)}  {text}" for name, text in lines)])


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


def exported(result: Exported) -> str:
    """What export wrote, and how well it agrees with PyTorch."""
    record = result.record
    v = record.found["verification"]
    return (
        f"{result.path}  {megabytes(record.size)}  opset {record.options['opset']}{_marked(record.marks)}\n"
        f"verified against PyTorch on {v['images']} images: largest difference {v['max_difference']:.1e}, "
        f"mean {v['mean_difference']:.1e} of the output's spread, {100 * v['equal']:.3f} % equal labels"
    )


def calibrated(result: Calibration) -> str:
    """What calibration looked at, and where the ranges are."""
    values = result.values
    seen = values["images"]
    how = "already there" if result.reused else f"{values['seconds']:.1f} s"
    resized = ", resized to the network's input" if seen["resized"] else ""
    return (
        f"{result.path}  {len(values['tensors'])} tensors, {seen['count']} images of {seen['from']}{resized}  ({how})"
        f"{_marked(values['marks'])}\n"
        f"ranges by {', '.join(METHODS)}; build takes {result.method} unless told otherwise"
    )


def built(results: Sequence[Built]) -> str:
    """The engines that were built."""
    rows = [
        (
            b.path.name,
            b.record.precision,
            b.record.runtime,
            megabytes(b.record.size),
            f"{b.record.seconds:.1f} s",
            _found(b.record.found),
        )
        for b in results
    ]
    body = table(("engine", "precision", "runtime", "size", "built in", "found in it"), rows)
    return f"{results[0].path.parent}/\n{body}{marked_line(results[0].record.marks)}"


def _found(found: Mapping[str, Any]) -> str | None:
    """Shares of the multiply-accumulates by the precision that was found."""
    share = found.get("share")
    return ", ".join(f"{100 * part:.4g} % {name}" for name, part in share.items()) if share else None


def inspection(result: Inspection) -> str:
    """What a file is: its kind, what made it, what is in it, precision by layer."""
    record = result.record
    lines: list[tuple[str, object]] = [
        ("kind", result.kind if record is None else f"{result.kind} of {record.model}, {record.precision}"),
        ("size", f"{result.size} bytes"),
        ("current", result.current),
    ]
    if record:
        lines += [
            ("made", f"{record.created[:19]} UTC in {record.seconds:.1f} s, runtime {record.runtime or 'none'}"),
            ("marks", ", ".join(record.marks) or "none"),
            ("from", _inline(record.sources)),
            ("options", _inline(record.options)),
            ("tools", _inline(record.tools)),
        ]
    lines += [(name, _inline(value)) for name, value in result.facts.items()]
    found = dict(record.found) if record else {}
    by_node = found.pop("precision", {})
    kept = found.pop("kept_fp32", {})
    declined = found.pop("declined", {})
    if "quantised" in found:
        quantised = found["quantised"]
        found["quantised"] = f"{len(quantised['nodes'])} convolutions, {100 * quantised['share']:.4g} % of the work"
    lines += [(name, _inline(value)) for name, value in found.items()]
    width = max(len(name) for name, _ in lines)
    text = "\n".join([str(result.path), *(f"  {name.ljust(width)}  {value}" for name, value in lines)])
    if kept:
        text += "\n\n" + table(("kept in FP32", "why"), list(kept.items()))
    if declined:
        text += "\n\n" + table(("not INT8", "why"), list(declined.items()))
    if by_node:
        text += "\n\n" + table(("layer", "computes in"), list(by_node.items()))
    return text


def _inline(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_inline(inner)}" for key, inner in value.items()) or "none"
    if isinstance(value, list | tuple):
        return " ".join(map(_inline, value)) or "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def diagnosis(result: Diagnosis) -> str:
    """What this machine has, and what each command can do here."""
    have = table(("", "found", "to install"), [(f.what, f.found, f.remedy) for f in result.findings])
    can = table(("command", "here", "why not"), [(f.what, f.found, f.remedy) for f in result.abilities])
    return f"{have}\n\n{can}"


def ladder(bench: Benchmark, scored: Evaluation) -> str:
    """Every rung in one table: size, latency, speed-up, mIoU, drop; a rung that cannot run here says why."""
    entries = scored.results.entries
    scores = {
        entry.rung: (score.value, scored.drop(i))
        for i, (entry, score) in enumerate(zip(entries, scored.scores, strict=True))
    }
    first = bench.latencies[0].median
    # PyTorch's other ways compute the reference's network: they are timed only.
    unscored = (None, None, "timed, never scored")
    rows: list[Row] = [
        (
            item.rung.name,
            item.rung.precision,
            megabytes(item.rung.size),
            f"{item.median:.1f} ms",
            f"{first / item.median:.2f}x",
            *((*scores[item.rung.name], "") if item.rung.name in scores else unscored),
        )
        for item in bench.latencies
    ]
    timed = {item.rung.name for item in bench.latencies}
    rows += [
        (
            entry.rung,
            entry.precision,
            megabytes(entry.bytes),
            None,
            None,
            *scores[entry.rung],
            "scored, never timed",
        )
        for entry in entries
        if entry.rung not in timed
    ]
    rows += [
        (s.rung.name, s.rung.precision, megabytes(s.rung.size), None, None, None, None, f"built; {s.reason}")
        for s in bench.skipped
    ]
    return table(("rung", "precision", "file", "latency", "speed-up", "mIoU", "drop", ""), rows)


def skipped(items: Sequence[object]) -> str:
    """Rungs that were built but did not run, with the reason; nothing where there are none."""
    return "".join(f"\n{'' if i else chr(10)}not run: {item}" for i, item in enumerate(items))


def _marked(marks: Sequence[str]) -> str:
    return f"  [{', '.join(marks)}]" if marks else ""


def marked_line(marks: Sequence[str]) -> str:
    """The last line of a result: what must be said of it."""
    return f"\n\nNote: {', '.join(marks)}." if marks else ""

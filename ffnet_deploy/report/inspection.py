"""What inspect found, as text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

from ffnet_deploy.artifacts.records import AnyRecord, EngineRecord, GraphRecord, WeightsRecord
from ffnet_deploy.pipeline.inspect import Inspection
from ffnet_deploy.report.table import table

_TABLES = {"kept_fp32": ("kept in FP32", "why"), "declined": ("not INT8", "why"), "precision": ("layer", "computes in")}
"""Findings that are shown as tables of their own."""


def inspection(result: Inspection) -> str:
    """What a file is: its kind, how it was made, what is in it, precision by layer."""
    record = result.record
    lines = [("kind", _kind(result)), ("size", f"{result.size} bytes"), ("current", result.current)]
    if record:
        lines += _made(record)
    if result.facts:
        lines += [(name, _inline(value)) for name, value in asdict(result.facts).items() if name != "images"]
    images = getattr(result.facts, "images", None)
    if images:
        lines.append(("images", f"{len(images.names)} of {images.title}, {images.folder}"))
    findings = asdict(record.found) if isinstance(record, GraphRecord | EngineRecord) else {}
    lines += [
        (name, _finding(name, value))
        for name, value in findings.items()
        if name not in _TABLES and value not in (None, {})
    ]
    width = max(len(name) for name, _ in lines)
    text = "\n".join([str(result.path), *(f"  {name.ljust(width)}  {value}" for name, value in lines)])
    for name, headers in _TABLES.items():
        if findings.get(name):
            text += "\n\n" + table(headers, list(findings[name].items()))
    return text


def _kind(result: Inspection) -> str:
    record = result.record
    if record is None:
        return result.kind
    precision = "" if isinstance(record, WeightsRecord) else f", {record.precision}"
    return f"{result.kind} of {record.model}{precision}"


def _made(record: AnyRecord) -> list[tuple[str, str]]:
    by = f", runtime {record.runtime}" if isinstance(record, EngineRecord) else ""
    lines = [
        ("made", f"{record.file.created[:19]} UTC in {record.file.seconds:.1f} s by {record.command}{by}"),
        ("marks", ", ".join(record.marks) or "none"),
    ]
    if isinstance(record, GraphRecord | EngineRecord):
        sources = {"weights": record.weights, "graph": record.graph, "ranges": record.ranges}
        lines += [
            ("from", _inline({name: asdict(source) for name, source in sources.items() if source})),
            ("options", _inline(asdict(record.options))),
        ]
    if isinstance(record, EngineRecord):
        lines.append(("engine", _inline(record.engine.asked())))
    return [*lines, ("tools", _inline(record.file.tools))]


def _finding(name: str, value: object) -> str:
    if name == "quantised" and isinstance(value, Mapping):
        return f"{len(value['nodes'])} convolutions, {100 * value['share']:.4g} % of the work"
    return _inline(value)


def _inline(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_inline(inner)}" for key, inner in value.items()) or "none"
    if isinstance(value, list | tuple):
        return " ".join(map(_inline, value)) or "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)

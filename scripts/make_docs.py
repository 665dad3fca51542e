"""Write the generated parts of README.md and docs/; ``--check`` only tells whether they are current.

A generated part stands between ``<!-- begin NAME -->`` and ``<!-- end NAME -->``.

Run: make docs
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ffnet_deploy import pipeline, report
from ffnet_deploy.artifacts import Workspace

ROOT = Path(__file__).parents[1]
MEASUREMENTS = ROOT / "docs" / "measurements"
PAGES = ("README.md", "docs/commands.md", "docs/models.md", "docs/measurements.md", "docs/performance.md")
COMMANDS = (
    "", "models", "weights fetch", "export", "calibrate", "build", "bench", "compare", "eval cityscapes",
    "eval imagenet", "eval merge", "verify", "inspect", "doctor", "demo",
)  # fmt: skip
MAP = (
    "cli.py", "pipeline/__init__.py", "artifacts.py", "zoo/__init__.py", "data/__init__.py", "graph/__init__.py",
    "runtimes/__init__.py", "verify.py", "evaluate/__init__.py", "bench/__init__.py", "report/__init__.py",
    "machine/__init__.py",
)  # fmt: skip


def _fenced(text: str, language: str = "text") -> str:
    return f"```{language}\n{text.rstrip()}\n```"


def _help(command: str) -> str:
    # A process of its own with a fixed width: help wraps at the terminal's.
    run = [sys.executable, "-m", "ffnet_deploy.cli", *command.split(), "--help"]
    environment = {"COLUMNS": "100", "TERMINAL_WIDTH": "100", "PATH": "/usr/bin:/bin"}
    text = subprocess.run(run, capture_output=True, text=True, check=True, env=environment).stdout
    return text.replace("python -m ffnet_deploy.cli", "ffnet-deploy").replace("cli.py", "ffnet-deploy")


def help_short() -> str:
    """The list of commands."""
    return _fenced(_help(""))


def help_all() -> str:
    """Every command's help."""
    return "\n\n".join(f"## ffnet-deploy {command}".rstrip() + f"\n\n{_fenced(_help(command))}" for command in COMMANDS)


def code_map() -> str:
    """Files and rooms with the first sentence of their docstrings."""
    lines = []
    for name in MAP:
        text = ast.get_docstring(ast.parse((ROOT / "ffnet_deploy" / name).read_text("utf-8"))) or ""
        where = name.removesuffix("__init__.py")
        lines.append(f"{where:14}{text.splitlines()[0]}")
    return _fenced("\n".join(lines))


def zoo() -> str:
    """All 94 models."""
    return _fenced(report.models(pipeline.list_models(Workspace(Path("/nonexistent"))), presence=False))


def commands() -> str:
    """The README's commands and what they printed when they were last recorded."""
    kept = _measured("four_commands.json")
    shown = []
    for item in kept["commands"]:
        code = f"[exit code {item['exit_code']}]\n" if item["exit_code"] else ""
        shown.append(f"$ {item['command']}\n{item['stderr']}{item['stdout']}{code}")
    return _fenced("\n".join(shown), "console")


def export_zoo() -> str:
    """What ``make export-zoo`` measured: the worst agreement and the time of each model."""
    kept = _measured("export_zoo.json")
    rows = [
        (
            name,
            report.megabytes(m.get("bytes")),
            f"{m['verification']['max_difference']:.1e}" if m["ok"] else m["error"],
            f"{100 * m['verification']['equal']:.3f} %" if m["ok"] else None,
        )
        for name, m in kept["models"].items()
    ]
    good = sum(m["ok"] for m in kept["models"].values())
    tools = ", ".join(f"{name} {version}" for name, version in kept["tools"].items())
    text = report.table(("model", "graph", "largest difference", "equal labels"), rows)
    return f"{good} of {len(rows)} export and verify ({tools}).\n\n{_fenced(text)}"


def build_zoo() -> str:
    """What ``make build-zoo`` measured: size, time and precision of each engine; INT8 where it was built."""
    kept = _measured("build_zoo.json")
    models = kept["models"]
    built = {p: [m[p] for m in models.values() if p in m] for p in ("fp32", "fp16", "int8")}
    newest = {p: max((engine["graph"] for engine in engines), default=0) for p, engines in built.items()}
    rows = [_zoo_row(name, m, newest) for name, m in models.items()]
    counts = ", ".join(f"{len(engines)} in {p.upper()}" for p, engines in built.items())
    failed = [name for name, m in models.items() if not m["ok"]]
    ratio = max(m["fp16"]["bytes"] / m["fp32"]["bytes"] for m in models.values() if "fp16" in m)
    tools = ", ".join(f"{name} {version}" for name, version in kept["tools"].items())
    text = (
        f"Of {len(rows)} models {counts} ({tools}); {len(failed)} failed. "
        f"The largest FP16 engine has {ratio:.3f} of its FP32 engine's size."
    )
    if built["int8"]:
        lowest = min(engine["share"].get("int8", 0.0) for engine in built["int8"])
        text += f" The least INT8 found is {100 * lowest:.2f} % of the multiply-accumulates."
    headers = ("model", "FP32", "FP16", "ratio", "found", "equal", "INT8", "ratio", "found", "equal")
    errors = "".join(f"\n\n- {name}: {models[name]['error']}" for name in failed)
    return f"{text}\n\n{_fenced(report.table(headers, rows))}{errors}"


def _zoo_row(name: str, m: dict[str, Any], newest: dict[str, int]) -> tuple[object, ...]:
    row: list[object] = [name, report.megabytes(m["fp32"]["bytes"])]
    for precision in ("fp16", "int8"):
        engine = m.get(precision)
        if engine is None:
            row += [None] * 4
            continue
        emulated = m["emulated"] if precision == "fp16" else engine["emulated"]
        row += [
            report.megabytes(engine["bytes"]),
            f"{engine['bytes'] / m['fp32']['bytes']:.3f}{' *' if engine['graph'] < newest[precision] else ''}",
            f"{100 * engine['share'].get(precision, 0.0):.4g} %",
            _equal(emulated),
        ]
    return tuple(row)


def _equal(found: dict[str, Any]) -> str:
    """Equal labels; of a classifier, which has one for each image, their number."""
    if found["count"] <= found["images"]:
        return f"{round(found['equal'] * found['count'])} of {found['count']}"
    return f"{100 * found['equal']:.2f} %"


def int8_methods() -> str:
    """What ``make int8-methods`` measured: drop and agreement by method, on the demo's weights and hostile copies."""
    kept = _measured("int8_methods.json")
    rows = []
    for weights, measured in kept["weights"].items():
        cells = {(row["preparation"], row["method"], row["dialect"]): row for row in measured["rows"]}
        for preparation, method in dict.fromkeys((row["preparation"], row["method"]) for row in measured["rows"]):
            of = [cells[preparation, method, dialect] for dialect in ("tensorrt", "cpu")]
            shown = [text for row in of for text in (f"{row['drop']:+.2f}", f"{row['agreement']:.2f} %")]
            rows.append((weights, preparation, method, *shown))
    tools = ", ".join(f"{name} {version}" for name, version in kept["tools"].items())
    headers = ("weights", "graph", "method", "TensorRT: drop", "agreement", "CPU: drop", "agreement")
    title = f"{kept['model']}, {kept['images']} train scenes, {kept['val']} val scenes ({tools})."
    return f"{title}\n\n{_fenced(report.table(headers, rows))}"


def calibration() -> str:
    """What ``make bench-calibration`` measured: memory by the number of images."""
    kept = _measured("calibration.json")
    rows = [
        (*name.rsplit(":", 1), run["tensors"], f"{run['peak_mb']:.0f} MB", f"{run['seconds']:.0f} s")
        for name, run in kept["runs"].items()
    ]
    tools = ", ".join(f"{name} {version}" for name, version in kept["tools"].items())
    headers = ("model, 1024x2048", "images", "tensors", "peak memory", "time")
    return f"{kept['threads']} threads ({tools}).\n\n{_fenced(report.table(headers, rows))}"


def cpu_latency() -> str:
    """What ``make bench-cpu`` measured: PyTorch, and ONNX Runtime with its settings."""
    kept = _measured("cpu_latency.json")
    return _latencies(kept, "random weights", "over best PyTorch", "over_best_pytorch")


def int8_cpu() -> str:
    """What ``make bench-int8`` measured: INT8 against FP32, PyTorch and OpenVINO, and its limits."""
    kept = _measured("int8_cpu.json")
    rows = [
        (
            limit["against"],
            f"{limit['at_least']:g}x",
            f"{limit['found']:.2f}x",
            _met(limit),
        )
        for limit in kept["limits"]
    ]
    asked = _fenced(report.table(("INT8 is faster than", "at least", "found", "met"), rows))
    return f"{asked}\n\n{_latencies(kept, ', '.join(kept['marks']), 'time over INT8', 'over_int8')}"


def _met(limit: dict[str, Any]) -> str:
    return "yes" if limit["met"] else "no" if limit["applies"] else "no, without VNNI not asked"


def bench_eval() -> str:
    """What ``make bench-eval`` measured: evaluation against a serial loop and inference alone, and its memory."""
    kept = _measured("bench_eval.json")
    timed = {precision: kept[precision] for precision in ("fp32", "int8")}
    rows: list[tuple[object, ...]] = [
        (f"onnxruntime {precision}", *m["ms_per_image"].values(), f"{m['ours_over_inference_alone']:.2f}x",
         f"{m['serial_over_ours']:.2f}x", len(m["rounds"]))
        for precision, m in timed.items()
    ]  # fmt: skip
    contenders = next(iter(timed.values()))["ms_per_image"]
    headers = ("rung", *contenders, "ours over inference alone", "serial over ours", "rounds")
    stages = [
        (stage, *(m["stages_ms_per_image"][stage] for m in timed.values()))
        for stage in kept["fp32"]["stages_ms_per_image"]
    ]
    peaks = [(f"{count} images", report.megabytes(peak)) for count, peak in kept["peak_bytes"].items()]
    held = [
        (
            m["what"],
            f"{m['bound']} {m['limit']:g}",
            f"{m['found']:.2f}",
            _met(m),
        )
        for m in kept["limits"]
    ]
    title = (
        f"{kept['model']}, {kept['threads']} threads, ms an image of 1024x2048, {kept['images']} images a round. "
        f"{_where(kept['environment'])} Other work took {100 * kept['other_work']:.0f} % of the processor before."
    )
    parts = [
        title,
        _fenced(report.table(headers, rows)),
        "Stages of ours, which overlap, ms an image:",
        _fenced(report.table(("stage", *timed), stages)),
        "Peak memory of a whole evaluation, the reference's network included:",
        _fenced(report.table(("evaluation", "peak"), peaks)),
        _fenced(report.table(("what", "limit", "found", "met"), held)),
    ]
    return "\n\n".join(parts)


def _latencies(kept: dict[str, Any], weights: str, header: str, ratio: str) -> str:
    """A measurement in turns: where, every rung with one ratio and its interval, and its warnings."""
    rows = []
    for m in kept["rungs"]:
        interval = m[f"{ratio}_interval"]
        rows.append(
            (
                m["rung"],
                m["threads"],
                len(m["samples_ms"]),
                m["median_ms"],
                m["p90_ms"],
                m["p99_ms"],
                f"{100 * m['coefficient_of_variation']:.1f} %",
                f"{m[ratio]:.2f}x",
                f"{interval[0]:.2f}-{interval[1]:.2f}" if interval else None,
                report.megabytes(m["peak_host_bytes"]),
            )
        )
    headers = ("rung", "threads", "runs", "median", "p90", "p99", "CoV", header, "95 %", "peak memory")
    height, width = kept["shape"][2:]
    title = (
        f"{kept['model']}, {weights}, batch 1 of {height}x{width}, mode compute, ms. {_where(kept['environment'])} "
        f"Best of PyTorch: {kept['best_pytorch']}."
    )
    return f"{title}\n\n{_fenced(report.table(headers, rows))}{_warned(kept)}"


def _where(environment: dict[str, Any]) -> str:
    tools = ", ".join(f"{name} {version}" for name, version in environment["tools"].items())
    virtual = ", a virtual machine" if environment["virtual"] else ""
    return (
        f"{environment['processor']}{virtual}, {environment['cores']} cores, {' '.join(environment['flags'])}. {tools}."
    )


def _warned(kept: dict[str, Any]) -> str:
    told = [f"- {w['rung'] or 'everything'}: {w['text']}" for w in kept["warnings"]]
    return "\n\nWarnings of this run:\n\n" + "\n".join(told) if told else ""


def _measured(name: str) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((MEASUREMENTS / name).read_text("utf-8"))
    return values


PARTS: dict[str, Callable[[], str]] = {
    "help": help_short,
    "help-all": help_all,
    "map": code_map,
    "zoo": zoo,
    "commands": commands,
    "export-zoo": export_zoo,
    "build-zoo": build_zoo,
    "int8-methods": int8_methods,
    "calibration": calibration,
    "cpu-latency": cpu_latency,
    "int8-cpu": int8_cpu,
    "bench-eval": bench_eval,
}


def filled(page: str) -> str:
    """The text of a page with its generated parts as they should be now."""
    text = (ROOT / page).read_text("utf-8")

    def fill(found: re.Match[str]) -> str:
        name = found["name"]
        return f"<!-- begin {name} -->\n{PARTS[name]()}\n<!-- end {name} -->"

    return re.sub(r"<!-- begin (?P<name>[\w-]+) -->.*?<!-- end (?P=name) -->", fill, text, flags=re.DOTALL)


def main() -> None:
    """Write, or with ``--check`` exit 1 if a page is not current."""
    stale = [page for page in PAGES if filled(page) != (ROOT / page).read_text("utf-8")]
    if "--check" in sys.argv:
        print(f"not current: {', '.join(stale)}. Run: make docs" if stale else "current")
        sys.exit(bool(stale))
    for page in stale:
        (ROOT / page).write_text(filled(page), "utf-8")
        print(f"written: {page}")


if __name__ == "__main__":
    main()

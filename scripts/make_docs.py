"""Write the generated parts of README.md, CONTRIBUTING.md and docs/; ``--check`` only tells whether they are current.

A generated part stands between ``<!-- begin NAME -->`` and ``<!-- end NAME -->``.

Run: make docs
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ffnet_deploy.artifacts.workspace import Workspace
from ffnet_deploy.pipeline.zoo import list_models
from ffnet_deploy.report.models import models
from ffnet_deploy.report.table import megabytes, table

ROOT = Path(__file__).parents[1]
MEASUREMENTS = ROOT / "docs" / "measurements"
PAGES = (
    "README.md", "CONTRIBUTING.md", "docs/commands.md", "docs/example.md", "docs/models.md", "docs/measurements.md",
    "docs/performance.md",
)  # fmt: skip
COMMANDS = (
    "", "models", "weights fetch", "export", "calibrate", "build", "bench", "compare", "eval cityscapes",
    "eval imagenet", "eval merge", "verify", "inspect", "doctor", "demo",
)  # fmt: skip
# In the order in which they may import each other.
ROOMS = (
    "foreign.py", "errors.py", "progress.py", "artifacts/", "machine/", "zoo/", "data/", "synthetic/", "graph/",
    "runtimes/", "metrics.py", "calibration/", "ladder.py", "verify/", "evaluate/", "bench/", "pipeline/",
    "report/", "demo/", "api.py", "commands/", "cli.py",
)  # fmt: skip
RECORDED = ("export", "build", "bench", "eval", "refusal")
"""The commands of docs/measurements/four_commands.json, in its order."""


def _fenced(text: str, language: str = "text") -> str:
    return f"```{language}\n{text.rstrip()}\n```"


def _help(command: str) -> str:
    # A process of its own with a fixed width: help wraps at the terminal's.
    run = [sys.executable, "-m", "ffnet_deploy.cli", *command.split(), "--help"]
    environment = {"COLUMNS": "100", "TERMINAL_WIDTH": "100", "PATH": "/usr/bin:/bin"}
    text = subprocess.run(run, capture_output=True, text=True, check=True, env=environment, cwd=ROOT).stdout
    return text.replace("python -m ffnet_deploy.cli", "ffnet-deploy").replace("cli.py", "ffnet-deploy")


def help_all() -> str:
    """Every command's help."""
    return "\n\n".join(f"## ffnet-deploy {command}".rstrip() + f"\n\n{_fenced(_help(command))}" for command in COMMANDS)


def rooms() -> str:
    """The package's files and folders with the first sentence of their docstrings."""
    lines = []
    for name in ROOMS:
        file = ROOT / "ffnet_deploy" / (f"{name}__init__.py" if name.endswith("/") else name)
        text = ast.get_docstring(ast.parse(file.read_text("utf-8"))) or ""
        lines.append(f"{name:14}{text.splitlines()[0]}")
    return _fenced("\n".join(lines))


def zoo() -> str:
    """All 94 models."""
    return _fenced(models(list_models(Workspace(Path("/nonexistent"))), wide=True, presence=False))


def recorded(number: int) -> str:
    """A command and what it printed when it was last recorded."""
    item = _measured("four_commands.json")["commands"][number]
    code = f"[exit code {item['exit_code']}]\n" if item["exit_code"] else ""
    return _fenced(f"$ {item['command']}\n{item['stderr']}{item['stdout']}{code}", "console")


def recorded_on() -> str:
    """The machine on which the commands were recorded."""
    return _where(_measured("four_commands.json")["environment"])


def result() -> str:
    """One short table from the recorded ``bench`` and ``eval``: what both of them have."""
    kept = _measured("four_commands.json")["commands"]
    times = _rows(kept[RECORDED.index("bench")]["stdout"], "median")
    scores = _rows(kept[RECORDED.index("eval")]["stdout"], "mIoU")
    lines = ["| | size | median latency | speed-up (95 %) | mIoU | drop (95 %) |", "|---|---|---|---|---|---|"]
    for rung in (name for name in times if name in scores):
        time, score = times[rung], scores[rung]
        faster = time["speed-up"] + (f" ({time['95 %']})" if time["95 %"] != "-" else "")
        lost = score["drop"] + (f" ({score['95 % of drop']})" if score["drop"] != "-" else "")
        lines.append(f"| {rung} | {time['file']} | {time['median']} ms | {faster} | {score['mIoU']} | {lost} |")
    return "\n".join(lines)


def _rows(text: str, column: str) -> dict[str, dict[str, str]]:
    """A printed table by rung: the first one that has ``column``; cells stand two spaces apart or more."""
    lines = text.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("rung ") and f" {column} " in line)
    headers = re.split(r" {2,}", lines[at].strip())
    body = lines[at + 2 : lines.index("", at)]
    cells = [dict(zip(headers, re.split(r" {2,}", line.strip()), strict=True)) for line in body]
    return {row["rung"]: row for row in cells}


def export_zoo() -> str:
    """What ``make export-zoo`` measured: the worst agreement and the time of each model."""
    kept = _measured("export_zoo.json")
    rows = [
        (
            name,
            megabytes(m.get("bytes")),
            f"{m['verification']['max_difference']:.1e}" if m["ok"] else m["error"],
            f"{100 * m['verification']['equal']:.3f} %" if m["ok"] else None,
        )
        for name, m in kept["models"].items()
    ]
    good = sum(m["ok"] for m in kept["models"].values())
    text = table(("model", "graph", "largest difference", "equal labels"), rows)
    return f"{good} of {len(rows)} export and verify ({_tools(kept)}).\n\n{_fenced(text)}"


def build_zoo() -> str:
    """What ``make build-zoo`` measured: size, time and precision of each engine; INT8 where it was built."""
    kept = _measured("build_zoo.json")
    swept = kept["models"]
    built = {p: [m[p] for m in swept.values() if p in m] for p in ("fp32", "fp16", "int8")}
    newest = {p: max((engine["graph"] for engine in engines), default=0) for p, engines in built.items()}
    rows = [_zoo_row(name, m, newest) for name, m in swept.items()]
    counts = ", ".join(f"{len(engines)} in {p.upper()}" for p, engines in built.items())
    failed = [name for name, m in swept.items() if not m["ok"]]
    ratio = max(m["fp16"]["bytes"] / m["fp32"]["bytes"] for m in swept.values() if "fp16" in m)
    text = (
        f"Of {len(rows)} models {counts} ({_tools(kept)}); {len(failed)} failed. "
        f"The largest FP16 engine has {ratio:.3f} of its FP32 engine's size."
    )
    if built["int8"]:
        lowest = min(engine["share"].get("int8", 0.0) for engine in built["int8"])
        text += f" The least INT8 found is {100 * lowest:.2f} % of the multiply-accumulates."
    headers = ("model", "FP32", "FP16", "ratio", "found", "equal", "INT8", "ratio", "found", "equal")
    errors = "".join(f"\n\n- {name}: {swept[name]['error']}" for name in failed)
    return f"{text}\n\n{_fenced(table(headers, rows))}{errors}"


def _zoo_row(name: str, m: dict[str, Any], newest: dict[str, int]) -> tuple[object, ...]:
    row: list[object] = [name, megabytes(m["fp32"]["bytes"])]
    for precision in ("fp16", "int8"):
        engine = m.get(precision)
        if engine is None:
            row += [None] * 4
            continue
        emulated = m["emulated"] if precision == "fp16" else engine["emulated"]
        row += [
            megabytes(engine["bytes"]),
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
    headers = ("weights", "graph", "method", "TensorRT: drop", "agreement", "CPU: drop", "agreement")
    title = f"{kept['model']}, {kept['images']} train scenes, {kept['val']} val scenes ({_tools(kept)})."
    return f"{title}\n\n{_fenced(table(headers, rows))}"


def calibration() -> str:
    """What ``make bench-calibration`` measured: memory by the number of images."""
    kept = _measured("calibration.json")
    rows = [
        (*name.rsplit(":", 1), run["tensors"], f"{run['peak_mb']:.0f} MB", f"{run['seconds']:.0f} s")
        for name, run in kept["runs"].items()
    ]
    headers = ("model, 1024x2048", "images", "tensors", "peak memory", "time")
    return f"{kept['threads']} threads ({_tools(kept)}).\n\n{_fenced(table(headers, rows))}"


def cpu_latency() -> str:
    """What ``make bench-cpu`` measured: PyTorch, and ONNX Runtime with its settings."""
    kept = _measured("cpu_latency.json")
    return _latencies(kept, "random weights", "over best PyTorch", "over_best_pytorch")


def int8_cpu() -> str:
    """What ``make bench-int8`` measured: INT8 against FP32, PyTorch and OpenVINO, and its limits."""
    kept = _measured("int8_cpu.json")
    rows = [(m["against"], f"{m['at_least']:g}x", f"{m['found']:.2f}x", _met(m)) for m in kept["limits"]]
    asked = _fenced(table(("INT8 is faster than", "at least", "found", "met"), rows))
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
    contenders = timed["fp32"]["ms_per_image"]
    headers = ("rung", *contenders, "ours over inference alone", "serial over ours", "rounds")
    stages = [
        (stage, *(m["stages_ms_per_image"][stage] for m in timed.values()))
        for stage in timed["fp32"]["stages_ms_per_image"]
    ]
    peaks = [(f"{count} images", megabytes(peak)) for count, peak in kept["peak_bytes"].items()]
    held = [(m["what"], f"{m['bound']} {m['limit']:g}", f"{m['found']:.2f}", _met(m)) for m in kept["limits"]]
    title = (
        f"{kept['model']}, {kept['threads']} threads, ms an image of 1024x2048, {kept['images']} images a round. "
        f"{_where(kept['environment'])} Other work took {100 * kept['other_work']:.0f} % of the processor before."
    )
    parts = [
        title,
        _fenced(table(headers, rows)),
        "Stages of ours, which overlap, ms an image:",
        _fenced(table(("stage", *timed), stages)),
        "Peak memory of a whole evaluation, the reference's network included:",
        _fenced(table(("evaluation", "peak"), peaks)),
        _fenced(table(("what", "limit", "found", "met"), held)),
    ]
    return "\n\n".join(parts)


def _latencies(kept: dict[str, Any], weights: str, header: str, ratio: str) -> str:
    """A measurement in turns: where, every rung with one ratio and its interval, and its warnings."""
    rows = [
        (
            m["rung"],
            m["threads"],
            len(m["samples_ms"]),
            m["median_ms"],
            m["p90_ms"],
            m["p99_ms"],
            f"{100 * m['coefficient_of_variation']:.1f} %",
            f"{m[ratio]:.2f}x",
            _interval(m[f"{ratio}_interval"]),
            megabytes(m["peak_host_bytes"]),
        )
        for m in kept["rungs"]
    ]
    headers = ("rung", "threads", "runs", "median", "p90", "p99", "CoV", header, "95 %", "peak memory")
    height, width = kept["shape"][2:]
    title = (
        f"{kept['model']}, {weights}, batch 1 of {height}x{width}, mode compute, ms. {_where(kept['environment'])} "
        f"Best of PyTorch: {kept['best_pytorch']}."
    )
    return f"{title}\n\n{_fenced(table(headers, rows))}{_warned(kept)}"


def _interval(kept: Mapping[str, float] | list[float] | None) -> str | None:
    """An interval as text; measurements before schema 3 have it as a list."""
    if kept is None:
        return None
    low, high = (kept["low"], kept["high"]) if isinstance(kept, Mapping) else kept
    return f"{low:.2f}-{high:.2f}"


def _where(environment: dict[str, Any]) -> str:
    virtual = ", a virtual machine" if environment["virtual"] else ""
    flags = " ".join(environment["flags"])
    return f"{environment['processor']}{virtual}, {environment['cores']} cores, {flags}. {_tools(environment)}."


def _tools(kept: dict[str, Any]) -> str:
    return ", ".join(f"{name} {version}" for name, version in kept["tools"].items())


def _warned(kept: dict[str, Any]) -> str:
    told = [f"- {w['rung'] or 'everything'}: {w['text']}" for w in kept["warnings"]]
    return "\n\nWarnings of this run:\n\n" + "\n".join(told) if told else ""


def _measured(name: str) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((MEASUREMENTS / name).read_text("utf-8"))
    return values


PARTS: dict[str, Callable[[], str]] = {
    "help-all": help_all,
    "rooms": rooms,
    "zoo": zoo,
    "result": result,
    "recorded-on": recorded_on,
    **{f"recorded-{name}": partial(recorded, number) for number, name in enumerate(RECORDED)},
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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a page is not current")
    asked = parser.parse_args()
    stale = [page for page in PAGES if filled(page) != (ROOT / page).read_text("utf-8")]
    if asked.check:
        print(f"not current: {', '.join(stale)}. Run: make docs" if stale else "current")
        sys.exit(bool(stale))
    for page in stale:
        (ROOT / page).write_text(filled(page), "utf-8")
        print(f"written: {page}")


if __name__ == "__main__":
    main()

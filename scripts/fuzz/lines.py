"""Command lines with odd values, in a folder with a graph and results."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from pathlib import Path
from random import Random
from typing import Any

from support.benchmarks import benchmark, rung
from support.calibrated import block
from support.fakes import SMALL
from support.graphs import put_graph

from ffnet_deploy import cli
from ffnet_deploy.artifacts.workspace import Workspace
from ffnet_deploy.artifacts.writing import write_json
from fuzz.damage import Change
from fuzz.judge import BadOutputError, wrong_line
from fuzz.reader import Reader

_VALUES = (
    "", " ", "-1", "0", "1", "2", "1e308", "nan", "inf", "-inf", "9" * 40, "9" * 5000, "0x10", "1.5", "\u0663",
    "\u00b2", "\x1b[31mred", "a\nb", "\udcff", "x" * 300, "x" * 5000, "../../..", ".", "..", "/", "models", "a.json",
    "/dev/null", SMALL, "classification_ffnet46NS_CBX_mobile", "1/2", "0/0", "2/1", "1/", "/", "-", "--", "1,4,8",
    "8,4,1", "1,1", "None", "\u202e", "é", "~", "$HOME", "a,b", "sm86", "sm", "onnxruntime", "onnxruntime fp32", "fp16",
    "auto", "true", "*", "[", "(", "\\", "file:///etc", "ftp://x", "a.json/b", "pytorch fp32", "entropy", "blur",
)  # fmt: skip
_NUMBERS = ("-1", "0", "1", "2", "7", "257", "1e308", "nan", "inf", "9" * 40, "99999999999", "1.5", "\u0663")
_NOWHERE = ("--workspace", "empty")
# Each with arguments that are always there and options of which some are.
_LINES: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (("models", "V"), ()),
    (("inspect", "V"), ("--json", "--workspace")),
    (("compare", "V", "V"), ("--max-slowdown", "--json")),
    (("compare", "a.json", "a.json"), ("--max-slowdown",)),
    (("eval", "merge", "V"), ("--max-drop", "--json")),
    (("eval", "cityscapes", "N", "--root", "V"), ("--limit", "--shard", "--threads", "--images-at-once", "--only",
     "--max-drop", "--device", "--json", "--downsample", "--align-corners", "--save-predictions")),
    (("eval", "imagenet", "--root", "V"), ("--limit", "--shard", "--threads", "--real-labels", "--max-drop", "--json")),
    (("eval", "cityscapes", *_NOWHERE), ("--root", "--limit", "--shard")),
    (("export", "N", "--offline", *_NOWHERE), ("--weights", "--height", "--width", "--batch", "--opset", "--output")),
    (("build", "N", *_NOWHERE), ("--batch", "--gpu", "--level", "--workspace-mb", "--keep-fp32", "--method",
     "--runtime", "--io")),
    (("calibrate", SMALL, "--data", "V"), ("--images", "--percentile", "--method", "--json")),
    (("bench", "N", *_NOWHERE), ("--iters", "--min-seconds", "--concurrency", "--threads", "--mode", "--json",
     "--device")),
    (("verify", "N", *_NOWHERE), ("--json", "--images")),
    (("weights", "fetch", "N", "--from", "V", *_NOWHERE), ()),
    (("V", "V"), ()),
)  # fmt: skip


def _make(folder: Path) -> None:
    put_graph(Workspace(folder), block())
    (folder / "empty").mkdir()
    write_json(folder / "a.json", benchmark(rung("pytorch fp32", 2.0), rung("onnxruntime fp32", 1.0)))
    (folder / "line").write_text(json.dumps(["models"]))


def _word(rng: Random, word: str) -> str:
    """What stands for V, an odd value, and for N, a model's name, seldom an odd one: it would hide what follows."""
    if word == "N" and rng.random() < 0.8:
        return SMALL
    return rng.choice(_VALUES) if word in ("V", "N") else word


def _choose(rng: Random, folder: Path) -> Change:
    always, options = rng.choice(_LINES)
    words = [_word(rng, word) for word in always]
    for option in options:
        if rng.random() < 1.6 / len(options):
            words += [option, rng.choice(rng.choice((_VALUES, _NUMBERS)))]
    (folder / "line").write_text(json.dumps(words))
    return Change(ascii(words)[:300], "other")


def _run(folder: Path) -> Any:  # noqa: ANN401
    """Exit code of the command line in ``line``; what it prints is checked."""
    words = json.loads((folder / "line").read_text())
    out, err = io.StringIO(), io.StringIO()
    before, argv = Path.cwd(), sys.argv
    os.chdir(folder)
    sys.argv = ["ffnet-deploy", *words]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            cli.main()
        code: Any = 0
    except SystemExit as end:
        code = end.code or 0
    finally:
        os.chdir(before)
        sys.argv = argv
    _check(code, out.getvalue(), err.getvalue())
    return code


def _check(code: object, out: str, err: str) -> None:
    if code not in (0, 1, 2, 3, 4):
        raise BadOutputError(f"exit code {code!r}")
    for line in (*out.split("\n"), *err.split("\n")):
        strange = [c for c in line if not c.isprintable()]
        if strange:
            raise BadOutputError(f"printed {strange[0]!r}")
    errors = [line for line in err.split("\n") if line.startswith("error: ")]
    # Usage errors of the parser have a form of their own, which ends in "Error: ".
    if code and len(errors) != 1 and "Error: " not in err:
        raise BadOutputError(f"exit code {code} with {len(errors)} error lines")
    for line in errors:
        if wrong := wrong_line(line.removeprefix("error: ")):
            raise BadOutputError(wrong)


READERS = (
    Reader(
        "command-line", _make, _run, change=_choose,
        writes=("*.json", "-", "*/*", "[[]", "(", "**", "[*]", "[!me]*", "true", "x*", "*.onnx"), share=2.0,
    ),
)  # fmt: skip

"""What the tests of ``eval`` share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ffnet_deploy.artifacts.reading import parse
from ffnet_deploy.evaluate.reread import unscored
from ffnet_deploy.evaluate.result import EvaluationFile
from support.cli_runner import Cli

ONE = ("--only", "onnxruntime fp32", "--threads", "1")
HOW = ("run", "created", "checksum")
"""What a result says of how it was come by: all else must be equal between equal evaluations."""


def scored(run: Cli, workspace: Path, streets: Path, *args: str | Path) -> dict[str, Any]:
    result = run("eval", "cityscapes", "--root", streets, "--json", "-", "--workspace", workspace, *args)
    assert result.code == 0, result.err
    values: dict[str, Any] = json.loads(result.out)
    return values


def found(values: dict[str, Any]) -> dict[str, Any]:
    """A result without how it was come by."""
    return {key: value for key, value in values.items() if key not in HOW}


def rescored(values: dict[str, Any]) -> str:
    """The JSON of a result whose counts or answers were changed: all that follows from them computed anew."""
    file = parse(EvaluationFile, json.dumps(values))
    return json.dumps(unscored(file).scored(run=file.run).to_json())


def journals(workspace: Path) -> list[Path]:
    return list(workspace.glob("engines/unfinished/*.jsonl"))

"""docs/eval-json.md against what ``eval`` writes, field by field."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from support.pages import check_types, fields_of
from support.results import ANSWERS, RESULTS, RUN

from ffnet_deploy.errors import EngineError, facts_of_error
from ffnet_deploy.evaluate.outcome import Results
from ffnet_deploy.evaluate.result import EVAL_SCHEMA
from ffnet_deploy.ladder import SkippedRung

PAGE = (Path(__file__).parents[2] / "docs" / "eval-json.md").read_text("utf-8")
ROWS = re.findall(r"^\| `([^`]+)` \|([^|]*)\|([^|]*)\|([^|]*)\|$", PAGE, flags=re.MULTILINE)
MAPS = ("tools", "run.stages_s", "rungs[].iou", "rungs[].iou_categories", "images[].confusion[]")
"""Objects whose keys are data."""
BOTH = pytest.mark.parametrize(
    ("results", "command"), [(RESULTS, "cityscapes"), (ANSWERS, "imagenet")], ids=["cityscapes", "imagenet"]
)


def written(results: Results) -> dict[str, Any]:
    skipped = (SkippedRung("tensorrt fp32", "needs an NVIDIA GPU"),)
    values: dict[str, Any] = json.loads(json.dumps(replace(results, skipped=skipped).scored(run=RUN).to_json()))
    return values


def documented(command: str) -> set[str]:
    return {name for name, _, of, _ in ROWS if of.strip() in ("all", command)}


@BOTH
def test_the_page_has_exactly_the_fields_that_are_written(results: Results, command: str) -> None:
    found = fields_of(written(results), MAPS)
    # The environment is described in bench-json.md.
    assert {name for name in found if not name.startswith("run.environment.")} == documented(command)


def test_the_page_has_exactly_the_fields_of_an_error() -> None:
    error = facts_of_error(EngineError("An engine."))
    assert error
    assert {f"error.{name}" for name in asdict(error)} == {name for name, _, of, _ in ROWS if of.strip() == "error"}


@BOTH
def test_every_field_has_the_type_that_the_page_names(results: Results, command: str) -> None:
    check_types(written(results), MAPS, {name: kind for name, kind, _, _ in ROWS})
    assert len(documented(command)) > 50


def test_every_row_of_the_page_is_whole() -> None:
    assert len(ROWS) == len(re.findall(r"^\| `", PAGE, flags=re.MULTILINE)) > 80
    for row in ROWS:
        assert all(cell.strip() for cell in row), row
        assert row[2].strip() in ("all", "cityscapes", "imagenet", "error"), row
        assert re.match(r"(string|number|integer|boolean|array|object)", row[1].strip()), row


def test_the_page_names_the_schema_that_is_written() -> None:
    assert f"`schema` is **{EVAL_SCHEMA}**" in PAGE
    assert written(RESULTS)["schema"] == EVAL_SCHEMA


def test_a_merge_has_no_run_and_names_its_files() -> None:
    file = RESULTS.scored(merged=("1.json", "2.json")).to_json()
    assert (file["run"], list(file["merged"])) == (None, ["1.json", "2.json"])

"""docs/bench-json.md against what the commands write, field by field, in every mode."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from fakes import SMALL

from ffnet_deploy import pipeline
from ffnet_deploy.artifacts import Workspace
from ffnet_deploy.bench import doubts
from ffnet_deploy.errors import EngineError, UsageError
from ffnet_deploy.machine.load import Watch
from ffnet_deploy.machine.nvml import Gpu
from ffnet_deploy.pipeline import BenchOptions, BuildOptions, ExportOptions

PAGE = (Path(__file__).parents[1] / "docs" / "bench-json.md").read_text("utf-8")
TIMED = ("compute", "end-to-end", "throughput")
MAPS = ("environment.tools", "peaks.macs_per_s")
"""Objects whose keys are data."""


def fields_of(value: Any, path: str = "") -> Iterator[str]:
    if path and not path.endswith("[]"):
        yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            name = "*" if path in MAPS else key
            yield from fields_of(inner, f"{path}.{name}" if path else name)
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        yield f"{path}[]"
        for item in value:
            yield from fields_of(item, f"{path}[]")


def emitted(value: dict[str, Any]) -> set[str]:
    """Fields as the page writes them: lists of objects as ``x[]`` alone, all phases' inner fields as one."""
    found = set(fields_of(value))
    found -= {path.removesuffix("[]") for path in found if path.endswith("[]")}
    found -= set(MAPS)
    return {re.sub(r"^(rungs\[\]\.phases)\.\w+\.", r"\1.*.", path) for path in found}


def documented(mode: str) -> set[str]:
    """Fields that the page has for a mode."""
    part = PAGE.partition("## compare")[2 if mode == "compare" else 0]
    found = set()
    for name, rest in re.findall(r"^\| `([^`]+)` \|[^|]*\|([^|]*)\|", part, flags=re.MULTILINE):
        modes = {word for item in rest.split(",") for word in (TIMED if item.strip() == "timed" else [item.strip()])}
        if mode == "compare" or "all" in modes or mode in modes:
            found.add(name)
    return found


GPU = {name for name in documented("compute") if name.startswith("load.gpu.")}


class Deaf:
    """A library whose every call fails: what is told then is null, under the same names."""

    def __getattr__(self, _: str) -> Callable[..., int]:
        return lambda *_: 1


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    space = Workspace(tmp_path_factory.mktemp("json"))
    pipeline.export(space, SMALL, ExportOptions(hw=(64, 128), allow_size=True, weights=pipeline.RANDOM))
    pipeline.build(space, SMALL, BuildOptions(("fp32",), "onnxruntime"))
    pipeline.build(space, SMALL, BuildOptions(("fp32",), "tensorrt-rtx"))
    return space


class Results:
    """What each mode gave, once."""

    kept: ClassVar[dict[str, dict[str, Any]]] = {}

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace

    def of(self, mode: str) -> dict[str, Any]:
        if mode not in self.kept:
            value: Any
            if mode == "profile":
                value = pipeline.profile(self._workspace, None, BenchOptions(iters=2, threads=1))
            else:
                lanes = 2 if mode == "throughput" else None
                options = BenchOptions(mode, 2 if mode == "cold" else 10, 0.0, lanes, threads=1)
                value = pipeline.bench(self._workspace, None, options)
            # As a reader gets it: what is no plain JSON would be refused here.
            self.kept[mode] = json.loads(json.dumps(value.to_json(), allow_nan=False))
        return self.kept[mode]


@pytest.fixture(scope="module")
def results(workspace: Workspace) -> Iterator[Results]:
    with pytest.MonkeyPatch.context() as forged:
        # A warning each, whatever else this machine does.
        forged.setattr(doubts, "_BUSY", -1.0)
        yield Results(workspace)


@pytest.mark.parametrize("mode", [*TIMED, "cold", "profile"])
def test_the_page_has_exactly_the_fields_that_are_written(results: Results, mode: str) -> None:
    assert emitted(results.of(mode)) == documented(mode) - GPU


def test_the_page_has_exactly_the_fields_of_a_gpu() -> None:
    watch = Watch()
    watch._gpu = Gpu(Deaf(), None)  # type: ignore[arg-type]
    watch._gpu_samples.append(watch._gpu.sample())
    assert {f"load.gpu.{name}" for name in watch.to_json()["gpu"]} == GPU


def test_the_page_has_exactly_the_fields_of_an_error() -> None:
    value = pipeline.error_json(EngineError("An engine."))
    assert {f"error.{name}" for name in value or {}} == documented("error") - documented("none")


def test_the_page_has_exactly_the_fields_of_a_comparison(results: Results, tmp_path: Path) -> None:
    first = results.of("compute")
    second = {**first, "threads": first["threads"] + 1}
    files = [tmp_path / "a.json", tmp_path / "b.json"]
    for file, value in zip(files, (first, second), strict=True):
        file.write_text(json.dumps(value))
    assert emitted(pipeline.compare(files[0], files[1]).to_json()) == documented("compare")


def test_every_field_has_a_type_and_a_meaning() -> None:
    rows = re.findall(r"^\| `.*$", PAGE, flags=re.MULTILINE)
    assert len(rows) > 100
    for row in rows:
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert all(cells), row
        assert re.match(r"(string|number|integer|boolean|array|object)", cells[1]), row


def test_the_page_names_the_schema_that_is_written(results: Results) -> None:
    assert f"`schema` is **{pipeline.BENCH_SCHEMA}**" in PAGE
    assert results.of("compute")["schema"] == pipeline.BENCH_SCHEMA


@pytest.mark.parametrize("mode", TIMED)
def test_what_a_mode_writes_fits_together(results: Results, mode: str) -> None:
    values = results.of(mode)
    assert values["mode"] == mode
    first, last, engine = values["rungs"]
    assert [rung["rung"] for rung in values["rungs"]] == [
        "pytorch fp32",
        "pytorch fp32 channels-last",
        "onnxruntime fp32",
    ]
    assert [item["rung"] for item in values["skipped"]] == ["tensorrt-rtx fp32"]
    assert (first["speed_up"], first["speed_up_interval"]) == (1.0, None)
    for rung in values["rungs"]:
        assert sum(turn["runs"] for turn in rung["turns"]) == len(rung["samples_ms"]) >= 5
        assert rung["min_ms"] <= rung["median_ms"] <= rung["p95_ms"] <= rung["max_ms"]
        assert rung["images_per_s"] == pytest.approx(
            len(rung["samples_ms"]) / sum(turn["seconds"] for turn in rung["turns"])
        )
    for rung in (last, engine):
        low, high = rung["speed_up_interval"]
        assert 0 < low <= high
    best = min((first, last), key=lambda rung: 1 / rung["images_per_s"] if mode == "throughput" else rung["median_ms"])
    assert values["fastest_pytorch"] == best["rung"]
    assert best["speed_up_fastest_pytorch"] == 1.0
    assert engine["sha256"] != first["sha256"] == "random-0"


def test_a_mode_that_is_not_known_is_refused(workspace: Workspace) -> None:
    with pytest.raises(UsageError, match="end-to-end"):
        pipeline.bench(workspace, None, BenchOptions("endtoend"))

"""docs/bench-json.md against what ``bench`` and ``compare`` write, field by field, and what they print."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from support.benchmarks import rederived
from support.cli_runner import Cli, Result, link_workspace
from support.fakes import WorkerHere
from support.pages import check_types, fields_of
from support.seals import resealed

from ffnet_deploy.artifacts.workspace import Workspace
from ffnet_deploy.bench import doubts, profiler, turns
from ffnet_deploy.bench.compare import compare
from ffnet_deploy.bench.options import BenchOptions
from ffnet_deploy.bench.result import BENCH_SCHEMA
from ffnet_deploy.errors import EngineError, UsageError, facts_of_error
from ffnet_deploy.machine.load import Watch
from ffnet_deploy.machine.nvml import Gpu
from ffnet_deploy.pipeline.bench import bench
from ffnet_deploy.runtimes import worker

PAGE = (Path(__file__).parents[2] / "docs" / "bench-json.md").read_text("utf-8")
TIMED = ("compute", "end-to-end", "throughput")
MAPS = ("environment.tools", "peaks.macs_per_s")
"""Objects whose keys are data."""


def emitted(value: dict[str, Any]) -> set[str]:
    """Fields as the page writes them: all phases' inner fields as one."""
    found = fields_of(value, MAPS) - set(MAPS)
    return {re.sub(r"^(rungs\[\]\.phases)\.\w+\.", r"\1.*.", path) for path in found}


def _part(mode: str) -> str:
    return PAGE.partition("## compare")[2 if mode == "compare" else 0]


def documented(mode: str) -> set[str]:
    """Fields that the page has for a mode."""
    found = set()
    for name, rest in re.findall(r"^\| `([^`]+)` \|[^|]*\|([^|]*)\|", _part(mode), flags=re.MULTILINE):
        modes = {word for item in rest.split(",") for word in (TIMED if item.strip() == "timed" else [item.strip()])}
        if mode == "compare" or "all" in modes or mode in modes:
            found.add(name)
    return found


GPU = {name for name in documented("compute") if name.startswith("load.gpu.")}


LACKING = SimpleNamespace()
"""A library without any function: what is told then is null, under the same names."""


class Results:
    """What each mode wrote and printed, from one run of the command."""

    kept: ClassVar[dict[str, tuple[Result, dict[str, Any]]]] = {}

    def __init__(self, run: Cli, built: Path, folder: Path) -> None:
        self._run, self._built, self._folder = run, built, folder

    def of(self, mode: str) -> dict[str, Any]:
        """The JSON."""
        return self._of(mode)[1]

    def printed(self, mode: str) -> str:
        """The table."""
        return self._of(mode)[0].out

    def _of(self, mode: str) -> tuple[Result, dict[str, Any]]:
        if mode not in self.kept:
            file = self._folder / f"{mode}.json"
            asked: dict[str, tuple[str, ...]] = {
                "profile": ("--profile", "--iters", "2"),
                "cold": ("--mode", mode, "--iters", "1"),
                # Two lanes take a run each, at least, in a turn.
                "throughput": ("--mode", mode, "--iters", "10", "--concurrency", "2"),
            }
            args = asked.get(mode, ("--mode", mode, "--iters", "5"))
            space = self._with_ends() if mode == "end-to-end" else self._built
            quick = ("--min-seconds", "0", "--threads", "1")
            result = self._run("bench", *args, *quick, "--json", file, "--workspace", space)
            assert result.code == 0, result.err
            self.kept[mode] = result, json.loads(file.read_text())
        return self.kept[mode]

    def _with_ends(self) -> Path:
        """A workspace that has an engine with both ends too."""
        space = link_workspace(self._built, self._folder / "ends")
        made = self._run("build", "--runtime", "onnxruntime", "--image-in", "--labels-out", "--workspace", space)
        assert made.code == 0, made.err
        return space


@pytest.fixture
def results(run: Cli, built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Results:
    # A warning each, whatever else this machine does.
    monkeypatch.setattr(doubts, "_BUSY", -1.0)
    # Other tests time rungs in processes of their own, and measure peaks for as long as it takes.
    for module in (turns, worker):
        monkeypatch.setattr(module, "Worker", WorkerHere)
    monkeypatch.setattr(turns, "BenchPlan", partial(turns.BenchPlan, block_runs=1))
    for name, value in (("_PEAK_S", 0.0), ("_SIDE", 256), ("_COPIED", 1 << 20)):
        monkeypatch.setattr(profiler, name, value)
    return Results(run, built, tmp_path)


@pytest.mark.parametrize("mode", [*TIMED, "cold", "profile"])
def test_the_page_has_exactly_the_fields_that_are_written(results: Results, mode: str) -> None:
    assert emitted(results.of(mode)) == documented(mode) - GPU


def test_the_page_has_exactly_the_fields_of_a_gpu() -> None:
    watch = Watch()
    watch._gpu = Gpu(LACKING, None)
    watch._gpu_samples.append(watch._gpu.sample())
    gpu = watch.found(0.0).gpu
    assert gpu
    assert {f"load.gpu.{name}" for name in asdict(gpu)} == GPU


def test_the_page_has_exactly_the_fields_of_an_error() -> None:
    facts = facts_of_error(EngineError("An engine."))
    assert facts
    assert {f"error.{name}" for name in asdict(facts)} == documented("error") - documented("none")


def _compared(results: Results, folder: Path) -> dict[str, Any]:
    """What ``compare`` writes of two that differ in their threads."""
    first = results.of("compute")
    second = {**first, "threads": first["threads"] + 1}
    files = [folder / "a.json", folder / "b.json"]
    for file, value in zip(files, (first, second), strict=True):
        file.write_text(resealed(value))
    values: dict[str, Any] = json.loads(json.dumps(compare(files[0], files[1]).to_json()))
    return values


def test_the_page_has_exactly_the_fields_of_a_comparison(results: Results, tmp_path: Path) -> None:
    assert emitted(_compared(results, tmp_path)) == documented("compare")


def test_every_field_has_a_type_and_a_meaning() -> None:
    rows = re.findall(r"^\| `.*$", PAGE, flags=re.MULTILINE)
    assert len(rows) > 100
    for row in rows:
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert all(cells), row
        assert re.match(r"(string|number|integer|boolean|array|object)", cells[1]), row


@pytest.mark.parametrize("mode", [*TIMED, "cold", "profile", "compare"])
def test_every_field_has_the_type_that_the_page_names(results: Results, tmp_path: Path, mode: str) -> None:
    types = dict(re.findall(r"^\| `([^`]+)` \|([^|]*)\|", _part(mode), flags=re.MULTILINE))
    value = _compared(results, tmp_path) if mode == "compare" else results.of(mode)
    check_types(value, (*MAPS, "rungs[].phases"), types)
    assert len(types) > 20


def test_the_page_names_the_schema_that_is_written(results: Results) -> None:
    assert f"`schema` is **{BENCH_SCHEMA}**" in PAGE
    assert results.of("compute")["schema"] == BENCH_SCHEMA


@pytest.mark.parametrize("mode", TIMED)
def test_what_a_mode_writes_fits_together(results: Results, mode: str) -> None:
    values = results.of(mode)
    assert values["mode"] == mode
    by_name = {rung["rung"]: rung for rung in values["rungs"]}
    names = ["pytorch fp32", "pytorch fp32 channels-last", "onnxruntime fp32"]
    ends = ["onnxruntime fp32 image labels"] if mode == "end-to-end" else []
    assert list(by_name)[:2] == names[:2]
    assert sorted(by_name) == sorted([*names, *ends])
    first, last, engine = (by_name[name] for name in names)
    assert sorted(item["rung"] for item in values["skipped"]) == ["tensorrt-rtx fp16", "tensorrt-rtx fp32"]
    assert (first["speed_up"], first["speed_up_interval"]) == (1.0, None)
    for rung in values["rungs"]:
        assert sum(turn["runs"] for turn in rung["turns"]) == len(rung["samples_ms"]) >= 5
        assert rung["min_ms"] <= rung["median_ms"] <= rung["p95_ms"] <= rung["max_ms"]
        assert rung["images_per_s"] == pytest.approx(
            len(rung["samples_ms"]) / sum(turn["seconds"] for turn in rung["turns"])
        )
    for rung in values["rungs"][1:]:
        assert 0 < rung["speed_up_interval"]["low"] <= rung["speed_up_interval"]["high"]
    best = min((first, last), key=lambda rung: 1 / rung["images_per_s"] if mode == "throughput" else rung["median_ms"])
    assert values["fastest_pytorch"] == best["rung"]
    assert best["speed_up_fastest_pytorch"] == 1.0
    assert engine["sha256"] != first["sha256"] == "random-0"


def test_a_mode_that_is_not_known_is_refused(built: Path) -> None:
    with pytest.raises(UsageError, match="end-to-end"):
        bench(Workspace(built), None, BenchOptions("endtoend"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("mode", "says"),
    [
        ("end-to-end", "host image to host labels"),
        ("throughput", "images/s"),
        ("cold", "from a new process"),
    ],
)
def test_every_table_names_its_mode(results: Results, mode: str, says: str) -> None:
    text = results.printed(mode)
    assert f"mode {mode}, " in text
    assert says in text
    assert f"over PyTorch: over its fastest, {results.of(mode)['fastest_pytorch']}" in text
    assert "not run: tensorrt-rtx fp16" in text
    assert results.of(mode)["mode"] == mode


def test_a_profile_names_pytorchs_modules(results: Results) -> None:
    text = results.printed("profile")
    assert "mode profile, " in text
    assert "backbone_model.layer1.0.conv1" in text
    assert "peaks measured in this run" in text


def test_two_benchmarks_are_compared(results: Results, run: Cli, tmp_path: Path) -> None:
    file, slower = tmp_path / "a.json", tmp_path / "b.json"
    values = json.loads(json.dumps(results.of("compute")))
    file.write_text(json.dumps(values))
    for rung in values["rungs"]:
        rung["samples_ms"] = [1.5 * sample for sample in rung["samples_ms"]]
        for turn in rung["turns"]:
            turn["seconds"] *= 1.5
    slower.write_text(rederived(values))
    same = run("compare", file, file, "--max-slowdown", "1.0")
    assert same.code == 0
    assert "nothing else differs" in same.out
    gated = run("compare", file, slower, "--max-slowdown", "1.4", "--json", "-")
    assert gated.code == 1
    assert "at most 1.4 was allowed" in gated.err
    told = json.loads(gated.out)
    assert [round(rung["slowdown"], 6) for rung in told["rungs"]] == [1.5, 1.5, 1.5]
    assert told["error"]["exit_code"] == 1
    slower.write_text(json.dumps(values | {"mode": "cold"}))
    assert run("compare", file, slower).code in (2, 3)
    refused = run("compare", file, tmp_path / "none.json", "--json", "-")
    assert refused.code == 3
    assert json.loads(refused.out)["command"] == "compare"

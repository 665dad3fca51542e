"""Files that are no benchmark, or a damaged one: one line and exit code 3, never a traceback or a wrong number."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.benchmarks import benchmark, rung, starts
from support.cli_runner import Cli
from support.places import GONE, damaged
from support.seals import reseal, resealed

from ffnet_deploy.artifacts.sealing import unsealed
from ffnet_deploy.bench.compare import compare
from ffnet_deploy.bench.result import BENCH_SCHEMA, BenchmarkFile, Resources, read_benchmark
from ffnet_deploy.errors import ArtifactError

TIMED = benchmark()
LANES = benchmark(mode="throughput", concurrency=2)
COLD = benchmark(starts("pytorch fp32", 20.0), starts("onnxruntime fp32", 10.0), mode="cold")
WITHOUT = {"created": "", "error": {"type": "DataError", "message": "No GPU.", "exit_code": 4}}


def refused(file: Path, says: str, *, whole: Path | None = None) -> None:
    """One line that names the file, whichever of the two it is."""
    for files in ((file, whole or file), (whole or file, file)):
        with pytest.raises(ArtifactError) as caught:
            compare(*files)
        message = str(caught.value)
        assert says in message
        assert str(file) in message
        assert "\n" not in message
        assert caught.value.exit_code == 3


def changed(rungs: Any) -> str:
    return resealed({**TIMED, "rungs": rungs})


ONE = rung("pytorch fp32", 1.0)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "no JSON"),
        ("{", "no JSON"),
        (b"\xff\xfe", "no JSON"),
        ("[" * 100_000, "no JSON (it is nested too deeply)"),
        ("[]", "no JSON (it holds a list and no object)"),
        ('{"a": 1}', "no result of ffnet-deploy"),
        ('{"command": "eval cityscapes", "rungs": []}', "a result of 'eval cityscapes'"),
        (json.dumps({**TIMED, "schema": 1}), f"schema 1 ({BENCH_SCHEMA} was needed)"),
        (json.dumps({"schema": BENCH_SCHEMA, "command": "bench", **WITHOUT}), "no figures (No GPU.)"),
        (json.dumps({**TIMED, "mode": "profile"}), "is damaged, or holds no latencies (mode: "),
        (resealed({**TIMED, "mode": "cold"}), "no figures of mode cold"),
        (resealed({**COLD, "mode": "compute"}), "no figures of mode compute"),
        (changed([]), "no figures of mode compute"),
        (changed([{"rung": "x"}]), "is damaged"),
        (changed(["x"]), "is damaged"),
        (changed(7), "is damaged"),
        (changed([ONE, ONE]), "a rung is there twice"),
        (changed([ONE | {"rung": "a\nb"}] * 2), "a rung is there twice"),
        (changed([ONE | {"samples_ms": [1.0]}]), "turns do not fit"),
        (changed([ONE | {"rung": "pytorch fp32 a\nb"}]), "the first rung is pytorch fp32 a b"),
        (changed([ONE | {"samples_ms": [], "turns": []}]), "turns do not fit"),
        (changed([ONE | {"turns": [{"runs": 17, "seconds": 1.0}, {"runs": -1, "seconds": 1.0}]}]), "is damaged"),
        (changed([{**ONE, "samples_ms": [{"a": "[" * 300}] * 16}]), "is damaged"),
        (changed([{**ONE, "later\nkey": 5, "samples_ms": {"a\nb": 1}}]), "is damaged"),
    ],
    ids=lambda value: None if isinstance(value, str) and len(value) < 60 else "",
)
def test_a_file_that_is_no_benchmark_is_one_clear_line(tmp_path: Path, content: str | bytes, says: str) -> None:
    strange, whole = tmp_path / "strange.json", tmp_path / "whole.json"
    strange.write_bytes(content if isinstance(content, bytes) else content.encode())
    whole.write_text(json.dumps(TIMED))
    refused(strange, says, whole=whole)


@pytest.mark.parametrize(
    "change",
    [
        lambda phases: phases.pop("to_first"),
        lambda phases: phases.pop("import"),
        lambda phases: phases.update(third=phases["second"]),
        lambda phases: phases["load"].update(samples_ms=[1.0]),
        lambda phases: [phase.update(samples_ms=[]) for phase in phases.values()],
        lambda phases: phases["to_first"].update(samples_ms=[0.0] * 5),
        lambda phases: phases["to_first"].update(samples_ms=[-1.0] * 5),
    ],
)
def test_phases_that_do_not_fit_the_starts_are_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    values = copy.deepcopy(COLD)
    change(values["rungs"][1]["phases"])
    (tmp_path / "cold.json").write_text(resealed(values))
    refused(tmp_path / "cold.json", "is damaged")


HARMLESS = {
    # The system may not tell how much memory there is, and the shares of other work are as they were counted.
    *((f"environment.{name}", "None") for name in ("cores_online", "memory_bytes")),
    *((f"load.{name}", "-1") for name in ("other_work_before", "other_work", "most_other_work")),
    # Mode cold has none.
    ("min_seconds", "None"),
    ("kind", GONE),
    ("resources", "{'a': {}}"),
    ("tools.torch", GONE),
    ("tools.numpy", GONE),
    ("tools.onnx", GONE),
    *((f"resources.{name}", GONE) for name in Resources.__dataclass_fields__),
}
"""All that is accepted, by the end of the path."""


@pytest.mark.parametrize("whole", [TIMED, COLD], ids=["timed", "cold"])
def test_no_field_can_be_damaged_unseen(tmp_path: Path, whole: dict[str, Any]) -> None:
    file = tmp_path / "damaged.json"

    def error_of(text: str) -> str | None:
        reseal(file, text)
        try:
            read_benchmark(file)
        except ArtifactError as error:
            return str(error)
        return None

    tried = list(damaged(json.dumps(unsealed(json.dumps(whole))), error_of))
    assert len(tried) > 300
    assert not [one for one in tried if "\n" in (one.error or "")]
    taken = [one for one in tried if one.error is None]
    assert [
        one for one in taken if not any(one.place.endswith(at) and one.value == value for at, value in HARMLESS)
    ] == []


@pytest.mark.parametrize("value", [1e-300, 1e300, 1e13, 0.0, -1.0])
def test_figures_that_no_clock_gives_are_refused(tmp_path: Path, value: float) -> None:
    file = tmp_path / "damaged.json"
    for name in ("samples_ms", "turns"):
        values = copy.deepcopy(TIMED)
        one = values["rungs"][1]
        one[name] = [value] * 16 if name == "samples_ms" else [{"runs": 2, "seconds": value}] * 8
        file.write_text(resealed(values))
        refused(file, "is damaged")


def test_more_keys_do_no_harm(tmp_path: Path) -> None:
    values: dict[str, Any] = json.loads(json.dumps(TIMED))
    for place in (values, values["rungs"][0], values["load"], values["environment"], values["rungs"][1]["warm_up"]):
        place["later"] = 1
    file = tmp_path / "a.json"
    file.write_text(resealed(values))
    found = read_benchmark(file)
    assert isinstance(found, BenchmarkFile)
    file.write_text(json.dumps(TIMED))
    assert read_benchmark(file) == found


Change = Callable[[dict[str, Any]], object]


def engine(**fields: Any) -> Change:
    return lambda values: values["rungs"][1].update(fields)


def phase(name: str, **fields: Any) -> Change:
    return lambda values: values["rungs"][1]["phases"][name].update(fields)


SUMMED = ("min_ms", "median_ms", "p90_ms", "p95_ms", "p99_ms", "max_ms", "mean_ms", "coefficient_of_variation",
          "images_per_s", "speed_up", "speed_up_fastest_pytorch")  # fmt: skip
FORGED: dict[str, tuple[dict[str, Any], Change]] = {
    **{f"{name} {value}": (TIMED, engine(**{name: value})) for name in SUMMED for value in (1e-3, 17.0, True)},
    **{
        f"{name} {field}": (COLD, phase(name, **{field: 1e-3}))
        for name in COLD["rungs"][1]["phases"]
        for field in ("median_ms", "min_ms", "max_ms")
    },
    "a start": (COLD, phase("first", samples_ms=[1e-3] * 5)),
    "fewer starts": (COLD, lambda v: v.update(iters=4)),
    "cold speed-up": (COLD, engine(speed_up=3.0)),
    "cold interval": (COLD, engine(speed_up_interval={"low": 1.0, "high": 2.0})),
    "interval": (TIMED, engine(speed_up_interval={"low": 1.0, "high": 2.5})),
    "no interval": (TIMED, engine(speed_up_interval=None)),
    "interval of the reference": (TIMED, lambda v: v["rungs"][0].update(speed_up_interval={"low": 1.0, "high": 1.0})),
    "a sample": (TIMED, lambda v: v["rungs"][1]["samples_ms"].__setitem__(3, 1e-3)),
    "order of samples": (TIMED, lambda v: v["rungs"][1]["samples_ms"].sort()),
    "a turn's runs": (TIMED, lambda v: v["rungs"][1]["turns"][0].update(runs=3)),
    "a turn's seconds": (TIMED, lambda v: v["rungs"][1]["turns"][0].update(seconds=1e-3)),
    "a turn less": (TIMED, lambda v: v["rungs"][1].update(turns=[{"runs": 16, "seconds": 0.172}])),
    "seconds of lanes": (LANES, lambda v: v["rungs"][1]["turns"][0].update(seconds=1e-3)),
    "images a second": (LANES, engine(images_per_s=1e6)),
    "batch": (TIMED, lambda v: v["shape"].__setitem__(0, 4)),
    "channels": (TIMED, lambda v: v["shape"].__setitem__(1, 4)),
    "shape": (TIMED, lambda v: v["shape"].pop()),
    "lanes": (TIMED, lambda v: v.update(concurrency=2)),
    "min_seconds": (TIMED, lambda v: v.update(min_seconds=None)),
    "reference last": (TIMED, lambda v: v["rungs"].reverse()),
    "no reference": (TIMED, lambda v: v["rungs"].pop(0)),
    "a rung twice": (TIMED, lambda v: v["rungs"].append(v["rungs"][1])),
    "fastest_pytorch": (TIMED, lambda v: v.update(fastest_pytorch="onnxruntime fp32")),
    "no fastest_pytorch": (TIMED, lambda v: v.update(fastest_pytorch="pytorch fp16")),
    "runtime": (TIMED, engine(runtime="pytorch")),
    "precision": (TIMED, engine(precision="int8")),
    "whom it warns of": (TIMED, lambda v: v.update(warnings=[{"kind": "unstable", "rung": "x", "text": ""}])),
}
"""What compare reads, or shows: one field changed in a whole file, and the checksum made to fit again."""


@pytest.mark.parametrize("what", FORGED)
def test_what_does_not_follow_from_the_samples_is_refused(tmp_path: Path, what: str) -> None:
    whole, change = FORGED[what]
    values = copy.deepcopy(whole)
    change(values)
    files = [tmp_path / name for name in ("whole.json", "forged.json")]
    for file, content in zip(files, (whole, values), strict=True):
        file.write_text(resealed(content))
    assert compare(files[0], files[0], 1.0).failure is None
    refused(files[1], "is damaged", whole=files[0])


def test_a_figure_changed_without_its_checksum_is_refused(tmp_path: Path) -> None:
    whole, forged = tmp_path / "a.json", tmp_path / "b.json"
    whole.write_text(json.dumps(TIMED))
    forged.write_text(whole.read_text().replace('"threads": 2', '"threads": 4'))
    refused(forged, "it was changed since it was written: its checksum does not fit", whole=whole)
    forged.write_text(json.dumps({key: value for key, value in TIMED.items() if key != "checksum"}))
    refused(forged, "its checksum does not fit", whole=whole)
    # The order of keys, spaces and ways to write a character are no change.
    forged.write_text(json.dumps(dict(reversed(TIMED.items())), indent=7, ensure_ascii=False))
    assert compare(whole, forged, 1.0).failure is None


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"threads": 2', '"threads": 2, "threads": 2'),
        ('"threads": 2', f'"threads": {2**63}'),
        ('"threads": 2', f'"threads": {"9" * 5000}'),
        ('"min_seconds": 0.0', f'"min_seconds": {"9" * 400}'),
        ('"min_seconds": 0.0', '"min_seconds": 1e400'),
        ('"model": "a_model"', '"model": "\\udcf6"'),
        ('"model": "a_model"', f'"later": {"[" * 900}{"]" * 900}'),
    ],
    ids=["key twice", "beyond int64", "digits", "beyond a float", "beyond a float too", "surrogate", "nested"],
)
def test_json_that_other_programs_may_write_is_one_line(tmp_path: Path, old: str, new: str) -> None:
    text = json.dumps(TIMED)
    assert text.count(old) == 1
    (tmp_path / "a.json").write_text(text.replace(old, new))
    refused(tmp_path / "a.json", "")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    whole = tmp_path / "a.json"
    whole.write_text(json.dumps(TIMED))
    with pytest.raises(ArtifactError, match=r"cannot be read \(No such file"):
        compare(whole, tmp_path / "none.json")
    with pytest.raises(ArtifactError, match="cannot be read"):
        compare(tmp_path, whole)


def test_the_command_says_it_in_one_line_too(run: Cli, tmp_path: Path) -> None:
    whole, broken = tmp_path / "a.json", tmp_path / "b.json"
    whole.write_text(json.dumps(TIMED))
    broken.write_text(resealed({**TIMED, "threads": -1}))
    result = run("compare", whole, broken)
    assert (result.code, result.out) == (3, "")
    assert len(result.err.splitlines()) == 1
    assert "threads: input should be greater than 0" in result.err

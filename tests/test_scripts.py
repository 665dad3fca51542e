"""What the benchmark scripts hold their figures to, and the subjects that only they have."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import bench_eval
import bench_int8
import gpu_check
import make_docs
import numpy as np
import pytest
import ratios
from support.fakes import SMALL, SMALL_SHAPE, street_feeds

from ffnet_deploy.bench import turns as module
from ffnet_deploy.bench.result import Doubt, Resources, WarmUp
from ffnet_deploy.bench.samples import Turn
from ffnet_deploy.bench.subject import RunSettings
from ffnet_deploy.bench.turns import BenchEntry, BenchPlan, Latency, take_turns
from ffnet_deploy.machine.load import Load
from ffnet_deploy.runtimes.opening import open_rung
from ffnet_deploy.runtimes.rung import REFERENCE, Rung, Style

SCRIPTS = Path(ratios.__file__).parent
LIBRARIES = ("hostile", "ratios", "unverified")
"""What the scripts share."""
VNNI, PLAIN = ["avx2", "avx512_vnni"], ["avx2", "fma"]


@pytest.mark.parametrize("name", sorted(path.stem for path in SCRIPTS.glob("*.py")))
def test_every_script_can_be_imported_and_has_a_help(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = importlib.import_module(name)
    assert script.__doc__
    if name in LIBRARIES:
        assert not hasattr(script, "main")
        return
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--help"])
    with pytest.raises(SystemExit) as ended:
        script.main()
    assert not ended.value.code
    shown = " ".join(capsys.readouterr().out.split())
    assert shown.startswith(f"usage: {name}.py [-h]")
    assert " ".join(script.__doc__.split()[:5]) in shown


def missed(limits: list[dict[str, Any]], name: str) -> list[str]:
    """What makes a script exit 1."""
    return [limit[name] for limit in limits if limit["applies"] and not limit["met"]]


@pytest.mark.parametrize(
    ("flags", "fp32", "pytorch", "openvino", "found"),
    [
        (VNNI, 2.5, 3.0, 1.0, []),
        (VNNI, 2.4, 2.9, 1.0, [bench_int8.FP32, bench_int8.BEST_PYTORCH]),
        (["avx_vnni"], 2.4, 3.0, 1.0, [bench_int8.FP32]),
        # Without VNNI only the other tool's INT8 is a measure.
        (PLAIN, 0.9, 0.9, 1.0, []),
        (PLAIN, 2.5, 3.0, 0.9, [bench_int8.OPENVINO]),
    ],
)
def test_int8_is_held_to_what_its_cpu_can(
    flags: list[str], fp32: float, pytorch: float, openvino: float, found: list[str]
) -> None:
    times = {bench_int8.FP32: fp32, bench_int8.BEST_PYTORCH: pytorch, bench_int8.OPENVINO: openvino}
    assert missed(bench_int8.limits(flags, times), "against") == found


def measured(flags: list[str], alone: float, serial: float, few: float, many: float) -> dict[str, Any]:
    return {
        "environment": {"flags": flags},
        "engine_bytes": 2**30,
        "peak_bytes": {"4": few * 2**30, "24": many * 2**30},
        "fp32": {"ours_over_inference_alone": alone},
        "int8": {"serial_over_ours": serial},
    }


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ((VNNI, 1.3, 1.5, 3.4, 3.5), []),
        ((VNNI, 1.31, 1.4, 3.4, 3.5), ["fp32: time", "int8: time"]),
        ((PLAIN, 1.3, 1.4, 3.4, 3.5), []),
        ((PLAIN, 1.0, 2.0, 3.4, 3.6), ["peak memory on top"]),
        ((PLAIN, 1.0, 2.0, 2.0, 2.3), ["peak memory of 24 images"]),
    ],
)
def test_evaluation_is_held_to_its_limits(
    values: tuple[list[str], float, float, float, float], found: list[str]
) -> None:
    told = missed(bench_eval.limits(measured(*values)), "what")
    assert len(told) == len(found)
    assert all(what.startswith(start) for what, start in zip(told, found, strict=True))


def test_the_scripts_runner_takes_turns_and_computes_the_same(small_engine: Path) -> None:
    pytest.importorskip("openvino")
    graph = small_engine.with_name("graph.onnx")
    rung = Rung("onnxruntime", "fp32", SMALL, SMALL_SHAPE, small_engine)
    other = Rung("openvino", "fp32", SMALL, SMALL_SHAPE, graph)
    feeds = street_feeds(SMALL_SHAPE, 2)
    with open_rung(rung, 1, None) as ours, bench_int8.OpenVinoRunner(graph, 1) as theirs:
        assert theirs.inputs == ours.inputs
        wanted, found = ours(feeds[0])["logits"], theirs(feeds[0])["logits"]
        assert np.abs(found - wanted).max() < 1e-3 * np.abs(wanted).max()
        assert len(theirs.latencies(feeds, 3)) == 3
    subject = bench_int8.OpenVino(other, feeds, RunSettings("compute", 1))
    assert len(subject.run(2).samples) == 2
    exact = bench_int8.Exact(rung, feeds, RunSettings("compute", 1))
    assert len(exact.run(2).samples) == 2


def test_an_entry_may_have_a_subject_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []

    def refuse(_what: str, make: object, *_: object) -> None:
        made.append(make)
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "Worker", refuse)
    rung = Rung("onnxruntime", "fp32", SMALL, SMALL_SHAPE)
    with pytest.raises(KeyboardInterrupt):
        take_turns([BenchEntry(rung, [], RunSettings("compute", 1), bench_int8.OpenVino)], BenchPlan(1))
    assert made == [bench_int8.OpenVino]


def latency(rung: Rung, ms: float) -> Latency:
    turns = tuple(Turn((ms, ms + i / 100), 2 * ms / 1000) for i in range(5))
    return Latency(rung, turns, WarmUp(seconds=0.5, runs=5, settled=True, median_ms=ms), Resources(2**20))


def test_ratios_are_kept_as_the_pages_look_them_up(capsys: pytest.CaptureFixture[str]) -> None:
    torch, ours = Rung(REFERENCE, "fp32", SMALL, SMALL_SHAPE), Rung("onnxruntime", "fp32", SMALL, SMALL_SHAPE)
    last = Rung(REFERENCE, "fp32", SMALL, SMALL_SHAPE, style=Style(channels_last=True), variant="channels-last")
    latencies = [latency(torch, 30.0), latency(last, 20.0), latency(ours, 10.0)]
    entries = [BenchEntry(item.rung, [], RunSettings("compute", 2)) for item in latencies]
    load = Load(other_work_before=0.0, other_work=0.1, most_other_work=0.2, mhz=None, gpu=None)
    found = ratios.Measured(entries, BenchPlan(5), latencies, load, [Doubt("unstable", ours.name, "it varies")])
    assert found.best_pytorch is latencies[1]
    assert found.named("onnxruntime fp32") is latencies[2]
    over = [ratios.ratio(found.best_pytorch, item) for item in latencies]
    kept = {
        **found.facts(SMALL),
        "rungs": [ratios.rung(item, 2, "over", one) for item, one in zip(latencies, over, strict=True)],
    }
    first, best, fast = kept["rungs"]
    assert (first["over"], best["over"], fast["over"]) == pytest.approx((2 / 3, 1, 2), rel=1e-2)
    assert best["over_interval"] is None
    assert fast["over_interval"]["low"] <= fast["over"] <= fast["over_interval"]["high"]
    assert (len(fast["samples_ms"]), len(fast["turns"]), fast["peak_host_bytes"]) == (10, 5, 2**20)
    page = make_docs._latencies(kept, "random weights", "over best", "over")
    assert "Best of PyTorch: pytorch fp32 channels-last." in page
    assert "- onnxruntime fp32: it varies" in page
    ratios.tell(kept, "over", "x")
    told = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in told] == ["pytorch", "pytorch", "onnxruntime", "warning:"]
    assert told[2].endswith(f"{fast['over']:.2f}x")


@pytest.mark.parametrize(
    ("applies", "met", "says", "code"),
    [(True, True, "met", 0), (True, False, "missed", 1), (False, False, "missed, and not asked of this CPU", 0)],
)
def test_a_missed_limit_that_applies_ends_with_1(
    capsys: pytest.CaptureFixture[str], applies: bool, met: bool, says: str, code: int
) -> None:
    with pytest.raises(SystemExit) as ended:
        ratios.hold([{"found": 2.0, "applies": applies, "met": met}], ["at least 3 times"])
    assert int(ended.value.code or 0) == code
    assert capsys.readouterr().out.startswith(f"at least 3 times: 2.00, {says}")


def test_the_check_of_a_gpu_keeps_what_each_command_did(tmp_path: Path) -> None:
    names = [name for name, _ in gpu_check.commands(tmp_path)]
    assert len(set(names)) == len(names)
    assert {"nvidia-smi", "doctor", f"export {gpu_check.MODEL}"} <= set(names)
    good = gpu_check.check([sys.executable, "-c", "print('here')"], tmp_path)
    assert (good["exit_code"], good["stdout"]) == (0, "here\n")
    assert gpu_check.check([str(tmp_path / "absent")], tmp_path)["exit_code"] == 127

"""What the benchmark scripts hold their figures to, and the subjects that only they have."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from fakes import SMALL, SMALL_SHAPE, small_graph, street_feeds

from ffnet_deploy.bench import COMPUTE, Entry, Job, Plan, bench
from ffnet_deploy.runtimes import Rung, open_rung
from ffnet_deploy.runtimes.onnxruntime import build

SCRIPTS = Path(__file__).parents[1] / "scripts"
VNNI, PLAIN = ["avx2", "avx512_vnni"], ["avx2", "fma"]


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


INT8, EVAL = script("bench_int8"), script("bench_eval")


def missed(limits: list[dict[str, Any]], name: str) -> list[str]:
    """What makes a script exit 1."""
    return [limit[name] for limit in limits if limit["applies"] and not limit["met"]]


@pytest.mark.parametrize(
    ("flags", "fp32", "pytorch", "openvino", "found"),
    [
        (VNNI, 2.5, 3.0, 1.0, []),
        (VNNI, 2.4, 2.9, 1.0, [INT8.FP32, INT8.BEST_PYTORCH]),
        (["avx_vnni"], 2.4, 3.0, 1.0, [INT8.FP32]),
        # Without VNNI only the other tool's INT8 is a measure.
        (PLAIN, 0.9, 0.9, 1.0, []),
        (PLAIN, 2.5, 3.0, 0.9, [INT8.OPENVINO]),
    ],
)
def test_int8_is_held_to_what_its_cpu_can(
    flags: list[str], fp32: float, pytorch: float, openvino: float, found: list[str]
) -> None:
    times = {INT8.FP32: fp32, INT8.BEST_PYTORCH: pytorch, INT8.OPENVINO: openvino}
    assert missed(INT8.limits(flags, times), "against") == found


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
    told = missed(EVAL.limits(measured(*values)), "what")
    assert len(told) == len(found)
    assert all(what.startswith(start) for what, start in zip(told, found, strict=True))


def test_the_scripts_runner_takes_turns_and_computes_the_same(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    graph = tmp_path / "graph.onnx"
    graph.write_bytes(small_graph())
    build(graph, tmp_path / "engine.onnx")
    rung = Rung("onnxruntime", "fp32", SMALL, SMALL_SHAPE, tmp_path / "engine.onnx")
    other = Rung("openvino", "fp32", SMALL, SMALL_SHAPE, graph)
    feeds = street_feeds(SMALL_SHAPE, 2)
    with open_rung(rung, 1, None) as ours, INT8.OpenVinoRunner(graph, 1) as theirs:
        assert theirs.inputs == ours.inputs
        wanted, found = ours(feeds[0])["logits"], theirs(feeds[0])["logits"]
        assert np.abs(found - wanted).max() < 1e-3 * np.abs(wanted).max()
        assert len(theirs.latencies(feeds, 3)) == 3
    subject = INT8.OpenVino(other, feeds, Job(COMPUTE, 1))
    assert len(subject.run(2).samples) == 2
    exact = INT8.Exact(rung, feeds, Job(COMPUTE, 1))
    assert len(exact.run(2).samples) == 2


def test_an_entry_may_have_a_subject_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    from ffnet_deploy import bench as module

    made: list[object] = []

    def refuse(_what: str, make: object, *_: object) -> None:
        made.append(make)
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "Worker", refuse)
    rung = Rung("onnxruntime", "fp32", SMALL, SMALL_SHAPE)
    with pytest.raises(KeyboardInterrupt):
        bench([Entry(rung, [], Job(COMPUTE, 1), INT8.OpenVino)], Plan(1))
    assert made == [INT8.OpenVino]

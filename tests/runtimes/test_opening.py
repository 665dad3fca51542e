"""Which runtime runs here, and engines that are opened by their files."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from support.fakes import SMALL, SMALL_SHAPE, street_feeds
from support.recorded import engine_record, graph_record, stamp_for

from ffnet_deploy.artifacts.records import EngineRecord, Stamp, keep
from ffnet_deploy.errors import ArtifactError, EngineError, MissingDependencyError
from ffnet_deploy.machine.devices import visible_gpus
from ffnet_deploy.runtimes import rung as rungs
from ffnet_deploy.runtimes.onnxruntime import OnnxRuntimeRunner
from ffnet_deploy.runtimes.opening import load_engine, open_rung
from ffnet_deploy.runtimes.rung import REFERENCE, Rung, reason_not_here
from ffnet_deploy.runtimes.runner import TensorSpec
from ffnet_deploy.verify.agreement import Tolerance, verified

if TYPE_CHECKING:
    from ffnet_deploy.runtimes.runner import Feeds


@pytest.fixture
def graph(small_engine: Path) -> Path:
    return small_engine.with_name("graph.onnx")


@pytest.fixture(scope="module")
def feeds() -> list[Feeds]:
    return street_feeds(SMALL_SHAPE)


@pytest.fixture(scope="module")
def engine(small_engine: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ONNX Runtime's engine with its record."""
    path = tmp_path_factory.mktemp("engines") / f"{SMALL}.fp32.onnxruntime.onnx"
    path.write_bytes(small_engine.read_bytes())
    put_record(path, "onnxruntime")
    return path


def of_runtime(runtime: str, sha256: str, size: int) -> EngineRecord:
    return replace(engine_record(runtime=runtime), file=stamped(sha256, size))


def stamped(sha256: str, size: int) -> Stamp:
    return replace(stamp_for(), sha256=sha256, size=size)


def put_record(path: Path, runtime: str) -> None:
    """A record beside a file that is there."""
    keep(path, path.read_bytes(), partial(of_runtime, runtime))


def test_the_driver_says_how_many_gpus_there_are() -> None:
    assert visible_gpus() >= 0


def test_what_needs_no_gpu_runs_here() -> None:
    assert reason_not_here("onnxruntime") is None
    assert reason_not_here("pytorch") is None


@pytest.mark.parametrize("runtime", ["tensorrt", "tensorrt-rtx"])
def test_tensorrt_needs_a_gpu_and_its_package(monkeypatch: pytest.MonkeyPatch, runtime: str) -> None:
    monkeypatch.setattr(rungs, "visible_gpus", lambda: 0)
    assert "needs an NVIDIA GPU" in (reason_not_here(runtime) or "")
    monkeypatch.setattr(rungs, "visible_gpus", lambda: 1)
    monkeypatch.setattr(rungs, "find_spec", lambda _: None)
    assert reason_not_here(runtime) == f"{runtime} is not installed"
    asked: list[str] = []
    monkeypatch.setattr(rungs, "find_spec", asked.append)
    reason_not_here(runtime)
    assert asked == [runtime.replace("-", "_")]


def test_onnx_runtime_needs_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rungs, "find_spec", lambda _: None)
    assert reason_not_here("onnxruntime") == "onnxruntime is not installed"


def test_an_engine_loads_and_computes_what_the_graph_does(engine: Path, graph: Path, feeds: list[Feeds]) -> None:
    with load_engine(str(engine), threads=1) as runner, OnnxRuntimeRunner(graph, threads=1) as wanted:
        assert runner.inputs == [TensorSpec("image", SMALL_SHAPE, "float32")]
        assert verified(wanted, runner, feeds, Tolerance()).equal == 1


def test_the_reference_opens_with_the_same_random_weights_each_time(feeds: list[Feeds]) -> None:
    rung = Rung(REFERENCE, "fp32", SMALL, SMALL_SHAPE)
    before = torch.get_num_threads()
    try:
        with open_rung(rung, 1, None) as a, open_rung(rung, 1, None) as b:
            assert np.array_equal(a(feeds[0])["logits"], b(feeds[0])["logits"])
            assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_an_engine_without_a_record_is_refused(tmp_path: Path, engine: Path) -> None:
    path = tmp_path / engine.name
    with pytest.raises(ArtifactError, match=r"does not exist\. Run: ffnet-deploy build"):
        load_engine(path)
    path.write_bytes(engine.read_bytes())
    with pytest.raises(ArtifactError, match="has no record beside it"):
        load_engine(path)


def test_a_damaged_engine_is_refused(tmp_path: Path, engine: Path) -> None:
    path = tmp_path / engine.name
    data = bytearray(engine.read_bytes())
    path.write_bytes(data)
    put_record(path, "onnxruntime")
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match="damaged or half-written"):
        load_engine(path)


def test_a_graph_is_no_engine(tmp_path: Path) -> None:
    path = tmp_path / "NAME.onnx"
    path.write_bytes(b"a graph")
    keep(path, path.read_bytes(), lambda sha256, size: replace(graph_record(), file=stamped(sha256, size)))
    with pytest.raises(
        ArtifactError, match=r"of a file of kind graph \(engine was needed\)\. Run: ffnet-deploy build$"
    ) as caught:
        load_engine(path)
    assert caught.value.exit_code == 3


def test_an_engine_of_a_runtime_from_the_future_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "NAME.fp32.abacus.engine"
    path.write_bytes(b"beads")
    put_record(path, "abacus")
    with pytest.raises(
        EngineError, match=r"is an engine of 'abacus' \(tensorrt, tensorrt-rtx, onnxruntime are known\)"
    ):
        load_engine(path)


@pytest.mark.parametrize("runtime", ["tensorrt", "tensorrt-rtx"])
def test_a_tensorrt_engine_on_a_machine_without_a_gpu_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runtime: str
) -> None:
    monkeypatch.setattr(rungs, "visible_gpus", lambda: 0)
    path = tmp_path / f"NAME.fp32.{runtime}.engine"
    path.write_bytes(b"a plan")
    put_record(path, runtime)
    with pytest.raises(MissingDependencyError, match=rf"^{re.escape(path.name)} cannot run here: needs an NVIDIA GPU"):
        load_engine(path)
    with pytest.raises(MissingDependencyError) as caught:
        open_rung(Rung(runtime, "fp32", SMALL, SMALL_SHAPE, path), 1, None)
    assert caught.value.exit_code == 4

"""Runners, workers and builders: what they give, what they refuse, and how they end."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx.parser
import pytest
import torch
from onnx import numpy_helper
from support.fakes import SMALL, SMALL_SHAPE, Chore, FakeRunner, small_graph, street_feeds

from ffnet_deploy.artifacts.records import Record, now, save_record
from ffnet_deploy.artifacts.writing import sha256_of
from ffnet_deploy.errors import ArtifactError, DataError, EngineError, MissingDependencyError
from ffnet_deploy.graph.facts import macs_by_node
from ffnet_deploy.graph.fp16 import to_fp16
from ffnet_deploy.runtimes import opening as runtimes
from ffnet_deploy.runtimes.onnxruntime import OnnxRuntimeRunner, build
from ffnet_deploy.runtimes.opening import load_engine, open_rung
from ffnet_deploy.runtimes.pytorch import PyTorchRunner
from ffnet_deploy.runtimes.rung import reason_not_here
from ffnet_deploy.runtimes.runner import TensorSpec, check_feeds
from ffnet_deploy.runtimes.tensorrt import TensorRTBuilder
from ffnet_deploy.runtimes.worker import Worker
from ffnet_deploy.verify.agreement import Tolerance, verified
from ffnet_deploy.zoo.specs import find
from ffnet_deploy.zoo.weights import load_random

if TYPE_CHECKING:
    from ffnet_deploy.runtimes.runner import Feeds, Runner

LOGITS = (1, 19, 16, 32)
needs_rtx = pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx has no wheel for this platform")


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("graph") / f"{SMALL}.onnx"
    path.write_bytes(small_graph())
    return path


@pytest.fixture(scope="module")
def feeds() -> list[Feeds]:
    return street_feeds(SMALL_SHAPE)


# --- feeds ----------------------------------------------------------------------------------------------------------

INPUTS = [TensorSpec("image", (1, 3, 4, 6), "float32")]


def test_feeds_that_fit_pass() -> None:
    check_feeds({"image": np.zeros((1, 3, 4, 6), np.float32)}, INPUTS)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, r"'image' is missing"),
        ({"input": np.zeros((1, 3, 4, 6), np.float32)}, r"'image' is missing from the feeds \(input\)"),
        (
            {"image": np.zeros((1, 3, 4, 5), np.float32)},
            r"float32 \(1, 3, 4, 5\) \(float32 \(1, 3, 4, 6\) was needed\)",
        ),
        ({"image": np.zeros((3, 4, 6), np.float32)}, r"float32 \(3, 4, 6\)"),
        ({"image": np.zeros((1, 3, 4, 6), np.float64)}, r"float64 \(1, 3, 4, 6\)"),
        ({"image": np.zeros((1, 3, 4, 6), np.uint8)}, r"uint8 \(1, 3, 4, 6\)"),
        pytest.param(
            {"image": np.zeros((1, 3, 4, 6), np.float32), "mask": np.zeros(1, np.float32)},
            r"'mask'",
        ),
    ],
    ids=["none", "another name", "another shape", "no batch", "float64", "bytes", "one too many"],
)
def test_feeds_that_do_not_fit_are_refused(given: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(EngineError, match=message):
        check_feeds(given, INPUTS)


# --- the worker -----------------------------------------------------------------------------------------------------


def gone(pid: int) -> bool:
    """No such process, or one that ended and that nobody asked about yet."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return Path("/proc").is_dir()


def wait_until_gone(pid: int, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not gone(pid) and time.monotonic() < end:
        time.sleep(0.05)
    return gone(pid)


def test_a_worker_computes_in_another_process_and_ends_with_its_block() -> None:
    with Worker("the chore", Chore) as worker:
        pid = worker.call("pid")
        assert pid != os.getpid()
        assert worker.call("pid") == pid
        assert worker.call("double", np.arange(3)).tolist() == [0, 2, 4]
    assert wait_until_gone(pid, 5)


def test_our_errors_come_through_as_they_are() -> None:
    with pytest.raises(DataError, match=r"^The set is not complete\. Copy it again\.$"), Worker("it", Chore) as worker:
        worker.call("refuse")


def test_an_error_while_making_the_object_comes_through(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="refuses to be made"):
        Worker("the chore", Chore, str(tmp_path / "note"))


def test_an_object_that_cannot_be_made_is_tried_once_and_in_silence(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(DataError):
        Worker("the chore", Chore, str(tmp_path / "note"))
    assert (tmp_path / "note").read_text() == "made\n"
    assert capfd.readouterr() == ("", "")


def test_a_bug_keeps_its_traceback() -> None:
    with pytest.raises(RuntimeError) as caught, Worker("the chore", Chore) as worker:
        worker.call("stumble")
    message = str(caught.value)
    assert message.startswith("in the process of the chore:")
    assert "Traceback (most recent call last)" in message
    assert "ZeroDivisionError: a bug of ours" in message
    assert "stumble" in message


def test_a_worker_that_is_killed_is_an_error_that_names_it() -> None:
    with pytest.raises(EngineError) as caught, Worker("the chore", Chore) as worker:
        worker.call("die")
    message = str(caught.value)
    assert message.startswith("The process of the chore was killed by SIGKILL.")
    assert "memory" in message
    assert "\n" not in message


def test_a_worker_that_was_killed_between_two_calls_is_an_error_that_names_it() -> None:
    with Worker("the chore", Chore) as worker:
        pid = worker.call("pid")
        os.kill(pid, signal.SIGKILL)
        worker._process.join(10)  # all its threads, so that its end of the pipe is closed
        with pytest.raises(EngineError, match="The process of the chore was killed by SIGKILL"):
            worker.call("pid")


def test_leaving_by_an_error_does_not_wait_for_the_run_in_progress() -> None:
    pids = []

    def interrupted() -> None:
        with Worker("the chore", Chore) as worker:
            pids.append(worker.call("pid"))
            worker._conn.send(("sleep", (60,)))
            raise KeyboardInterrupt

    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert time.monotonic() - start < 30
    assert gone(pids[0])


def test_a_worker_dies_with_its_parent_in_the_middle_of_a_call() -> None:
    code = """if True:
        from support.fakes import Chore
        from ffnet_deploy.runtimes.base import Worker
        worker = Worker("the chore", Chore)
        print(worker.call("pid"), flush=True)
        worker.call("sleep", 60)
    """
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=env) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        time.sleep(0.2)  # the call is on its way
        assert not gone(pid)
        parent.kill()
        parent.wait()
        assert wait_until_gone(pid, 10)


# --- ONNX Runtime ---------------------------------------------------------------------------------------------------


def test_onnx_runtime_runs_a_graph(graph: Path, feeds: list[Feeds]) -> None:
    with OnnxRuntimeRunner(graph, threads=1) as runner, OnnxRuntimeRunner(graph.read_bytes(), threads=1) as other:
        assert runner.inputs == [TensorSpec("image", SMALL_SHAPE, "float32")]
        assert runner.outputs == [TensorSpec("logits", LOGITS, "float32")]
        out = runner(feeds[0])
        assert list(out) == ["logits"]
        assert out["logits"].shape == LOGITS
        assert out["logits"].dtype == np.float32
        assert np.array_equal(out["logits"], other(feeds[0])["logits"])
        assert not np.array_equal(out["logits"], runner(feeds[1])["logits"])


@pytest.mark.parametrize("iters", [1, 3])
def test_onnx_runtime_gives_as_many_latencies_as_asked(graph: Path, feeds: list[Feeds], iters: int) -> None:
    with OnnxRuntimeRunner(graph, threads=1) as runner:
        samples = runner.latencies(feeds, iters)
    assert len(samples) == iters
    # Milliseconds: the network at this size has some 30 million multiply-accumulates or more.
    assert all(0.1 < sample < 60_000 for sample in samples)


def test_onnx_runtime_holds_feeds_to_the_graph(graph: Path) -> None:
    wrong: list[Feeds] = [{"image": np.zeros((1, 3, 64, 64), np.float32)}]
    with OnnxRuntimeRunner(graph, threads=1) as runner:
        with pytest.raises(EngineError, match=r"\(1, 3, 64, 128\) was needed"):
            runner(wrong[0])
        with pytest.raises(EngineError, match=r"\(1, 3, 64, 128\) was needed"):
            runner.latencies(wrong, 1)


@pytest.mark.parametrize("content", [b"no graph at all", b""], ids=["text", "empty"])
def test_onnx_runtime_refuses_what_is_no_graph(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "engine.onnx"
    path.write_bytes(content)
    with pytest.raises(EngineError, match=r"engine\.onnx is refused by ONNX Runtime \S+ \(.*\)\.") as caught:
        OnnxRuntimeRunner(path, threads=1)
    assert "\n" not in str(caught.value)


def test_a_graph_that_fails_while_it_runs_is_an_engine_error() -> None:
    text = """
        <ir_version: 10, opset_import: ["": 20]>
        net (float[1,3,8,8] image) => (float[K] logits)
        { flat = Reshape(image, shape) most = ReduceMax<keepdims = 0>(flat) index = Cast<to = 7>(most)
          some = Unsqueeze(index, zero) logits = Gather(flat, some) }
    """
    model = onnx.parser.parse_model(text)
    for name, values in (("shape", [-1]), ("zero", [0])):
        model.graph.initializer.append(numpy_helper.from_array(np.array(values, np.int64), name))
    with OnnxRuntimeRunner(model.SerializeToString(), threads=1) as runner:
        assert runner({"image": np.ones((1, 3, 8, 8), np.float32)})["logits"] == [1.0]
        beyond = np.full((1, 3, 8, 8), 1e6, np.float32)
        with pytest.raises(EngineError, match=r"^The graph fails in ONNX Runtime .*Gather.*Report this"):
            runner({"image": beyond})
        with pytest.raises(EngineError, match=r"^The graph fails in ONNX Runtime"):
            runner.latencies([{"image": beyond}], 1)


def test_onnx_runtime_refuses_a_graph_that_is_cut_off(graph: Path) -> None:
    with pytest.raises(EngineError, match="The graph is refused by ONNX Runtime"):
        OnnxRuntimeRunner(graph.read_bytes()[:1_000_000], threads=1)


def test_a_runner_may_be_closed_inside_its_block(graph: Path) -> None:
    with OnnxRuntimeRunner(graph, threads=1) as runner:
        runner.close()


@pytest.fixture(scope="module")
def engine(graph: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ONNX Runtime's engine with its record."""
    path = tmp_path_factory.mktemp("engines") / f"{SMALL}.fp32.onnxruntime.onnx"
    found = build(graph, path)
    put_record(path, "onnxruntime", found=found)
    return path


def put_record(path: Path, runtime: str | None, *, kind: str = "engine", found: dict[str, Any] | None = None) -> Record:
    source = {"file": f"{SMALL}.onnx", "sha256": "00"}
    record = Record(
        kind=kind,  # type: ignore[arg-type]
        model=SMALL,
        precision="fp32",
        sha256=sha256_of(path),
        size=path.stat().st_size,
        sources={"weights": source} if kind == "graph" else {"graph": source, "exported": source},
        options={"shape": list(SMALL_SHAPE)},
        found=found or {},
        runtime=runtime,
        created=now(),
    )
    save_record(path, record)
    return record


def test_an_onnx_runtime_engine_is_the_optimised_graph(
    graph: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], feeds: list[Feeds]
) -> None:
    path = tmp_path / "engine.onnx"
    found = build(graph, path)
    plain = [node.op_type for node in onnx.load(graph).graph.node]
    optimised = [node.op_type for node in onnx.load(path).graph.node]
    assert found == {"nodes": {kind: optimised.count(kind) for kind in dict.fromkeys(optimised)}}
    assert len(optimised) < len(plain)
    assert optimised.count("Conv") + optimised.count("FusedConv") == plain.count("Conv") == 63
    assert capfd.readouterr() == ("", "")
    with OnnxRuntimeRunner(graph, threads=1) as a, OnnxRuntimeRunner(path, threads=1) as b:
        assert (a.inputs, a.outputs) == (b.inputs, b.outputs)
        verified(a, b, feeds, Tolerance())


def test_onnx_runtime_builds_nothing_of_what_is_no_graph(tmp_path: Path) -> None:
    (tmp_path / "graph.onnx").write_bytes(b"no graph")
    with pytest.raises(EngineError, match="refused by ONNX Runtime"):
        build(tmp_path / "graph.onnx", tmp_path / "engine.onnx")
    assert not (tmp_path / "engine.onnx").exists()


# --- PyTorch --------------------------------------------------------------------------------------------------------


def test_pytorch_runs_the_module(feeds: list[Feeds]) -> None:
    module = load_random(find(SMALL)).module
    with PyTorchRunner(module, SMALL_SHAPE) as runner:
        assert runner.inputs == [TensorSpec("image", SMALL_SHAPE, "float32")]
        assert runner.outputs == [TensorSpec("logits", LOGITS, "float32")]
        found = runner(feeds[0])["logits"]
        with torch.inference_mode():
            wanted = module(torch.from_numpy(feeds[0]["image"])).numpy()
        assert np.array_equal(found, wanted)
        samples = runner.latencies(feeds, 3)
        assert len(samples) == 3
        assert all(0.1 < sample < 60_000 for sample in samples)
        with pytest.raises(EngineError, match="was needed"):
            runner({"image": feeds[0]["image"].astype(np.float64)})


def test_pytorch_says_that_it_sees_no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(MissingDependencyError, match=r"CUDA device 0 was asked for .* Leave --device out"):
        PyTorchRunner(torch.nn.ReLU(), (1, 3, 2, 2), device=0)


def test_a_fake_runner_is_a_runner() -> None:
    runner: Runner = FakeRunner(lambda image: image * 2, (1, 2, 2, 2), ms=3)
    image = np.ones((1, 2, 2, 2), np.float32)
    with runner:
        assert np.array_equal(runner({"image": image})["logits"], image * 2)
        assert runner.latencies([{"image": image}], 2) == [3, 3]
        with pytest.raises(EngineError):
            runner({})


# --- TensorRT -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plans(graph: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, dict[str, Any]]]:
    """Size of the real FP32 and FP16 engines, and what was found in them. No GPU is needed."""
    folder = tmp_path_factory.mktemp("plans")
    onnx.save(to_fp16(onnx.load(graph)).model, folder / "half.onnx")
    built = {}
    with Worker("the builder", TensorRTBuilder, "tensorrt-rtx") as builder:
        for precision, source in (("fp32", graph), ("fp16", folder / "half.onnx")):
            plan = folder / f"{precision}.engine"
            found = builder.call("build", source, plan, macs_by_node(onnx.load(source)))
            built[precision] = plan.stat().st_size, found
    return built


@needs_rtx
def test_engines_are_as_large_as_their_precision(plans: dict[str, tuple[int, dict[str, Any]]]) -> None:
    fp32, fp16 = plans["fp32"][0], plans["fp16"][0]
    weights = 4 * 12.5e6
    assert weights < fp32 < 1.2 * weights
    assert 0.5 * weights < fp16 <= 0.6 * fp32


@needs_rtx
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_engines_compute_in_the_precision_of_their_graph(
    plans: dict[str, tuple[int, dict[str, Any]]], precision: str
) -> None:
    found = plans[precision][1]
    assert found["share"] == {precision: 1.0}
    assert len(found["precision"]) == 63
    assert set(found["precision"].values()) == {precision}
    assert found["layers"]["correlation"] > 50
    assert found["bytes_between_layers"] > 0


def broken_graph(path: Path) -> Path:
    model = onnx.parser.parse_model("""
        <ir_version: 10, opset_import: ["" : 20]>
        net (float[1,3,8,8] image) => (float[1,3,8,8] logits) { logits = NoSuchOperator(image) }
    """)
    onnx.save(model, path)
    return path


@needs_rtx
@pytest.mark.parametrize("content", ["an unknown operator", "no graph"])
def test_a_graph_that_the_parser_refuses_is_an_engine_error(tmp_path: Path, content: str) -> None:
    graph = broken_graph(tmp_path / "bad.onnx")
    if content == "no graph":
        graph.write_bytes(b"no graph at all")
    with (
        pytest.raises(EngineError, match=r"bad\.onnx is refused by tensorrt-rtx's parser") as caught,
        Worker("the builder", TensorRTBuilder, "tensorrt-rtx") as builder,
    ):
        builder.call("build", graph, tmp_path / "bad.engine", {})
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "bad.engine").exists()


@needs_rtx
def test_a_refusal_names_the_operator_and_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    graph = broken_graph(tmp_path / "bad.onnx")
    with (
        pytest.raises(EngineError, match="NoSuchOperator"),
        Worker("the builder", TensorRTBuilder, "tensorrt-rtx") as builder,
    ):
        builder.call("build", graph, tmp_path / "bad.engine", {})
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(find_spec("tensorrt") is not None, reason="TensorRT is installed")
def test_a_runtime_that_is_not_installed_says_what_to_install() -> None:
    with pytest.raises(MissingDependencyError, match=r"Run: pip install 'ffnet-deploy\[gpu\]'$") as caught:
        Worker("the builder", TensorRTBuilder, "tensorrt")
    assert caught.value.exit_code == 4


# --- which runtime runs here ----------------------------------------------------------------------------------------


def test_the_driver_says_how_many_gpus_there_are() -> None:
    assert runtimes.visible_gpus() >= 0


def test_what_needs_no_gpu_runs_here() -> None:
    assert reason_not_here("onnxruntime") is None
    assert reason_not_here("pytorch") is None


@pytest.mark.parametrize("runtime", ["tensorrt", "tensorrt-rtx"])
def test_tensorrt_needs_a_gpu_and_its_package(monkeypatch: pytest.MonkeyPatch, runtime: str) -> None:
    monkeypatch.setattr(runtimes, "visible_gpus", lambda: 0)
    assert "needs an NVIDIA GPU" in (reason_not_here(runtime) or "")
    monkeypatch.setattr(runtimes, "visible_gpus", lambda: 1)
    monkeypatch.setattr(runtimes, "find_spec", lambda _: None)
    assert reason_not_here(runtime) == f"{runtime} is not installed"
    asked: list[str] = []
    monkeypatch.setattr(runtimes, "find_spec", asked.append)
    reason_not_here(runtime)
    assert asked == [runtime.replace("-", "_")]


def test_onnx_runtime_needs_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtimes, "find_spec", lambda _: None)
    assert reason_not_here("onnxruntime") == "onnxruntime is not installed"


# --- opening by name ------------------------------------------------------------------------------------------------


def test_an_engine_loads_and_computes_what_the_graph_does(engine: Path, graph: Path, feeds: list[Feeds]) -> None:
    with load_engine(str(engine), threads=1) as runner, OnnxRuntimeRunner(graph, threads=1) as wanted:
        assert runner.inputs == [TensorSpec("image", SMALL_SHAPE, "float32")]
        assert verified(wanted, runner, feeds, Tolerance()).agreement.equal == 1


def test_the_reference_opens_with_the_same_random_weights_each_time(feeds: list[Feeds]) -> None:
    rung = runtimes.Rung(runtimes.REFERENCE, "fp32", SMALL, SMALL_SHAPE)
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
    put_record(path, None, kind="graph")
    with pytest.raises(EngineError, match=rf"is a graph \(an engine was needed\)\. Run: ffnet-deploy build {SMALL}"):
        load_engine(path)


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
    monkeypatch.setattr(runtimes, "visible_gpus", lambda: 0)
    path = tmp_path / f"NAME.fp32.{runtime}.engine"
    path.write_bytes(b"a plan")
    put_record(path, runtime)
    with pytest.raises(MissingDependencyError, match=rf"^{re.escape(path.name)} cannot run here: needs an NVIDIA GPU"):
        load_engine(path)
    with pytest.raises(MissingDependencyError) as caught:
        open_rung(runtimes.Rung(runtime, "fp32", SMALL, SMALL_SHAPE, path), 1, None)
    assert caught.value.exit_code == 4

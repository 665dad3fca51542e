"""Runners of ONNX Runtime and PyTorch: what they take and give, and what they refuse."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx.parser
import pytest
import torch
from onnx import numpy_helper
from support.fakes import SMALL, SMALL_SHAPE, FakeRunner, street_feeds

from ffnet_deploy.artifacts.values import EngineFindings
from ffnet_deploy.errors import ArtifactError, EngineError, MissingDependencyError
from ffnet_deploy.runtimes.onnxruntime import OnnxRuntimeRunner, build
from ffnet_deploy.runtimes.pytorch import PyTorchRunner
from ffnet_deploy.runtimes.runner import TensorSpec, check_feeds
from ffnet_deploy.verify.agreement import Tolerance, verified
from ffnet_deploy.zoo.specs import find
from ffnet_deploy.zoo.weights import load_random

if TYPE_CHECKING:
    from ffnet_deploy.runtimes.runner import Feeds, Runner


LOGITS = (1, 19, 16, 32)


@pytest.fixture
def graph(small_engine: Path) -> Path:
    return small_engine.with_name("graph.onnx")


@pytest.fixture(scope="module")
def feeds() -> list[Feeds]:
    return street_feeds(SMALL_SHAPE)


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


def test_an_onnx_runtime_engine_is_the_optimised_graph(
    graph: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], feeds: list[Feeds]
) -> None:
    path = tmp_path / "engine.onnx"
    found = build(graph, path)
    plain = [node.op_type for node in onnx.load(graph).graph.node]
    optimised = [node.op_type for node in onnx.load(path).graph.node]
    assert found == EngineFindings(layers={kind: optimised.count(kind) for kind in dict.fromkeys(optimised)})
    assert len(optimised) < len(plain)
    assert optimised.count("Conv") + optimised.count("FusedConv") == plain.count("Conv") == 63
    assert capfd.readouterr() == ("", "")
    with OnnxRuntimeRunner(graph, threads=1) as a, OnnxRuntimeRunner(path, threads=1) as b:
        assert (a.inputs, a.outputs) == (b.inputs, b.outputs)
        verified(a, b, feeds, Tolerance())


def test_onnx_runtime_builds_nothing_of_what_is_no_graph(tmp_path: Path) -> None:
    (tmp_path / "graph.onnx").write_bytes(b"no graph")
    with pytest.raises(ArtifactError, match=r"graph\.onnx is no ONNX graph"):
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


def test_pytorch_without_memory_is_an_error_of_one_line() -> None:
    class Large(torch.nn.Module):
        def forward(self, _image: torch.Tensor) -> torch.Tensor:
            return torch.empty(1 << 50)

    image = np.zeros((1, 3, 2, 2), np.float32)
    with (
        PyTorchRunner(Large(), (1, 3, 2, 2), threads=1, out=(1, 2)) as runner,
        pytest.raises(EngineError, match=r"^PyTorch needs more memory than it could get\. Free some"),
    ):
        runner({"image": image})


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

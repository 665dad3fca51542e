"""Real engines of TensorRT-RTX, built without a GPU, and graphs that its builder refuses."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import onnx
import onnx.parser
import pytest
from support.cli_runner import STEM

from ffnet_deploy.artifacts.records import EngineRecord, load_record
from ffnet_deploy.artifacts.values import EngineFindings
from ffnet_deploy.errors import EngineError, MissingDependencyError
from ffnet_deploy.runtimes.tensorrt import TensorRTBuilder
from ffnet_deploy.runtimes.worker import Worker

needs_rtx = pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx has no wheel for this platform")


Plans = dict[str, tuple[int, EngineFindings]]


@pytest.fixture
def plans(built: Path) -> Plans:
    """Size of the real FP32 and FP16 engines, and what was found in them. No GPU is needed."""
    paths = {p: built / "engines" / f"{STEM}.{p}.tensorrt-rtx.engine" for p in ("fp32", "fp16")}
    return {p: (path.stat().st_size, load_record(path, EngineRecord, remedy="").found) for p, path in paths.items()}


@needs_rtx
def test_engines_are_as_large_as_their_precision(plans: Plans) -> None:
    fp32, fp16 = plans["fp32"][0], plans["fp16"][0]
    weights = 4 * 12.5e6
    assert weights < fp32 < 1.2 * weights
    assert 0.5 * weights < fp16 <= 0.6 * fp32


@needs_rtx
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_engines_compute_in_the_precision_of_their_graph(plans: Plans, precision: str) -> None:
    found = plans[precision][1]
    assert found.share == {precision: 1.0}
    assert len(found.precision) == 63
    assert set(found.precision.values()) == {precision}
    assert found.layers["correlation"] > 50
    assert (found.bytes_between_layers or 0) > 0


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

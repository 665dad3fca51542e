"""Layers of a real engine under PyTorch's names, all work accounted for, and the roofline by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import onnx
import pytest
from support.benchmarks import ENVIRONMENT
from support.fakes import SMALL_SHAPE, small_graph, street_feeds

from ffnet_deploy.bench.profiled import LayerTiming, Peaks, Profile, ProfiledRung, ProfileFile
from ffnet_deploy.bench.profiler import PeakMeter, named
from ffnet_deploy.graph.facts import macs_by_node
from ffnet_deploy.graph.names import module_of, nodes_of
from ffnet_deploy.graph.qdq import quantise, watched
from ffnet_deploy.graph.ranges import Limits
from ffnet_deploy.ladder import facts_of
from ffnet_deploy.machine.load import Load
from ffnet_deploy.report import latency
from ffnet_deploy.runtimes.engine_layers import LayerTime
from ffnet_deploy.runtimes.onnxruntime import build, profile
from ffnet_deploy.runtimes.rung import Rung

PEAKS = Peaks({"fp32": 1e9}, 1e9)
RUNS = 3


@pytest.fixture(scope="module")
def graph() -> onnx.ModelProto:
    return onnx.load_from_string(small_graph())


@pytest.fixture(scope="module")
def times(small_engine: Path) -> list[LayerTime]:
    return profile(small_engine, street_feeds(SMALL_SHAPE), RUNS, threads=1)


@pytest.fixture(scope="module")
def layers(times: list[LayerTime], graph: onnx.ModelProto) -> list[LayerTiming]:
    return named(times, graph, PEAKS)


def test_every_run_of_every_layer_is_there(layers: list[LayerTiming]) -> None:
    assert len(layers) > 60
    for layer in layers:
        assert len(layer.samples_ms) == RUNS
        assert 0 <= layer.median_ms < 10_000
        assert layer.precision == "fp32"
        assert layer.bytes


def test_every_node_belongs_to_one_layer(layers: list[LayerTiming], graph: onnx.ModelProto) -> None:
    nodes = [node for layer in layers for node in layer.nodes]
    assert sorted(nodes) == sorted(node.name for node in graph.graph.node)


def test_the_work_of_all_layers_is_that_of_the_graph(layers: list[LayerTiming], graph: onnx.ModelProto) -> None:
    assert sum(layer.macs for layer in layers) == sum(macs_by_node(graph).values())
    # One convolution in a layer, so that no layer's time stands for another's work.
    macs = macs_by_node(graph)
    assert all(sum(node in macs for node in layer.nodes) <= 1 for layer in layers)


def test_layers_of_integers_have_names_and_work_too(graph: onnx.ModelProto, tmp_path: Path) -> None:
    quantised = quantise(graph, dict.fromkeys(watched(graph), Limits(1.0, -1.0, 1.0)), "cpu")
    onnx.save(quantised.model, tmp_path / "graph.onnx")
    build(tmp_path / "graph.onnx", tmp_path / "engine.onnx")
    layers = named(profile(tmp_path / "engine.onnx", street_feeds(SMALL_SHAPE, 1), 1, threads=1), graph, PEAKS)
    assert sum(layer.macs for layer in layers) == sum(macs_by_node(graph).values())
    (last,) = (layer for layer in layers if layer.kind == "QGemm")
    assert (last.module, last.precision) == ("head.layers.3.last_layer.3", "int8")
    assert {layer.precision for layer in layers if layer.kind.startswith("QLinear")} == {"int8"}
    modules = {layer.module for layer in layers if layer.kind == "Expand"}
    assert modules == {"head.layers.1", "head.layers.2"}


def test_layers_have_the_names_of_pytorchs_modules(layers: list[LayerTiming]) -> None:
    by_module = {layer.module: layer for layer in layers}
    assert by_module["backbone_model.conv0"].nodes == ("backbone_model.conv0/Conv", "backbone_model.relu/Relu")
    # The sum and the activation behind it are fused into the second convolution of a block.
    assert by_module["backbone_model.layer1.1.conv2"].nodes == (
        "backbone_model.layer1.1.conv2/Conv",
        "backbone_model.layer1.1/Add",
        "backbone_model.layer1.1.relu/Relu_1",
    )
    known = {node.name.rpartition("/")[0] for node in onnx.load_from_string(small_graph()).graph.node}
    strange = [layer.name for layer in layers if layer.module not in known]
    assert strange == ["ReorderOutput"]


CHAIN = """
<ir_version: 10, opset_import: ["" : 20]>
chain (float[1,4,4,4] image) => (float[1,4,4,4] logits) <float[4,4,1,1] w, float[4] b> {
    ["a/Conv"] "a/Conv" = Conv (image, w, b)
    ["a.act/Relu"] "a.act/Relu" = Relu ("a/Conv")
    ["b/Conv"] "b/Conv" = Conv ("a.act/Relu", w, b)
    ["c/Conv"] "c/Conv" = Conv (image, w, b)
    ["Add"] "Add" = Add ("b/Conv", "c/Conv")
    ["act/Relu"] logits = Relu ("Add")
}
"""


@pytest.mark.parametrize(
    ("executed", "owned"),
    [
        # Nothing fused.
        (
            ["a/Conv", "a.act/Relu", "b/Conv", "c/Conv", "Add", "act/Relu"],
            [("a/Conv",), ("a.act/Relu",), ("b/Conv",), ("c/Conv",), ("Add",), ("act/Relu",)],
        ),
        # Called after the activation behind it; the sum goes to the convolution that ran last.
        (
            ["c/Conv_nchwc", "a.act/Relu_nchwc", "b/Conv_nchwc", "Reorder"],
            [("c/Conv",), ("a/Conv", "a.act/Relu"), ("b/Conv", "Add", "act/Relu"), ()],
        ),
        (
            ["a.act/Relu", "b/Conv", "c/Conv"],
            [("a/Conv", "a.act/Relu"), ("b/Conv",), ("c/Conv", "Add", "act/Relu")],
        ),
        # Called after the graph's output.
        (
            ["a.act/Relu", "b/Conv", "c/Conv", "logits_nchwc"],
            [("a/Conv", "a.act/Relu"), ("b/Conv",), ("c/Conv", "Add"), ("act/Relu",)],
        ),
    ],
)
def test_fused_layers_are_traced_to_their_nodes(executed: Sequence[str], owned: Sequence[tuple[str, ...]]) -> None:
    assert nodes_of(onnx.parser.parse_model(CHAIN), executed) == list(owned)


def test_a_layer_is_called_after_its_convolution() -> None:
    operators = {"a.b/Conv": "Conv", "a.act/Relu": "Relu", "Add": "Add"}
    assert module_of(("a.act/Relu", "a.b/Conv"), "x", operators) == "a.b"
    assert module_of(("a.act/Relu",), "x", operators) == "a.act"
    assert module_of((), "Reorder", operators) == "Reorder"


@pytest.mark.parametrize(
    ("macs_side", "moved", "precision", "bound", "roofline"),
    [
        # 1 GMAC/s and 1 GB/s; 256 MACs of a convolution take 0.256 us, 100 bytes 0.1 us, of 1 us measured.
        (True, 100, "fp32", "compute", 0.256),
        (True, 900, "fp32", "memory", 0.9),
        (True, None, "fp32", None, None),
        # No peak of INT8: the memory's share, and no word on what bounds it.
        (True, 100, "int8", None, 0.1),
        (True, None, "int8", None, None),
        (False, 100, "int8", "memory", 0.1),
    ],
)
def test_the_roofline_by_hand(
    macs_side: bool, moved: int | None, precision: str, bound: str | None, roofline: float | None
) -> None:
    name = "c/Conv" if macs_side else "Reorder"
    time = LayerTime(name, "Conv", (0.001,), precision, moved)
    (layer,) = named([time], onnx.parser.parse_model(CHAIN), PEAKS)
    assert layer.macs == (256 if macs_side else 0)
    assert layer.bound == bound
    assert layer.roofline == (None if roofline is None else pytest.approx(roofline))


def profiled(runtime: str, layers: Sequence[LayerTiming], *, held_to_peaks: bool = True) -> ProfiledRung:
    facts = facts_of(Rung(runtime, "int8", "a_model", (1, 3, 4, 4)), None)
    return ProfiledRung(**asdict(facts), total_ms=1.0, held_to_peaks=held_to_peaks, layers=tuple(layers))


def test_the_foot_tells_which_peaks_are_lacking() -> None:
    graph = onnx.parser.parse_model(CHAIN)
    time = LayerTime("c/Conv", "QLinearConv", (0.001,), "int8", 100)
    elsewhere = named([time], graph, None)
    assert (elsewhere[0].bound, elsewhere[0].roofline) == (None, None)
    file = ProfileFile(
        created="2026-01-01T00:00:00+00:00",
        model="a_model",
        shape=(1, 3, 4, 4),
        iters=1,
        threads=1,
        rungs=(
            profiled("onnxruntime", named([time], graph, PEAKS)),
            profiled("tensorrt", elsewhere, held_to_peaks=False),
        ),
        peaks=PEAKS,
        skipped=(),
        marks=(),
        graph_sha256="",
        environment=ENVIRONMENT,
        load=Load(0.0, 0.0, 0.0, None, None),
        warnings=(),
        error=None,
    )
    result = Profile(file, None)
    foot = latency.profile(result).splitlines()[-3:]
    assert foot == [
        "",
        "no int8 peak is measured: of the peak, such convolutions show the memory's share alone",
        "tensorrt int8 ran on another device than the peaks: name it with --device",
    ]
    assert [rung["device"] for rung in result.to_json()["rungs"]] == ["cpu", "cuda:0"]
    plain = named([LayerTime("c/Conv", "Conv", (0.001,), "fp32", 100)], graph, PEAKS)
    alone = replace(file, rungs=(profiled("onnxruntime", plain),))
    assert "no int8 peak" not in latency.profile(Profile(alone, None))


def test_what_was_found_in_the_engine_fills_what_the_profiler_does_not_tell() -> None:
    graph = onnx.parser.parse_model(CHAIN)
    found = {"a/Conv": "fp16", "b/Conv": "fp32"}
    told = [
        LayerTime("fused a", "correlation", (1.0,), None, None, nodes=("a/Conv", "a.act/Relu", "of another graph")),
        LayerTime("fused b and c", "correlation", (1.0,), None, None, nodes=("b/Conv", "c/Conv")),
        LayerTime("copy", "reformat", (1.0,), None, None, nodes=()),
    ]
    first, second, third = named(told, graph, PEAKS, found)
    assert (first.precision, first.module, first.nodes) == ("fp16", "a", ("a/Conv", "a.act/Relu"))
    assert (second.precision, second.macs) == ("fp32", 512)
    assert (third.precision, third.module, third.roofline) == (None, "copy", None)


def test_peaks_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    from ffnet_deploy.bench import profiler as module

    monkeypatch.setattr(module, "_PEAK_S", 0.0)
    monkeypatch.setattr(module, "_SIDE", 256)
    monkeypatch.setattr(module, "_COPIED", 1 << 20)
    peaks = PeakMeter(1, None).measure()
    assert set(peaks.macs_per_s) == {"fp32", "int8"}
    # Of any machine that can run this: between 10 MMAC/s and 10 TMAC/s, 10 MB/s and 10 TB/s.
    assert all(7 < math.log10(peak) < 13 for peak in peaks.macs_per_s.values())
    assert 7 < math.log10(peaks.bytes_per_s) < 13

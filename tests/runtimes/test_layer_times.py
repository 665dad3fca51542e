"""Times of an engine's layers, without a GPU: what TensorRT gives is played."""

from __future__ import annotations

import json
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from ffnet_deploy.errors import EngineError
from ffnet_deploy.runtimes import tensorrt
from ffnet_deploy.runtimes.tensorrt import TensorRTRunner

CONV = {"Name": "conv", "LayerType": "gemm", "Metadata": "[ONNX Layer: a/Conv]"}


class Played(TensorRTRunner):
    """An engine of one layer, which takes two milliseconds."""

    def __init__(self, told: str) -> None:
        self._trt = SimpleNamespace(IProfiler=object, LayerInformationFormat=SimpleNamespace(JSON=0))
        inspector = SimpleNamespace(get_engine_information=lambda _: told)
        self._engine = SimpleNamespace(create_engine_inspector=lambda: inspector)
        self._context = SimpleNamespace(profiler=None)
        self._told = partial(tensorrt._told, "it fails", "Build it again.")

    def __call__(self, _: Any) -> dict[str, Any]:
        if self._context.profiler:
            self._context.profiler.report_layer_time("conv", 2.0)
        return {}


def test_layers_have_what_the_inspector_tells_of_them() -> None:
    (found,) = Played(json.dumps({"Layers": [CONV, "a name alone"]})).profile([{}], 3)
    assert (found.name, found.kind, found.samples, found.nodes) == ("conv", "gemm", (2.0, 2.0, 2.0), ("a/Conv",))


@pytest.mark.parametrize("told", ["", "[]", "{}", '{"Layers": 5}', '{"Layers": [{"LayerType": "gemm"}]}'])
def test_an_inspector_of_another_version_is_one_line(told: str) -> None:
    with pytest.raises(EngineError, match=r"^it fails \((JSONDecode|Type|Key)Error: .+\)\. Build it again\.$"):
        Played(told).profile([{}], 1)

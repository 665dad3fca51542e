"""Graphs of random weights for sweeps that ask what is built or taken, not what is computed."""

from __future__ import annotations

import time

from ffnet_deploy.artifacts.records import GraphRecord, keep, stamp
from ffnet_deploy.artifacts.replay import exported_name
from ffnet_deploy.artifacts.values import DEFAULT_OPSET, GraphOptions, SourceWeights
from ffnet_deploy.artifacts.workspace import Workspace
from ffnet_deploy.zoo.specs import find


def export(workspace: Workspace, name: str) -> None:
    """Write a model's graph at its native size as ``export`` does, but for the verification against PyTorch."""
    from ffnet_deploy.graph.from_torch import export as to_onnx
    from ffnet_deploy.zoo.weights import load_random

    started = time.monotonic()
    spec = find(name)
    loaded = load_random(spec)
    options = GraphOptions(shape=(1, 3, *spec.input_hw), opset=DEFAULT_OPSET, contract=spec.input_hw)
    graph = to_onnx(loaded.module, spec, options.shape, opset=options.opset, metadata={})
    keep(
        workspace.path_of(exported_name(name, options)),
        graph.SerializeToString(deterministic=True),
        lambda sha256, size: GraphRecord(
            model=name,
            precision="fp32",
            file=stamp(sha256, size, started, ("torch", "onnx")),
            marks=loaded.marks,
            options=options,
            weights=SourceWeights(None, loaded.sha256),
        ),
    )

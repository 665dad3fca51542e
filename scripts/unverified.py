"""Graphs of random weights for sweeps that ask what is built or taken, not what is computed."""

from __future__ import annotations

from ffnet_deploy import artifacts
from ffnet_deploy.artifacts import Record, Workspace
from ffnet_deploy.zoo.specs import find


def export(workspace: Workspace, name: str) -> None:
    """Write a model's graph at its native size as ``export`` does, but for the verification against PyTorch."""
    from ffnet_deploy.graph.export import export as to_onnx
    from ffnet_deploy.zoo.weights import load_random

    spec = find(name)
    loaded = load_random(spec)
    shape = (1, 3, *spec.input_hw)
    graph = to_onnx(loaded.module, spec, shape, opset=20, metadata={})
    artifacts.keep(
        workspace.graph(name),
        graph.SerializeToString(deterministic=True),
        lambda sha256, size: Record(
            kind="graph",
            model=name,
            precision="fp32",
            sha256=sha256,
            size=size,
            sources={"weights": {"file": None, "sha256": loaded.sha256}},
            options={"shape": list(shape)},
            marks=loaded.marks,
            created=artifacts.now(),
        ),
    )

"""Files with records for tests: small ones that no command has made."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ffnet_deploy.artifacts.records import (
    AnyRecord,
    EngineRecord,
    GraphRecord,
    Stamp,
    WeightsRecord,
    keep,
    now,
    tool_versions,
)
from ffnet_deploy.artifacts.values import (
    Activation,
    EngineFindings,
    EngineOptions,
    GraphFindings,
    GraphOptions,
    IntegerWork,
    SourceFile,
    SourceImages,
    SourceRanges,
    SourceWeights,
    Verification,
)
from ffnet_deploy.artifacts.workspace import Workspace

MODEL = "segmentation_ffnet46NS_CCC_mobile"
DATA = b"an artefact"
OPTIONS = GraphOptions(shape=(1, 3, 64, 128), opset=20, contract=(512, 1024))
RANDOM = SourceWeights(None, "random-0")


def stamp_for(data: bytes = DATA, created: str = "") -> Stamp:
    return Stamp(
        sha256=hashlib.sha256(data).hexdigest(),
        size=len(data),
        seconds=1.5,
        tools=tool_versions("numpy"),
        created=created or now(),
    )


def weights_record() -> WeightsRecord:
    return WeightsRecord(model=MODEL, file=stamp_for(), marks=("demo weights",), recipe="00")


def graph_record(*, precision: str = "fp32", created: str = "", full: bool = False) -> GraphRecord:
    """An exported graph, or one made from it; ``full`` has something in every field."""
    check = Verification(2, 0.01, 0.001, 0.999, 8192)
    found = GraphFindings(
        verification=check,
        operators={"Conv": 63},
        emulated=check,
        kept_fp32={"a/Conv": "asked for by 'a*'"},
        declined={"b/Conv": "the last classifier"},
        quantised=IntegerWork(("c/Conv",), 0.9, 0.95),
        largest_activation=Activation("c", 12.5),
    )
    made = precision != "fp32"
    return GraphRecord(
        model=MODEL,
        precision=precision,  # type: ignore[arg-type]
        file=stamp_for(created=created),
        marks=("untrained", "off contract"),
        options=OPTIONS,
        weights=RANDOM,
        graph=SourceFile(f"{MODEL}@64x128.onnx", "00") if made or full else None,
        ranges=SourceRanges(f"{MODEL}@64x128.json", "00") if full else None,
        images=SourceImages("Cityscapes train", 5, "00") if full else None,
        found=found if full else GraphFindings(),
    )


def engine_record(
    *, exported: str = f"{MODEL}@64x128.onnx", precision: str = "fp32", runtime: str = "onnxruntime"
) -> EngineRecord:
    graph = SourceFile(exported, "00")
    return EngineRecord(
        model=MODEL,
        precision=precision,  # type: ignore[arg-type]
        runtime=runtime,
        file=stamp_for(),
        marks=("untrained", "off contract"),
        options=OPTIONS,
        engine=EngineOptions(),
        graph=graph,
        exported=graph,
        weights=RANDOM,
        found=EngineFindings({"a/Conv": "fp16"}, {"fp16": 1.0}, {"convolution": 63}, 1024),
    )


def put(path: Path, record: AnyRecord | None = None) -> AnyRecord:
    """Write a file and its record: an engine's unless another is given."""
    made = record or engine_record()
    return keep(path, DATA, lambda *_: made)


def engine_path(workspace: Workspace) -> Path:
    return workspace.engines / f"{MODEL}@64x128.fp32.onnxruntime.onnx"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())

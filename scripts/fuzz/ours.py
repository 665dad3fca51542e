"""Readers of the JSON and the state that commands write: records, calibrations, results, journals, markers."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from support.benchmarks import benchmark, rung, starts
from support.calibrated import block
from support.graphs import put_graph
from support.recorded import engine_path, engine_record, graph_record, put, stamp_for, weights_record
from support.results import ANSWERS, RESULTS, RUN

from ffnet_deploy.artifacts.records import EngineRecord, GraphRecord, WeightsRecord, keep, load_record
from ffnet_deploy.artifacts.sealing import sealed
from ffnet_deploy.artifacts.values import SourceFile
from ffnet_deploy.artifacts.workspace import Workspace
from ffnet_deploy.artifacts.writing import write_json
from ffnet_deploy.bench.compare import compare
from ffnet_deploy.bench.result import read_benchmark
from ffnet_deploy.calibration.histograms import Histogram
from ffnet_deploy.calibration.methods import METHODS
from ffnet_deploy.calibration.observe import CalibrationState
from ffnet_deploy.calibration.record import (
    CalibratedImages,
    CalibrationFile,
    MethodRange,
    TensorRanges,
    read_calibration,
)
from ffnet_deploy.errors import ArtifactError
from ffnet_deploy.evaluate.journal import Journal
from ffnet_deploy.evaluate.merge import merge
from ffnet_deploy.evaluate.outcome import Results, task_of
from ffnet_deploy.evaluate.reread import read_evaluation
from ffnet_deploy.graph.current import current_graph
from ffnet_deploy.pipeline.inspect import inspect
from ffnet_deploy.synthetic import objects, scenes
from ffnet_deploy.zoo.address import Address
from ffnet_deploy.zoo.download import Download
from fuzz.reader import Reader, among

_REMEDY = "ffnet-deploy build"
_KINDS = (("graph.onnx", GraphRecord), ("engine.engine", EngineRecord), ("weights.pth", WeightsRecord))


def _make_records(folder: Path) -> None:
    put(folder / "graph.onnx", graph_record(full=True))
    put(folder / "engine.engine", engine_record())
    put(folder / "weights.pth", weights_record())


def _read_records(folder: Path) -> Any:  # noqa: ANN401
    return [load_record(folder / name, kind, remedy=_REMEDY) for name, kind in _KINDS]


def _make_workspace(folder: Path) -> None:
    space = Workspace(folder)
    put_graph(space, block())
    graph = current_graph(space, None)
    exported = SourceFile(graph.path.name, graph.record.file.sha256)
    record = replace(engine_record(), file=stamp_for(block()), exported=exported, graph=exported)
    keep(engine_path(space), block(), lambda *_: record)
    _write_calibration(space.calibration(graph.name), graph.path.name, graph.record.file.sha256)


def _read_workspace(folder: Path) -> Any:  # noqa: ANN401
    space = Workspace(folder)
    graph = current_graph(space, None)
    engines = [(path.name, record) for path, record in space.engines_of(graph.path)]
    return graph.path.name, graph.record, engines, len(space.graphs())


def _read_inspected(folder: Path) -> Any:  # noqa: ANN401
    """What ``inspect`` shows; what it calls not current is refused here."""
    space, found = Workspace(folder), []
    for path in sorted(folder.glob("*/*")):
        if path.is_file() and not path.name.endswith(".onnx.json"):
            result = inspect(space, path)
            if result.current != "yes" and not result.current.startswith("as far as can be known: "):
                raise ArtifactError(f"{path} is not current: {result.current}")
            values = result.to_json()
            # White space in the file changes its size, and the time passes.
            del values["created"], values["bytes"]
            found.append(values)
    return found


def _write_calibration(path: Path, graph: str, sha256: str) -> None:
    span = MethodRange(1.25, 0.0, 1.25)
    spans = {**dict.fromkeys(METHODS, span), "max": MethodRange(1.5, 0.0, 1.5)}
    tensors = TensorRanges(0.0, 1.5, 4096, (0.5, 1.5, 0.25), **spans)
    file = CalibrationFile(
        created="2026-01-01T00:00:00+00:00",
        model="segmentation_ffnet46NS_CCC_mobile",
        graph=SourceFile(graph, sha256),
        images=CalibratedImages("folder of images", "/data", None, False, ("a.png", "b.png"), "0" * 64, False),
        method="entropy",
        percentile=99.99,
        marks=("untrained",),
        tools={"numpy": "2.4"},
        seconds=1.5,
        resumed_at=0,
        tensors={"a": tensors, "b": tensors},
    )
    write_json(path, sealed(asdict(file)))


def _make_calibration(folder: Path) -> None:
    _write_calibration(folder / "a_model@64x128.json", "a_model@64x128.onnx", "0" * 64)


def _read_calibration(folder: Path) -> Any:  # noqa: ANN401
    found = read_calibration(Workspace(folder), folder / "a_model@64x128.json")
    return found.file, found.fingerprint, str(found.again)


def _make_benchmarks(folder: Path) -> None:
    for name, factor in (("a", 1.0), ("b", 1.1)):
        rungs = rung("pytorch fp32", 20.0 * factor), rung("onnxruntime fp32", 10.0)
        write_json(folder / f"{name}.json", benchmark(*rungs))
        cold = starts("pytorch fp32", 20.0 * factor), starts("onnxruntime fp32", 10.0)
        write_json(folder / f"cold-{name}.json", benchmark(*cold, mode="cold", min_seconds=None))


def _read_benchmarks(folder: Path) -> Any:  # noqa: ANN401
    found = []
    for kind in ("", "cold-"):
        files = folder / f"{kind}a.json", folder / f"{kind}b.json"
        compared = compare(*files).to_json()
        del compared["created"]
        found.append([compared, *map(read_benchmark, files)])
    return found


def _write_shards(results: Results, folder: Path) -> None:
    for number in (1, 2):
        part = replace(results.part, shard=(number, 2))
        shard = replace(results, part=part, images=results.images[number - 1 :: 2])
        write_json(folder / f"{number}.json", shard.scored(run=RUN).to_json())


def _read_shards(folder: Path) -> Any:  # noqa: ANN401
    files = folder / "1.json", folder / "2.json"
    merged = merge(files).to_json()
    del merged["created"], merged["merged"], merged["checksum"]
    return [merged, *map(read_evaluation, files)]


_KEY = {"engine": "a"}


def _opened(results: Results, folder: Path) -> Journal[Any]:
    return Journal(folder, _KEY, task_of(results.command).parse, resume=True)


def _journal(name: str, results: Results) -> Reader:
    def make(folder: Path) -> None:
        with _opened(results, folder) as journal:
            for image in results.images:
                journal.add(image)

    def read(folder: Path) -> Any:  # noqa: ANN401
        with _opened(results, folder) as journal:
            return {key: image.facts() for key, image in journal.done.items()}

    return Reader(
        f"journal-{name}", make, read, ("*.jsonl",), writes=("*.jsonl",),
        # A line that is damaged is computed again.
        agrees=among,
    )  # fmt: skip


def _state(folder: Path) -> CalibrationState:
    return CalibrationState(folder / "a.partial", "0" * 64)


def _make_partial(folder: Path) -> None:
    histograms = {}
    for i, name in enumerate("ab"):
        histograms[name] = Histogram()
        histograms[name].add(np.random.default_rng(i).normal(size=500).astype(np.float32), name)
    _state(folder).save(histograms, 3)


def _read_partial(folder: Path) -> Any:  # noqa: ANN401
    histograms, done = _state(folder).load({"a": 500, "b": 500}, 3)
    hashes = [hashlib.sha256(one.counts.tobytes()).hexdigest() for one in histograms.values()]
    return done, hashes, [(one.low, one.high) for one in histograms.values()]


_EMPTY = hashlib.sha256(Histogram().counts.tobytes()).hexdigest()


def _begins_anew(found: Any, whole: Any) -> bool:  # noqa: ANN401
    return bool(found == whole or found == (0, [_EMPTY] * 2, [(float("inf"), float("-inf"))] * 2))


def _draw_scenes(folder: Path) -> None:
    scenes.write_cityscapes(folder, "val", {"eichenfurt": 1}, seed=1, size=(64, 128))


def _draw_objects(folder: Path) -> None:
    objects.write_objects(folder, train=0, val=1, seed=1)


def _drawn(folder: Path) -> Any:  # noqa: ANN401
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix != ".json")
    return [(str(path.relative_to(folder)), hashlib.sha256(path.read_bytes()).hexdigest()) for path in files]


def _scenes_again(folder: Path) -> Any:  # noqa: ANN401
    _draw_scenes(folder)
    return _drawn(folder)


def _objects_again(folder: Path) -> Any:  # noqa: ANN401
    _draw_objects(folder)
    return _drawn(folder)


def _download(folder: Path) -> Download:
    return Download("ffnet46N", Address.of("https://example.org/ffnet46N.zip"), folder)


def _make_download(folder: Path) -> None:
    job = _download(folder)
    write_json(job.note, sealed({"url_sha256": job.address.sha256, "version": '"an-etag"', "total": 1000}))
    job.part.write_bytes(b"x" * 100)


def _continues(kept: Any) -> bool:  # noqa: ANN401
    """Whether a request can be made of what is kept: its version goes into a header."""
    return kept.version is None or (isinstance(kept.version, str) and kept.version.isprintable())


def _kept_or_not(found: Any, whole: Any) -> bool:  # noqa: ANN401
    """What is damaged is downloaded anew."""
    return bool(found == whole or found.done == 0)


READERS = (
    Reader("records", _make_records, _read_records, ("*",)),
    Reader("workspace", _make_workspace, _read_workspace, ("models/*", "engines/*"), trees=0.3),
    Reader("inspect", _make_workspace, _read_inspected, ("*/*",), share=0.5),
    Reader("calibration", _make_calibration, _read_calibration, ("*",)),
    Reader("benchmark", _make_benchmarks, _read_benchmarks, ("*",)),
    Reader("eval-cityscapes", lambda folder: _write_shards(RESULTS, folder), _read_shards, ("*",)),
    Reader("eval-imagenet", lambda folder: _write_shards(ANSWERS, folder), _read_shards, ("*",)),
    _journal("cityscapes", RESULTS),
    _journal("imagenet", ANSWERS),
    Reader("partial", _make_partial, _read_partial, ("*",), agrees=_begins_anew),
    Reader("scenes-marker", _draw_scenes, _scenes_again, ("*.json",), writes=("*.json",), share=0.5),
    Reader("objects-marker", _draw_objects, _objects_again, ("*.json",), writes=("*.json",), share=0.1),
    Reader(
        "download-note", _make_download, lambda folder: _download(folder).kept(), ("*/.download.json",), "other",
        share=0.3, fits=_continues, agrees=_kept_or_not,
    ),
)  # fmt: skip

"""Readers of weights, their archives and their hashes, and of graphs and engines."""

from __future__ import annotations

import hashlib
import io
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from support.calibrated import block
from support.fakes import SMALL, SMALL_SHAPE
from support.graphs import put_graph
from support.mirror import file_of, saved_bytes, state_of
from support.recorded import engine_record, stamp_for

from ffnet_deploy.artifacts.records import keep
from ffnet_deploy.artifacts.workspace import Workspace
from ffnet_deploy.errors import FFNetDeployError
from ffnet_deploy.pipeline.inspect import inspect
from ffnet_deploy.runtimes.opening import load_engine
from ffnet_deploy.zoo.checkpoint import read_state
from ffnet_deploy.zoo.checksums import SUMS, check_recorded
from ffnet_deploy.zoo.fetch import fetch
from ffnet_deploy.zoo.specs import find
from ffnet_deploy.zoo.weights import load, load_random
from fuzz.reader import Reader

_ARCHIVE = find(SMALL).archive


def _small_state() -> dict[str, torch.Tensor]:
    return {"a.weight": torch.arange(24.0).reshape(2, 3, 4), "a.bias": torch.tensor([0.5, -2.0]), "n": torch.tensor(7)}


def _saved(*, zipped: bool = True) -> bytes:
    out = io.BytesIO()
    torch.save(_small_state(), out, _use_new_zipfile_serialization=zipped)
    return out.getvalue()


def _facts(state: dict[str, torch.Tensor]) -> Any:  # noqa: ANN401
    return {
        name: (str(value.dtype), tuple(value.shape), hashlib.sha256(value.contiguous().numpy().tobytes()).hexdigest())
        for name, value in state.items()
    }


def _write_network(folder: Path) -> None:
    torch.save(load_random(find(SMALL)).module.state_dict(), folder / "a.pth")


def _read_network(folder: Path) -> Any:  # noqa: ANN401
    return _facts(load(find(SMALL), folder / "a.pth").module.state_dict())


def _write_archive(folder: Path) -> None:
    (folder / "source").mkdir()
    with zipfile.ZipFile(folder / "source" / f"{_ARCHIVE}.zip", "w") as archive:
        info = zipfile.ZipInfo(f"{_ARCHIVE}/{file_of(find(SMALL))}")
        archive.writestr(info, saved_bytes(state_of(find(SMALL), padding=1)), zipfile.ZIP_DEFLATED)
        archive.writestr(zipfile.ZipInfo(f"{_ARCHIVE}/README.txt"), b"what is not taken")


def _unpack(folder: Path) -> Any:  # noqa: ANN401
    out = folder / "out"
    try:
        fetch([_ARCHIVE], out, source=folder / "source")
    except FFNetDeployError:
        left = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
        # All or nothing.
        assert not left, left
        raise
    return {str(p.relative_to(out)): hashlib.sha256(p.read_bytes()).hexdigest() for p in out.rglob("*") if p.is_file()}


def _write_sums(folder: Path) -> None:
    (folder / "b").mkdir()
    for i, name in enumerate(_SUMMED):
        (folder / name).write_bytes(bytes([i]) * 40)
        check_recorded(folder / name, folder)


_SUMMED = ("a.pth", "b/c.pth")


def _check_sums(folder: Path) -> Any:  # noqa: ANN401
    return [check_recorded(folder / name, folder) for name in _SUMMED]


def _put_graph(folder: Path) -> None:
    put_graph(Workspace(folder), block())
    for record in folder.glob("models/*.json"):
        record.unlink()


def _look_at_graph(folder: Path) -> Any:  # noqa: ANN401
    (path,) = folder.glob("models/*.onnx")
    return inspect(Workspace(folder), path).to_json()


_ENGINE = "engine.onnxruntime.onnx"


def _put_engine(folder: Path) -> None:
    keep(folder / _ENGINE, block(), lambda *_: replace(engine_record(), file=stamp_for(block())))


def _run_engine(folder: Path) -> Any:  # noqa: ANN401
    with load_engine(folder / _ENGINE, threads=1) as runner:
        image = np.linspace(-1, 1, int(np.prod(SMALL_SHAPE)), dtype=np.float32).reshape(SMALL_SHAPE)
        return {name: hashlib.sha256(value.tobytes()).hexdigest() for name, value in runner({"image": image}).items()}


def _run_resealed(folder: Path) -> Any:  # noqa: ANN401
    """The same with a record that is right again: what a build by hand, or a runtime's fault, could leave."""
    data = (folder / _ENGINE).read_bytes()
    copy = folder / "resealed"
    shutil.rmtree(copy, ignore_errors=True)
    keep(copy / _ENGINE, data, lambda *_: replace(engine_record(), file=stamp_for(data)))
    return _run_engine(copy)


def _write_zip(folder: Path) -> None:
    (folder / "a.pth").write_bytes(_saved())


def _write_pickle(folder: Path) -> None:
    (folder / "a.pth").write_bytes(_saved(zipped=False))


def _read_state(folder: Path) -> Any:  # noqa: ANN401
    return _facts(read_state(folder / "a.pth"))


_COPY = ("resealed", "resealed/*")
READERS = (
    Reader("state-zip", _write_zip, _read_state, ("*",)),
    Reader("state-pickle", _write_pickle, _read_state, ("*",), "other"),
    Reader("network", _write_network, _read_network, ("*",), share=0.05),
    Reader("archive", _write_archive, _unpack, ("source/*",), writes=("out", "out/*")),
    # The record of first use may be written again where a line of it is gone.
    Reader("sums", _write_sums, _check_sums, (SUMS,), writes=(SUMS,)),
    Reader("sums-weights", _write_sums, _check_sums, ("*.pth", "b/*.pth"), share=0.3),
    Reader("graph", _put_graph, _look_at_graph, ("models/*.onnx",), "other"),
    Reader("engine", _put_engine, _run_engine, ("*",), share=0.5),
    Reader("engine-resealed", _put_engine, _run_resealed, ("*.onnx",), "other", writes=_COPY, share=0.3),
)

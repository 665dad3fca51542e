"""What PyTorch's exporter gives, kept for all of pytest's processes: it takes two seconds for each graph."""

from __future__ import annotations

import functools
import hashlib
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

Shape = tuple[int, int, int, int]
Tracer = Callable[[nn.Module, Shape, int], onnx.ModelProto]
Shared = Callable[[str, Callable[[Path], None]], Path]


def kept(trace: Tracer, shared: Shared) -> Tracer:
    """The same graphs as ``trace``, each traced once; ``shared`` makes a folder once for all processes."""

    @functools.wraps(trace)
    def look_up(module: nn.Module, shape: Shape, opset: int) -> onnx.ModelProto:
        def make(folder: Path) -> None:
            (folder / "graph.onnx").write_bytes(trace(module, shape, opset).SerializeToString())

        folder = shared(f"traced-{_fingerprint((module, shape, opset))}", make)
        return onnx.load(folder / "graph.onnx")

    return look_up


class _Pickler(pickle.Pickler):
    """Tensors by their values: PyTorch's own way holds addresses."""

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return bytes, (value.detach().contiguous().view(torch.uint8).numpy().tobytes(), str(value.dtype))
        return NotImplemented


def _fingerprint(value: object) -> str:
    """Hash of all that a module is: its classes, attributes, hooks and weights."""
    stream = io.BytesIO()
    _Pickler(stream).dump(value)
    return hashlib.sha256(stream.getbuffer()).hexdigest()[:32]

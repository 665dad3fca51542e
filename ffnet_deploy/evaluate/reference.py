"""The reference's labels: computed once, kept on disk, and the protocol that they belong to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from PIL import Image

from ffnet_deploy.artifacts.records import tool_versions
from ffnet_deploy.artifacts.values import Shape
from ffnet_deploy.artifacts.writing import hash_json, replacing, write_json
from ffnet_deploy.data.cityscapes import CLASSES
from ffnet_deploy.data.images import filled
from ffnet_deploy.errors import ArtifactError, EngineError
from ffnet_deploy.evaluate.protocols import SegmentationProtocol

if TYPE_CHECKING:
    from ffnet_deploy.runtimes.runner import Runner


MAPS_VERSION = 1
"""Of how an image becomes a label map here, the network aside; label maps of another version are computed again."""


@dataclass(frozen=True, slots=True)
class ReferenceModel:
    """All that the reference's logits depend on, but the images and the protocol."""

    name: str
    weights: str
    """SHA-256."""
    shape: Shape
    upsampling: str
    device: Literal["cpu", "cuda"]


@dataclass(frozen=True, slots=True)
class _MapsKey:
    """All that the reference's label maps depend on, but the images."""

    model: ReferenceModel
    size: tuple[int, int]
    downsample: str | None
    align_corners: bool
    torch: str
    tools: Mapping[str, str]
    maps: int = MAPS_VERSION


class LabelMaps:
    """The reference's label maps on disk, so that a later evaluation need not compute them again.

    One folder for each (weights, protocol, PyTorch), one file for each image's bytes; a PNG counts only when whole.
    """

    def __init__(self, folder: Path, key: _MapsKey) -> None:
        """Open the folder that belongs to ``key``."""
        self._size = key.size
        self._folder = folder / hash_json(asdict(key))[:16]
        if not (self._folder / "key.json").exists():
            # It is for people. Another shard may write the same at this moment; a folder that cannot be written at all
            # is met again by the first label map.
            with suppress(ArtifactError):
                write_json(self._folder / "key.json", asdict(key))

    def load(self, name: str, sha256: str) -> np.ndarray | None:
        """uint8 (H, W) train ids of one sample, or None."""
        try:
            with Image.open(self._path(name, sha256), formats=("PNG",)) as image:
                if (image.height, image.width) != self._size or image.mode != "L":
                    return None
                image.verify()
            with Image.open(self._path(name, sha256), formats=("PNG",)) as image:
                labels = np.asarray(image)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
            # Not there, or damaged since: it is computed again.
            return None
        return labels if labels.max() < len(CLASSES) else None

    def save(self, name: str, sha256: str, labels: np.ndarray) -> None:
        try:
            with replacing(self._path(name, sha256)) as part:
                Image.fromarray(labels).save(part, format="PNG", compress_level=1)
        except ArtifactError as error:
            # Another evaluation of the same writes the same map at this moment: one of them is enough.
            if not isinstance(error.__cause__, BlockingIOError):
                raise

    def _path(self, name: str, sha256: str) -> Path:
        return self._folder / f"{name}.{sha256[:16]}.png"


class Reference:
    """The reference's labels: from disk where they are, else computed and kept."""

    def __init__(
        self,
        name: str,
        opener: Callable[[], tuple[Runner, AbstractContextManager[Any]]],
        folder: Path,
        model: ReferenceModel,
        protocol: SegmentationProtocol,
    ) -> None:
        """Prepare; ``opener`` is called when a label map is first missing.

        Args:
            name: of the rung.
            opener: of the reference's runner and of the gate that is held during a run.
            folder: of all label maps.
            model: all that the network's output depends on.
            protocol: how logits become labels.
        """
        self.name = name
        self._opener = opener
        tools = tool_versions("numpy", "pillow")
        self._maps = [
            LabelMaps(folder, _MapsKey(model, protocol.size, protocol.downsample, align, torch.__version__, tools))
            for align in protocol.align_corners
        ]
        self._opened: tuple[Runner, AbstractContextManager[Any]] | None = None
        self._lock = Lock()
        self.computed = 0

    def kept(self, samples: Sequence[tuple[str, str]]) -> list[list[np.ndarray]] | None:
        """For each choice of ``align_corners`` the label maps of (name, sha256) samples; None if one is missing."""
        found = [[maps.load(*sample) for sample in samples] for maps in self._maps]
        whole = [[labels for labels in row if labels is not None] for row in found]
        return whole if all(len(row) == len(samples) for row in whole) else None

    def run(self, image: np.ndarray) -> np.ndarray:
        """Logits by the reference's runner."""
        with self._lock:
            if self._opened is None:
                self._opened = self._opener()
        runner, gate = self._opened
        with gate:
            return runner({"image": image})["logits"]

    def keep(self, samples: Sequence[tuple[str, str]], labels: Sequence[Sequence[np.ndarray]]) -> None:
        for maps, row in zip(self._maps, labels, strict=True):
            for sample, one in zip(samples, row, strict=True):
                maps.save(*sample, one)
        with self._lock:
            self.computed += len(samples)


@dataclass(frozen=True, slots=True)
class Opened:
    """A rung that is ready to run."""

    name: str
    runner: Runner
    gate: AbstractContextManager[Any]
    """Held during a run: how many may run at once."""
    align_corners: tuple[bool, ...]
    """Label maps to make of one run: the protocol's, or the one choice that is inside the engine."""

    def run(self, images: Sequence[np.ndarray], image: np.ndarray) -> dict[str, np.ndarray]:
        """Compute once on what the engine takes.

        Args:
            images: uint8 (H, W, 3), at most a batch; it is filled by repeating the last.
            image: float32 (batch, 3, h, w), the same made ready for the network.
        """
        dtype = self.runner.inputs[0].dtype
        feed = np.stack(filled(images, len(image))) if dtype == "uint8" else image.astype(dtype, copy=False)
        with self.gate:
            return self.runner({"image": feed})


def finite(logits: np.ndarray, name: str) -> np.ndarray:
    """A rung's logits in float32, if they can be scored.

    Raises:
        EngineError: one is NaN or infinite.
    """
    logits = logits.astype(np.float32, copy=False)
    if not np.isfinite(logits).all():
        raise EngineError(
            f"{name} gives logits that are not finite (numbers were needed to score). "
            "Look where it begins: ffnet-deploy verify --layers"
        )
    return logits

"""Six pictures of odd sizes and what torchvision makes of them: ``Resize(256)``, ``CenterCrop(224)`` on Pillow images.

``imagenet_golden.npz`` was recorded once, with torchvision beside the project's own environment:

    pip install --no-deps --target DIR torchvision==0.28.0
    PYTHONPATH=DIR python tests/support/golden/imagenet_golden.py

For each size it holds ``HxW.pixels``, uint8 (64, 3) at ``HxW.places``, int64 (64, 2), and ``HxW.sha256`` of all pixels.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

SIZES = ((257, 256), (256, 259), (375, 500), (500, 333), (91, 64), (233, 1031))
"""(H, W): both halves of the crop's rounding, the usual sizes, one to enlarge, a long one."""
GOLDEN = Path(__file__).with_suffix(".npz")


def picture(height: int, width: int) -> np.ndarray:
    """uint8 (H, W, 3) by whole-number arithmetic alone: slopes, edges and grain."""
    y, x = np.mgrid[:height, :width].astype(np.int64)
    grain = (x * 7919 + y * 104729 + x * y * 31) % 61
    red = (3 * x + y) % 256
    green = (255 - (x + 2 * y) % 256 + grain) % 256
    blue = np.where((x // 9 + y // 7) % 2 == 0, 200, 30) + grain % 40
    return np.stack([red, green, blue], axis=-1).astype(np.uint8)


def _record() -> None:
    import torch
    from PIL import Image

    # Its compiled operators need another build of PyTorch; the transforms of Pillow images are plain Python.
    library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for operator in ("nms", "qnms"):
        signature = f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        library.define(signature)  # type: ignore[no-untyped-call]
    from torchvision.transforms import CenterCrop, Compose, Resize

    transform = Compose([Resize(256), CenterCrop(224)])
    arrays: dict[str, Any] = {}
    for height, width in SIZES:
        out = np.asarray(transform(Image.fromarray(picture(height, width))))
        places = np.random.default_rng(height).integers(0, 224, (64, 2))
        arrays[f"{height}x{width}.places"] = places
        arrays[f"{height}x{width}.pixels"] = out[places[:, 0], places[:, 1]]
        arrays[f"{height}x{width}.sha256"] = np.array(hashlib.sha256(out.tobytes()).hexdigest())
    np.savez_compressed(GOLDEN, **arrays)


if __name__ == "__main__":
    _record()

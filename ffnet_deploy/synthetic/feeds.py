"""Synthetic street scenes as inputs of a network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ffnet_deploy.artifacts.values import Ends, Shape

if TYPE_CHECKING:
    import numpy as np


def street_feeds(shape: Shape, count: int, ends: Ends | None = None) -> list[dict[str, np.ndarray]]:
    """Draw street scenes in the form that an engine takes.

    Args:
        shape: (N, 3, H, W) of the network's input.
        count: number of feeds.
        ends: of the engine; by default it takes float32 of ``shape``, normalised.
    """
    import numpy as np

    from ffnet_deploy.data.images import normalise
    from ffnet_deploy.synthetic.scenes import draw_scene

    ends = ends or Ends()
    batch, _, height, width = shape
    scenes = [draw_scene(height, width, seed).image for seed in range(count * batch)]
    if ends.image_in:
        images = [scene[None] for scene in scenes]
    else:
        images = [normalise(scene).astype("float16" if ends.io == "fp16" else "float32") for scene in scenes]
    return [{"image": np.concatenate(images[i * batch : (i + 1) * batch])} for i in range(count)]

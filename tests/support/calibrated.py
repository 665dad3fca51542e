"""A small graph with what calibration cares about, in a workspace, and pictures to calibrate it on."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from PIL import Image

from ffnet_deploy.artifacts.workspace import Workspace
from ffnet_deploy.calibration.record import Calibration, current_calibration
from ffnet_deploy.graph.current import current_graph
from ffnet_deploy.pipeline.calibrate import CalibrateOptions, calibrate
from ffnet_deploy.synthetic.scenes import draw_scene, write_cityscapes
from support.fakes import SMALL
from support.graphs import filled
from support.seals import resealed

STEM = f"{SMALL}@64x128"
BLOCK = """
    net (float[1,3,64,128] image) => (float[1,19,16,32] logits)
    <float[8,3,4,4] w0, float[8] b0, float[8,8,1,1] w1, float[8] b1, float[8,8,1,1] w2, float[19,8,1,1] w3>
    {
        [c0] a = Conv<strides = [4, 4]>(image, w0, b0) [r0] r = Relu(a)
        [c1] b = Conv(r, w1, b1) [r1] s = Relu(b) [c2] c = Conv(s, w2)
        [add] d = Add(c, r) [r2] t = Relu(d)
        [last] logits = Conv(t, w3)
    }
"""


@cache
def block() -> bytes:
    """A residual block between a first convolution and a classifier; it stands for the network of ``SMALL``."""
    model = filled(BLOCK)
    onnx.helper.set_model_props(model, {"ffnet_deploy.model": SMALL})
    return bytes(model.SerializeToString(deterministic=True))


def changed(graph: bytes, change: Callable[[str, np.ndarray], np.ndarray]) -> bytes:
    """A graph with other weights, given by their names and values."""
    model = onnx.load_from_string(graph)
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32:
            tensor.CopyFrom(numpy_helper.from_array(change(tensor.name, values).astype(np.float32), tensor.name))
    return bytes(model.SerializeToString(deterministic=True))


def write_streets(root: Path) -> None:
    """Five train scenes and two val scenes, twice the network's input: it sees them behind the blur."""
    write_cityscapes(root, "train", {"ahornstadt": 3, "birkenau": 2}, seed=1, size=(128, 256))
    write_cityscapes(root, "val", {"eichenfurt": 2}, seed=1, size=(128, 256))


def write_photos(folder: Path) -> None:
    """Three pictures of other sizes and kinds, one in a folder below."""
    (folder / "more").mkdir()
    for i, name in enumerate(("a.png", "b.jpg", "more/c.webp")):
        Image.fromarray(draw_scene(90, 100 + 10 * i, i).image).save(folder / name)


def run(space: Workspace, data: Path, **options: Any) -> Calibration:
    return calibrate(space, None, CalibrateOptions(data, **options))


def calibrated(space: Workspace) -> Calibration:
    return current_calibration(current_graph(space, None))


def values_of(found: Calibration) -> Any:
    return json.loads(found.path.read_text())


def rewritten(found: Calibration, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the values in a calibration's file, and make its checksum fit."""
    values = values_of(found)
    change(values)
    found.path.write_text(resealed(values))

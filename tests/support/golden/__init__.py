"""What the networks are held to: facts and sampled outputs of the published definitions, and how they were made.

``zoo.json``, ``state_dict_shapes.json.gz``, ``outputs.npz`` and ``deterministic.py`` are copies of the reference.
"""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
RECORDED = (
    "classification_ffnet18_AAX",
    "classification_ffnet40S_BBX_mobile",
    "classification_ffnet46NS_CBX_mobile",
    "classification_ffnet50_AAX",
    "segmentation_ffnet101_dAAA",
    "segmentation_ffnet122NS_CBB_mobile",
    "segmentation_ffnet18_dAAC",
    "segmentation_ffnet34_ABB",
    "segmentation_ffnet40S_BBB_mobile_pre_down",
    "segmentation_ffnet40S_dBBB_mobile",
    "segmentation_ffnet46NS_CCC_mobile",
    "segmentation_ffnet46NS_CCC_mobile_pre_down",
    "segmentation_ffnet46N_CBB",
    "segmentation_ffnet50_AAA",
    "segmentation_ffnet54S_BCC_mobile",
    "segmentation_ffnet86S_BBB",
)
"""Names of the models with recorded outputs."""


@cache
def published_zoo() -> dict[str, dict[str, Any]]:
    """Facts of every published model, by name."""
    zoo: dict[str, dict[str, Any]] = json.loads((HERE / "zoo.json").read_text("utf-8"))
    return zoo


@cache
def published_shapes() -> dict[str, dict[str, tuple[int, ...]]]:
    """State-dict keys and shapes of every published model, by name."""
    with gzip.open(HERE / "state_dict_shapes.json.gz", "rt", encoding="utf-8") as file:
        models = json.load(file)
    return {model: {key: tuple(shape) for key, shape in keys.items()} for model, keys in models.items()}


@dataclass(frozen=True)
class Recorded:
    """A sample of one output, for ``deterministic.make_input(input_shape, 0)`` and weights of seed 0."""

    input_shape: tuple[int, int, int, int]
    output_shape: tuple[int, ...]
    flat_index: np.ndarray
    value: np.ndarray


def recorded(name: str) -> Recorded:
    """The recorded output of one of ``RECORDED``."""
    with np.load(HERE / "outputs.npz") as file:
        n, c, h, w = (int(i) for i in file[f"{name}/input_shape"])
        output_shape = tuple(int(i) for i in file[f"{name}/output_shape"])
        return Recorded((n, c, h, w), output_shape, file[f"{name}/flat_index"], file[f"{name}/value"])


def recorded_names() -> list[str]:
    """Names of the models in the file, sorted."""
    with np.load(HERE / "outputs.npz") as file:
        return sorted({key.partition("/")[0] for key in file.files})

"""The zoo as data: family rows that expand to the 94 published models.

Source: Qualcomm-AI-research/FFNet @2291ae7 (README tables, ``models/*.py``, ``config.py``).
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from typing import Literal

from ffnet_deploy.errors import UnknownModelError

Purpose = Literal["segmentation", "classification"]
Upsampling = Literal["nearest", "bilinear"]
Deployment = Literal["mobile", "gpu_small", "gpu_large"]
"""As published: mobile upsamples by nearest, GPUs by bilinear; the small ones have a strided first stage."""


def _gaussian_taps() -> tuple[float, ...]:
    # Sigma 0.7, radius 3, over a 5-wide impulse whose borders reflect: the outermost weight folds back.
    w = [math.exp(-(k**2) / (2 * 0.7**2)) for k in range(4)]
    total = w[0] + 2 * sum(w[1:])
    return tuple(v / total for v in (w[2] + w[3], w[1], w[0], w[1], w[2] + w[3]))


BLUR_TAPS = _gaussian_taps()
"""The blur's 5x5 kernel is their outer product; they sum to 1."""


@dataclass(frozen=True, slots=True)
class Published:
    """Figures of the authors: history to compare with, never our measurement."""

    miou: float | None = None
    """Cityscapes val, percent."""
    fp32_ms: float | None = None
    fp16_ms: float | None = None
    """PyTorch eager, batch 1, the authors' desktop GPU (2080 Ti for FP16, unnamed for FP32)."""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One published model and its contract: what goes in, what is inside, what comes out."""

    name: str
    task: Purpose
    deployment: Deployment
    backbone: str
    """Depth and width variant: ``46NS``, ``150``, ``86S``."""
    strided: bool
    """The leading ``d``: layer1 is strided, so the output is 1/8 instead of 1/4 of the network's input."""
    stem: str
    up_head: str
    segmentation_head: str | None
    pre_down: bool
    """The fixed Gaussian blur with stride 2 is inside the model: feed it the full-size image."""
    train: bool
    """Initialised from ImageNet: only the backbone has weights, there is nothing to deploy."""
    input_hw: tuple[int, int]
    weights_file: str
    """Path below ``models/weights/``, in the published layout."""
    imagenet_model: str | None
    """The classification model whose backbone this one was trained from."""
    published: Published = Published()
    changed_upsampling: Upsampling | None = None
    """Another than the published one: the authors' advice for mobile models on desktop GPUs, ideally re-trained."""

    @property
    def upsampling(self) -> Upsampling:
        """Inside the network: nearest on mobile, bilinear with aligned corners on GPUs."""
        return self.changed_upsampling or ("nearest" if self.deployment == "mobile" else "bilinear")

    @property
    def classes(self) -> int:
        """19 Cityscapes train ids or 1000 ImageNet classes."""
        return 19 if self.task == "segmentation" else 1000

    @property
    def output_stride(self) -> int:
        """Of the logits against the network proper's input (after the blur, where there is one)."""
        return 8 if self.strided else 4

    @property
    def archive(self) -> str:
        """Name of the published zip archive, without ``.zip``."""
        return self.weights_file.partition("/")[0]

    @property
    def pre_down_twin(self) -> str | None:
        """The model with the same weights and the blur inside, for the models that take 512x1024."""
        halved = self.task == "segmentation" and self.input_hw == (512, 1024)
        return f"{self.name}_pre_down" if halved else None

    def output_hw(self, height: int, width: int) -> tuple[int, int] | None:
        """Size of the logits for an input of (height, width); None for classification."""
        if self.task == "classification":
            return None
        if self.pre_down:
            # 5x5 convolution with stride 2; only the rows are padded, by one on each side.
            height, width = (height + 2 - 5) // 2 + 1, (width - 5) // 2 + 1
        return -(-height // self.output_stride), -(-width // self.output_stride)


# Each figure of the mobile pairs stands for two models that share a weight file: NAME_mobile takes 512x1024,
# NAME_mobile_pre_down takes 1024x2048. mIoU in percent.
_MOBILE_PAIRS = {
    "BBB": {"150S": 81.6, "86S": 80.9, "78S": 80.5, "54S": 80.2, "40S": 79.7},
    "BCC": {"150S": 81.0, "86S": 81.0, "78S": 80.6, "54S": 79.9, "40S": 78.4},
    "CBB": {"122NS": 79.3, "74NS": 78.3, "46NS": 77.5},
    "CCC": {"122NS": 79.2, "74NS": 77.8, "46NS": 76.7},
}
_MOBILE = {"dBBB": {"86S": 81.5, "78S": 81.3, "54S": 80.8, "40S": 79.2}}

# mIoU in percent, FP32 ms, FP16 ms.
_GPU = {
    "AAA": {
        "150": (84.4, 152, 81), "134": (84.1, 135, 70), "101": (82.1, 119, 59), "86": (83.2, 105, 55),
        "56": (82.5, 82, 42), "50": (79.6, 88, 45), "34": (81.4, 67, 34),
    },
    "ABB": {"150": (83.7, 125, 71), "86": (83.5, 78, 45), "56": (82.1, 56, 32), "34": (80.3, 41, 25)},
    "BBB": {"150S": (84.1, 104, 66), "86S": (82.6, 67, 43)},
    "CBB": {"122N": (83.7, 58, 44), "74N": (83.0, 42, 32), "46N": (81.9, 34, 27)},
    "dAAA": {
        "150": (82.3, 41, 37), "134": (82.0, 38, 35), "101": (80.4, 36, 29), "86": (81.4, 30, 28),
        "56": (80.7, 25, 22), "50": (79.4, 27, 20), "34": (79.1, 21, 18), "18": (76.5, 19, 14),
    },
    "dAAC": {"150": (81.9, 37, 33), "86": (81.1, 26, 26), "34": (79.1, 17, 16), "18": (76.4, 15, 12)},
    "dBBB": {"150S": (81.0, 31, 34), "86S": (81.1, 23, 26)},
}  # fmt: skip

_CLASSIFICATION: dict[tuple[Deployment, str], tuple[str, ...]] = {
    ("mobile", "BBX"): ("150S", "86S", "78S", "54S", "40S"),
    ("mobile", "CBX"): ("122NS", "74NS", "46NS"),
    ("gpu_small", "AAX"): ("150", "134", "101", "86", "56", "50", "34", "18"),
    ("gpu_small", "BBX"): ("150S", "86S"),
    ("gpu_large", "CBX"): ("122N", "74N", "46N"),
}

_TRAIN = (
    ("78S", "BCC", "_mobile_pre_down"), ("122NS", "CBB", "_mobile_pre_down"), ("150", "AAA", ""), ("150", "dAAC", ""),
    ("86S", "BBB", ""), ("86S", "dBBB", ""), ("122N", "CBB", ""),
)  # fmt: skip


def _weights_file(backbone: str, letters: str, deployment: Deployment) -> str:
    # Slim networks exist for both deployments with equal shapes; only the file name tells the weights apart.
    gpu = "_gpu" if deployment != "mobile" and backbone.endswith("S") else ""
    data = "imagenet" if letters.endswith("X") else "cityscapes"
    return f"ffnet{backbone}/ffnet{backbone}_{letters}{gpu}_{data}_state_dict_quarts.pth"


def _classification(backbone: str, letters: str, deployment: Deployment) -> ModelSpec:
    suffix = "_mobile" if deployment == "mobile" else ""
    return ModelSpec(
        name=f"classification_ffnet{backbone}_{letters}{suffix}",
        task="classification",
        deployment=deployment,
        backbone=backbone,
        strided=False,
        stem=letters[0],
        up_head=letters[1],
        segmentation_head=None,
        pre_down=False,
        train=False,
        input_hw=(224, 224),
        weights_file=_weights_file(backbone, letters, deployment),
        imagenet_model=None,
    )


def _segmentation(backbone: str, letters: str, suffix: str, published: Published) -> ModelSpec:
    train = suffix.endswith("_train")
    strided = letters.startswith("d")
    deployment: Deployment = "gpu_small" if strided else "gpu_large"
    if suffix.startswith("_mobile"):
        deployment = "mobile"
    stem, up_head, segmentation_head = tuple(letters[-3:])
    parent = _classification(backbone, f"{stem}{'A' if stem == 'A' else 'B'}X", deployment)
    takes_half = deployment == "mobile" and not strided and "_pre_down" not in suffix
    return ModelSpec(
        name=f"segmentation_ffnet{backbone}_{letters}{suffix}",
        task="segmentation",
        deployment=deployment,
        backbone=backbone,
        strided=strided,
        stem=stem,
        up_head=up_head,
        segmentation_head=segmentation_head,
        pre_down="_pre_down" in suffix,
        train=train,
        input_hw=(512, 1024) if takes_half else (1024, 2048),
        weights_file=parent.weights_file if train else _weights_file(backbone, letters, deployment),
        imagenet_model=parent.name,
        published=published,
    )


def _segmentation_rows() -> Iterator[ModelSpec]:
    for letters, pairs in _MOBILE_PAIRS.items():
        for suffix in ("_mobile", "_mobile_pre_down"):
            for backbone, miou in pairs.items():
                yield _segmentation(backbone, letters, suffix, Published(miou))
    for letters, models in _MOBILE.items():
        for backbone, miou in models.items():
            yield _segmentation(backbone, letters, "_mobile", Published(miou))
    for letters, timed in _GPU.items():
        for backbone, figures in timed.items():
            yield _segmentation(backbone, letters, "", Published(*figures))
    for backbone, letters, suffix in _TRAIN:
        yield _segmentation(backbone, letters, f"{suffix}_train", Published())


def _classification_rows() -> Iterator[ModelSpec]:
    for (deployment, letters), backbones in _CLASSIFICATION.items():
        for backbone in backbones:
            yield _classification(backbone, letters, deployment)


SPECS: dict[str, ModelSpec] = {spec.name: spec for spec in (*_segmentation_rows(), *_classification_rows())}


def list_models() -> list[str]:
    """Names of all 94 published models; seven of them (``…_train``) are for training only."""
    return list(SPECS)


def deployable() -> list[str]:
    """Names of the 87 models that can be exported."""
    return [name for name, spec in SPECS.items() if not spec.train]


def find(name: str) -> ModelSpec:
    """The spec of ``name``.

    Raises:
        UnknownModelError: no model has this name; the nearest ones are suggested.
    """
    if name in SPECS:
        return SPECS[name]
    near = nearest(name)
    hint = f"Did you mean {', '.join(near)}?" if near else "Run: ffnet-deploy models"
    raise UnknownModelError(f"No model is named {name!r}. {hint}")


def changed(name: str, upsampling: str | None) -> ModelSpec:
    """The spec of ``name``, upsampling bilinearly if that is asked for.

    Raises:
        UnknownModelError: no model has this name.
    """
    spec = find(name)
    return spec if upsampling in (None, spec.upsampling) else replace(spec, changed_upsampling="bilinear")


_TELLING = 4
"""Letters from which on a part of a name says which models are meant."""


def nearest(name: str, count: int = 3) -> list[str]:
    """Up to ``count`` names that look like ``name``, best first; the prefix and the case may be missing."""
    short = {n.lower().removeprefix("segmentation_").removeprefix("classification_"): n for n in reversed(SPECS)}
    full = {n.lower(): n for n in SPECS}
    if len(name) >= _TELLING and (holding := [n for key, n in full.items() if name.lower() in key]):
        return holding[:count]
    keys = difflib.get_close_matches(name.lower(), full, n=count, cutoff=0.6)
    keys = keys or difflib.get_close_matches(name.lower(), short, n=count, cutoff=0.4)
    return [full.get(key) or short[key] for key in keys]


@dataclass(frozen=True, slots=True)
class Cost:
    """What a model costs at its contract's size and batch 1."""

    parameters: int
    macs: int
    """Multiply-accumulates of convolutions and linear layers; activations and resizes are not counted."""


@cache
def costs() -> dict[str, Cost]:
    """Parameters and multiply-accumulates of every model, from ``costs.tsv`` (held to the networks by a test)."""
    lines = resources.files(__package__).joinpath("costs.tsv").read_text("utf-8").splitlines()[1:]
    rows = (line.split("\t") for line in lines)
    return {name: Cost(int(parameters), int(macs)) for name, parameters, macs in rows}

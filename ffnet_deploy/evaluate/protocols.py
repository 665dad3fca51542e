"""How images become scores: part of every result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ffnet_deploy.artifacts.values import Size


@dataclass(frozen=True, slots=True)
class SegmentationProtocol:
    """How logits become mIoU.

    The published one: whole image, one scale, no flip, logits upsampled bilinearly in FP32, arg-max, labels mapped to
    19 train ids with the rest ignored, one confusion matrix over the set. Source: FFNet @2291ae7
    ``scripts/evaluate_cityscapes.py``.
    """

    size: tuple[Size, Size]
    """(H, W) of the images and labels."""
    downsample: Literal["blur", "area", "bilinear"] | None
    """In front of a network that takes the half-size image: ``blur``, as the ``_pre_down`` twin does inside, ``area``
    or ``bilinear``; None: the image goes in as it is."""
    align_corners: tuple[bool, ...] = (False,)
    """How logits are upsampled. What the authors used for the GPU models is not published, so both may be scored."""


@dataclass(frozen=True, slots=True)
class ClassificationProtocol:
    """How logits become top-1 and top-5."""

    labels: str
    """``ILSVRC2012``, or ``ReaL`` and the hash of the label file."""
    resize: Size = 256
    """Pixels of the short side."""
    crop: Size = 224
    """Pixels of the square that is cut out of the middle."""
    filter: str = "bilinear (PIL)"

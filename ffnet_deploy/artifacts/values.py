"""Small values that stages hand over and records keep: what was asked for, and what was found."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated, Literal, NamedTuple

from annotated_types import Ge, Gt, Le, Predicate

from ffnet_deploy.errors import UsageError
from ffnet_deploy.foreign import whole_number

# Ranges that hold for every value that is read back from a file; see ``artifacts.reading``.
Finite = Annotated[float, Predicate(math.isfinite)]
Positive = Annotated[float, Gt(0), Predicate(math.isfinite)]
NotNegative = Annotated[float, Ge(0), Predicate(math.isfinite)]
Share = Annotated[float, Ge(0), Le(1)]
"""0..1."""
Percent = Annotated[float, Ge(0), Le(100 + 1e-9)]
Count = Annotated[int, Ge(0), Le(2**53)]
Size = Annotated[int, Gt(0), Le(2**53)]
"""Up to what every reader of JSON takes for a whole number; sums of some stay within 64 bits."""

Io = Literal["fp32", "fp16"]
Precision = Literal["fp32", "fp16", "int8", "int8-cpu"]
Shape = tuple[Size, Size, Size, Size]

DEFAULT_OPSET = 20


@dataclass(frozen=True, slots=True)
class Interval:
    """A 95 % interval, in the statistic's unit."""

    low: Finite
    high: Finite


@dataclass(frozen=True, slots=True)
class Ends:
    """What a graph or an engine takes and gives."""

    image_in: bool = False
    """uint8 (N, H, W, 3), RGB, instead of normalised floats (N, 3, H, W)."""
    labels_out: bool = False
    """uint8 (N, H, W), train ids, instead of logits."""
    align_corners: bool = False
    """How logits are upsampled before the label map; means nothing without ``labels_out``."""
    io: Io = "fp32"
    """Type of floating-point inputs and outputs."""


class BatchProfile(NamedTuple):
    """Batch sizes that an engine of a dynamic graph takes: smallest, the one it is tuned for, largest."""

    smallest: int
    best: int
    largest: int

    @classmethod
    def parse(cls, text: str) -> BatchProfile:
        """Read ``MIN,OPT,MAX``.

        Raises:
            UsageError: not three whole numbers in order, 1 or more.
        """
        numbers = [number for part in text.split(",") if (number := whole_number(part.strip())) is not None]
        if len(numbers) != 3 or text.count(",") != 2:
            raise UsageError(
                f"--batch {text!r} is not MIN,OPT,MAX (three whole numbers were needed). Say: --batch 1,4,8"
            )
        profile = cls(*numbers)
        if not 1 <= profile.smallest <= profile.best <= profile.largest:
            raise UsageError(
                f"--batch {text!r} is out of order (1 <= MIN <= OPT <= MAX was needed). Say: --batch 1,4,8"
            )
        return profile

    def __str__(self) -> str:
        return ",".join(map(str, self))


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """What an engine can be asked to be, beyond the graph that it is built from."""

    gpus: tuple[str, ...] = ()
    """``sm86``, ``sm89``: targets of a TensorRT-RTX engine."""
    portable: bool = False
    """Every target that TensorRT-RTX knows."""
    tf32: bool = False
    """Let FP32 convolutions round to TF32: faster, but no longer true FP32."""
    level: Count | None = None
    """TensorRT's optimisation level, 0 to 5."""
    workspace_mb: Count | None = None
    """Scratch memory that TensorRT's tactics may use, MiB."""
    timing_cache: bool = False
    """Keep TensorRT's kernel timings for the next build, one file for each device and version."""
    hardware_compatible: bool = False
    """A TensorRT engine for Ampere and every later GPU."""
    version_compatible: bool = False
    """A TensorRT engine that later versions load too."""
    batch: BatchProfile | None = None

    @property
    def target(self) -> str:
        """The GPUs as file names have them: ``sm86+sm89``, ``portable``, or empty."""
        return "portable" if self.portable else "+".join(self.gpus)

    def asked(self) -> dict[str, object]:
        """The options that differ from their defaults."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}


@dataclass(frozen=True, slots=True)
class GraphOptions:
    """What a graph was asked to be."""

    shape: Shape
    """(N, 3, H, W) of the network's input; N is 1 if the graph takes any batch."""
    opset: Size
    contract: tuple[Size, Size]
    """(H, W) that the published model takes."""
    dynamic_batch: bool = False
    upsampling: Literal["bilinear"] | None = None
    """Inside the network; None is the published one."""
    ends: Ends = Ends()
    keep_fp32: tuple[str, ...] = ()
    """Names or patterns of nodes that stay FP32 in an FP16 graph."""
    method: str | None = None
    """The calibration method whose ranges an INT8 graph has."""
    keep_fp16: tuple[str, ...] = ()
    """Names or patterns of convolutions that are not quantised."""


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file that something was made from."""

    file: str
    """Its name; a weight file's path is relative to the workspace if it lies there."""
    sha256: str


@dataclass(frozen=True, slots=True)
class SourceWeights:
    """The weights that a graph was exported from."""

    file: str | None
    """Relative to the workspace if it lies there, absolute otherwise; None for random weights."""
    sha256: str
    """``random-SEED`` for random weights."""
    named: bool = True
    """Whether they were named; otherwise export found the published ones by itself."""


@dataclass(frozen=True, slots=True)
class SourceRanges:
    """The calibration that something was made from."""

    file: str
    fingerprint: str
    """Hash of the calibration's graph, images and ranges; its default method is not part of it."""


@dataclass(frozen=True, slots=True)
class SourceImages:
    """The images that ranges come from."""

    title: str
    """``Cityscapes train``, ``folder of images``, ``2 synthetic street scenes``."""
    count: Size
    sha256: str | None = None
    """Of names, contents, and how they were prepared; None for drawn scenes."""
    resized: bool = False
    """To the network's input, in another way than evaluation does."""


@dataclass(frozen=True, slots=True)
class Verification:
    """How well two runners agree: the largest differences over some images, and the share of equal labels."""

    images: Size
    max_difference: NotNegative
    """Largest absolute difference of logits, divided by the reference's standard deviation."""
    mean_difference: NotNegative
    """Mean absolute difference, divided by the same."""
    equal: Share
    """Of equal labels."""
    count: Size
    """Labels that were compared."""


@dataclass(frozen=True, slots=True)
class Activation:
    """One tensor and how large it gets."""

    name: str
    magnitude: NotNegative


@dataclass(frozen=True, slots=True)
class IntegerWork:
    """Which convolutions compute in INT8, and how much of the work they have."""

    nodes: tuple[str, ...]
    share: Share
    """Of the multiply-accumulates."""
    possible: Share
    """The most that the rules allow."""


@dataclass(frozen=True, slots=True)
class GraphFindings:
    """What was found in a graph."""

    verification: Verification | None = None
    """An exported graph against PyTorch."""
    operators: Mapping[str, Count] = field(default_factory=dict)
    """Of an exported graph: how many nodes of each type."""
    emulated: Verification | None = None
    """An FP16 or INT8 graph, emulated, against the FP32 graph."""
    kept_fp32: Mapping[str, str] = field(default_factory=dict)
    """Nodes that stay FP32, with reasons."""
    declined: Mapping[str, str] = field(default_factory=dict)
    """Convolutions that are not quantised, with reasons."""
    quantised: IntegerWork | None = None
    largest_activation: Activation | None = None


@dataclass(frozen=True, slots=True)
class EngineFindings:
    """What was found in an engine; empty if its builder does not report it."""

    precision: Mapping[str, str] = field(default_factory=dict)
    """The precision of each convolution and Gemm, by node of the graph."""
    share: Mapping[str, Share] = field(default_factory=dict)
    """Of the multiply-accumulates by precision; ``unknown`` for nodes that no layer names."""
    layers: Mapping[str, Count] = field(default_factory=dict)
    """Layers by kind."""
    bytes_between_layers: Count | None = None
    """What all layers write, in bytes."""

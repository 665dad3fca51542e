"""The grammar of file names in a workspace, in one place: what formats a name also parses it.

    graph        NAME[.bilinear][@HxW][.bN][.image][.labels][.fp16|.int8|.int8-cpu].onnx
    engine       NAME[.bilinear][@HxW][.bN][.image][.labels].PRECISION.RUNTIME[-TARGET].engine
    calibration  NAME[.bilinear][@HxW][.bN].json

``.bdynamic`` is a graph for any batch, ``.b1-4-8`` an engine's smallest, usual and largest batch. An engine of ONNX
Runtime ends in ``.onnxruntime.onnx``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from ffnet_deploy.artifacts.values import BatchProfile, Ends

_NAME = re.compile(
    r"(?P<model>[^.@]+)"
    r"(?:\.(?P<upsampling>bilinear))?"
    r"(?:@(?P<height>[1-9]\d*)x(?P<width>[1-9]\d*))?"
    r"(?:\.b(?P<batch>dynamic|[1-9]\d*(?:-[1-9]\d*-[1-9]\d*)?))?"
    r"(?P<image>\.image)?"
    r"(?P<labels>\.labels)?"
    r"(?:\.(?P<precision>fp32|fp16|int8-cpu|int8))?"
    r"(?:\.(?P<runtime>onnxruntime|tensorrt-rtx|tensorrt)(?:-(?P<target>portable|sm\d+(?:\+sm\d+)*))?)?"
    r"\.(?:onnx|engine|json)"
)
ANY_BATCH = "dynamic"


@dataclass(frozen=True, slots=True)
class FileName:
    """What the name of a graph, an engine or a calibration says of it."""

    model: str
    upsampling: str | None = None
    """Only if it is not the published one."""
    hw: tuple[int, int] | None = None
    """(H, W) of the input; None is the contract's."""
    batch: str = "1"
    """``4``, ``dynamic`` for any, or ``1-4-8`` for an engine's profile."""
    image_in: bool = False
    labels_out: bool = False
    precision: str = "fp32"
    runtime: str | None = None
    """None is a graph."""
    target: str = ""
    """GPUs of a TensorRT-RTX engine: ``portable``, ``sm86+sm89``."""

    @classmethod
    def parse(cls, text: str) -> FileName:
        """Read a file's name, its ending included.

        Raises:
            ValueError: it is no such name.
        """
        found = _NAME.fullmatch(text)
        if found is None:
            raise ValueError(f"{text!r} is no name of a graph, an engine or a calibration")
        height, width = found["height"], found["width"]
        name = cls(
            model=found["model"],
            upsampling=found["upsampling"],
            hw=(int(height), int(width)) if height else None,
            batch=found["batch"] or "1",
            image_in=found["image"] is not None,
            labels_out=found["labels"] is not None,
            precision=found["precision"] or "fp32",
            runtime=found["runtime"],
            target=found["target"] or "",
        )
        # A name that we never write is refused: `NAME.engine`, `NAME.fp32.onnx`, `NAME.fp16.json`.
        if text not in (str(name), f"{name.exported.stem}.json"):
            raise ValueError(f"{text!r} is no name of a graph, an engine or a calibration")
        return name

    @property
    def exported(self) -> FileName:
        """The FP32 graph that it goes back to."""
        batch = ANY_BATCH if "-" in self.batch else self.batch
        return FileName(self.model, self.upsampling, self.hw, batch)

    @property
    def stem(self) -> str:
        """The name without precision, runtime and ending."""
        changed = f".{self.upsampling}" if self.upsampling else ""
        size = f"@{self.hw[0]}x{self.hw[1]}" if self.hw else ""
        batch = "" if self.batch == "1" else f".b{self.batch}"
        return f"{self.model}{changed}{size}{batch}{self._ends}"

    @property
    def variant(self) -> str:
        """What it says beyond graph, precision and runtime, in words: ``b1-4-8 image labels portable``."""
        batch = f"b{self.batch}" if "-" in self.batch else ""
        return " ".join(filter(None, [batch, *self._ends.split("."), self.target]))

    @property
    def _ends(self) -> str:
        return f"{'.image' if self.image_in else ''}{'.labels' if self.labels_out else ''}"

    def __str__(self) -> str:
        if self.runtime is None:
            return f"{self.stem}{'' if self.precision == 'fp32' else f'.{self.precision}'}.onnx"
        target = f"-{self.target}" if self.target else ""
        ending = "onnx" if self.runtime == "onnxruntime" else "engine"
        return f"{self.stem}.{self.precision}.{self.runtime}{target}.{ending}"

    def with_ends(self, ends: Ends) -> FileName:
        """The name of the same with other ends."""
        return replace(self, image_in=ends.image_in, labels_out=ends.labels_out)

    def with_profile(self, profile: BatchProfile | None) -> FileName:
        """The name of an engine that takes a profile's batches."""
        return self if profile is None else replace(self, batch="-".join(map(str, profile)))


def model_of(name: str) -> str:
    """The model that a file name begins with, whatever else the name says."""
    return name.partition(".")[0].partition("@")[0]

"""The calibration file: ranges of one FP32 graph's activations, and the images that they come from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from annotated_types import Gt, Lt, MinLen

from ffnet_deploy.artifacts.commandline import CommandLine
from ffnet_deploy.artifacts.filenames import model_of
from ffnet_deploy.artifacts.reading import schema_of
from ffnet_deploy.artifacts.records import AnyRecord, WeightsRecord
from ffnet_deploy.artifacts.sealing import parse_sealed, sealed
from ffnet_deploy.artifacts.values import Count, Finite, NotNegative, Size, SourceFile, SourceImages, SourceRanges
from ffnet_deploy.artifacts.workspace import Workspace
from ffnet_deploy.artifacts.writing import hash_json, write_json
from ffnet_deploy.calibration.methods import METHODS, PERCENTILE, SMALLEST, Method
from ffnet_deploy.errors import ArtifactError, DataError, UsageError
from ffnet_deploy.graph.current import Graph

if TYPE_CHECKING:
    import onnx

    from ffnet_deploy.graph.equalise import Equalised
    from ffnet_deploy.graph.ranges import Limits, Range

CALIBRATION_SCHEMA = 4
"""Version of the file's layout and of what a range means; a calibration of another version is made again."""

_LARGEST = 3.4028234663852886e38
"""Of float32."""
_ROUNDING = 1e-9


class MethodRange(NamedTuple):
    """The range that one method chooses: :class:`ffnet_deploy.graph.ranges.Limits` in a file."""

    magnitude: NotNegative
    low: Finite
    high: Finite


@dataclass(frozen=True, slots=True)
class TensorRanges:
    """One activation over all images."""

    low: Finite
    high: Finite
    values: Size
    """How many values were counted."""
    channels: tuple[NotNegative, ...]
    """How large each channel is, on a few images: it decides how the graph is equalised."""
    entropy: MethodRange
    percentile: MethodRange
    mse: MethodRange
    max: MethodRange

    @property
    def magnitude(self) -> float:
        """The largest absolute value."""
        return max(-self.low, self.high, 0.0)

    def by(self, method: str) -> MethodRange:
        """The range of one of ``METHODS``."""
        found: MethodRange = getattr(self, method)
        return found


@dataclass(frozen=True, slots=True)
class CalibratedImages:
    """The images, and how they were asked for."""

    title: str
    """``Cityscapes train``, ``folder of images``."""
    folder: str
    """As named with ``--data``."""
    asked: Size | None
    """``--images``; None is the default."""
    allow_val: bool
    names: Annotated[tuple[str, ...], MinLen(1)]
    sha256: str
    """Of names, contents, and how they were prepared."""
    resized: bool
    """To the network's input, in another way than evaluation does."""

    @property
    def source(self) -> SourceImages:
        return SourceImages(self.title, len(self.names), self.sha256, self.resized)


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationFile:
    """What is in the file."""

    schema: int = CALIBRATION_SCHEMA
    kind: Literal["calibration"] = "calibration"
    command: Literal["calibrate"] = "calibrate"
    created: str
    model: str
    graph: SourceFile
    """The FP32 graph, before it is equalised."""
    images: CalibratedImages
    method: Method
    """What ``build`` uses unless it is told otherwise."""
    percentile: Annotated[float, Gt(50), Lt(100)]
    marks: tuple[str, ...]
    tools: Mapping[str, str]
    seconds: NotNegative
    resumed_at: Count
    """Images that an interrupted run had seen already."""
    tensors: Mapping[str, TensorRanges]


@dataclass(frozen=True, slots=True)
class Calibration:
    """Ranges of one FP32 graph's activations."""

    workspace: Workspace
    path: Path
    file: CalibrationFile
    reused: bool = False

    @property
    def method(self) -> str:
        """What ``build`` uses unless it is told otherwise."""
        return self.file.method

    @property
    def fingerprint(self) -> str:
        """Hash of what an INT8 graph depends on; the default method is not part of it."""
        hashes = [self.file.graph.sha256, self.file.images.sha256]
        tensors = {name: asdict(found) for name, found in self.file.tensors.items()}
        return hash_json([*hashes, self.file.percentile, tensors])

    @property
    def source(self) -> SourceRanges:
        """What the record of an INT8 graph says of it."""
        return SourceRanges(self.path.name, self.fingerprint)

    @property
    def again(self) -> CommandLine:
        """The command that makes it again."""
        images = self.file.images
        line = CommandLine.of("calibrate", self.file.model, "--data", images.folder, "--method", self.file.method)
        line = line.option("--images", images.asked)
        line = line.option("--percentile", None if self.file.percentile == PERCENTILE else self.file.percentile)
        return line.flag("--allow-val", images.allow_val).in_workspace(self.workspace.root)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self.file), "file": str(self.path), "reused": self.reused, "error": None}

    def save(self) -> None:
        """Write the file, unless it would be refused when it is read.

        Raises:
            DataError: its images give ranges that cannot be.
            ArtifactError: the file cannot be written.
        """
        try:
            _check(self.file)
        except ValueError as error:
            raise DataError(f"The images give no ranges for INT8 ({error}). Name others with --data.") from error
        write_json(self.path, sealed(asdict(self.file)))

    def with_method(self, method: Method) -> Calibration:
        """The same with another default method, which is also written to the file."""
        changed = replace(self, file=replace(self.file, method=method))
        changed.save()
        return changed

    def limits(self, method: str) -> dict[str, Limits]:
        """Ranges by one method.

        Raises:
            UsageError: there is no such method.
        """
        from ffnet_deploy.graph.ranges import Limits

        if method not in METHODS:
            raise UsageError(f"There are no ranges by {method!r} ({', '.join(METHODS)} are there). Name one of them.")
        return {name: Limits(*found.by(method)) for name, found in self.file.tensors.items()}

    def equalised(self, model: onnx.ModelProto) -> Equalised:
        """The FP32 graph with its channels made more alike. The ranges belong to this graph.

        Raises:
            ArtifactError: the graph lacks a tensor of the file, or has another number of channels or values for it.
        """
        import numpy as np

        from ffnet_deploy.graph.equalise import equalise
        from ffnet_deploy.graph.facts import shapes

        sizes = {name: np.array(found.channels) for name, found in self.file.tensors.items()}
        known, images = shapes(model), len(self.file.images.names)
        for name, found in self.file.tensors.items():
            if name not in known:
                raise ArtifactError(
                    f"{self.path} has ranges of {name} (the graph has no such tensor). Run: {self.again}"
                )
            _, channels, *rest = known[name]
            needed = {"channels": channels, "values": images * channels * math.prod(rest)}
            for what, has in (("channels", len(found.channels)), ("values", found.values)):
                if has != needed[what]:
                    raise ArtifactError(
                        f"{self.path} has {has} {what} of {name} ({needed[what]} were needed). Run: {self.again}"
                    )
        return equalise(model, sizes)

    def ranges(self) -> dict[str, Range]:
        """The smallest and the largest value of each tensor."""
        from ffnet_deploy.graph.ranges import Range

        return {name: Range(found.low, found.high) for name, found in self.file.tensors.items()}


def read_calibration(workspace: Workspace, path: Path) -> Calibration:
    """Read and validate a calibration file.

    Raises:
        ArtifactError: absent, or no calibration of this version.
    """
    remedy = f"Run: {workspace.run('calibrate', model_of(path.name), '--data', 'DIR')}"
    try:
        text = path.read_bytes()
        schema, command = schema_of(text)
        if schema != CALIBRATION_SCHEMA and "calibrate" in str(command):
            raise ArtifactError(f"{path} was made by another version of ffnet-deploy. {remedy}")
        file = parse_sealed(CalibrationFile, text)
        _check(file)
        return Calibration(workspace, path, file)
    except FileNotFoundError:
        raise ArtifactError(f"{path} does not exist. {remedy}") from None
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read ({error.strerror}). Check its permissions and the disk.") from error
    except ValueError as error:
        raise ArtifactError(f"{path} is no calibration of this version ({error}). {remedy}") from error


def _check(file: CalibrationFile) -> None:
    """Check what holds for every calibration.

    Raises:
        ValueError: images that are not those it was asked for, or ranges that no images give.
    """
    images = file.images
    count = len(images.names)
    if len(set(images.names)) != count or images.asked not in (None, count) or file.resumed_at >= count:
        raise ValueError("images: names, asked and resumed_at contradict each other")
    if not file.tensors or all(tensor.low == tensor.high for tensor in file.tensors.values()):
        raise ValueError("tensors: no range has two ends")
    for name, tensor in file.tensors.items():
        try:
            _check_tensor(tensor, count)
            for method in METHODS:
                _check_range(method, tensor.by(method), tensor)
        except ValueError as error:
            raise ValueError(f"tensors.{name}: {error}") from None


def _check_tensor(tensor: TensorRanges, images: int) -> None:
    if tensor.low > tensor.high:
        raise ValueError(f"low {tensor.low:g} is above high {tensor.high:g}")
    if max((tensor.magnitude, *tensor.channels)) > _LARGEST:
        raise ValueError(f"{tensor.magnitude:g} is no float32")
    if tensor.values % images:
        raise ValueError(f"{tensor.values} values are not those of {images} images")
    if not tensor.channels or (tensor.magnitude == 0 and any(tensor.channels)):
        raise ValueError("its channels do not fit its range")


def _check_range(method: str, found: MethodRange, tensor: TensorRanges) -> None:
    """Check that a method chose its range within the values, and none where all values are 0 or next to it."""
    low, high = min(tensor.low, 0.0), max(tensor.high, 0.0)
    if not found.low <= 0 <= found.high:
        raise ValueError(f"{method}: 0 is not within {found.low:g} to {found.high:g}")
    nothing = found.magnitude == 0 or found.low == found.high
    if nothing != (tensor.magnitude < SMALLEST) or 0 < found.magnitude < SMALLEST:
        raise ValueError(f"{method}: magnitude {found.magnitude:g} for values of {tensor.low:g} to {tensor.high:g}")
    most = (tensor.magnitude, -low, high)
    chosen = (found.magnitude, -found.low, found.high)
    if any(one > limit * (1 + _ROUNDING) for one, limit in zip(chosen, most, strict=True)):
        raise ValueError(f"{method}: it is wider than the values, {tensor.low:g} to {tensor.high:g}")
    if method == "max" and chosen != most and not nothing:
        raise ValueError(f"{method}: it is not the values' range, {tensor.low:g} to {tensor.high:g}")


def ranges_changed(workspace: Workspace, record: AnyRecord) -> bool:
    """Whether an INT8 graph or engine was made from other ranges than its calibration has now.

    Raises:
        ArtifactError: the calibration is damaged.
    """
    if isinstance(record, WeightsRecord) or record.precision not in ("int8", "int8-cpu"):
        return False
    if record.ranges is None:
        return True
    path = workspace.root / "calibration" / Path(record.ranges.file).name
    # Without the file, nothing says that there are newer ranges.
    return path.exists() and read_calibration(workspace, path).fingerprint != record.ranges.fingerprint


def current_calibration(graph: Graph) -> Calibration:
    """The calibration of a graph.

    Raises:
        ArtifactError: none, a damaged one, or one of another model or an older graph; the message has the command.
    """
    path = graph.workspace.calibration(graph.name)
    remedy = f"Run: {graph.run('calibrate', '--data', 'DIR')}"
    if not path.exists():
        raise ArtifactError(f"{path} does not exist (INT8 needs the ranges of activations). {remedy}")
    found = read_calibration(graph.workspace, path)
    if found.file.model != graph.record.model:
        raise ArtifactError(f"{path} belongs to {found.file.model} (one of {graph.record.model} was needed). {remedy}")
    if found.file.graph.sha256 != graph.record.file.sha256:
        raise ArtifactError(f"{path} is stale: {graph.path} was exported again since it was made. Run: {found.again}")
    return found

"""Time by layer as a result: one value that is measured, written as JSON and shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from ffnet_deploy.artifacts.values import Count, NotNegative, Positive, Shape, Size
from ffnet_deploy.bench.result import BENCH_SCHEMA, Doubt
from ffnet_deploy.errors import ErrorFacts, FFNetDeployError
from ffnet_deploy.ladder import RungFacts, SkippedRung
from ffnet_deploy.machine.environment import Environment
from ffnet_deploy.machine.load import Load


@dataclass(frozen=True, slots=True)
class Peaks:
    """The best that this machine did in this run: measured, never from a data sheet."""

    macs_per_s: Mapping[str, Positive]
    """By precision: the product of two square matrices, with the rungs' threads. Floats are measured in PyTorch, INT8
    in ONNX Runtime."""
    bytes_per_s: Positive
    """Read and written, by a copy of 256 MiB."""


@dataclass(frozen=True, slots=True)
class LayerTiming:
    """One layer of an engine."""

    name: str
    """As the runtime calls it."""
    module: str
    """PyTorch's module; the layer's own name where it goes back to none."""
    nodes: tuple[str, ...]
    """Of the exported graph, that it computes."""
    kind: str
    precision: str | None
    """That it ran in; None where the runtime does not tell."""
    median_ms: NotNegative
    samples_ms: tuple[NotNegative, ...]
    macs: Count
    bytes: Count | None
    bound: str | None
    """``compute`` or ``memory``: which of the two peaks would take longer for it; None where one is not known."""
    roofline: NotNegative | None
    """Time at that peak over the time taken: 1 is all that the machine can do. Caches can make it more than 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfiledRung(RungFacts):
    """One rung and its layers in the order of execution."""

    total_ms: NotNegative
    """The layers' medians together."""
    held_to_peaks: bool
    """Whether the peaks are those of its device."""
    layers: tuple[LayerTiming, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileFile:
    """What ``bench --profile --json`` writes; profiling slows what it times, so nothing of it is a latency."""

    schema: int = BENCH_SCHEMA
    command: Literal["bench"] = "bench"
    created: str
    model: str
    mode: Literal["profile"] = "profile"
    shape: Shape
    iters: Size
    threads: Size
    marks: tuple[str, ...]
    graph_sha256: str
    peaks: Peaks
    rungs: tuple[ProfiledRung, ...]
    skipped: tuple[SkippedRung, ...]
    warnings: tuple[Doubt, ...]
    load: Load
    environment: Environment
    error: ErrorFacts | None


@dataclass(frozen=True, slots=True)
class Profile:
    """A profile, and the error that the command ends with although there is a result."""

    file: ProfileFile
    failure: FFNetDeployError | None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; docs/bench-json.md says what they mean."""
        return asdict(self.file)

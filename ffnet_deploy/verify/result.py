"""What a verification found: one value that is measured, written as JSON and shown."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from ffnet_deploy.artifacts.values import NotNegative, Share, Size
from ffnet_deploy.errors import ErrorFacts, FFNetDeployError
from ffnet_deploy.ladder import RungFacts, SkippedRung, facts_of
from ffnet_deploy.machine.environment import Environment
from ffnet_deploy.runtimes.rung import Rung

if TYPE_CHECKING:
    from ffnet_deploy.metrics import Agreement
    from ffnet_deploy.verify.agreement import RungAgreement, Tolerance
    from ffnet_deploy.verify.layers import Inside

VERIFY_SCHEMA = 2
"""Version of the layout of ``verify --json``."""
WORST = 15
"""Inner tensors that are listed as the worst."""

WorstDifference = NotNegative | Literal["inf"] | None
"""In units of the output's spread; None where there are only labels."""


@dataclass(frozen=True, slots=True)
class ComparedImage:
    """One picture of a folder."""

    file: str
    """Relative to the folder."""
    sha256: str
    size: tuple[Size, Size]
    """(H, W) in the file."""
    fitted: str
    """How it was brought to the network's size."""


@dataclass(frozen=True, slots=True)
class ComparedImages:
    """What was looked at."""

    source: str
    """``synthetic street scenes``, or the folder."""
    count: Size
    size: tuple[Size, Size]
    """(H, W) of the network's input."""
    files: tuple[ComparedImage, ...] = ()


@dataclass(frozen=True, slots=True)
class EqualLabels:
    """How many labels are the reference's."""

    equal: Share
    count: Size


@dataclass(frozen=True, slots=True)
class RungLimits:
    """The limits that a rung must meet."""

    max_difference: NotNegative
    mean_difference: NotNegative
    equal: Share | None
    """None where too few labels were compared to decide."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedRung(RungFacts):
    """One rung next to the reference."""

    max_difference: WorstDifference
    """Of the worst image."""
    mean_difference: WorstDifference
    labels: EqualLabels
    near_borders: EqualLabels | None
    """Labels within 3 pixels (Chebyshev) of another class of the reference; None without such pixels."""
    away_from_borders: EqualLabels | None
    labels_at: tuple[Size, Size] | None
    """(H, W) of the label maps that were compared; None for classification."""
    limits: RungLimits
    beyond: tuple[str, ...]
    """What is beyond its limits; empty if the rung holds."""


@dataclass(frozen=True, slots=True)
class TensorFacts:
    """One inner tensor next to PyTorch's; what is not finite is text."""

    node: str
    module: str
    max_difference: float | str
    mean_difference: float | str
    sqnr_db: float | str


@dataclass(frozen=True, slots=True)
class RungLayers:
    """Inner tensors of one rung next to PyTorch's, over one batch of images."""

    rung: str
    first_jump: str | None
    worst: tuple[str, ...]
    """Names of the tensors with the lowest signal to noise, the worst first."""
    tensors: tuple[TensorFacts, ...]
    """All of them, in the network's order."""
    not_in_this_graph: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class VerificationFile:
    """What ``verify --json`` writes."""

    schema: int = VERIFY_SCHEMA
    command: Literal["verify"] = "verify"
    created: str
    model: str
    marks: tuple[str, ...]
    images: ComparedImages
    threads: Size
    reference: RungFacts
    rungs: tuple[VerifiedRung, ...]
    first_broken: str | None
    """The first rung, in the ladder's order, that is beyond its limits."""
    skipped: tuple[SkippedRung, ...]
    layers: tuple[RungLayers, ...]
    """Empty if they were not asked for."""
    environment: Environment
    error: ErrorFacts | None


@dataclass(frozen=True, slots=True)
class Verified:
    """A verification, and the error that the command ends with although there is a result."""

    file: VerificationFile
    failure: FFNetDeployError | None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self.file)


def verified_rung(rung: Rung, found: RungAgreement, tolerance: Tolerance) -> VerifiedRung:
    """One rung's line of the result."""
    from ffnet_deploy.verify.agreement import least_equal

    whole = found.agreement
    return VerifiedRung(
        **asdict(facts_of(rung, None)),
        max_difference=_difference(whole.max_difference),
        mean_difference=_difference(whole.mean_difference),
        labels=EqualLabels(whole.equal, whole.count),
        near_borders=_labels(found.near),
        away_from_borders=_labels(found.away),
        labels_at=found.labels_at,
        limits=RungLimits(tolerance.max_difference, tolerance.mean_difference, least_equal(whole, tolerance)),
        beyond=tuple(found.beyond(tolerance)),
    )


def rung_layers(rung: Rung, inside: Inside) -> RungLayers:
    """One rung's inner tensors as they stand in the result."""
    return RungLayers(
        rung=rung.name,
        first_jump=inside.jump.node if inside.jump else None,
        worst=tuple(layer.node for layer in inside.worst(WORST)),
        tensors=tuple(
            TensorFacts(
                node=layer.node,
                module=layer.module,
                max_difference=_finite(layer.max_difference),
                mean_difference=_finite(layer.mean_difference),
                sqnr_db=_finite(layer.sqnr),
            )
            for layer in inside.layers
        ),
        not_in_this_graph=inside.without,
    )


def _labels(found: Agreement | None) -> EqualLabels | None:
    return None if found is None else EqualLabels(found.equal, found.count)


def _difference(value: float) -> WorstDifference:
    if math.isnan(value):
        return None
    return value if math.isfinite(value) else "inf"


def _finite(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)

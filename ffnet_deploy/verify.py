"""Is it still the same network? Two runners on the same images, held to a tolerance."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ffnet_deploy.errors import VerificationError
from ffnet_deploy.metrics import Agreement, agree

if TYPE_CHECKING:
    from ffnet_deploy.runtimes.base import Feeds, Runner


@dataclass(frozen=True, slots=True)
class Tolerance:
    """What two runners may differ by; two FP32 runtimes, which sum in another order, differ by about 1e-5."""

    max_difference: float = 1e-3
    mean_difference: float = 1e-4
    equal: float = 0.999
    missed: str = "The graph does not compute what PyTorch does"
    """How the error begins."""
    remedy: str = "Install the versions of constraints.txt, or report this."


FP16 = Tolerance(
    max_difference=0.25,
    mean_difference=0.01,
    equal=0.98,
    missed="The FP16 graph does not compute what the FP32 graph does",
    remedy="Keep the nodes that overflow in FP32 with --keep-fp32 PATTERN, or build with --fp32.",
)
"""A sanity check on random and trained weights alike: an overflow is far beyond it, rounding far within."""


INT8 = Tolerance(
    max_difference=4.0,
    mean_difference=0.25,
    equal=0.5,
    missed="The INT8 graph does not compute what the FP32 graph does",
    remedy="Calibrate on more images or by another --method, or keep layers with --keep-fp16 PATTERN.",
)
"""A sanity check: trained weights lose far less, random ones have labels that hang on little; the score tells more."""


@dataclass(frozen=True, slots=True)
class Verification:
    """The worst agreement over the images."""

    agreement: Agreement
    images: int

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, for a record."""
        return {"images": self.images, **asdict(self.agreement)}


def verify(reference: Runner, other: Runner, feeds: Iterable[Feeds], tolerance: Tolerance) -> Verification:
    """Compare ``other`` with ``reference`` on every feed.

    Raises:
        VerificationError: a difference beyond the tolerance; the message says by how much.
    """
    seen = [agree(reference(feed)["logits"], other(feed)["logits"]) for feed in feeds]
    assert seen
    worst = Agreement(
        max_difference=max(a.max_difference for a in seen),
        mean_difference=max(a.mean_difference for a in seen),
        equal=float(np.average([a.equal for a in seen], weights=[a.count for a in seen])),
        count=sum(a.count for a in seen),
    )
    missed = [
        f"{name} {value:.3g} ({sign} {limit:g} was needed)"
        for name, value, sign, limit, good in (
            ("largest difference", worst.max_difference, "at most", tolerance.max_difference,
             worst.max_difference <= tolerance.max_difference),
            ("mean difference", worst.mean_difference, "at most", tolerance.mean_difference,
             worst.mean_difference <= tolerance.mean_difference),
            ("equal labels", worst.equal, "at least", tolerance.equal, worst.equal >= tolerance.equal),
        )
        if not good
    ]  # fmt: skip
    if missed:
        raise VerificationError(
            f"{tolerance.missed}: {'; '.join(missed)}, in units of the output's spread. "
            f"No file was kept. {tolerance.remedy}"
        )
    return Verification(worst, len(seen))

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
    """What two FP32 runtimes may differ by; sums in another order give about 1e-5."""

    max_difference: float = 1e-3
    mean_difference: float = 1e-4
    equal: float = 0.999


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
            f"The graph does not compute what PyTorch does: {'; '.join(missed)}, in units of the output's spread. "
            "No file was kept. Install the versions of constraints.txt, or report this."
        )
    return Verification(worst, len(seen))

"""Is it still the same network? Two runners on the same images, compared within a tolerance."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from ffnet_deploy.artifacts.values import Verification
from ffnet_deploy.data.images import normalise
from ffnet_deploy.errors import VerificationError
from ffnet_deploy.metrics import Agreement, agree, near_border

if TYPE_CHECKING:
    from ffnet_deploy.runtimes.runner import Feeds, Runner


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
"""A sanity check: a wrong scale is far beyond it. The plainest quantiser (ONNX Runtime's, symmetric, by maximum)
reached 0.52, 0.065 and 6.3 % other labels on trained demo weights and six random ones, whose labels hang on little.
Good enough or not is for eval to say."""

TOLERANCES = {"fp32": Tolerance(), "fp16": FP16, "int8": INT8}
"""By a rung's precision."""


def verified(reference: Runner, other: Runner, feeds: Iterable[Feeds], tolerance: Tolerance) -> Verification:
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
    missed = beyond(worst, tolerance)
    if missed:
        raise VerificationError(
            f"{tolerance.missed}: {'; '.join(missed)}, in units of the output's spread. "
            f"No file was kept. {tolerance.remedy}"
        )
    return Verification(images=len(seen), **asdict(worst))


_ENOUGH_LABELS = 100
"""With fewer, as the classes of a few images, their share says little beside the differences of the logits."""


def least_equal(found: Agreement, tolerance: Tolerance) -> float | None:
    """The share of labels that must be equal; None if labels do not decide.

    One label may always differ: its two best classes may be all but equal.
    """
    if not math.isnan(found.max_difference) and found.count < _ENOUGH_LABELS:
        return None
    return min(tolerance.equal, 1 - 1 / found.count)


def beyond(found: Agreement, tolerance: Tolerance) -> list[str]:
    """Which figures of an agreement exceed a tolerance, and by how much; empty if none does.

    Where there are labels alone (the differences are NaN) they decide.
    """
    labels_alone = math.isnan(found.max_difference)
    equal = least_equal(found, tolerance) or 0.0
    return [
        f"{name} {value:.5g} ({sign} {limit:g} was needed)"
        for name, value, sign, limit, good in (
            ("largest difference", found.max_difference, "at most", tolerance.max_difference,
             labels_alone or found.max_difference <= tolerance.max_difference),
            ("mean difference", found.mean_difference, "at most", tolerance.mean_difference,
             labels_alone or found.mean_difference <= tolerance.mean_difference),
            ("equal labels", found.equal, "at least", equal, found.equal >= equal),
        )
        if not good
    ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Batch:
    """Images that every rung of a ladder is shown."""

    images: np.ndarray
    """uint8 (N, H, W, 3), RGB, at the network's input size."""
    count: int
    """How many of them are looked at; the others fill the batch."""


@dataclass(frozen=True, slots=True)
class RungAgreement:
    """How one rung compares with the reference over all images."""

    agreement: Agreement
    """Differences of the worst image, labels over all; of a rung that gives labels alone the differences are NaN."""
    near: Agreement | None
    """Labels of the pixels near a class border of the reference; None without such pixels. Differences are NaN."""
    away: Agreement | None
    """The same of all other pixels."""
    labels_at: tuple[int, int] | None
    """(H, W) of the label maps that were compared; None for classification."""

    @property
    def labels_only(self) -> bool:
        return math.isnan(self.agreement.max_difference)

    def beyond(self, tolerance: Tolerance) -> list[str]:
        """What is beyond the tolerance, as by :func:`beyond`."""
        return beyond(self.agreement, tolerance)


class _Tally:
    """Adds up one rung's agreement over batches."""

    def __init__(self) -> None:
        self._largest, self._mean = math.nan, math.nan
        # Equal and all labels, of the pixels away from borders and near them.
        self._equal, self._all = np.zeros(2, np.int64), np.zeros(2, np.int64)
        self._size: tuple[int, int] | None = None

    def add(self, reference: np.ndarray, other: np.ndarray) -> None:
        """Logits, (N, C, H, W) or (N, C)."""
        for i in range(len(reference)):
            found = agree(reference[i : i + 1], other[i : i + 1])
            self._largest = float(np.fmax(self._largest, found.max_difference))
            self._mean = float(np.fmax(self._mean, found.mean_difference))
        self.add_labels(*(logits.argmax(axis=1).astype(np.int32) for logits in (reference, other)))

    def add_labels(self, reference: np.ndarray, other: np.ndarray) -> None:
        """Class ids, (N, H, W) or (N,)."""
        assert reference.shape == other.shape
        near = np.zeros(reference.shape, bool)
        if reference.ndim == 3:
            near = near_border(reference)
            self._size = (reference.shape[1], reference.shape[2])
        equal = reference == other
        self._all += np.bincount(near.ravel(), minlength=2)
        self._equal += np.bincount(near[equal], minlength=2)

    def comparison(self) -> RungAgreement:
        equal, count = int(self._equal.sum()), int(self._all.sum())
        parts = [
            Agreement(math.nan, math.nan, int(e) / int(n), int(n)) if n and self._size else None
            for e, n in zip(self._equal, self._all, strict=True)
        ]
        whole = Agreement(self._largest, self._mean, equal / count, count)
        return RungAgreement(whole, parts[1], parts[0], self._size)


def compare(
    reference: Runner,
    rungs: Sequence[Runner],
    batches: Iterable[Batch],
    labelled: Sequence[Callable[[np.ndarray], np.ndarray]],
) -> list[RungAgreement]:
    """Compare rungs with the reference on the same images.

    Args:
        reference: gives logits.
        rungs: each may take uint8 images or floats, and give logits or labels.
        batches: at least one.
        labelled: for each rung, how the reference's logits become labels like the rung's, uint8 (N, H, W); called
            where the rung gives labels.
    """
    tallies = [_Tally() for _ in rungs]
    for batch in batches:
        wanted = reference(feed_of(reference, batch))["logits"][: batch.count]
        for rung, tally, labels_of in zip(rungs, tallies, labelled, strict=True):
            given = rung(feed_of(rung, batch))
            if "labels" in given:
                tally.add_labels(labels_of(wanted), given["labels"][: batch.count])
            else:
                tally.add(wanted, given["logits"][: batch.count])
    return [tally.comparison() for tally in tallies]


def feed_of(runner: Runner, batch: Batch) -> dict[str, np.ndarray]:
    """What a runner takes: the images as they are, or normalised floats of its type."""
    dtype = runner.inputs[0].dtype
    if dtype == "uint8":
        return {"image": batch.images}
    return {"image": np.concatenate([normalise(image) for image in batch.images]).astype(dtype, copy=False)}

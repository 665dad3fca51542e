"""What every runtime offers: a runner that computes, and times itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from ffnet_deploy.errors import EngineError

if TYPE_CHECKING:
    import numpy as np

    Feeds = Mapping[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name, shape and NumPy dtype name of an input or output."""

    name: str
    shape: tuple[int | None, ...]
    """None is an axis of any length: the batch of a dynamic graph."""
    dtype: str

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether an array of ``shape`` may be fed."""
        return len(shape) == len(self.shape) and all(
            mine in (None, side) for mine, side in zip(self.shape, shape, strict=True)
        )


class Runner(Protocol):
    """Something that computes logits from images on one device, and owns the clock for it.

    A context manager: leave it, or ``close()``, to free the device.
    """

    inputs: Sequence[TensorSpec]
    outputs: Sequence[TensorSpec]
    parallel: bool
    """Whether several threads may call it at once."""

    @property
    def spans(self) -> Mapping[str, list[float]]:
        """Milliseconds of each ``enqueue``, ``upload`` and ``download``; empty on the CPU."""
        ...

    def __call__(self, feeds: Feeds) -> dict[str, np.ndarray]:
        """Compute once, from and to host arrays of exactly the shapes and dtypes of ``inputs`` and ``outputs``."""
        ...

    def latencies(self, feeds: Sequence[Feeds], iters: int) -> list[float]:
        """Milliseconds of ``iters`` runs, one after the other, taking the feeds in turn; inputs are on the device."""
        ...

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None: ...


def check_feeds(feeds: Feeds, inputs: Sequence[TensorSpec]) -> None:
    """Check feeds against a runner's inputs.

    Raises:
        EngineError: a name, shape or dtype differs.
    """
    for spec in inputs:
        if spec.name not in feeds:
            raise EngineError(f"Input {spec.name!r} is missing from the feeds ({', '.join(feeds)}). Name it so.")
        array = feeds[spec.name]
        if not spec.fits(tuple(array.shape)) or str(array.dtype) != spec.dtype:
            raise EngineError(
                f"Input {spec.name!r} is {array.dtype} {tuple(array.shape)} "
                f"({spec.dtype} {spec.shape} was needed). Feed an array of that kind."
            )
    extra = feeds.keys() - {spec.name for spec in inputs}
    if extra:
        raise EngineError(f"There is no input {min(extra)!r} ({', '.join(s.name for s in inputs)} is). Leave it out.")

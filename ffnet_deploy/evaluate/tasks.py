"""The two kinds of evaluation as values: all that differs between them stands here once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from ffnet_deploy.evaluate.result import Command, ScoredRung

if TYPE_CHECKING:
    from ffnet_deploy.artifacts.values import Interval
    from ffnet_deploy.evaluate.result import AnswerFacts, ClassificationRung, CountsFacts, SegmentationRung

Facts = TypeVar("Facts", "CountsFacts", "AnswerFacts")


class ImageResult(Protocol):
    """What every rung got on one image: ``ImageCounts`` or ``ImageAnswer``."""

    @property
    def name(self) -> str: ...

    @property
    def sha256(self) -> str: ...

    def facts(self) -> CountsFacts | AnswerFacts:
        """As it stands in a file."""
        ...


Image = TypeVar("Image", bound=ImageResult)


class AnyScore(Protocol):
    """What one rung got on a set: ``Score`` or ``TopScore``."""

    @property
    def value(self) -> float:
        """Percent; NaN where nothing counts."""
        ...

    @property
    def drop(self) -> Interval | None: ...

    def rung(self, scored: ScoredRung, drop: float) -> SegmentationRung | ClassificationRung:
        """As it stands in a file."""
        ...


_Taken = TypeVar("_Taken", bound=ImageResult, contravariant=True)


class Running(Protocol[_Taken]):
    """The reference's score so far, for the progress line."""

    def add(self, image: _Taken) -> None: ...

    def __str__(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Task(Generic[Image]):
    """A kind of evaluation."""

    command: Command
    parse: Callable[[bytes], Image]
    """An image's result from a line of JSON; raises ValueError."""
    read: Callable[[CountsFacts | AnswerFacts], Image]
    """An image's result from its facts; raises ValueError if they are of the other kind."""
    scores: Callable[[Sequence[Image], Sequence[int]], Sequence[AnyScore]]
    """From all images, and for each rung the number of its reference."""
    running: Callable[[], Running[Image]]

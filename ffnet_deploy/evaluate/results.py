"""What an evaluation found, as values that go into a JSON file and come back from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

from ffnet_deploy.artifacts import hash_json

if TYPE_CHECKING:
    from ffnet_deploy.evaluate.classification import ImageAnswer
    from ffnet_deploy.evaluate.segmentation import ImageCounts
    from ffnet_deploy.metrics import Interval

SCHEMA = 2
"""Version of the JSON file's layout; see docs/eval-json.md."""


class ImageResult(Protocol):
    """What every entry got on one image: ``ImageCounts`` or ``ImageAnswer``."""

    @property
    def name(self) -> str: ...

    @property
    def sha256(self) -> str: ...

    def to_json(self) -> dict[str, Any]: ...


class AnyScore(Protocol):
    """What one entry got on a set: ``Score`` or ``TopScore``."""

    @property
    def value(self) -> float:
        """Percent; NaN where nothing counts."""
        ...

    @property
    def agreement(self) -> float: ...

    @property
    def drop(self) -> Interval | None: ...

    def to_json(self) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the result: a rung, and how its logits were up-sampled."""

    rung: str
    runtime: str
    precision: str
    file: str | None
    bytes: int | None
    device: str
    sha256: str | None
    """Of the engine's file, or of the reference's weights; None for random weights."""
    align_corners: bool | None = None
    """None for classification."""


@dataclass(frozen=True, slots=True)
class Part:
    """Which images of a set were scored."""

    title: str
    """Of the whole set."""
    layout: str
    names: str
    """Hash of the names of all images that would be scored without ``shard``."""
    total: int
    """How many those are."""
    limit: int | None = None
    shard: tuple[int, int] | None = None
    """(I, N): every N-th image from the I-th on, counted from 1; None is all of them."""

    def __str__(self) -> str:
        some = f", the first {self.total}" if self.limit else ""
        return f"{self.title}{some}{f', shard {self.shard[0]} of {self.shard[1]}' if self.shard else ''}"


@dataclass(frozen=True, slots=True)
class Results:
    """Scores of the reference (first) and of every rung that could run, on one set or a part of it."""

    command: str
    model: str
    sources: Mapping[str, Any]
    """Hashes of ``graph`` and ``weights``."""
    part: Part
    protocol: Mapping[str, Any]
    entries: tuple[Entry, ...]
    images: Sequence[ImageResult]
    skipped: tuple[tuple[str, str], ...]
    """(rung, reason)."""
    marks: tuple[str, ...]
    tools: Mapping[str, str]
    """Versions of what the results depend on."""

    def scores(self) -> Sequence[AnyScore]:
        """Of every entry."""
        if self.command == "eval imagenet":
            from ffnet_deploy.evaluate import classification

            return classification.scores(cast("Sequence[ImageAnswer]", self.images))
        from ffnet_deploy.evaluate import segmentation

        return segmentation.scores(cast("Sequence[ImageCounts]", self.images), self.references())

    def references(self) -> list[int]:
        """For each entry the number of the reference's entry with the same up-sampling."""
        first = {entry.align_corners: i for i, entry in reversed(list(enumerate(self.entries)))}
        return [first[entry.align_corners] for entry in self.entries]

    def sha256(self) -> str:
        """Of the images' bytes and names, in order."""
        return hash_json([image.sha256 for image in self.images])

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, without scores."""
        return {
            "schema": SCHEMA,
            "command": self.command,
            "model": self.model,
            "sources": dict(self.sources),
            "set": {**asdict(self.part), "images": len(self.images), "sha256": self.sha256()},
            "protocol": dict(self.protocol),
            "marks": list(self.marks),
            "tools": dict(self.tools),
            "rungs": [asdict(entry) for entry in self.entries],
            "skipped": [{"rung": rung, "reason": reason} for rung, reason in self.skipped],
            "images": [image.to_json() for image in self.images],
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Results:
        """The reverse of ``to_json``; more keys do no harm.

        Raises:
            ValueError, LookupError, TypeError: these are no results of this version.
        """
        if values.get("schema") != SCHEMA:
            raise ValueError(f"schema {values.get('schema')!r} instead of {SCHEMA}")
        parse = _parser(values["command"])
        names = Entry.__dataclass_fields__
        part = {key: values["set"][key] for key in Part.__dataclass_fields__}
        part["shard"] = tuple(part["shard"]) if part["shard"] else None
        return cls(
            command=values["command"],
            model=values["model"],
            sources=values["sources"],
            part=Part(**part),
            protocol=values["protocol"],
            entries=tuple(Entry(**{key: rung[key] for key in names}) for rung in values["rungs"]),
            images=[parse(image) for image in values["images"]],
            skipped=tuple((item["rung"], item["reason"]) for item in values["skipped"]),
            marks=tuple(values["marks"]),
            tools=values["tools"],
        )


def _parser(command: str) -> Callable[[Mapping[str, Any]], ImageResult]:
    if command == "eval imagenet":
        from ffnet_deploy.evaluate.classification import ImageAnswer

        return ImageAnswer.from_json
    if command == "eval cityscapes":
        from ffnet_deploy.evaluate.segmentation import ImageCounts

        return ImageCounts.from_json
    raise ValueError(f"results of {command!r}")

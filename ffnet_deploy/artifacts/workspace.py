"""The folders that commands write, and the recorded files in them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ffnet_deploy.artifacts.commandline import CommandLine
from ffnet_deploy.artifacts.filenames import FileName, model_of
from ffnet_deploy.artifacts.records import AnyRecord, EngineRecord, GraphRecord, read_record
from ffnet_deploy.artifacts.renewal import by_name


class GraphFile(NamedTuple):
    """A graph on the disk and its record."""

    path: Path
    record: GraphRecord


class EngineFile(NamedTuple):
    """An engine on the disk and its record."""

    path: Path
    record: EngineRecord


@dataclass(frozen=True, slots=True)
class Workspace:
    """The folders that commands write: ``models/``, ``engines/``, ``calibration/`` below one root."""

    root: Path

    @property
    def models(self) -> Path:
        return self.root / "models"

    @property
    def engines(self) -> Path:
        return self.root / "engines"

    @property
    def weights(self) -> Path:
        return self.models / "weights"

    def path_of(self, name: FileName) -> Path:
        """Where a graph or an engine lies: ``models/…`` or ``engines/…``."""
        return (self.models if name.runtime is None else self.engines) / str(name)

    def calibration(self, name: FileName) -> Path:
        """``calibration/STEM.json``: the ranges of the FP32 graph ``STEM.onnx``."""
        return self.root / "calibration" / f"{name.exported.stem}.json"

    def run(self, *words: str | Path) -> CommandLine:
        """A command line of ours that acts on this workspace."""
        return CommandLine.of(*words).in_workspace(self.root)

    def shown(self, file: Path) -> str:
        """A path for a record: relative to the root if it lies below it, absolute otherwise."""
        absolute, root = file.resolve(), self.root.resolve()
        return str(absolute.relative_to(root)) if absolute.is_relative_to(root) else str(absolute)

    def graphs(self, model: str | None = None) -> list[GraphFile]:
        """Every graph that export made, of one model or of all, the newest first; the files are not hashed.

        Raises:
            ArtifactError: one of them has no readable record, so that the newest cannot be known.
        """
        found = self._recorded(self.models, lambda name: model in (None, model_of(name)) and _may_be_exported(name))
        exported = [
            GraphFile(path, record)
            for path, record in found
            if isinstance(record, GraphRecord) and record.graph is None
        ]
        return sorted(exported, key=lambda item: item.record.file.created, reverse=True)

    def engines_of(self, graph: Path) -> list[EngineFile]:
        """Every engine that goes back to an FP32 graph, by file name; the files are not hashed.

        Raises:
            ArtifactError: an engine of this model has no readable record, or a record has no engine.
        """
        found = self._recorded(self.engines, lambda name: model_of(name) == model_of(graph.name))
        mine = [
            EngineFile(path, record)
            for path, record in found
            if isinstance(record, EngineRecord) and record.exported.file == graph.name
        ]
        return sorted(mine, key=lambda item: item.path.name)

    def _recorded(self, folder: Path, wanted: Callable[[str], bool]) -> list[tuple[Path, AnyRecord]]:
        try:
            # Not glob, which takes a folder that cannot be read for an empty one.
            there = list(folder.iterdir())
        except FileNotFoundError:
            there = []
        files = {p for p in there if p.suffix in _KEPT}
        files |= {p.with_suffix("") for p in there if p.suffix == ".json" and p.with_suffix("").suffix in _KEPT}
        chosen = sorted(p for p in files if not p.name.startswith(".") and wanted(p.name))
        return [(p, read_record(p, remedy=str(by_name(p.name).in_workspace(self.root)))) for p in chosen]


_KEPT = (".onnx", ".engine")
"""Endings of files with records."""


def _may_be_exported(file: str) -> bool:
    """Whether a graph may be one that export made; what was made from it is renewed with it, and tells nothing here."""
    try:
        name = FileName.parse(file)
    except ValueError:
        return True
    return name == name.exported

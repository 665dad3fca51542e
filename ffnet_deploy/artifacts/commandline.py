"""A command line of ours as a value: quoted for a shell, and for the workspace that it is meant for."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class CommandLine:
    """``ffnet-deploy`` with arguments; ``str()`` gives what can be pasted into a shell."""

    words: tuple[str, ...]

    @classmethod
    def of(cls, *words: str | Path) -> CommandLine:
        """The command and its arguments, in order."""
        return cls(tuple(map(str, words)))

    def flag(self, name: str, asked: bool) -> CommandLine:
        """With a flag, if it was asked for."""
        return CommandLine((*self.words, name)) if asked else self

    def option(self, name: str, value: object) -> CommandLine:
        """With an option and its value; None leaves it out."""
        return self if value is None else CommandLine((*self.words, name, str(value)))

    def options(self, name: str, values: Iterable[object]) -> CommandLine:
        """With an option that is given once for each value."""
        line = self
        for value in values:
            line = line.option(name, value)
        return line

    def in_workspace(self, root: Path) -> CommandLine:
        """The same for a workspace that is not the current folder."""
        return self if root == Path() else self.option("--workspace", root)

    def __str__(self) -> str:
        return f"ffnet-deploy {shlex.join(self.words)}"

"""Nodes that the user names: the patterns of ``--keep-fp32`` and ``--keep-fp16``."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from ffnet_deploy.errors import UsageError


def check_patterns(option: str, patterns: Sequence[str], names: Sequence[str], kind: str) -> None:
    """Check that every pattern matches a node.

    Args:
        option: that gave the patterns, for the message: ``--keep-fp32``.
        patterns: node names or shell patterns of them; case matters.
        names: of the nodes that the option may name.
        kind: what these nodes are, for the message: ``node``.

    Raises:
        UsageError: a pattern matches none of the names.
    """
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            example = f"the first is {names[0]!r}" if names else "the graph has none"
            raise UsageError(
                f"{option} {pattern!r} names no {kind} ({example}). Quote the pattern, and see the nodes with: "
                "ffnet-deploy inspect FILE"
            )


def asked_for(name: str, patterns: Sequence[str]) -> str | None:
    """The reason to keep a node that a pattern matches; None if none does."""
    for pattern in patterns:
        if fnmatchcase(name, pattern):
            return f"asked for by {pattern!r}"
    return None

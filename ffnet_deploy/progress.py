"""How long work tells its caller how far it is."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int | None], None]
"""Called with (what is going on, how much is done, out of how much or None)."""

Tell = Callable[[str], None]
"""Called with a sentence that the user should read before the work begins."""


def quiet(what: str, done: int, total: int | None) -> None:
    """The progress callback of callers that show none."""


def unheard(text: str) -> None:
    """The ``tell`` callback of callers that show nothing."""

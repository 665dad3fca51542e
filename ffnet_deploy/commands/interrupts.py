"""Ctrl-C, whatever libraries make of it."""

from __future__ import annotations

import signal
import sys
from typing import Self


class CtrlC:
    """Remembers Ctrl-C, since libraries turn the KeyboardInterrupt into errors of their own."""

    pressed = False

    def __enter__(self) -> Self:
        self._before = signal.signal(signal.SIGINT, self._press)
        return self

    def _press(self, _number: int, _frame: object) -> None:
        self.pressed = True
        raise KeyboardInterrupt

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: object) -> None:
        signal.signal(signal.SIGINT, self._before)
        if self.pressed and isinstance(error, Exception | KeyboardInterrupt):
            sys.exit(130)

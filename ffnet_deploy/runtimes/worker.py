"""An object in a process of its own, to keep runtimes apart."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol, Self, runtime_checkable

from ffnet_deploy.errors import EngineError, FFNetDeployError

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    import numpy as np

    Feeds = Mapping[str, np.ndarray]


_EXPECTED = (FFNetDeployError, OSError, MemoryError)
"""Errors that come through as they are: ours, and what the system refuses. All others are bugs."""


@runtime_checkable
class ReportsProgress(Protocol):
    """An object whose long calls tell how far they are: (what, done, total or None)."""

    report: Callable[[str, int, int | None], None]


class Worker:
    """An object of ours in a process of its own, that dies with us.

    Keeps apart what must not share a process: ONNX Runtime's spinning threads, Polygraphy's choice of TensorRT at
    import, and whatever may crash or be killed for memory.
    """

    def __init__(self, what: str, make: Callable[..., Any], *args: object) -> None:
        """Start a process and make the object there.

        Args:
            what: names the work in errors: "the worker of onnxruntime fp32".
            make: a class or function at the top of a module; its result's methods are called by name.
            args: passed to it, pickled.
        """
        context = multiprocessing.get_context("spawn")
        self._what = what
        self._conn, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, make, args), daemon=True)
        self._process.start()
        theirs.close()
        self.on_progress: Callable[[str, int, int | None], None] | None = None
        """Told what the object reports while it works; see ``ReportsProgress``."""
        self._receive()

    def call(self, method: str, *args: object) -> Any:  # noqa: ANN401 - whatever the method returns
        """Call a method there and wait for its result; expected errors come through as they are."""
        # A worker killed since the last call cannot be sent anything; receiving tells how it ended.
        with suppress(ConnectionError):
            self._conn.send((method, args))
        return self._receive()

    def _receive(self) -> Any:  # noqa: ANN401
        try:
            kind, value = self._conn.recv()
            while kind == "progress":
                if self.on_progress:
                    self.on_progress(*value)
                kind, value = self._conn.recv()
        except (EOFError, ConnectionError) as error:
            self._process.join()
            code = self._process.exitcode
            how = f"was killed by {signal.Signals(-code).name}" if code and code < 0 else f"ended with code {code}"
            hint = "Was there enough memory? Close other programs and" if code == -signal.SIGKILL else "Please"
            raise EngineError(f"The process of {self._what} {how}. {hint} run the command again.") from error
        if kind == "error":
            self.close()
            if isinstance(value, _EXPECTED):
                raise value
            raise RuntimeError(f"in the process of {self._what}:\n{value}")
        return value

    def close(self) -> None:
        """End the process."""
        self._conn.close()
        self._process.join(timeout=2)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # On an error (Ctrl-C above all) nobody waits for the run in progress.
        if _[0] is not None:
            self._process.kill()
        self.close()


def _serve(conn: Connection, make: Callable[..., Any], args: tuple[object, ...]) -> None:
    # Ctrl-C reaches the whole group: the parent decides what becomes of us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    served: Any = None
    while True:
        try:
            if served is None:
                served, value = make(*args), None
                if isinstance(served, ReportsProgress):
                    served.report = lambda *what: conn.send(("progress", what))
            else:
                method, arguments = conn.recv()
                value = getattr(served, method)(*arguments)
            conn.send(("ok", value))
        except (EOFError, ConnectionError):
            return
        except _EXPECTED as error:
            conn.send(("error", error))
            return
        except Exception:  # noqa: BLE001 - a bug: its traceback travels to the parent
            conn.send(("error", traceback.format_exc()))
            return


def _die_with_parent() -> None:
    """End at once when the parent is gone, in the middle of a long call too."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)

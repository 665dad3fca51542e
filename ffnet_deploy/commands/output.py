"""What commands print and write: tables to stdout, progress and errors to stderr, JSON where it is wanted."""

from __future__ import annotations

import io
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ffnet_deploy.commands.expected import expected
from ffnet_deploy.errors import ArtifactError, FFNetDeployError, UsageError, facts_of_error
from ffnet_deploy.foreign import shown

if TYPE_CHECKING:
    from ffnet_deploy.artifacts.workspace import Workspace
    from ffnet_deploy.progress import Progress

PLAIN_SECONDS = 10.0
"""Between two lines of progress where there is no terminal."""


def prepare_streams() -> None:
    """Let output never be a traceback: closed streams swallow it, and a terminal shows what it lacks as an escape."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 - for the whole process
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def say(text: str) -> None:
    """Lines on stdout."""
    with _as_long_as_read():
        sys.stdout.write(_lines(text))


def flush() -> None:
    """Bring out what was said.

    Raises:
        OSError: there is no room for it.
    """
    try:
        with _as_long_as_read():
            sys.stdout.flush()
    except OSError:
        _drop()
        raise


@contextmanager
def _as_long_as_read() -> Iterator[None]:
    """End the command as the shell ends others whose output nobody reads any more, as with ``head``."""
    try:
        yield
    except BrokenPipeError:
        _drop()
        raise SystemExit(_BROKEN_PIPE) from None


_BROKEN_PIPE = 128 + 13


def _drop() -> None:
    """Let the interpreter end without another try to write what is left."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def tell(text: str) -> None:
    """Lines on stderr."""
    sys.stderr.write(_lines(text))


def _lines(text: str) -> str:
    # Names in it may come from anywhere.
    return "".join(f"{shown(line)}\n" for line in text.split("\n"))


def tell_model(workspace: Workspace, name: str | None) -> None:
    """Say which model is meant where the user named none."""
    if name is None and (newest := workspace.graphs()[:1]):
        tell(f"model: {newest[0].path.stem} (exported last)")


def space_at(folder: Path) -> Workspace:
    """The workspace of ``--workspace``.

    Raises:
        UsageError: it is a file, or its name is no UTF-8, which the runtimes need.
    """
    from ffnet_deploy.artifacts.workspace import Workspace

    if re.search("[\udc80-\udcff]", str(folder)):
        raise UsageError(f"--workspace {folder} is not UTF-8 (the runtimes need it). Name another.")
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--workspace {folder} is a file (a folder was needed). Name another.")
    return Workspace(folder)


def deliver(json_file: str | None, result: dict[str, Any], text: str) -> None:
    """Print a result, and write it as JSON where that was asked for; with ``-`` the text goes to stderr."""
    if json_file == "-":
        tell(text)
    else:
        say(text)
    if json_file:
        _write_json(json_file, result)


def _write_json(target: str, value: dict[str, Any]) -> None:
    from ffnet_deploy.artifacts.writing import json_text, write_json

    if target == "-":
        say(json_text(value, indent=2))
        return
    path = Path(target)
    if path.exists() and not path.is_file():
        # A pipe or a device is written to, never replaced.
        try:
            path.write_text(json_text(value) + "\n", "utf-8")
        except OSError as error:
            raise ArtifactError(f"{path} cannot be written ({error.strerror}). Name another place.") from error
    else:
        write_json(path.resolve(), value)


def _check_json(target: str | None) -> None:
    """Before anything is computed, that the result will have a place."""
    if target in (None, "-"):
        return
    path = Path(str(target))
    if path.is_dir() or not path.absolute().parent.is_dir():
        found = "is a folder" if path.is_dir() else "is in no folder that exists"
        raise UsageError(f"--json {target} {found} (a file was needed). Name another, or - for stdout.")


@contextmanager
def json_errors(json_file: str | None, command: str, schema: int) -> Iterator[None]:
    """Write an error where the JSON result would have gone."""
    _check_json(json_file)
    try:
        with expected():
            yield
    except FFNetDeployError as error:
        if json_file:
            from ffnet_deploy.artifacts.records import now

            head = {"schema": schema, "command": command, "created": now()}
            facts = facts_of_error(error)
            try:
                _write_json(json_file, {**head, "error": facts and asdict(facts)})
            except (FFNetDeployError, OSError) as second:
                tell(f"the error could not be written as JSON either: {second}")
        raise


def _on_terminal() -> bool:
    return sys.stderr.isatty()


@contextmanager
def progress() -> Iterator[Progress]:
    """A progress bar on a terminal's stderr; elsewhere a plain line from time to time."""
    if not _on_terminal():
        with PlainProgress() as plain:
            yield plain
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)
        last: tuple[int, int | None] = (0, None)

        def update(what: str, done: int, total: int | None) -> None:
            nonlocal last
            # Another total, or a step back, is another stage: its time left is reckoned anew.
            if total != last[1] or done < last[0]:
                bar.reset(task)
            last = done, total
            bar.update(task, description=what, completed=done, total=total)

        yield update


class PlainProgress:
    """Lines on stderr for logs: none in the first seconds, then one every ``interval`` with the newest state.

    A thread of its own prints them, so long work that reports nothing does not look dead.
    """

    def __init__(self, interval: float = PLAIN_SECONDS, write: Callable[[str], None] = tell) -> None:
        """Print nothing yet.

        Args:
            interval: seconds between lines, and before the first.
            write: gets each line.
        """
        self._interval, self._write = interval, write
        self._state: tuple[str, int, int | None] = ("working", 0, None)
        self._started = time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._print_lines, daemon=True)

    def __call__(self, what: str, done: int, total: int | None) -> None:
        """Remember how far the work is."""
        self._state = (what, done, total)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _print_lines(self) -> None:
        while not self._ended.wait(self._interval):
            self._write(f"{plain_line(*self._state)}, {time.monotonic() - self._started:.0f} s")


def plain_line(what: str, done: int, total: int | None) -> str:
    """A state of the work in words: ``training: 120 of 400 (30 %)``, without a total only what is done."""
    if total:
        return f"{what}: {done:,} of {total:,} ({100 * done // total} %)"
    return f"{what}: {done:,}" if done else what

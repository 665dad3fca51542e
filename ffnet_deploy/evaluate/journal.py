"""What an evaluation has done so far, one line an image, so that a killed run can go on."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import asdict
from io import BufferedRandom
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Protocol, Self, TypeVar

from ffnet_deploy.artifacts.sealing import sealed, unsealed
from ffnet_deploy.artifacts.writing import hash_json, is_at, json_text, replacing
from ffnet_deploy.errors import ArtifactError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


class Line(Protocol):
    """A result that can be written down."""

    @property
    def name(self) -> str: ...

    def facts(self) -> DataclassInstance:
        """As it stands in a file."""
        ...


R = TypeVar("R", bound=Line)


def _line(facts: DataclassInstance) -> bytes:
    return json_text(sealed(asdict(facts))).encode() + b"\n"


def locked(path: Path) -> BufferedRandom:
    """Open a file to append to and read, and lock it against other processes.

    Raises:
        BlockingIOError: another process holds it.
        OSError: it cannot be opened.
    """
    while True:
        # Never through a link: what it leads to is no journal, and would be cut.
        handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
        file = os.fdopen(handle, "ab+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Between the two calls its owner may have deleted it: then nobody would find what is written.
            if is_at(handle, path):
                return file
        except OSError:
            file.close()
            raise
        file.close()


def forget(path: Path) -> None:
    """Delete a journal whose results have been delivered, unless another run has taken it up meanwhile."""
    try:
        with locked(path):
            path.unlink(missing_ok=True)
    except OSError:
        # Someone goes on with it, or the folder is gone: the lines do no harm.
        return


class Journal(Generic[R]):
    """A file of results, named after all that they depend on; a context manager that holds it against other runs.

    A line is JSON with its own checksum, and counts when it is whole: a kill in the middle costs that image alone.
    """

    def __init__(
        self,
        folder: Path,
        key: dict[str, Any],
        parse: Callable[[bytes], R],
        *,
        resume: bool,
        current: Callable[[R], bool] = lambda _result: True,
    ) -> None:
        """Open the file that belongs to ``key``.

        Args:
            folder: of all such files.
            key: engines, protocol, set: whatever the results depend on.
            parse: a result from its JSON; raises ValueError.
            resume: take over what is there; else begin anew.
            current: whether a result still holds, for instance because the image is unchanged.

        Raises:
            ArtifactError: another process evaluates the same, or the folder cannot be written.
        """
        self.path = folder / f"{hash_json(key)[:16]}.jsonl"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._cannot_write(error) from error
        self._file = self._locked()
        self.damaged = 0
        """Lines that are no results, and that are dropped: those images are evaluated again."""
        # Without ``resume`` the old lines stay, too: they are as true as before, and of two lines the later one counts.
        self.left = {result.name: result for result in self._read(parse) if current(result)}
        """Results of earlier runs that still hold, whether or not they are taken over."""
        self.done = dict(self.left) if resume else {}

    def _locked(self) -> BufferedRandom:
        try:
            return locked(self.path)
        except BlockingIOError as error:
            raise ArtifactError(
                "The same evaluation runs in another process. Wait for it, then run this again."
            ) from error
        except OSError as error:
            raise self._cannot_write(error) from error

    def _cannot_write(self, error: OSError) -> ArtifactError:
        return ArtifactError(f"{self.path} cannot be written ({error.strerror}). Free or unlock the folder.")

    def _read(self, parse: Callable[[bytes], R]) -> Iterator[R]:
        self._file.seek(0)
        kept: list[bytes] = []
        for line in self._file:
            if not line.endswith(b"\n"):
                break
            try:
                unsealed(line)
                yield parse(line)
                kept.append(line)
            except ValueError:
                self.damaged += 1
        if self.damaged:
            self._rewrite(kept)
        else:
            self._file.truncate(sum(map(len, kept)))

    def _rewrite(self, lines: Iterable[bytes]) -> None:
        """Leave these lines alone in the file; whoever is killed meanwhile loses none of them."""
        # Locked until the new file is there: nobody else may add to the old one.
        with self._file, replacing(self.path) as part:
            part.write_bytes(b"".join(lines))
        self._file = self._locked()

    def add(self, result: R) -> None:
        """Append a result.

        Raises:
            ArtifactError: the disk is full.
        """
        try:
            self._file.write(_line(result.facts()))
            self._file.flush()
        except OSError as error:
            raise ArtifactError(
                f"{self.path} cannot be written ({error.strerror}). Free the disk, then run this again with --resume."
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        # Of a full disk the first error has told; closing tries again to write what had no room.
        with suppress(OSError) if error else nullcontext():
            self._file.close()

"""Download one archive: continued where it broke off, never mixed from two versions, never led off encryption."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import NamedTuple, cast
from urllib.error import HTTPError, URLError
from urllib.request import (
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
    UnknownHandler,
)

from ffnet_deploy.artifacts.sealing import sealed, unsealed
from ffnet_deploy.artifacts.writing import write_json
from ffnet_deploy.errors import ArtifactError, WeightsError
from ffnet_deploy.zoo import archive as unpacking
from ffnet_deploy.zoo.address import Address, AddressError
from ffnet_deploy.zoo.archive import CHUNK, ELSEWHERE

TIMEOUT_S = 30.0
"""Of silence on a connection."""

_BUSY = {429, 500, 502, 503, 504}
_REDIRECTED = {301, 302, 303, 307, 308}
_MOST_HOPS = 10
_MOST_OF_A_NOTE = 1 << 16
"""Bytes."""


@dataclass(frozen=True, slots=True)
class FetchProgress:
    """How far one archive is."""

    archive: str
    done: int
    """Bytes, those kept from an earlier run included; falls back to 0 when the server's file changed."""
    total: int | None
    """Bytes; None while the server does not say."""


class _CutError(Exception):
    """The connection ended too early; another try may go on."""


class _UnreachableError(_CutError):
    """There was no connection."""


class _Kept(NamedTuple):
    done: int
    """Bytes in the ``.part`` file that may be continued."""
    version: str | None
    """Strong ETag or date of the server's file they belong to; without one nothing is continued."""
    total: int | None


@dataclass(frozen=True, slots=True)
class Download:
    """One archive that is downloaded. The part that has arrived lies beside a note of the version it belongs to."""

    archive: str
    address: Address
    folder: Path
    """``models/weights/`` of the workspace."""

    @property
    def part(self) -> Path:
        """What has arrived."""
        return self.folder / self.archive / ".download.part"

    @property
    def note(self) -> Path:
        """Where it came from, and which version of the server's file it is."""
        return self.part.with_suffix(".json")

    def kept(self) -> _Kept:
        """What may be continued; nothing where the note is not one of ours or is of another address."""
        try:
            with self.note.open("rb") as file:
                note = unsealed(file.read(_MOST_OF_A_NOTE))
            done = self.part.stat().st_size
        except (OSError, ValueError):
            return _Kept(0, None, None)
        match note:
            case {"url_sha256": str(url), "version": str(version), "total": None | int() as total}:
                fits = url == self.address.sha256 and _usable(version) and done <= unpacking.TOTAL_LIMIT
                if fits and (total is None or done <= total <= unpacking.TOTAL_LIMIT):
                    return _Kept(done, version, total)
        return _Kept(0, None, None)

    def discard(self) -> None:
        """Remove what has arrived, and its note."""
        self.part.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)


def download(job: Download, progress: Callable[[FetchProgress], None], pauses_s: Sequence[float]) -> None:
    """Bring the whole archive to ``job.part``.

    Args:
        job: what to download; no other process may have the same one.
        progress: called after every piece.
        pauses_s: seconds before each further try of a connection that broke off.

    Raises:
        WeightsError: there is no connection, or nothing of use behind it.
        ArtifactError: the folder cannot be written.
    """
    for number, pause_s in enumerate((*pauses_s, None)):
        try:
            _attempt(job, progress)
        except _CutError as error:
            # A host that never answered will not answer a second later. A connection that broke off often comes back.
            if pause_s is None or (number == 0 and isinstance(error, _UnreachableError)):
                raise WeightsError(_broken_off(job, error)) from error
            time.sleep(pause_s)
        else:
            return


def _broken_off(job: Download, error: _CutError) -> str:
    done = job.kept().done
    if not done:
        return (
            f"{job.address} cannot be downloaded ({error}). Check the network and run the same command again, "
            f"or name another place with {ELSEWHERE}."
        )
    return (
        f"{job.address} broke off ({error}); {done} bytes are kept in {job.part}. "
        f"Run the same command to continue there, or name another place with {ELSEWHERE}."
    )


def _attempt(job: Download, progress: Callable[[FetchProgress], None]) -> None:
    """Ask for what is missing of the archive and append it, or all of it if the server's file is another one."""
    kept = job.kept()
    if kept.done and kept.done == kept.total:
        return
    # What goes wrong in the progress does not pass through the pieces, which would take it for their file's.
    with _open(job, kept) as response, closing(_received(job, response, kept)) as pieces:
        for piece in pieces:
            progress(piece)


def _received(job: Download, response: HTTPResponse, kept: _Kept) -> Generator[FetchProgress, None, None]:
    start, total = _extent(response)
    version = _version(response)
    if start != (kept.done if response.status == 206 else 0) or (start and version not in (None, kept.version)):
        job.discard()
        raise _CutError("the server's file changed meanwhile")
    with _writable(job.part), job.part.open("ab" if start else "wb") as file:
        if not start:
            # After the old bytes are gone, before the first new one: a note never vouches for other bytes.
            write_json(job.note, sealed({"url_sha256": job.address.sha256, "version": version, "total": total}))
        done = start
        most = unpacking.TOTAL_LIMIT if total is None else total
        for chunk in _body(response):
            done += len(chunk)
            if done > most or most > unpacking.TOTAL_LIMIT:
                job.discard()
                raise WeightsError(
                    f"{job.address} sends too much: more than the {most} bytes announced, or than "
                    f"{unpacking.TOTAL_LIMIT}. Run the same command to start afresh, or name another place with "
                    f"{ELSEWHERE}."
                )
            file.write(chunk)
            yield FetchProgress(job.archive, done, total)
    if total is not None and done < total:
        raise _CutError(f"{done} of {total} bytes arrived")


def _open(job: Download, kept: _Kept) -> HTTPResponse:
    headers = {"User-Agent": "ffnet-deploy"}
    if kept.done and kept.version:
        headers |= {"Range": f"bytes={kept.done}-", "If-Range": kept.version}
    try:
        return _followed(job.address, headers)
    except AddressError as error:
        raise WeightsError(f"{job.address} cannot be downloaded: {error}. Name another place: {ELSEWHERE}") from error
    except HTTPError as error:
        error.close()
        if error.code == 416:
            job.discard()
            raise _CutError("what was kept does not fit the server's file") from error
        if error.code in _BUSY:
            raise _CutError(f"HTTP {error.code}") from error
        raise WeightsError(
            f"{job.address} cannot be downloaded: HTTP {error.code} (needed: a zip of state dicts). Name a mirror or a "
            f"folder with {ELSEWHERE}, or place the .pth files at {job.folder / job.archive}."
        ) from error
    except URLError as error:
        raise _UnreachableError(f"no connection: {error.reason}") from error
    except (OSError, HTTPException, ValueError) as error:
        raise _CutError(str(error) or type(error).__name__) from error


def _followed(address: Address, headers: dict[str, str]) -> HTTPResponse:
    """Ask an address, and those that it leads to; each is checked before it is asked.

    Raises:
        AddressError: it leads where it must not, or too often.
        HTTPError, URLError, OSError, HTTPException: as ``urllib`` raises them.
    """
    for _ in range(_MOST_HOPS):
        own = {} if address.authorization is None else {"Authorization": address.authorization}
        request = Request(address.url, headers=headers | own)  # noqa: S310 - an Address is http(s)
        try:
            return cast("HTTPResponse", _opener().open(request, timeout=TIMEOUT_S))
        except HTTPError as error:
            location = error.headers.get("Location")
            if error.code not in _REDIRECTED or location is None:
                raise
            error.close()
            address = address.redirected(location)
    raise AddressError(f"it is redirected more than {_MOST_HOPS} times")


def _opener() -> OpenerDirector:
    """What asks http and https alone, and follows nothing by itself."""
    opener = OpenerDirector()
    for handler in (
        ProxyHandler,
        UnknownHandler,
        HTTPHandler,
        HTTPSHandler,
        HTTPDefaultErrorHandler,
        HTTPErrorProcessor,
    ):
        opener.add_handler(handler())
    return opener


class _AnswerRange(NamedTuple):
    start: int
    """First byte of the file that the answer holds."""
    total: int | None
    """Bytes of the whole file."""


def _extent(response: HTTPResponse) -> _AnswerRange:
    if response.status != 206:
        return _AnswerRange(0, response.length)
    match = re.fullmatch(
        r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)", response.headers.get("Content-Range", "")
    )
    if not match:
        return _AnswerRange(-1, None)
    return _AnswerRange(int(match[1]), int(match[2]) + 1 if match[3] == "*" else int(match[3]))


def _version(response: HTTPResponse) -> str | None:
    tag = response.headers.get("ETag", "")
    # A weak tag does not promise equal bytes, and RFC 9110 bars it from If-Range.
    version = tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified")
    return version if version and _usable(version) else None


def _usable(version: str) -> bool:
    """Whether it may be sent back in a header."""
    return re.fullmatch(r"[\x20-\x7e]{1,200}", version) is not None


def _body(response: HTTPResponse) -> Iterator[bytes]:
    try:
        while chunk := response.read(CHUNK):
            yield chunk
    except (OSError, HTTPException, ValueError) as error:
        raise _CutError(str(error) or type(error).__name__) from error


@contextmanager
def _writable(path: Path) -> Iterator[None]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise ArtifactError(
            f"{path} cannot be written: {error.strerror or error}. "
            "Free or unlock the folder, or name another with --workspace DIR; what arrived is kept."
        ) from error

"""Download the published weight archives, unpack their state dicts and nothing else, and remember every file's hash."""

from __future__ import annotations

import re
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse, InvalidURL
from pathlib import Path
from typing import NamedTuple
from urllib.error import HTTPError, URLError

from ffnet_deploy.artifacts.sealing import sealed, unsealed
from ffnet_deploy.artifacts.writing import write_json
from ffnet_deploy.errors import ArtifactError, UnknownModelError, WeightsError
from ffnet_deploy.zoo import archive as unpacking
from ffnet_deploy.zoo.archive import CHUNK, ELSEWHERE, ENDING, Fetched, install, is_state_dict, read_pieces, unpack
from ffnet_deploy.zoo.checksums import check_recorded, recorded
from ffnet_deploy.zoo.specs import SPECS

BASE_URL = "https://github.com/Qualcomm-AI-research/FFNet/releases/download/models"
ARCHIVES = tuple(sorted({spec.archive for spec in SPECS.values()}))
PAUSES_S = (0.5, 1.0, 2.0, 4.0)
"""Before each further try of a download that broke off."""
TIMEOUT_S = 30.0
"""Of silence on a connection."""

_BUSY = {429, 500, 502, 503, 504}


@dataclass(frozen=True, slots=True)
class FetchProgress:
    """How far one archive is."""

    archive: str
    done: int
    """Bytes, those kept from an earlier run included; falls back to 0 when the server's file changed."""
    total: int | None
    """Bytes; None while the server does not say."""


def fetch(
    archives: Sequence[str],
    folder: Path,
    *,
    source: str | Path | None = None,
    progress: Callable[[FetchProgress], None] | None = None,
    pauses_s: Sequence[float] = PAUSES_S,
) -> list[Fetched]:
    """Bring the state dicts of ``archives`` to ``folder/ARCHIVE/``; an archive is unpacked whole or not at all.

    A download continues where it broke off, in this call and in the next one; archives whose published files are all
    in place as recorded are not downloaded again.

    Args:
        archives: names as in ``ModelSpec.archive``.
        folder: ``models/weights/`` of the workspace.
        source: None is the published place; else an http(s) URL under which ``ARCHIVE.zip`` lies, or a local folder
            with ``ARCHIVE.zip``, ``ARCHIVE/*.pth`` or ``*.pth``, the first that is there.
        progress: called after every piece of a download, and once for an archive from a local folder.
        pauses_s: seconds before each further try of a connection that broke off.

    Raises:
        UnknownModelError: the zoo has no such archive.
        WeightsError: nothing there, no connection, a damaged or hostile archive, or other bytes than recorded.
        ArtifactError: the folder cannot be written.
    """
    for archive in archives:
        if archive not in ARCHIVES:
            raise UnknownModelError(f"No archive is named {archive!r} (there are {', '.join(ARCHIVES)}). Name another.")
    recorded(folder)  # a damaged record is reported before gigabytes are downloaded, not after
    report = progress or (lambda _: None)
    place = BASE_URL if source is None else source
    if isinstance(place, str) and place.lower().startswith(("http://", "https://")):
        urls = {archive: f"{place.rstrip('/')}/{archive}.zip" for archive in archives}
        return [_from_url(_Download(archive, url, folder), report, pauses_s) for archive, url in urls.items()]
    if not str(place) or re.match(r"\w+://", str(place)) or not Path(place).is_dir():
        raise WeightsError(f"{str(place)!r} holds no archives (an http(s) URL or a folder was needed). Name one.")
    return [_from_folder(archive, folder, Path(place), report) for archive in dict.fromkeys(archives)]


def _in_place(archive: str, folder: Path) -> tuple[Path, ...]:
    """Every published file of the archive if all are there as recorded, else none."""
    files = tuple(folder / name for name in sorted({s.weights_file for s in SPECS.values() if s.archive == archive}))
    if not all(file.is_file() for file in files):
        return ()
    try:
        for file in files:
            check_recorded(file, folder)
    except WeightsError:
        # Damaged since. The download replaces it, and is checked against the same record.
        return ()
    return files


def _from_folder(archive: str, folder: Path, source: Path, progress: Callable[[FetchProgress], None]) -> Fetched:
    zipped = source / f"{archive}.zip"
    loose = [path for place in (source, source / archive) for path in sorted(place.glob("*.pth"))]
    members = {path.name: read_pieces(path) for path in loose if is_state_dict(archive, path.name)}
    if zipped.is_file():
        fetched = unpack(archive, folder, zipped, str(zipped))
    elif members:
        fetched = install(archive, folder, members, str(source))
    else:
        raise WeightsError(
            f"{source} has no state dicts of {archive} (needed: {archive}.zip, or {archive}/{archive}_…{ENDING}, "
            f"or {archive}_…{ENDING}). Name another place with {ELSEWHERE}."
        )
    size = sum(path.stat().st_size for path in fetched.files)
    progress(FetchProgress(archive, size, size))
    return fetched


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
class _Download:
    """One archive that is downloaded. The part that has arrived lies beside a note of the version it belongs to."""

    archive: str
    url: str
    folder: Path

    @property
    def part(self) -> Path:
        return self.folder / ".downloads" / f"{self.archive}.zip.part"

    @property
    def note(self) -> Path:
        return self.part.with_suffix(".json")

    def kept(self) -> _Kept:
        try:
            note = unsealed(self.note.read_bytes())
            if note["url"] == self.url and note["version"]:
                return _Kept(self.part.stat().st_size, note["version"], note["total"])
        except (OSError, ValueError, KeyError, TypeError):
            pass
        return _Kept(0, None, None)

    def discard(self) -> None:
        self.part.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)
        with suppress(OSError):
            self.part.parent.rmdir()


def _from_url(job: _Download, progress: Callable[[FetchProgress], None], pauses_s: Sequence[float]) -> Fetched:
    if files := _in_place(job.archive, job.folder):
        return Fetched(job.archive, files, None)
    for number, pause_s in enumerate((*pauses_s, None)):
        try:
            _attempt(job, progress)
            break
        except _CutError as error:
            # A host that never answered will not answer a second later. A connection that broke off often comes back.
            if pause_s is None or (number == 0 and isinstance(error, _UnreachableError)):
                raise WeightsError(_broken_off(job, error)) from error
            time.sleep(pause_s)
    try:
        fetched = unpack(job.archive, job.folder, job.part, job.url)
    except WeightsError:
        job.discard()
        raise
    job.discard()
    return fetched


def _broken_off(job: _Download, error: _CutError) -> str:
    done = job.kept().done
    if not done:
        return (
            f"{job.url} cannot be downloaded ({error}). Check the network and run the same command again, "
            f"or name another place with {ELSEWHERE}."
        )
    return (
        f"{job.url} broke off ({error}); {done} bytes are kept in {job.part}. "
        f"Run the same command to continue there, or name another place with {ELSEWHERE}."
    )


def _attempt(job: _Download, progress: Callable[[FetchProgress], None]) -> None:
    """Ask for what is missing of the archive and append it, or all of it if the server's file is another one."""
    kept = job.kept()
    if kept.done and kept.done == kept.total:
        return
    with _open(job, kept) as response:
        start, total = _extent(response)
        version = _version(response)
        if start != (kept.done if response.status == 206 else 0) or (start and version not in (None, kept.version)):
            job.discard()
            raise _CutError("the server's file changed meanwhile")
        with _writable(job.part), job.part.open("ab" if start else "wb") as file:
            if not start:
                # After the old bytes are gone, before the first new one: a note never vouches for other bytes.
                write_json(job.note, sealed({"url": job.url, "version": version, "total": total}))
            done = start
            most = unpacking.TOTAL_LIMIT if total is None else total
            for chunk in _body(response):
                done += len(chunk)
                if done > most or most > unpacking.TOTAL_LIMIT:
                    job.discard()
                    raise WeightsError(
                        f"{job.url} sends too much: more than the {most} bytes announced, or than "
                        f"{unpacking.TOTAL_LIMIT}. Run the same command to start afresh, or name another place with "
                        f"{ELSEWHERE}."
                    )
                file.write(chunk)
                progress(FetchProgress(job.archive, done, total))
    if total is not None and done < total:
        raise _CutError(f"{done} of {total} bytes arrived")


def _open(job: _Download, kept: _Kept) -> HTTPResponse:
    headers = {"User-Agent": "ffnet-deploy"}
    if kept.done and kept.version:
        headers |= {"Range": f"bytes={kept.done}-", "If-Range": kept.version}
    try:
        request = urllib.request.Request(job.url, headers=headers)  # noqa: S310 - fetch() lets only http(s) in
        response: HTTPResponse = urllib.request.urlopen(request, timeout=TIMEOUT_S)  # noqa: S310 - as above
    except HTTPError as error:
        error.close()
        if error.code == 416:
            job.discard()
            raise _CutError("what was kept does not fit the server's file") from error
        if error.code in _BUSY:
            raise _CutError(f"HTTP {error.code}") from error
        raise WeightsError(
            f"{job.url} cannot be downloaded: HTTP {error.code} (needed: a zip of state dicts). Name a mirror or a "
            f"folder with {ELSEWHERE}, or place the .pth files at {job.folder / job.archive}."
        ) from error
    except URLError as error:
        raise _UnreachableError(f"no connection: {error.reason}") from error
    except (InvalidURL, ValueError) as error:
        raise _UnreachableError(f"not a usable address: {error}") from error
    except (OSError, HTTPException) as error:
        raise _CutError(str(error) or type(error).__name__) from error
    if not response.url.startswith(job.url.partition(":")[0].lower()):
        response.close()
        raise WeightsError(f"{job.url} leads to {response.url}, without encryption. Name another place: {ELSEWHERE}")
    return response


class _AnswerRange(NamedTuple):
    start: int
    """First byte of the file that the answer holds."""
    total: int | None
    """Bytes of the whole file."""


def _extent(response: HTTPResponse) -> _AnswerRange:
    if response.status != 206:
        return _AnswerRange(0, response.length)
    match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", response.headers.get("Content-Range", ""))
    if not match:
        return _AnswerRange(-1, None)
    return _AnswerRange(int(match[1]), int(match[2]) + 1 if match[3] == "*" else int(match[3]))


def _version(response: HTTPResponse) -> str | None:
    tag = response.headers.get("ETag", "")
    # A weak tag does not promise equal bytes, and RFC 9110 bars it from If-Range.
    return tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified")


def _body(response: HTTPResponse) -> Iterator[bytes]:
    try:
        while chunk := response.read(CHUNK):
            yield chunk
    except (OSError, HTTPException) as error:
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

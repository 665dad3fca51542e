"""Bring the published weight archives, unpack their state dicts and nothing else, and remember every file's hash."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ffnet_deploy.artifacts.writing import alone
from ffnet_deploy.errors import ArtifactError, UnknownModelError, WeightsError
from ffnet_deploy.zoo.address import Address, AddressError, without_secrets
from ffnet_deploy.zoo.archive import (
    ELSEWHERE,
    ENDING,
    Fetched,
    Origin,
    byte_limit,
    install,
    published,
    read_pieces,
    unpack,
)
from ffnet_deploy.zoo.checkpoint import UnusableError
from ffnet_deploy.zoo.checksums import check_recorded, recorded
from ffnet_deploy.zoo.download import Download, FetchProgress, download
from ffnet_deploy.zoo.specs import SPECS
from ffnet_deploy.zoo.weights import read_fitting

BASE_URL = "https://github.com/Qualcomm-AI-research/FFNet/releases/download/models"
ARCHIVES = tuple(sorted({spec.archive for spec in SPECS.values()}))
PAUSES_S = (0.5, 1.0, 2.0, 4.0)
"""Before each further try of a download that broke off."""

_Report = Callable[[FetchProgress], None]


def fetch(
    archives: Sequence[str],
    folder: Path,
    *,
    source: str | Path | None = None,
    again: bool = False,
    progress: _Report | None = None,
    pauses_s: Sequence[float] = PAUSES_S,
) -> list[Fetched]:
    """Bring the state dicts of ``archives`` to ``folder/ARCHIVE/``; an archive is unpacked whole or not at all.

    A download continues where it broke off, in this call and in the next one; archives whose published files are all
    in place as recorded are not downloaded again. Every file is loaded as the model it belongs to before it is put into
    place and its hash is recorded.

    Args:
        archives: names as in ``ModelSpec.archive``.
        folder: ``models/weights/`` of the workspace.
        source: None is the published place; else an http(s) URL under which ``ARCHIVE.zip`` lies, or a local folder
            with ``ARCHIVE.zip``, ``ARCHIVE/*.pth`` or ``*.pth``, the first that is there. A user and a password in the
            URL are sent to that server, and neither shown nor kept.
        again: download what is in place too, and replace files that have other bytes.
        progress: called after every piece of a download, and once for an archive from a local folder.
        pauses_s: seconds before each further try of a connection that broke off.

    Raises:
        UnknownModelError: the zoo has no such archive.
        WeightsError: nothing there, no connection, a damaged or hostile archive, files that fit no model, or other
            bytes than recorded.
        ArtifactError: the folder cannot be written, or another process fetches the same archive.
    """
    for archive in archives:
        if archive not in ARCHIVES:
            raise UnknownModelError(f"No archive is named {archive!r} (there are {', '.join(ARCHIVES)}). Name another.")
    recorded(folder)  # a damaged record is reported before gigabytes are downloaded, not after
    report = progress or (lambda _: None)
    place = BASE_URL if source is None else source
    if isinstance(place, str) and place.lower().startswith(("http://", "https://")):
        base = _address(place)
        named = None if source is None else str(base)
        jobs = [Download(archive, base.below(f"{archive}.zip"), folder) for archive in dict.fromkeys(archives)]
        return [_from_url(job, Origin(str(job.address), named), report, pauses_s, again) for job in jobs]
    if not str(place) or re.match(r"\w+://", str(place)) or not Path(place).is_dir():
        shown = without_secrets(str(place))
        raise WeightsError(f"{shown!r} holds no archives (an http(s) URL or a folder was needed). Name one.")
    return [_from_folder(archive, folder, Path(place), report, again) for archive in dict.fromkeys(archives)]


def _address(place: str) -> Address:
    try:
        return Address.of(place)
    except AddressError as error:
        raise WeightsError(f"{error} (an http(s) URL was needed). Name another place: {ELSEWHERE}") from error


def _in_place(archive: str, folder: Path) -> tuple[Path, ...]:
    """Every published file of the archive if all are there as recorded, else none."""
    files = {folder / archive / name: spec for name, spec in sorted(published(archive).items())}
    if not all(file.is_file() for file in files):
        return ()
    known = recorded(folder)
    try:
        for file, spec in files.items():
            new = f"{archive}/{file.name}" not in known
            # Only what can be used is worth remembering.
            check_recorded(file, folder, found=read_fitting(spec, file).sha256 if new else None)
    except (WeightsError, UnusableError):
        # The download may replace it, and is checked against the same record.
        return ()
    return tuple(files)


@contextmanager
def _one_at_a_time(archive: str, folder: Path) -> Iterator[None]:
    place = folder / archive
    with ExitStack() as stack:
        # Only errors of the lock are told here: those of the block are of other files.
        try:
            stack.enter_context(alone(place / ".fetch.lock"))
        except BlockingIOError as error:
            raise ArtifactError(
                f"{archive} is being fetched to {place} by another process. Wait for it, then run this again."
            ) from error
        except OSError as error:
            raise ArtifactError(
                f"{place} cannot be written: {error.strerror or error}. "
                "Free or unlock the folder, or name another with --workspace DIR."
            ) from error
        yield


def _from_folder(archive: str, folder: Path, source: Path, progress: _Report, again: bool) -> Fetched:
    zipped = source / f"{archive}.zip"
    wanted = published(archive)
    places = [place for place in (source, source / archive) if place.is_dir()]
    found = [path for place in places for path in sorted(place.iterdir()) if path.suffix == ".pth"]
    loose = [path for path in found if path.name in wanted and path.is_file()]
    with _one_at_a_time(archive, folder):
        if zipped.is_file():
            fetched = unpack(archive, folder, zipped, Origin(str(zipped), str(source)), again=again)
        elif loose:
            members = {path.name: read_pieces(path, byte_limit(wanted[path.name])) for path in loose}
            fetched = install(archive, folder, members, Origin(str(source), str(source)), again=again)
        else:
            raise WeightsError(
                f"{source} has no state dicts of {archive} (needed: {archive}.zip, or {archive}/{archive}_…{ENDING}, "
                f"or {archive}_…{ENDING}). Name another place with {ELSEWHERE}."
            )
    size = sum(path.stat().st_size for path in fetched.files)
    progress(FetchProgress(archive, size, size))
    return fetched


def _from_url(job: Download, origin: Origin, progress: _Report, pauses_s: Sequence[float], again: bool) -> Fetched:
    if not again and (files := _in_place(job.archive, job.folder)):
        return Fetched(job.archive, files, None)
    with _one_at_a_time(job.archive, job.folder):
        download(job, progress, pauses_s)
        try:
            fetched = unpack(job.archive, job.folder, job.part, origin, again=again)
        except WeightsError:
            job.discard()
            raise
        job.discard()
        return fetched

"""Hashes, and files that are written whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ffnet_deploy.errors import ArtifactError
from ffnet_deploy.foreign import shown

_CHUNK = 1 << 20
_TEMPORARY = ".ffnet-part"
"""The ending of temporary files. No other program's are called like that: those of killed processes may be deleted."""
_LONGEST_NAME = 255 - len(_TEMPORARY) - 1
_TRIES, _PAUSE_S = 5, 0.02
"""For a lock that another process' sweep holds only while it deletes a file."""
_SWEPT: set[str] = set()
_SWEEPING = threading.Lock()
_SURROGATE = re.compile("[\ud800-\udfff]")


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def hash_json(value: object) -> str:
    """Hex SHA-256 of a JSON value, independent of the order of keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path``; sync it and rename it into place when the block ends well.

    The temporary file is a new one, whatever lies under its name, and it is locked while it is written. What killed
    processes have left in the folder is deleted before the first file that this process writes there; what another
    process writes at this moment stays. A link at ``path`` itself is replaced, and the file that it leads to stays as
    it is.

    Raises:
        ArtifactError: the folder cannot be written, the disk is full, or another process writes the same file.
    """
    part = _temporary(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path.parent)
        handle = _created(part)
    except BlockingIOError as error:
        raise ArtifactError(f"{path} is being written by another process. Wait for it, then run this again.") from error
    except OSError as error:
        raise ArtifactError(_cannot_write(path, error)) from error
    renamed = False
    try:
        yield part
        if not is_at(handle, part):
            raise FileNotFoundError(errno.ENOENT, f"another program took {part.name} away")
        os.fsync(handle)
        part.replace(path)
        renamed = True
        _sync_folder(path.parent)
    except OSError as error:
        raise ArtifactError(_cannot_write(path, error)) from error
    finally:
        # What goes wrong here would hide why the block ended.
        with suppress(OSError):
            # Once renamed, the temporary name may already be the next writer's.
            if not renamed and is_at(handle, part):
                part.unlink(missing_ok=True)
        with suppress(OSError):
            os.close(handle)


@contextmanager
def alone(lock: Path, *, wait: bool = False) -> Iterator[None]:
    """Keep other processes out of the same block, by a file that is locked meanwhile and removed afterwards.

    Args:
        lock: the file; its folder is made.
        wait: for another process that has it, instead of giving up.

    Raises:
        BlockingIOError: another process has it.
        OSError: the folder cannot be written.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    handle = _locked(lock, wait=wait)
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
        os.close(handle)


def _locked(lock: Path, *, wait: bool) -> int:
    """Open and lock a file; the lock goes with the process that holds it, however that ends."""
    while True:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(handle)
            raise
        # Between our two calls its owner may have removed it.
        if is_at(handle, lock):
            return handle
        os.close(handle)


def _temporary(path: Path) -> Path:
    """One name for each file, so that two writers of one file meet."""
    name = os.fsencode(path.name)
    stem = path.name if len(name) <= _LONGEST_NAME else hashlib.sha256(name).hexdigest()
    return path.with_name(f".{stem}{_TEMPORARY}")


def _created(part: Path) -> int:
    """A new temporary file, open and locked; the lock goes with the process that holds it, however that ends.

    Whoever deletes such a file holds its lock, and has seen that the name still leads to it.
    """
    tries = 0
    while True:
        try:
            handle = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
        except FileExistsError:
            # Somebody was killed since the folder was swept.
            _sweep(part.parent, again=True)
            if not _deleted(part):
                if tries == _TRIES:
                    raise BlockingIOError(errno.EAGAIN, "it is locked") from None
                tries += 1
                time.sleep(_PAUSE_S)
            continue
        # Until it is locked, another writer may take it for one that was left, and delete it.
        fcntl.flock(handle, fcntl.LOCK_EX)
        if is_at(handle, part):
            return handle
        os.close(handle)


def _deleted(part: Path) -> bool:
    """Delete a temporary file unless a living process holds it. A link is deleted, never followed.

    Raises:
        OSError: it cannot be deleted.
    """
    try:
        handle = os.open(part, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        part.unlink(missing_ok=True)
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if is_at(handle, part):
            part.unlink()
    except BlockingIOError:
        return False
    else:
        return True
    finally:
        os.close(handle)


def _sweep(folder: Path, *, again: bool = False) -> None:
    """Delete the temporary files of killed processes, whichever file they were for: once, unless asked ``again``."""
    name = str(folder.absolute())
    with _SWEEPING:
        if name in _SWEPT and not again:
            return
        for left in folder.glob(f".*{_TEMPORARY}"):
            # What cannot be deleted is in nobody's way, or is met again at once.
            with suppress(OSError):
                _deleted(left)
        _SWEPT.add(name)


def is_at(handle: int, path: Path) -> bool:
    """Whether a name leads to an open file, and by no link."""
    try:
        return os.path.samestat(os.fstat(handle), path.lstat())
    except FileNotFoundError:
        return False


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _cannot_write(path: Path, error: OSError) -> str:
    return (
        f"{path} cannot be written: {error.strerror or error}. "
        "Free or unlock the folder, or name another with --workspace DIR."
    )


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    with replacing(path) as part:
        part.write_bytes(data)


def json_text(value: object, indent: int | None = None) -> str:
    """JSON that every reader takes: no NaN, and bytes of names that are no UTF-8 as ``shown`` makes them.

    Raises:
        ValueError: a number is NaN or infinite.
    """
    text = json.dumps(value, indent=indent, allow_nan=False)
    if "\\ud" not in text:
        return text
    # Half of a pair of surrogates: Python's stand-in for such a byte, and no text to other readers.
    return json.dumps(_without_surrogates(value), indent=indent, allow_nan=False)


def _without_surrogates(value: object) -> object:
    if isinstance(value, str):
        return _SURROGATE.sub(lambda found: shown(found[0]), value)
    if isinstance(value, dict):
        return {_without_surrogates(key): _without_surrogates(inner) for key, inner in value.items()}
    return [_without_surrogates(inner) for inner in value] if isinstance(value, list | tuple) else value


def write_json(path: Path, value: object) -> None:
    """Write a JSON file whole or not at all."""
    write_bytes(path, f"{json_text(value, indent=2)}\n".encode())

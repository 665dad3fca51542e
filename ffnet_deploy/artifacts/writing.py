"""Hashes, and files that are written whole or not at all."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ffnet_deploy.errors import ArtifactError

_CHUNK = 1 << 20


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

    The temporary file is locked while it is written. What a killed process left of it is overwritten.

    Raises:
        ArtifactError: the folder cannot be written, the disk is full, or another process writes the same file.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = _locked(part)
    except BlockingIOError as error:
        raise ArtifactError(f"{path} is being written by another process. Wait for it, then run this again.") from error
    except OSError as error:
        raise ArtifactError(_cannot_write(path, error)) from error
    renamed = False
    try:
        yield part
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
        renamed = True
        _sync_folder(path.parent)
    except OSError as error:
        raise ArtifactError(_cannot_write(path, error)) from error
    finally:
        # What goes wrong here would hide why the block ended.
        with suppress(OSError):
            # Once renamed, the temporary name may already be the next writer's.
            if not renamed:
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


def _locked(part: Path, *, wait: bool = False) -> int:
    """Open and lock a temporary file; the lock goes with the process that holds it, however that ends."""
    while True:
        handle = os.open(part, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Between our two calls its owner may have renamed it: then this is no temporary file any more.
            if _is_at(part, handle):
                os.ftruncate(handle, 0)
                return handle
        except OSError:
            os.close(handle)
            raise
        os.close(handle)


def _is_at(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
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


def write_json(path: Path, value: object) -> None:
    """Write a JSON file whole or not at all."""
    write_bytes(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())

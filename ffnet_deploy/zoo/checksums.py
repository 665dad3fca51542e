"""Trust on first use: the SHA-256 of every weight file is recorded beside the files, and checked from then on."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from ffnet_deploy.artifacts.writing import sha256_of, write_bytes
from ffnet_deploy.errors import ArtifactError, WeightsError

SUMS = "SHA256SUMS"
"""Name of the file of hashes in the weights folder; ``sha256sum -c SHA256SUMS`` reads it."""


def check_recorded(path: Path, folder: Path) -> str:
    """Check a weight file against the hash of its first use; if this is the first, record the hash.

    A file outside ``folder`` is only hashed, and so is one in a folder that cannot be written.

    Returns:
        Hex SHA-256 of the file.

    Raises:
        WeightsError: the file cannot be read, or is not the one recorded.
    """
    try:
        found = sha256_of(path)
    except OSError as error:
        raise WeightsError(
            f"{path} cannot be read ({error.strerror or error}). Restore the file, or name another with --weights."
        ) from error
    name = _name_below(path, folder)
    if name is None:
        return found
    known = recorded(folder)
    if name not in known:
        with suppress(ArtifactError):
            record(folder, {name: found})
    elif known[name] != found:
        raise WeightsError(
            f"{path} has the SHA-256 {found} (recorded at its first use: {known[name]}). "
            f"Restore the file, or delete its line in {folder / SUMS} if the change was meant."
        )
    return found


def _name_below(path: Path, folder: Path) -> str | None:
    # A link inside the folder goes by its own name, wherever it points; hence the unresolved pair first.
    for file, base in ((path.absolute(), folder.absolute()), (path.resolve(), folder.resolve())):
        if file.is_relative_to(base) and ".." not in file.relative_to(base).parts:
            return file.relative_to(base).as_posix()
    return None


def recorded(folder: Path) -> dict[str, str]:
    """Hex SHA-256 by path below the folder."""
    path = folder / SUMS
    try:
        lines = path.read_text("utf-8").splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read ({error}). Restore it, or delete it to start again.") from error
    known = {}
    for number, line in enumerate(lines, 1):
        match = re.fullmatch(r"([0-9a-fA-F]{64}) [ *](.+)", line)
        if match:
            known[match[2]] = match[1].lower()
        elif line.strip():
            raise WeightsError(
                f"Line {number} of {path} is not 'SHA-256, two spaces, path' as sha256sum writes it. "
                "Correct or delete the line."
            )
    return known


def record(folder: Path, hashes: Mapping[str, str]) -> None:
    known = {**recorded(folder), **hashes}
    write_bytes(folder / SUMS, "".join(f"{known[name]}  {name}\n" for name in sorted(known)).encode())

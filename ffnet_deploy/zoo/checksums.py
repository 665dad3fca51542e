"""Trust on first use: the SHA-256 of every weight file is recorded beside the files, and checked from then on."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from ffnet_deploy.artifacts.commandline import CommandLine
from ffnet_deploy.artifacts.writing import alone, sha256_of, write_bytes
from ffnet_deploy.errors import ArtifactError, WeightsError
from ffnet_deploy.zoo.specs import SPECS

SUMS = "SHA256SUMS"
"""Name of the file of hashes in the weights folder; ``sha256sum -c SHA256SUMS`` reads it."""
_LONGEST = 1 << 20
"""Bytes of the file of hashes."""


def beginning(sha256: str) -> str:
    """As much of a hash as a message shows."""
    return f"{sha256[:16]}…"


def fetch_again(path: Path, name: str | None = None) -> CommandLine | None:
    """The command that replaces a file by the published one; None for a file that is not in that one's place.

    Args:
        path: of a weight file.
        name: the model that is wanted, or None for any that the file belongs to.
    """
    if path.parts[-4:-2] != ("models", "weights"):
        return None
    owners = [spec.name for spec in SPECS.values() if spec.weights_file == "/".join(path.parts[-2:])]
    # What lies in another model's place may be in order there: it is not the file to replace.
    if not owners or name not in (None, *owners):
        return None
    line = CommandLine.of("weights", "fetch", name or owners[0], "--again")
    return line.in_workspace(path.parents[3])


def check_recorded(path: Path, folder: Path, *, found: str | None = None) -> str:
    """Check a weight file against the hash of its first use; if this is the first, record the hash.

    A file outside ``folder`` is only hashed, and so is one whose name cannot stand in a line, or one in a folder that
    cannot be written.

    Args:
        path: of the file.
        folder: ``models/weights/`` of the workspace.
        found: hex SHA-256 of what was read from the file, so that it is neither read nor hashed again: another file
            may have taken the name meanwhile.

    Returns:
        Hex SHA-256 of the file.

    Raises:
        WeightsError: the file cannot be read, or is not the one recorded.
    """
    try:
        found = found or sha256_of(path)
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
        raise WeightsError(_changed(path, folder, found, known[name]))
    return found


def _changed(path: Path, folder: Path, found: str, known: str) -> str:
    again = fetch_again(path)
    what = "file" if again is None else "published file"
    step = "" if again is None else f" Run: {again}"
    return (
        f"{path} has the SHA-256 {beginning(found)} (recorded at its first use: {beginning(known)}). "
        f"Restore the {what}, or delete its line in {folder.name}/{SUMS} if the change was meant.{step}"
    )


def _name_below(path: Path, folder: Path) -> str | None:
    # A link inside the folder goes by its own name, wherever it points; hence the unresolved pair first.
    for file, base in ((path.absolute(), folder.absolute()), (path.resolve(), folder.resolve())):
        if file.is_relative_to(base) and ".." not in file.relative_to(base).parts:
            name = file.relative_to(base).as_posix()
            return name if _fits_a_line(name) else None
    return None


def _fits_a_line(name: str) -> bool:
    # sha256sum escapes line breaks and backslashes. Bytes that are no UTF-8 cannot be written as text at all.
    return not re.search(r"[\n\r\\\x00\ud800-\udfff]", name)


def recorded(folder: Path) -> dict[str, str]:
    """Hex SHA-256 by path below the folder."""
    path = folder / SUMS
    try:
        with path.open("rb") as file:
            data = file.read(_LONGEST + 1)
        text = data.decode("utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read ({error}). Restore it, or delete it to start again.") from error
    if len(data) > _LONGEST:
        raise WeightsError(f"{path} has more than {_LONGEST} bytes. Restore it, or delete it to start again.")
    known: dict[str, str] = {}
    # Other characters at which Python would break a line may be part of a name.
    for number, line in enumerate(text.split("\n"), 1):
        match = re.fullmatch(r"([0-9a-fA-F]{64}) [ *](.+)", line.removesuffix("\r"), re.DOTALL)
        if match and known.setdefault(match[2], match[1].lower()) != match[1].lower():
            raise WeightsError(f"Line {number} of {path} has another hash for {match[2]}. Delete one of the two lines.")
        if not match and line.strip():
            raise WeightsError(
                f"Line {number} of {path} is not 'SHA-256, two spaces, path' as sha256sum writes it. "
                "Correct or delete the line."
            )
    return known


def record(folder: Path, hashes: Mapping[str, str]) -> None:
    """Add hashes to the file, or replace those of the same paths.

    Raises:
        WeightsError: the file is damaged.
        ArtifactError: the folder cannot be written.
    """
    try:
        # What another process adds between our reading and our writing would be lost.
        with alone(folder / f".{SUMS}.lock", wait=True):
            known = {**recorded(folder), **hashes}
            write_bytes(folder / SUMS, "".join(f"{known[name]}  {name}\n" for name in sorted(known)).encode())
    except OSError as error:
        raise ArtifactError(
            f"{folder} cannot be written: {error.strerror or error}. Name another with --workspace DIR."
        ) from error

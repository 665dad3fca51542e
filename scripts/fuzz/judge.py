"""One damaged input given to a reader, and whether what came out is allowed."""

from __future__ import annotations

import hashlib
import os
import re
import resource
import shutil
import sys
import tempfile
import time
import traceback
import unicodedata
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from random import Random
from typing import Any

from ffnet_deploy.errors import FFNetDeployError
from fuzz.damage import Change, resealed
from fuzz.reader import Reader

LONGEST = 500
SLOW_S = 20.0
MOST_BYTES = 3 << 29
"""By which a reader may make the process larger: 1.5 GiB."""


class BadOutputError(Exception):
    """A command printed what it must not."""


@dataclass(frozen=True)
class Verdict:
    """What became of one input."""

    seed: int
    what: str
    """The damage."""
    kind: str
    """``same``, ``other``, ``unsealed`` and ``refused`` are well; everything else is a fault."""
    detail: str = ""
    """The fault in a line; equal faults have equal details as far as that can be told."""

    @property
    def fault(self) -> bool:
        return self.kind not in ("same", "other", "unsealed", "refused")


def made(reader: Reader, template: Path) -> None:
    """Make a reader's whole files; equal ones at every run, or a seed would not be the same damage."""
    template.mkdir(parents=True)
    reader.make(template)
    for path in template.rglob("*.json"):
        if path.is_file() and (text := path.read_text("utf-8")) != (settled := _CREATED.sub(_THEN, text)):
            path.write_text(resealed(settled), "utf-8")


_CREATED = re.compile(r'"created": "[^"]*"')
_THEN = '"created": "2026-01-01T00:00:00.000001+00:00"'


def whole_of(reader: Reader, template: Path, scratch: Path) -> Any:  # noqa: ANN401 - whatever readers give
    """What a reader gives for undamaged files."""
    _copied(template, scratch)
    return reader.read(scratch)


def judged(
    reader: Reader,
    seed: int,
    template: Path,
    scratch: Path,
    whole: object,
    tell: Callable[[str], object] = lambda _what: None,
) -> Verdict:
    """Damage a copy of the template, read it, and judge what came out.

    Args:
        reader: which one.
        seed: of the damage.
        template: whole files.
        scratch: where to copy them; the reader always sees this path.
        whole: what they give.
        tell: gets the damage before it is read.
    """
    _copied(template, scratch)
    change = reader.damage(Random(f"{reader.name}/{seed}"), scratch)  # noqa: S311 - the same at every run
    tell(change.what)
    before = _digests(scratch, reader.writes)
    memory, started = _peak(), time.monotonic()
    with _overheard() as heard:
        kind, detail = _outcome(reader, scratch, whole, change)
    verdict = Verdict(seed, change.what, kind, detail)
    if verdict.fault:
        return verdict
    changed = sorted(name for name, _ in before.items() ^ _digests(scratch, reader.writes).items())
    grown, seconds = _peak() - memory, time.monotonic() - started
    if grown > MOST_BYTES:
        return Verdict(seed, change.what, "memory", f"{grown >> 20} MiB more")
    if seconds > SLOW_S:
        return Verdict(seed, change.what, "slow", f"{seconds:.0f} s")
    if changed:
        return Verdict(seed, change.what, "changed a file", ascii(changed[0]))
    return Verdict(seed, change.what, "printed", heard[0]) if heard else verdict


def _outcome(reader: Reader, folder: Path, whole: object, change: Change) -> tuple[str, str]:
    try:
        result = reader.read(folder)
    except FFNetDeployError as error:
        wrong = wrong_line(str(error))
        return ("message", f"{wrong}: {str(error)!r}") if wrong else ("refused", "")
    except OSError as error:
        # The command line has one line for what the system refuses.
        expected = error.errno is not None and error.filename is not None and type(error).__module__ == "builtins"
        return ("refused", "") if expected else ("traceback", _told(error))
    except MemoryError as error:
        return "memory", _told(error)
    except Exception as error:  # noqa: BLE001 - what this looks for
        return "traceback", _told(error)
    if reader.agrees(result, whole):
        return "same", ""
    if change.allowed == "same":
        return "another result", f"{result!r:.200}"
    return (change.allowed, "") if reader.fits(result) else ("senseless result", f"{result!r:.200}")


def wrong_line(text: str) -> str | None:
    """Why a message is not one printable line; None if it is."""
    if len(text) > LONGEST:
        return f"{len(text)} characters"
    strange = [c for c in text if not c.isprintable() and unicodedata.category(c) != "Zs"]
    return f"it has {strange[0]!r}" if strange else None if text.strip() else "it is empty"


def _told(error: BaseException) -> str:
    """An exception and the line of the package that it went through last."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "ffnet_deploy" in Path(frame.filename).parts]
    where = f" at {Path(ours[-1].filename).name}:{ours[-1].lineno} {ours[-1].name}" if ours else ""
    first = (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__}{where}: {first[:120]!a}"


@contextmanager
def _overheard() -> Iterator[list[str]]:
    """Collect the first line of whatever goes to stderr past the commands: warnings, and what libraries write."""
    heard: list[str] = []
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as file, warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("default")
        # As where pictures are decoded.
        warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
        os.dup2(file.fileno(), 2)
        try:
            yield heard
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            lines = [f"{one.category.__name__}: {one.message}" for one in warned]
            heard += [
                ascii(line)[1:160] for line in (*lines, *file.read(10_000).decode("utf-8", "replace").splitlines())
            ]


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def _copied(template: Path, scratch: Path) -> None:
    shutil.rmtree(scratch, ignore_errors=True)
    shutil.copytree(template, scratch, symlinks=True)


def _digests(root: Path, but: tuple[str, ...]) -> Mapping[str, str]:
    """Every file and link below a folder by name, with a hash of what it holds."""
    found = {}
    for where, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = Path(where, name)
            relative = str(path.relative_to(root))
            if not any(fnmatch(relative, pattern) for pattern in but):
                found[relative] = _digest(path)
    return found


def _digest(path: Path) -> str:
    if path.is_symlink():
        return f"link to {path.readlink()}"
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder or pipe"

"""Read a state dict from a file that is not trusted: what it says first, its values only when that is in order."""

from __future__ import annotations

import hashlib
import io
import pickle
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ffnet_deploy.errors import WeightsError
from ffnet_deploy.zoo.checksums import fetch_again
from ffnet_deploy.zoo.zips import open_zip

State = dict[str, Tensor]
Shapes = dict[str, tuple[int, ...]]

FILE_LIMIT = 1 << 30
"""Bytes of a weight file, and of the tensors in it; the largest published ones have 0.44 GB."""

_LONGEST = 150
"""Characters of a library's reason."""
_LISTED = 4
"""Keys named in an error before "and N more"."""
_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64)
_ZIP = b"PK\3\4"
# torch.load raises whatever its zip and pickle readers meet in a damaged file.
_DAMAGED = (
    RuntimeError, EOFError, ValueError, KeyError, IndexError, AttributeError, TypeError, AssertionError, OverflowError,
    NotImplementedError, RecursionError, struct.error, zlib.error, zipfile.BadZipFile, zipfile.LargeZipFile,
)  # fmt: skip


class UnusableError(ValueError):
    """What is wrong with a weight file, without its name and without a next step."""

    def __init__(self, found: str, step: str = "Name another file.") -> None:
        """Keep what was found, and the step that helps where the file cannot be fetched again."""
        super().__init__(found)
        self.step = step


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A state dict whose values have not been read yet."""

    shapes: Shapes
    """By key."""
    _data: bytes

    def sha256(self) -> str:
        """Hex, of the very bytes that are read: another file may have taken the name meanwhile."""
        return hashlib.sha256(self._data).hexdigest()

    def state(self) -> State:
        """The tensors; they take no more memory than the file has bytes, whatever their shapes.

        Raises:
            UnusableError: there are values that are not finite in float32, or they are damaged.
        """
        state = _plain(_loaded(self._data, "cpu"))
        bad = [key for key, value in state.items() if not _finite(value)]
        if bad:
            raise UnusableError(f"has values that are not finite in {some(bad)}", "Use another checkpoint.")
        return state


def read_state(path: Path) -> State:
    """Read a state dict without running any code from it.

    Raises:
        WeightsError: no such file, not a state dict, damaged, not finite, or a pickle that wants to run code.
    """
    try:
        return opened(path).state()
    except UnusableError as error:
        raise refused(path, error) from error


def refused(path: Path, error: UnusableError, name: str | None = None) -> WeightsError:
    """The error for a user who named ``path``, or whose workspace holds it; ``name`` is the model that was wanted."""
    again = fetch_again(path, name)
    return WeightsError(f"{path} {error}. {error.step if again is None else f'Run: {again}'}")


def opened(path: Path) -> Checkpoint:
    """What a file says of its tensors. No code of it runs.

    Raises:
        UnusableError: it is no file, too large, damaged, or no state dict of plain tensors.
    """
    try:
        if not path.is_file():
            found = "is a folder" if path.is_dir() else "does not exist, or is no file"
            raise UnusableError(f"{found} (a .pth file was needed)")
        if path.stat().st_size > FILE_LIMIT:
            raise UnusableError(f"has {path.stat().st_size} bytes ({FILE_LIMIT} at most were needed)")
        # From memory: a file that shrinks while it is mapped would kill the process.
        data = path.read_bytes()
    except OSError as error:
        raise UnusableError(f"cannot be read ({error.strerror or error})") from error
    if not data:
        raise UnusableError("is empty (a PyTorch state dict was needed)")
    _check_zip(data)
    # On the meta device there are shapes and no values.
    state = _plain(_loaded(data, "meta"))
    if (size := sum(value.numel() * value.element_size() for value in state.values())) > FILE_LIMIT:
        raise UnusableError(f"has tensors of {size} bytes ({FILE_LIMIT} at most were needed)")
    return Checkpoint({key: tuple(value.shape) for key, value in state.items()}, data)


def _check_zip(data: bytes) -> None:
    """Check that a zip unpacks to what it is, and its checksums, which torch.load passes over."""
    if not data.startswith(_ZIP):
        return
    try:
        with open_zip(io.BytesIO(data)) as zipped:
            members = zipped.infolist()
            packed = [i for i in members if i.compress_type != zipfile.ZIP_STORED or i.compress_size != i.file_size]
            if packed:
                # torch.save never does so. Unpacked they may have any size.
                raise UnusableError(f"has compressed members ({packed[0].filename}; a file of torch.save was needed)")
            if sum(info.file_size for info in members) > len(data):
                raise UnusableError("declares more bytes than it has (a file of torch.save was needed)")
            if (bad := zipped.testzip()) is not None:
                raise UnusableError(f"is damaged ({bad} fails its checksum)")
    except _DAMAGED as error:
        if isinstance(error, UnusableError):
            raise
        raise _damaged(error) from error


def _loaded(data: bytes, device: str) -> object:
    try:
        with warnings.catch_warnings():
            # Of old pickle protocols. What matters is raised as an error.
            warnings.simplefilter("ignore")
            return torch.load(io.BytesIO(data), map_location=device, weights_only=True)
    except pickle.UnpicklingError as error:
        if "global" in str(error).lower():
            raise UnusableError(
                "is refused: it wants to run code while loading (a plain state dict was needed)",
                "Do not open it elsewhere either; get the file from its publisher.",
            ) from error
        raise UnusableError("cannot be read as a PyTorch state dict, or is damaged") from error
    except _DAMAGED as error:
        raise _damaged(error) from error


def _damaged(error: Exception) -> UnusableError:
    first = (str(error).splitlines() or [type(error).__name__])[0]
    return UnusableError(f"cannot be read as a PyTorch state dict, or is damaged ({first[:_LONGEST]})")


def _plain(content: object) -> State:
    """The state dict that a file holds."""
    entries = dict(content) if isinstance(content, Mapping) else {}
    if not entries or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in entries.items()):
        inside = some(map(str, entries)) or type(content).__name__
        raise UnusableError(
            f"holds {inside} (a state dict, names to tensors, was needed)",
            "Save model.state_dict() alone and name that file.",
        )
    odd = [k for k, v in entries.items() if v.layout != torch.strided or v.is_quantized or v.dtype not in _DTYPES]
    if odd:
        raise UnusableError(f"has sparse, empty or unsupported tensors in {some(odd)}", "Save it as plain float32.")
    return {key: value.detach() for key, value in entries.items()}


def _finite(value: Tensor) -> bool:
    """Whether all are finite, as float32 too: that is what they are computed with.

    Of an expanded tensor the stored values are looked at: its shape may be far larger.
    """
    if not value.is_floating_point():
        return True
    stored = value.as_strided(*_stored(value)) if 0 in value.stride() else value
    return bool(torch.isfinite(stored.float() if value.dtype == torch.float64 else stored).all())


def _stored(value: Tensor) -> tuple[list[int], list[int]]:
    axes = [(side, step) for side, step in zip(value.shape, value.stride(), strict=True) if step or not side]
    return [side for side, _ in axes], [step for _, step in axes]


def some(keys: Iterable[str]) -> str:
    """The first few of many, for a message."""
    listed = list(keys)
    more = f" and {len(listed) - _LISTED} more" if len(listed) > _LISTED else ""
    return ", ".join(listed[:_LISTED]) + more

"""Read a state dict from a file that is not trusted: what it says first, its values only when that is in order."""

from __future__ import annotations

import hashlib
import io
import math
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from ffnet_deploy.errors import WeightsError
from ffnet_deploy.zoo.checksums import fetch_again
from ffnet_deploy.zoo.pickled import DescribedTensor, NotPlainError, WantsCodeError, described
from ffnet_deploy.zoo.zips import open_zip

State = dict[str, Tensor]
Shapes = dict[str, tuple[int, ...]]

FILE_LIMIT = 1 << 30
"""Bytes of a weight file, and of the tensors in it; the largest published ones have 0.44 GB."""
PICKLE_LIMIT = 1 << 21
"""Bytes of the part that describes the tensors; the largest published model's has a quarter of a megabyte."""

_LISTED = 4
"""Keys named in an error before "and N more"."""
_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in (
    torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64
)}  # fmt: skip
_ZIP = b"PK\3\4"
_LEGACY = 0x1950A86A20F9469CFC6C
"""The number with which files begin that PyTorch wrote before it wrote zips."""
_DAMAGED = (
    ValueError, KeyError, EOFError, NotImplementedError, RuntimeError, struct.error, zlib.error, zipfile.BadZipFile,
    zipfile.LargeZipFile,
)  # fmt: skip
"""What the readers of zips raise for damage."""

_Values = Callable[[DescribedTensor], bytearray]
"""The bytes of the storage that a tensor is in."""


class UnusableError(ValueError):
    """What is wrong with a weight file, without its name and without a next step."""

    def __init__(self, found: str, step: str = "Name another file with --weights FILE") -> None:
        """Keep what was found, and the step that helps where the file cannot be fetched again."""
        super().__init__(found)
        self.step = step


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A state dict in an open file."""

    tensors: Mapping[str, DescribedTensor]
    _values: _Values
    _file: IO[bytes]

    @property
    def shapes(self) -> Shapes:
        """By key, without reading a value."""
        return {key: tensor.shape for key, tensor in self.tensors.items()}

    def sha256(self) -> str:
        """Hex, of this very file: another may have taken its name meanwhile."""
        self._file.seek(0)
        return hashlib.file_digest(self._file, "sha256").hexdigest()  # type: ignore[arg-type]

    def state(self) -> State:
        """The tensors; they take no more memory than the file has bytes, whatever their shapes.

        Raises:
            UnusableError: there are values that are not finite in float32.
        """
        flat: State = {}
        for tensor in self.tensors.values():
            if tensor.storage not in flat:
                data = self._values(tensor)
                dtype = _DTYPES[tensor.dtype]
                flat[tensor.storage] = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
        bad = [key for key, it in self.tensors.items() if not _finite(flat[it.storage][it.offset : it.end])]
        if bad:
            raise UnusableError(f"has values that are not finite in {some(bad)}", "Use another checkpoint.")
        return {key: flat[it.storage].as_strided(it.shape, it.stride, it.offset) for key, it in self.tensors.items()}


def read_state(path: Path) -> State:
    """Read a state dict without running any code from it.

    Raises:
        WeightsError: no such file, not a state dict, damaged, not finite, or a pickle that wants to run code.
    """
    try:
        with opened(path) as checkpoint:
            return checkpoint.state()
    except UnusableError as error:
        raise refused(path, error) from error


def refused(path: Path, error: UnusableError, name: str | None = None) -> WeightsError:
    """The error for a user who named ``path``, or whose workspace holds it; ``name`` is the model that was wanted."""
    again = fetch_again(path, name)
    return WeightsError(f"{path} {error}. {error.step if again is None else f'Run: {again}'}")


@contextmanager
def opened(path: Path) -> Iterator[Checkpoint]:
    """What a file says of its tensors, and the values when they are asked for within the block.

    Raises:
        UnusableError: it is no file, too large, damaged, or no state dict of plain tensors.
    """
    try:
        size = _size(path)
        with path.open("rb") as file, _contents(file, size) as (content, values):
            yield Checkpoint(_plain(content), values, file)
    except UnusableError:
        raise
    except WantsCodeError as error:
        raise UnusableError(
            f"is refused: it wants to run code while loading ({error}; a plain state dict was needed)",
            "Do not open it elsewhere either; get the file from its publisher.",
        ) from error
    except NotPlainError as error:
        step = "Save it as plain float32."
        raise UnusableError(f"has sparse, empty or unsupported tensors ({error})", step) from error
    except _DAMAGED as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise UnusableError(f"cannot be read as a PyTorch state dict, or is damaged ({first})") from error
    except OSError as error:
        raise UnusableError(f"cannot be read ({error.strerror or error})") from error


def _size(path: Path) -> int:
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "does not exist, or is no file"
        raise UnusableError(f"{found} (a .pth file was needed)")
    size = path.stat().st_size
    if not size:
        raise UnusableError("is empty (a PyTorch state dict was needed)")
    if size > FILE_LIMIT:
        raise UnusableError(f"has {size} bytes ({FILE_LIMIT} at most were needed)")
    return size


@contextmanager
def _contents(file: IO[bytes], size: int) -> Iterator[tuple[object, _Values]]:
    begin = file.read(len(_ZIP))
    file.seek(0)
    if begin != _ZIP:
        yield _legacy(file, size)
        return
    with open_zip(file) as zipped:
        yield _zipped(zipped, size)


def _zipped(zipped: zipfile.ZipFile, size: int) -> tuple[object, _Values]:
    members = {info.filename: info for info in zipped.infolist()}
    packed = [i for i in members.values() if i.compress_type != zipfile.ZIP_STORED or i.compress_size != i.file_size]
    if packed:
        # torch.save never does so. Unpacked they may have any size.
        raise UnusableError(f"has compressed members ({packed[0].filename}; a file of torch.save was needed)")
    if sum(info.file_size for info in members.values()) > size:
        raise UnusableError("declares more bytes than it has (a file of torch.save was needed)")
    roots = [name.removesuffix("/data.pkl") for name in members if name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise UnusableError("holds no state dict (data.pkl was needed once)")
    folder = roots[0]
    order = members.get(f"{folder}/byteorder")
    if order is not None and zipped.read(order) != b"little":
        raise UnusableError("has numbers of another byte order (little endian was needed)")
    pickle = members[f"{folder}/data.pkl"]
    if pickle.file_size > PICKLE_LIMIT:
        raise UnusableError(f"describes its tensors in {pickle.file_size} bytes ({PICKLE_LIMIT} at most were needed)")
    # Reading a member to its end checks its CRC.
    content = described(io.BytesIO(zipped.read(pickle)))
    return content, lambda tensor: _of_size(tensor, zipped.read(members[f"{folder}/data/{tensor.storage}"]))


def _legacy(file: IO[bytes], size: int) -> tuple[object, _Values]:
    """The form before zips: five pickles, then every storage's number of elements and its values."""
    head = io.BytesIO(file.read(PICKLE_LIMIT))
    if described(head) != _LEGACY:
        raise ValueError("it begins as no file of PyTorch")
    described(head)
    machine = described(head)
    if not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise UnusableError("has numbers of another byte order (little endian was needed)")
    content, keys = described(head), described(head)
    tensors = [it for it in content.values() if isinstance(it, DescribedTensor)] if isinstance(content, dict) else []
    stored = {tensor.storage: tensor for tensor in tensors}
    places: dict[str, int] = {}
    at = head.tell()
    for key in keys if isinstance(keys, list) and tensors else ():
        if not isinstance(key, str) or key not in stored:
            raise ValueError("it has values that belong to no tensor")
        file.seek(at)
        if file.read(8) != struct.pack("<q", stored[key].elements):
            raise ValueError("it has another number of values than it says")
        places[key] = at + 8
        at += 8 + _bytes_of(stored[key])
        if at > size:
            raise ValueError("it ends too early")

    def values(tensor: DescribedTensor) -> bytearray:
        file.seek(places[tensor.storage])
        return _of_size(tensor, file.read(_bytes_of(tensor)))

    return content, values


def _bytes_of(tensor: DescribedTensor) -> int:
    return tensor.elements * _DTYPES[tensor.dtype].itemsize


def _of_size(tensor: DescribedTensor, data: bytes) -> bytearray:
    if len(data) != _bytes_of(tensor):
        raise UnusableError(f"has {len(data)} bytes of values where it says {_bytes_of(tensor)}")
    return bytearray(data)


def _plain(content: object) -> dict[str, DescribedTensor]:
    """The state dict that a file holds, all of it checked but the values."""
    entries = content if isinstance(content, dict) else {}
    tensors = {key: it for key, it in entries.items() if isinstance(key, str) and isinstance(it, DescribedTensor)}
    if not entries or len(tensors) != len(entries):
        kind = "Tensor" if isinstance(content, DescribedTensor) else type(content).__name__
        inside = some(map(str, entries)) or kind
        raise UnusableError(
            f"holds {inside} (a state dict, names to tensors, was needed)",
            "Save model.state_dict() alone and name that file.",
        )
    storages: dict[str, tuple[str, int]] = {}
    for key, it in tensors.items():
        if storages.setdefault(it.storage, (it.dtype, it.elements)) != (it.dtype, it.elements):
            raise UnusableError(f"reads the same values as two types in {key} (a state dict was needed)")
    if (size := sum(math.prod(it.shape) * _DTYPES[it.dtype].itemsize for it in tensors.values())) > FILE_LIMIT:
        raise UnusableError(f"has tensors of {size} bytes ({FILE_LIMIT} at most were needed)")
    return tensors


def _finite(values: Tensor) -> bool:
    """Whether all are finite, as float32 too: that is what they are computed with."""
    if not values.is_floating_point():
        return True
    return bool(torch.isfinite(values.float() if values.dtype == torch.float64 else values).all())


def some(keys: Iterable[str]) -> str:
    """The first few of many, for a message."""
    listed = list(keys)
    more = f" and {len(listed) - _LISTED} more" if len(listed) > _LISTED else ""
    return ", ".join(listed[:_LISTED]) + more

"""Read a state dict from a file that is not trusted."""

from __future__ import annotations

import io
import pickle
import struct
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from ffnet_deploy.errors import WeightsError

State = dict[str, Tensor]

_LISTED = 4
"""Keys named in an error before "and N more"."""
_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64)
_AGAIN = "Fetch it again: ffnet-deploy weights fetch NAME"
# torch.load raises whatever its zip and pickle readers meet in a damaged file.
_DAMAGED = (
    RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError, AttributeError, TypeError, AssertionError,
    struct.error, zipfile.BadZipFile, zipfile.LargeZipFile,
)  # fmt: skip


def read_state(path: Path) -> State:
    """Read a state dict without running any code from it.

    Raises:
        WeightsError: no such file, not a state dict, damaged, not finite, or a pickle that wants to run code.
    """
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "does not exist"
        raise WeightsError(f"{path} {found} (a .pth file was needed). {_AGAIN}, or name another with --weights FILE")
    if not path.stat().st_size:
        raise WeightsError(f"{path} is empty (a PyTorch state dict was needed). {_AGAIN}")
    try:
        # From memory: a file that shrinks while it is mapped would kill the process.
        data = io.BytesIO(path.read_bytes())
        _check_sums(path, data)
        with warnings.catch_warnings():
            # Warnings about old pickle protocols. What matters is raised as an error.
            warnings.simplefilter("ignore")
            state = torch.load(data, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "global" in str(error).lower():
            raise WeightsError(
                f"{path} is refused: it wants to run code while loading (a plain state dict was needed). "
                "Do not open it elsewhere either; get the file from its publisher."
            ) from error
        raise WeightsError(f"{path} is not a PyTorch state dict, or damaged. {_AGAIN}") from error
    except _DAMAGED as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise WeightsError(f"{path} cannot be read as a PyTorch file ({first}). {_AGAIN}") from error
    return _plain(path, state)


def _check_sums(path: Path, data: io.BytesIO) -> None:
    """Check the CRCs of a zip. torch.load does not: it would load a flipped bit as another weight."""
    if zipfile.is_zipfile(data):
        with zipfile.ZipFile(data) as zipped:
            bad = zipped.testzip()
        if bad is not None:
            raise WeightsError(f"{path} is damaged: {bad} fails its checksum. {_AGAIN}")
    data.seek(0)


def _plain(path: Path, state: object) -> State:
    entries = dict(state) if isinstance(state, Mapping) else {}
    if not entries or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in entries.items()):
        inside = some(map(str, entries)) or type(state).__name__
        raise WeightsError(
            f"{path} holds {inside} (a state dict, names to tensors, was needed). "
            "Save model.state_dict() alone and name that file."
        )
    odd = [k for k, v in entries.items() if v.layout != torch.strided or v.is_meta or v.dtype not in _DTYPES]
    if odd:
        raise WeightsError(f"{path} has sparse, empty or unsupported tensors in {some(odd)}. Save it as plain float32.")
    bad = [k for k, v in entries.items() if v.is_floating_point() and not torch.isfinite(v).all()]
    if bad:
        raise WeightsError(f"{path} has values that are not finite in {some(bad)}. Use another checkpoint.")
    return entries


def some(keys: Iterable[str]) -> str:
    """The first few of many, for a message."""
    listed = list(keys)
    more = f" and {len(listed) - _LISTED} more" if len(listed) > _LISTED else ""
    return ", ".join(listed[:_LISTED]) + more

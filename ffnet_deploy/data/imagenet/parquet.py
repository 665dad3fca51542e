"""Rows of a parquet shard as pictures, read forwards in small batches: memory does not grow with their number."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from ffnet_deploy.data.imagenet.packed import PackedPicture
from ffnet_deploy.data.imagenet.truth import CLASSES
from ffnet_deploy.data.stored import File
from ffnet_deploy.errors import DataError, needs
from ffnet_deploy.foreign import shown

with needs("pyarrow"):
    import pyarrow as pa
    from pyarrow import parquet as pq

_BATCH = 32
_MOST_ROWS = 2_000_000
"""Of a shard; the whole of ImageNet has 1.3 million pictures."""
_KEPT = 8
"""Batches that stay: enough for the threads that read ahead and behind each other, about 30 MB of ImageNet."""
_OPEN = 2
"""Shards that stay open: one ends while the next begins."""


@dataclass(frozen=True, slots=True)
class ParquetRow:
    """The picture of one row."""

    shard: Path
    row: int

    def __str__(self) -> str:
        return f"{self.shard}:{self.row}"

    def read(self) -> bytes:
        try:
            # One reader goes through a shard for all threads; copying bytes takes no time beside decoding them.
            with _lock:
                data = _reader(self.shard).row(self.row)
        except (pa.ArrowException, OSError) as error:
            raise _unreadable(self.shard, error) from error
        if data is None:
            raise DataError(f"{self} holds no picture (its bytes were needed). Download the shard again.")
        return data

    def stamp(self) -> str:
        return f"{self.row}:{File(self.shard).stamp()}"


def rows_of(shard: Path) -> Iterator[tuple[PackedPicture, int]]:
    """Pictures and labels of a shard, in its order. Their names sort in the same order: that is the fast way to read.

    Raises:
        DataError: no parquet file, other columns than ``image`` (``bytes``, ``path``) and ``label``, or a label that
            is none.
    """
    try:
        with pq.ParquetFile(shard) as file:
            has_path = _check_columns(shard, file.schema_arrow)
            if file.metadata.num_rows > _MOST_ROWS:
                # Equal labels take no room in the file.
                raise DataError(
                    f"{shard} has {file.metadata.num_rows:,} rows (at most {_MOST_ROWS:,} were needed). "
                    "Use shards of imagenet-1k as published."
                )
            table = file.read(columns=["image.path", "label"] if has_path else ["label"])
        labels = table.column("label").to_pylist()
        files = [(image or {}).get("path") for image in table.column("image").to_pylist()] if has_path else []
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _unreadable(shard, error) from error
    for row, label in enumerate(labels):
        if label is None or not 0 <= label < CLASSES:
            raise DataError(
                f"{shard}, row {row} has the label {label} (0 to {CLASSES - 1} was needed). Use the validation split."
            )
        name = shown(f"{shard.stem}/{row:06d}")
        yield PackedPicture(name, (files[row] if files else None) or name, ParquetRow(shard, row)), label


def _check_columns(shard: Path, schema: pa.Schema) -> bool:
    """Whether there is a column of file names.

    Raises:
        DataError: the columns are not those of ImageNet. A column of truth values would be scored as classes 0 and 1.
    """
    image = schema.field("image").type if "image" in schema.names else None
    inside = {field.name: field.type for field in image} if image is not None and pa.types.is_struct(image) else {}
    label = schema.field("label").type if "label" in schema.names else None
    pictures = inside.get("bytes")
    is_bytes = pictures is not None and (pa.types.is_binary(pictures) or pa.types.is_large_binary(pictures))
    if not is_bytes or label is None or not pa.types.is_integer(label):
        found = ", ".join(f"{field.name} ({field.type})" for field in schema)
        raise DataError(
            f"{shard} has the columns {found} (image, with bytes, and label, an integer, were needed). "
            "Use shards of imagenet-1k as published."
        )
    names = inside.get("path")
    return names is not None and (pa.types.is_string(names) or pa.types.is_large_string(names))


class _Reader:
    """Reads through a shard's row groups. It keeps the last batches; for an earlier row it reads the group again."""

    def __init__(self, shard: Path) -> None:
        # With a buffer, PyArrow holds one page: 11 MB with 100 rows to a group, as published. Without one it would hold
        # the column of a whole row group, which may be the whole shard.
        self._file = pq.ParquetFile(shard, buffer_size=1 << 20, pre_buffer=False)
        metadata = self._file.metadata
        sizes = (metadata.row_group(i).num_rows for i in range(metadata.num_row_groups))
        self._starts = list(accumulate(sizes, initial=0))
        self._kept: deque[tuple[int, Any]] = deque(maxlen=_KEPT)
        self._group = -1
        self._next = 0
        self._batches: Iterator[Any] = iter(())

    def row(self, row: int) -> bytes | None:
        for start, column in self._kept:
            if start <= row < start + len(column):
                return _bytes_of(column, row - start)
        group = bisect_right(self._starts, row) - 1
        if group != self._group or row < self._next:
            self._group, self._next = group, self._starts[group]
            self._batches = self._file.iter_batches(
                _BATCH, row_groups=[group], columns=["image.bytes"], use_threads=False
            )
        while True:
            column = next(self._batches).column("image").field("bytes")
            start, self._next = self._next, self._next + len(column)
            self._kept.append((start, column))
            if row < self._next:
                return _bytes_of(column, row - start)

    def close(self) -> None:
        self._file.close()


def _bytes_of(column: Any, row: int) -> bytes | None:  # noqa: ANN401 - PyArrow has no types
    data = column[row].as_py()
    assert data is None or isinstance(data, bytes)
    return data


_lock = threading.Lock()
_readers: OrderedDict[tuple[Path, str], _Reader] = OrderedDict()


def _reader(shard: Path) -> _Reader:
    key = (shard, File(shard).stamp())
    if key not in _readers:
        _readers[key] = _Reader(shard)
        if len(_readers) > _OPEN:
            _readers.popitem(last=False)[1].close()
    _readers.move_to_end(key)
    return _readers[key]


def _unreadable(shard: Path, error: Exception) -> DataError:
    first = (str(error).splitlines() or [type(error).__name__])[0]
    return DataError(f"{shard} cannot be read as a parquet file ({first}). Download it again.")

"""Readers of data sets: Cityscapes and ImageNet in every layout."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image
from pyarrow import parquet as pq
from scipy.io import savemat

from ffnet_deploy.data import cityscapes, imagenet
from ffnet_deploy.data.imagenet.truth import real_labels_from, wnids
from ffnet_deploy.synthetic.scenes import write_cityscapes
from fuzz.pictures import pixels
from fuzz.reader import Reader

_SIZE = (64, 128)


def _write_streets(folder: Path) -> None:
    write_cityscapes(folder, "val", {"eichenfurt": 1, "lindenhafen": 1}, seed=2, size=_SIZE)


def _write_zips(folder: Path) -> None:
    drawn = folder / "drawn"
    _write_streets(drawn)
    for kind, method in (("leftImg8bit", zipfile.ZIP_STORED), ("gtFine", zipfile.ZIP_DEFLATED)):
        with zipfile.ZipFile(folder / f"{kind}_trainvaltest.zip", "w") as zipped:
            for path in sorted((drawn / kind).rglob("*.png")):
                # Not with the time of the file.
                zipped.writestr(zipfile.ZipInfo(str(path.relative_to(drawn))), path.read_bytes(), method)
    shutil.rmtree(drawn)


def _read_streets(folder: Path) -> Any:  # noqa: ANN401
    split = cityscapes.find_split(folder)
    found = {}
    for sample in split.samples:
        image, truth = cityscapes.load(sample, _SIZE)
        assert truth[truth != cityscapes.IGNORED].max(initial=0) < len(cityscapes.CLASSES)
        found[sample.name] = hashlib.sha256(image.tobytes() + truth.tobytes()).hexdigest()
    return split.layout, found


_TRUTH = {1: 65, 2: 970, 3: 230}
_WNIDS = list(wnids())


def _file(number: int) -> str:
    return f"ILSVRC2012_val_{number:08d}.JPEG"


def _jpeg(number: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels(number, (20 + number, 31))).save(out, "JPEG")
    return out.getvalue()


def _put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _flat(folder: Path) -> None:
    for number in _TRUTH:
        _put(folder / "val" / _file(number), _jpeg(number))


def _by_class(folder: Path) -> None:
    for number, label in _TRUTH.items():
        _put(folder / "val" / _WNIDS[label] / _file(number), _jpeg(number))


def _with_list(folder: Path) -> None:
    _flat(folder)
    lines = (f"{_file(n)} {_WNIDS[label] if n == 2 else label}\n" for n, label in _TRUTH.items())
    _put(folder / "val.txt", "".join(lines).encode())


def _with_csv(folder: Path) -> None:
    _flat(folder)
    rows = (f"{Path(_file(n)).stem},{_WNIDS[label]} 1 2 30 40 \r\n" for n, label in _TRUTH.items())
    _put(folder / "LOC_val_solution.csv", ("ImageId,PredictionString\r\n" + "".join(rows)).encode())


def _devkit() -> dict[str, bytes]:
    kinds = [("ILSVRC2012_ID", object), ("WNID", object), ("words", object), ("num_children", object)]
    table = np.empty((30, 1), dtype=kinds)
    for row, label in enumerate([*_TRUTH.values(), *range(27)]):
        table[row, 0] = (row + 1, _WNIDS[label], "a thing, with, commas", 0)
    out = io.BytesIO()
    savemat(out, {"synsets": table})
    # Its head has the time.
    synsets = b"MATLAB 5.0 MAT-file".ljust(116) + out.getvalue()[116:]
    return {"ILSVRC2012_validation_ground_truth.txt": b"1\n2\n3\n", "meta.mat": synsets}


def _with_devkit(folder: Path) -> None:
    _flat(folder)
    for name, data in _devkit().items():
        _put(folder / "ILSVRC2012_devkit_t12" / "data" / name, data)


def _tar(path: Path, files: dict[str, bytes], pack: Callable[[bytes], bytes] = bytes) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    path.write_bytes(pack(out.getvalue()))


def _with_devkit_archive(folder: Path) -> None:
    _flat(folder)
    files = {f"ILSVRC2012_devkit_t12/data/{name}": data for name, data in _devkit().items()}
    _tar(folder / "ILSVRC2012_devkit_t12.tar.gz", files, lambda data: gzip.compress(data, mtime=0))


def _with_tar(folder: Path) -> None:
    _with_list(folder)
    _tar(folder / "ILSVRC2012_img_val.tar", {_file(n): _jpeg(n) for n in _TRUTH})
    for number in _TRUTH:
        (folder / "val" / _file(number)).unlink()
    (folder / "val").rmdir()


def _with_shards(folder: Path) -> None:
    for i, numbers in enumerate(([1, 2], [3])):
        rows = [{"bytes": _jpeg(n), "path": _file(n)} for n in numbers]
        table = pa.table({"image": rows, "label": [_TRUTH[n] for n in numbers]})
        path = folder / "data" / f"validation-0000{i}-of-00002-0123abcd.parquet"
        path.parent.mkdir(exist_ok=True)
        pq.write_table(table, path, row_group_size=1)


def _read_pictures(folder: Path) -> Any:  # noqa: ANN401
    """Names, labels and pixels."""
    found = imagenet.find_set(folder)
    assert all(0 <= sample.label < 1000 for sample in found.samples)
    pictures = {}
    for sample in found.samples:
        picture = imagenet.load(sample)
        assert picture.shape == (224, 224, 3)
        pictures[sample.name] = (sample.label, hashlib.sha256(picture.tobytes()).hexdigest())
    return pictures


def _read_truth(folder: Path) -> Any:  # noqa: ANN401
    found = imagenet.find_set(folder)
    assert all(0 <= sample.label < 1000 for sample in found.samples)
    return [(sample.name, sample.label) for sample in found.samples]


def _write_real(folder: Path) -> None:
    lists = [[i % 1000] if i % 7 else [] for i in range(50_000)]
    (folder / "real.json").write_text(json.dumps(lists))


def _set(name: str, make: Callable[[Path], None], *targets: str, **others: Any) -> Reader:  # noqa: ANN401
    return Reader(f"imagenet-{name}", make, others.pop("read", _read_truth), targets, **others)


READERS = (
    Reader("cityscapes-folders", _write_streets, _read_streets, ("*/val/*/*",), trees=0.6),
    Reader("cityscapes-zips", _write_zips, _read_streets, ("*.zip",), trees=0.1),
    _set("folders", _by_class, "val/*/*", allowed="other", trees=0.8, read=_read_pictures, share=0.5),
    _set("list", _with_list, "val.txt", allowed="other", trees=0.2),
    _set("csv", _with_csv, "*.csv", allowed="other"),
    _set("devkit", _with_devkit, "*/data/*", allowed="other", share=0.7),
    _set("devkit-archive", _with_devkit_archive, "*.tar.gz", share=0.7),
    _set("tar", _with_tar, "*.tar", allowed="other", read=_read_pictures),
    _set("parquet", _with_shards, "data/*", allowed="other", read=_read_pictures),
    Reader(
        "imagenet-real", _write_real, lambda folder: real_labels_from(folder / "real.json"), ("*",), "other", share=0.1
    ),
)

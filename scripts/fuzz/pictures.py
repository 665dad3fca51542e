"""Readers of pictures: every kind that is decoded, label maps, and folders of pictures."""

from __future__ import annotations

import hashlib
import io
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ffnet_deploy.data.decoding import decode_labels, decode_picture, decode_rgb
from ffnet_deploy.data.pictures import find_pictures, load_pictures
from ffnet_deploy.errors import FFNetDeployError
from ffnet_deploy.evaluate.reference import LabelMaps, ReferenceModel, _MapsKey
from fuzz.damage import Allowed
from fuzz.reader import Reader, among

_KINDS: dict[str, dict[str, tuple[dict[str, Any], ...]]] = {
    "PNG": {mode: ({},) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")},
    "JPEG": {"L": ({},), "RGB": ({}, {"progressive": True}, {"subsampling": 0}), "CMYK": ({},)},
    "WEBP": {"RGB": ({}, {"lossless": True}), "RGBA": ({},)},
    "BMP": {mode: ({},) for mode in ("1", "L", "P", "RGB", "RGBA")},
    "TIFF": {
        "1": ({}, {"compression": "group4"}), "L": ({}, {"compression": "tiff_lzw"}), "P": ({},), "I;16": ({},),
        "RGB": ({}, {"compression": "tiff_adobe_deflate"}, {"compression": "jpeg"}, {"compression": "packbits"}),
        "RGBA": ({},), "CMYK": ({},), "LAB": ({},), "F": ({},), "I": ({},),
    },
    "PPM": {"1": ({},), "L": ({},), "RGB": ({},), "I;16": ({},), "F": ({},)},
}  # fmt: skip
_PLAIN = {
    "p1.ppm": b"P1\n4 2\n1 0 1 0\n0 1 0 1\n", "p2.ppm": b"P2\n# grey\n3 2\n15\n0 3 7\n15 1 2\n",
    "p3.ppm": b"P3\n2 1\n255\n255 0 0  0 255 0\n", "p6-16.ppm": b"P6\n2 1\n65535\n" + bytes(range(12)),
    "p6-7.ppm": b"P6\n2 1\n7\n\1\2\3\4\5\6",
}  # fmt: skip
SIDES = (12, 20)
"""H, W of every picture."""


def pixels(seed: int = 0, sides: tuple[int, int] = SIDES) -> np.ndarray:
    """uint8 (H, W, 3): a gradient with noise."""
    rng = np.random.default_rng(seed)
    ramp = np.add.outer(np.arange(sides[0]), np.arange(sides[1]))[..., None] * np.array([3, 5, 2])
    return np.asarray((ramp + rng.integers(0, 60, (*sides, 3))).clip(0, 255), np.uint8)


def encoded(kind: str, mode: str, **options: Any) -> bytes:  # noqa: ANN401 - of Pillow's writers
    """A small picture."""
    out = io.BytesIO()
    image = Image.fromarray(pixels())
    if mode == "I;16":
        image = Image.fromarray(pixels()[..., 0].astype(np.uint16) * 257)
    elif mode in ("LA", "RGBA"):
        image = image.convert("RGBA").convert(mode)
    elif mode == "LAB":
        image = Image.merge("LAB", image.split())
    else:
        image = image.convert(mode)
    image.save(out, kind, **options)
    return out.getvalue()


def _write_kind(kind: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        for mode, ways in _KINDS[kind].items():
            for i, options in enumerate(ways):
                (folder / f"{mode.replace(';', '')}-{i}.{kind.lower()}").write_bytes(encoded(kind, mode, **options))
        if kind == "PPM":
            for name, data in _PLAIN.items():
                (folder / name).write_bytes(data)

    return make


def _each(read: Callable[[Path], Any]) -> Callable[[Path], dict[str, Any]]:
    """Every file of a folder; where several are, those that are refused by nature do not count."""

    def read_all(folder: Path) -> dict[str, Any]:
        files, found = sorted(path for path in folder.iterdir() if path.is_file()), {}
        for path in files:
            try:
                found[path.name] = read(path)
            except FFNetDeployError:
                if len(files) == 1:
                    raise
        return found

    return read_all


def _any(path: Path) -> Any:  # noqa: ANN401
    image = decode_picture(path, path.read_bytes())
    assert image.mode == "RGB"
    assert min(image.size) > 0
    return image.size, hashlib.sha256(image.tobytes()).hexdigest()


def _ours(path: Path) -> Any:  # noqa: ANN401
    found = (decode_rgb if path.stem == "RGB" else decode_labels)(path, path.read_bytes())
    return found.shape, str(found.dtype), hashlib.sha256(found.tobytes()).hexdigest()


def _write_ours(folder: Path) -> None:
    for mode in ("RGB", "L"):
        (folder / f"{mode}.png").write_bytes(encoded("PNG", mode))


_NAME, _SHA256 = "city/city_000000_000019", "ab" * 32


def _maps(folder: Path) -> LabelMaps:
    model = ReferenceModel("a_model", "0" * 64, (1, 3, 16, 32), "nearest", "cpu")
    return LabelMaps(folder, _MapsKey(model, (16, 32), None, False, "2", {}))


def _write_maps(folder: Path) -> None:
    _maps(folder).save(_NAME, _SHA256, np.random.default_rng(0).integers(0, 19, (16, 32)).astype(np.uint8))


def _read_maps(folder: Path) -> Any:  # noqa: ANN401
    found = _maps(folder).load(_NAME, _SHA256)
    return None if found is None else found.tolist()


def _write_folder(folder: Path) -> None:
    (folder / "below" / "deeper").mkdir(parents=True)
    for name, sides in (("a.png", (16, 32)), ("below/b.jpg", (32, 64)), ("below/deeper/c.webp", SIDES)):
        Image.fromarray(pixels(len(name), sides)).save(folder / name)
    shutil.copyfile(folder / "a.png", folder / "below" / "Ä b.PNG")
    (folder / "link").symlink_to("below")
    (folder / "up").symlink_to("..")
    (folder / "notes.txt").write_text("no picture")


def _loaded(folder: Path) -> Iterator[tuple[str, Any]]:
    for found in load_pictures(find_pictures(folder), (16, 32), halve=True):
        assert found.image.shape == (16, 32, 3)
        assert found.image.dtype == np.uint8
        digest = hashlib.sha256(found.image.tobytes()).hexdigest()
        yield str(found.path.relative_to(folder)), (found.sha256, found.size, found.fitted, digest)


def _kind(kind: str, share: float) -> Reader:
    allowed: Allowed = "same" if kind == "PNG" else "other"
    return Reader(
        f"picture-{kind.lower()}",
        _write_kind(kind),
        _each(_any),
        ("*",),
        allowed,
        alone=True,
        agrees=among,
        share=share,
    )


READERS = (
    *(_kind(kind, 1.5 if kind == "TIFF" else 1.0) for kind in _KINDS),
    Reader("png-of-sets", _write_ours, _each(_ours), ("*",), alone=True, agrees=among),
    Reader(
        "label-maps", _write_maps, _read_maps, ("*/city/*.png",), agrees=lambda found, whole: found in (None, whole),
        writes=("*/key.json",),
    ),
    Reader("picture-folder", lambda folder: _write_folder(folder / "pictures"),
           lambda folder: dict(_loaded(folder / "pictures")), ("pictures/**/*.*",), "other", trees=0.7),
)  # fmt: skip

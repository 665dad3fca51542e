"""The one place where image files are decoded: what a file declares is looked at before a pixel of it is."""

from __future__ import annotations

import ctypes
import io
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from ffnet_deploy.errors import DataError

MOST_PIXELS = 120_000_000
"""Of a picture: a decoded one takes up to four bytes for each, twice while it is converted."""
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM")
"""Formats that are opened: Pillow knows others, some of which start programs."""
_CONVERTED = frozenset(("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "La", "CMYK", "YCbCr"))
"""Pillow's names of kinds that it converts to 8-bit RGB without clipping."""
_STRETCHED = {1: 255, 2: 85, 4: 17, 8: 1}
"""By bits of a grey PNG: Pillow multiplies the stored values by this, so that the highest becomes 255."""
_PNG_HEADER = struct.Struct(">8s4x4sIIBB")
"""Signature, the first chunk's name, width, height, bits of a sample, colour type."""
_BITS, _KIND_OF_SAMPLES = 258, 339
"""Tags of a TIFF file."""
_UNSIGNED = 1
_DAMAGED = (UnidentifiedImageError, OSError, SyntaxError, ValueError, EOFError, KeyError, IndexError, TypeError,
            OverflowError, ZeroDivisionError, AttributeError, RuntimeError, struct.error)  # fmt: skip
"""What Pillow's readers raise on damaged files of some format or other."""

# Pillow warns of pictures above its own limit, and of odd metadata. Ours is enforced here, and nothing uses the other.
Image.MAX_IMAGE_PIXELS = MOST_PIXELS
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


def decode_rgb(where: object, data: bytes, size: tuple[int, int] | None = None) -> np.ndarray:
    """Decode an image of a data set as it was published: uint8 (H, W, 3), RGB.

    Args:
        where: the bytes come from, for messages.
        data: a whole PNG file of 8 bits a channel, without transparency.
        size: (H, W) that it must have; another one is refused before it is decoded.

    Raises:
        DataError: the bytes are no such image, are cut off, or are of another size.
    """
    return _published(where, data, "RGB", size)


def decode_labels(where: object, data: bytes, size: tuple[int, int] | None = None) -> np.ndarray:
    """Decode a label image: uint8 (H, W), the integers that are stored.

    Args:
        where: the bytes come from, for messages.
        data: a whole grey PNG file of 1, 2, 4 or 8 bits.
        size: as for :func:`decode_rgb`.

    Raises:
        DataError: as for :func:`decode_rgb`.
    """
    return _published(where, data, "L", size)


def decode_picture(where: object, data: bytes) -> Image.Image:
    """Decode a picture of any usual format to 8-bit RGB, as torchvision's default loader does.

    Grey, CMYK and palette pictures are converted, transparency is dropped, the EXIF orientation is not applied, and of
    several frames the first one counts.

    Args:
        where: the bytes come from, for messages.
        data: a whole JPEG, PNG, WebP, BMP, TIFF or PPM file with at most 8 bits a channel: what white is in a file of
            more bits is not known.

    Raises:
        DataError: the bytes are no such picture, are damaged or cut off, or have more bits or pixels.
    """
    with _told(where), _opened(data) as image:
        _check_bits(where, image, data)
        _check_sums(data)
        return image.convert("RGB")


def _published(where: object, data: bytes, mode: str, size: tuple[int, int] | None) -> np.ndarray:
    with _told(where), _opened(data) as image:
        bits = _png_bits(data)
        # One bit is a kind of its own to Pillow.
        found = "L" if image.mode == "1" and bits == 1 else image.mode
        if image.format != "PNG" or found != mode or bits not in _STRETCHED:
            # Converted, a 16-bit image would be clipped, and a palette's indices are no label ids.
            kind = f"{image.mode}{_hidden(image, data)}"
            raise DataError(
                f"{where} is a {image.format} image of kind {kind} (an 8-bit PNG of kind {mode} was needed). "
                "Use the original files of the data set."
            )
        there = (image.height, image.width)
        if size is not None and there != size:
            raise DataError(
                f"{where} is {there[0]}x{there[1]} ({size[0]}x{size[1]} was needed: the protocol resizes nothing). "
                "Use the original files of the data set."
            )
        _check_sums(data)
        pixels = np.asarray(image)
        if bits == 1 and mode == "L":
            return pixels.astype(np.uint8)
        return pixels // np.uint8(_STRETCHED[bits]) if mode == "L" and bits < 8 else pixels


@contextmanager
def _told(where: object) -> Iterator[None]:
    """What Pillow raises, as an error that says which file it is."""
    try:
        yield
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"{where} has more than {MOST_PIXELS:,} pixels. Make a smaller copy of it.") from error
    except _DAMAGED as error:
        why = "no picture that is known" if isinstance(error, UnidentifiedImageError) else error
        raise DataError(
            f"{where} cannot be decoded ({why}). Copy this file again from the data set, then run the command again."
        ) from error


@cache
def _quieten_libtiff() -> None:
    """Keep Pillow's own libtiff from printing to stderr what its error says too; where it cannot be found it may."""
    with suppress(OSError, AttributeError):
        maps = Path("/proc/self/maps").read_text("utf-8", "replace")
        for path in {line.split()[-1] for line in maps.splitlines() if "libtiff" in line}:
            library = ctypes.CDLL(path)
            library.TIFFSetErrorHandler(None)
            library.TIFFSetWarningHandler(None)


def _opened(data: bytes) -> Image.Image:
    if data.startswith((b"II", b"MM")):
        _quieten_libtiff()
    image = Image.open(io.BytesIO(data), formats=_FORMATS)
    if image.width * image.height > MOST_PIXELS:
        # Where Pillow only warns.
        raise Image.DecompressionBombError
    return image


def _check_sums(data: bytes) -> None:
    """Compare a PNG's checksums, which decoding does not do: a flipped bit would be another label."""
    if data.startswith(b"\x89PNG"):
        with _opened(data) as image:
            image.verify()


def _png_bits(data: bytes) -> int:
    """Bits of a sample; 0 if the file is no PNG."""
    if len(data) < _PNG_HEADER.size or not data.startswith(b"\x89PNG"):
        return 0
    _, chunk, _, _, bits, _ = _PNG_HEADER.unpack_from(data)
    return int(bits) if chunk == b"IHDR" else 0


def _check_bits(where: object, image: Image.Image, data: bytes) -> None:
    hidden = _hidden(image, data)
    if hidden or image.mode not in _CONVERTED:
        raise DataError(
            f"{where} is a {image.format} image of kind {image.mode}{hidden} (8 bits a channel were needed). "
            "Convert it to 8 bits, in the range that you mean."
        )


def _hidden(image: Image.Image, data: bytes) -> str:
    """What Pillow's kind does not tell, of samples that it would cut to 8 bits or misread; nothing where all is well.

    It calls 16-bit colours RGB too, and keeps their high bytes.
    """
    if image.mode not in _CONVERTED:
        return ""
    if image.format == "PNG":
        return " with 16 bits" if _png_bits(data) > 8 else ""
    if image.format == "TIFF":
        tags = image.tag_v2  # type: ignore[attr-defined]
        bits, kinds = max(tags.get(_BITS, (1,))), set(tags.get(_KIND_OF_SAMPLES, (_UNSIGNED,)))
        signed = " with samples that are no unsigned integers" if kinds != {_UNSIGNED} else ""
        return f" with {bits} bits" if bits > 8 else signed
    numbers = [n for tile in getattr(image, "tile", ()) if isinstance(tile.args, tuple) for n in tile.args]
    white = max((n for n in numbers if isinstance(n, int)), default=255) if image.format == "PPM" else 255
    return f" up to {white}" if white > 255 else ""

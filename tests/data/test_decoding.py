"""Decoding gives what is stored, or refuses: files of every depth and kind, cut off, flipped, and far too large."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from ffnet_deploy.data.decoding import decode_labels, decode_picture, decode_rgb
from ffnet_deploy.errors import DataError

PATH = Path("city/picture.png")
DECODERS = {"RGB": decode_rgb, "L": decode_labels}
GREY, COLOURS, GREY_ALPHA, COLOURS_ALPHA = 0, 2, 4, 6
"""Colour types of a PNG."""


def encoded(pixels: np.ndarray | Image.Image, form: str = "PNG") -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    out = io.BytesIO()
    image.save(out, form)
    return out.getvalue()


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


def png(width: int, height: int, bits: int, kind: int, rows: bytes) -> bytes:
    """A PNG file from its header and its rows, each with a filter byte before it."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def tiff(mode: str, *, bits: int | None = None, signed: bool = False) -> bytes:
    """A TIFF file of 3x2 pixels, with other tags than Pillow would write."""
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    if signed:
        tags[339] = 2
    out = io.BytesIO()
    Image.new(mode, (3, 2)).save(out, "TIFF", tiffinfo=tags)
    if bits is None:
        return out.getvalue()
    # Written by hand: Pillow makes no TIFF of 16-bit colours.
    entries = [(256, 3, 1, 3), (257, 3, 1, 2), (258, 3, 3, 110), (259, 3, 1, 1), (262, 3, 1, 2), (273, 4, 1, 116),
               (277, 3, 1, 3), (279, 4, 1, 36)]  # fmt: skip
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return (
        b"II*\0"
        + struct.pack("<I", 8)
        + directory
        + struct.pack("<I", 0)
        + struct.pack("<3H", bits, bits, bits)
        + bytes(36)
    )


# --- decode ---------------------------------------------------------------------------------------------------------


def test_rgb_and_label_images_come_back_as_they_were() -> None:
    picture, labels = noise(6, 9, 3), noise(6, 9)
    assert np.array_equal(decode_rgb(PATH, encoded(picture)), picture)
    found = decode_labels(PATH, encoded(labels))
    assert found.dtype == np.uint8
    assert np.array_equal(found, labels)


def palette_image() -> Image.Image:
    image = Image.fromarray(noise(6, 9) % 34).convert("P")
    image.putpalette(noise(34, 3).ravel().tolist())
    return image


@pytest.mark.parametrize(
    ("data", "mode", "found"),
    [
        (encoded(noise(6, 9, 3), "JPEG"), "RGB", "JPEG image of kind RGB"),
        (encoded(noise(6, 9)), "RGB", "PNG image of kind L"),
        (encoded(noise(6, 9, 4)), "RGB", "PNG image of kind RGBA"),
        (encoded(noise(6, 9).astype(np.uint16) * 100), "RGB", "PNG image of kind I;16"),
        (encoded(palette_image()), "L", "PNG image of kind P"),
        (encoded(noise(6, 9, 3)), "L", "PNG image of kind RGB"),
        # gtFine_instanceIds has 16 bits; cut to 8 they would look like labels.
        (encoded(noise(6, 9).astype(np.uint16) * 100), "L", "PNG image of kind I;16"),
    ],
    ids=["jpeg", "grey", "transparent", "16 bits", "palette", "colours", "16-bit labels"],
)
def test_only_the_published_kinds_are_taken(data: bytes, mode: str, found: str) -> None:
    with pytest.raises(DataError, match=rf"is a {found} \(an 8-bit PNG of kind {mode} was needed\)"):
        DECODERS[mode](PATH, data)


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("size", [0, 4, 30, 100, 200])
def test_a_truncated_png_is_refused(size: int, mode: str) -> None:
    data = encoded(noise(20, 20, 3) if mode == "RGB" else noise(20, 20))
    with pytest.raises(DataError, match=r"city/picture\.png cannot be decoded .* Copy this file again") as caught:
        DECODERS[mode](PATH, data[:size])
    assert "\n" not in str(caught.value)


def test_no_cut_gives_other_pixels() -> None:
    labels = noise(16, 24) % 34
    data = encoded(labels)
    refused = 0
    for size in range(len(data)):
        try:
            # The last bytes hold a checksum and the end mark, no pixels.
            assert np.array_equal(decode_labels(PATH, data[:size]), labels)
        except DataError:
            refused += 1
    assert refused > 0.9 * len(data)


def test_no_flipped_bit_gives_other_pixels() -> None:
    labels = noise(16, 24) % 34
    data = encoded(labels)
    for position in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[position // 8] ^= 1 << position % 8
        try:
            assert np.array_equal(decode_labels(PATH, bytes(flipped)), labels), position
        except DataError:
            continue


@pytest.mark.parametrize("read", [decode_rgb, decode_labels, decode_picture])
def test_a_png_that_promises_gigapixels_is_refused_before_it_is_decoded(read: Callable[..., object]) -> None:
    grey = png(60_000, 60_000, 8, GREY, b"\0")
    data = png(60_000, 60_000, 8, COLOURS, b"\0") if read is decode_rgb else grey
    with pytest.raises(DataError, match=r"has more than 120,000,000 pixels\. Make a smaller copy of it\."):
        read(PATH, data)
    with pytest.raises(DataError, match=r"has more than 120,000,000 pixels\."):
        read(PATH, png(11_000, 11_000, 8, COLOURS if read is decode_rgb else GREY, b"\0"))


def test_another_size_is_refused_before_it_is_decoded() -> None:
    with pytest.raises(DataError, match=r"is 9000x9000 \(4x4 was needed: the protocol resizes nothing\)\."):
        decode_labels(PATH, png(9000, 9000, 8, GREY, b"\0"), (4, 4))


@pytest.mark.parametrize(
    ("bits", "row", "stored"),
    [
        (1, b"\xa0", [1, 0, 1, 0]),
        (2, b"\x1b", [0, 1, 2, 3]),
        (4, b"\x01\xf2", [0, 1, 15, 2]),
        (8, b"\0\1\2\xff", [0, 1, 2, 255]),
    ],
)
def test_label_images_give_the_stored_integers(bits: int, row: bytes, stored: list[int]) -> None:
    found = decode_labels(PATH, png(4, 1, bits, GREY, b"\0" + row))
    assert found.dtype == np.uint8
    assert found.tolist() == [stored]


SIXTEEN = [
    (png(4, 1, 16, GREY, b"\0" + b"\0\1" * 4), "PNG image of kind I;16"),
    (png(4, 1, 16, COLOURS, b"\0" + b"\0\1" * 12), "PNG image of kind RGB with 16 bits"),
    (png(4, 1, 16, GREY_ALPHA, b"\0" + b"\0\1" * 8), "PNG image of kind RGBA with 16 bits"),
    (png(4, 1, 16, COLOURS_ALPHA, b"\0" + b"\0\1" * 16), "PNG image of kind RGBA with 16 bits"),
    (b"P6 2 1 65535\n" + b"\0\1" * 6, "PPM image of kind RGB up to 65535"),
    (b"P6 2 1 1000\n" + b"\0\1" * 6, "PPM image of kind RGB up to 1000"),
    (b"P3 2 1 300\n1 2 3 4 5 6\n", "PPM image of kind RGB up to 300"),
    (b"P5 2 1 65535\n" + b"\0\1" * 2, "PPM image of kind I"),
    (tiff("I;16"), "TIFF image of kind I;16"),
    (tiff("F"), "TIFF image of kind F"),
    (tiff("RGB", bits=16), "TIFF image of kind RGB with 16 bits"),
    (tiff("L", signed=True), "TIFF image of kind L with samples that are no unsigned integers"),
]


@pytest.mark.parametrize(("data", "found"), SIXTEEN, ids=[found for _, found in SIXTEEN])
def test_samples_that_would_be_cut_or_clipped_are_refused(data: bytes, found: str) -> None:
    with pytest.raises(DataError, match=rf"is a {found} \(8 bits a channel were needed\)\. Convert it to 8 bits"):
        decode_picture("x", data)


def test_sixteen_bit_colours_are_no_published_image() -> None:
    with pytest.raises(DataError, match=r"is a PNG image of kind RGB with 16 bits \(an 8-bit PNG of kind RGB"):
        decode_rgb(PATH, SIXTEEN[1][0])


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_text_file_is_refused(mode: str) -> None:
    with pytest.raises(DataError, match=r"cannot be decoded .* Copy this file again"):
        DECODERS[mode](PATH, b"version https://git-lfs.github.com/spec/v1\n")


# --- pictures of any kind, as torchvision takes them ----------------------------------------------------------------


def grey_with_alpha() -> Image.Image:
    return Image.fromarray(noise(6, 9)).convert("LA")


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        (encoded(noise(6, 9, 3)), noise(6, 9, 3)),
        (encoded(noise(6, 9)), np.repeat(noise(6, 9)[..., None], 3, axis=2)),
        (encoded(noise(6, 9, 4)), noise(6, 9, 4)[..., :3]),
        (encoded(grey_with_alpha()), np.repeat(noise(6, 9)[..., None], 3, axis=2)),
        (encoded(palette_image()), np.asarray(palette_image().convert("RGB"))),
        (encoded(noise(6, 9, 3), "BMP"), noise(6, 9, 3)),
    ],
)
def test_any_picture_becomes_rgb(data: bytes, wanted: np.ndarray) -> None:
    found = decode_picture("x", data)
    assert found.mode == "RGB"
    assert np.array_equal(np.asarray(found), wanted)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpegs_of_every_kind_become_rgb(mode: str) -> None:
    flat = Image.new("RGB", (16, 16), (200, 120, 40)).convert(mode)
    found = np.asarray(decode_picture("x", encoded(flat, "JPEG")))
    assert found.shape == (16, 16, 3)
    assert np.abs(found.astype(int) - np.asarray(flat.convert("RGB"))).max() <= 4


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.9])
def test_a_picture_that_is_cut_off_or_none_is_named(form: str, share: float) -> None:
    data = encoded(noise(64, 64, 3), form)
    with pytest.raises(DataError, match=r"^val/a\.JPEG cannot be decoded \(.*\)\. Copy this file again"):
        decode_picture("val/a.JPEG", data[: int(share * len(data))])


def test_formats_that_start_programs_are_not_opened() -> None:
    with pytest.raises(DataError, match="no picture that is known"):
        decode_picture("x", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n")

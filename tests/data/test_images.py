"""Decoding refuses what is not whole; normalising and halving are held to their formulas, written again slowly."""

from __future__ import annotations

import hashlib
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.golden.imagenet_golden import GOLDEN, SIZES, picture

from ffnet_deploy.data.images import blur_and_halve, decode, decode_any, normalise, resize_and_crop
from ffnet_deploy.errors import DataError
from ffnet_deploy.synthetic.scenes import draw_scene
from ffnet_deploy.zoo.network import Smoothing

PATH = Path("city/picture.png")


def encoded(pixels: np.ndarray | Image.Image, form: str = "PNG") -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    out = io.BytesIO()
    image.save(out, form)
    return out.getvalue()


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


# --- decode ---------------------------------------------------------------------------------------------------------


def test_rgb_and_label_images_come_back_as_they_were() -> None:
    picture, labels = noise(6, 9, 3), noise(6, 9)
    assert np.array_equal(decode(PATH, encoded(picture), "RGB"), picture)
    found = decode(PATH, encoded(labels), "L")
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
        decode(PATH, data, mode)


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("size", [0, 4, 30, 100, 200])
def test_a_truncated_png_is_refused(size: int, mode: str) -> None:
    data = encoded(noise(20, 20))
    with pytest.raises(DataError, match=r"city/picture\.png cannot be decoded .* Copy this file again") as caught:
        decode(PATH, data[:size], mode)
    assert "\n" not in str(caught.value)


def test_no_cut_gives_other_pixels() -> None:
    labels = noise(16, 24) % 34
    data = encoded(labels)
    refused = 0
    for size in range(len(data)):
        try:
            # The last bytes hold a checksum and the end mark, no pixels.
            assert np.array_equal(decode(PATH, data[:size], "L"), labels)
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
            assert np.array_equal(decode(PATH, bytes(flipped), "L"), labels), position
        except DataError:
            continue


def png_of_size(width: int, height: int) -> bytes:
    """A PNG whose header promises (height, width) grey pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def test_a_png_that_promises_gigapixels_is_refused() -> None:
    with pytest.raises(DataError, match="cannot be decoded"):
        decode(PATH, png_of_size(60_000, 60_000), "L")


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_text_file_is_refused(mode: str) -> None:
    with pytest.raises(DataError, match=r"cannot be decoded .* Copy this file again"):
        decode(PATH, b"version https://git-lfs.github.com/spec/v1\n", mode)


# --- normalise ------------------------------------------------------------------------------------------------------


def test_normalise_is_the_formula() -> None:
    picture = noise(7, 5, 3)
    picture[0, 0], picture[0, 1] = 0, 255
    found = normalise(picture)
    # (RGB / 255 - mean) / std with ImageNet's numbers, in float64.
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    wanted = ((picture.astype(np.float64) / 255 - mean) / std).transpose(2, 0, 1)[None]
    assert found.dtype == np.float32
    assert found.shape == (1, 3, 7, 5)
    assert found.flags["C_CONTIGUOUS"]
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert -2.2 < found.min() < -2.0
    assert 2.6 < found.max() < 2.7


# --- blur_and_halve -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(64, 128), (66, 130), (62, 126), (8, 10)])
def test_halving_is_the_twins_blur_where_the_twin_has_values(size: tuple[int, int]) -> None:
    height, width = size
    image = np.random.default_rng(0).normal(size=(2, 3, *size)).astype(np.float32)
    found = blur_and_halve(image)
    twin = Smoothing()(torch.from_numpy(image)).numpy()
    assert found.dtype == np.float32
    assert found.shape == (2, 3, height // 2, width // 2)
    assert twin.shape == (2, 3, height // 2 - 1, width // 2 - 2)
    np.testing.assert_allclose(found[:, :, :-1, :-2], twin, atol=1e-5)


def test_halving_a_scene_is_the_twins_blur() -> None:
    image = normalise(draw_scene(64, 128, 0).image)
    twin = Smoothing()(torch.from_numpy(image)).numpy()
    np.testing.assert_allclose(blur_and_halve(image)[:, :, :-1, :-2], twin, atol=1e-5)


def test_the_extra_row_and_columns_are_reflected() -> None:
    height, width = 8, 12
    image = np.random.default_rng(0).normal(size=(1, 3, height, width)).astype(np.float32)
    found = blur_and_halve(image)

    def inside(i: int, n: int) -> int:
        i = abs(i)
        return 2 * (n - 1) - i if i >= n else i

    # A Gaussian of sigma 0.7 seen through 5 taps; what lies further out folds back at the ends.
    bell = [float(np.exp(-(k**2) / (2 * 0.49))) for k in range(4)]
    ends = bell[2] + bell[3]
    taps = np.array([ends, bell[1], bell[0], bell[1], ends]) / (bell[0] + 2 * bell[1] + 2 * ends)
    for c, i, j in np.ndindex(3, height // 2, width // 2):
        value = sum(
            taps[a] * taps[b] * float(image[0, c, inside(2 * i + 1 + a - 2, height), inside(2 * j + 2 + b - 2, width)])
            for a in range(5)
            for b in range(5)
        )
        assert found[0, c, i, j] == pytest.approx(value, abs=1e-5), (c, i, j)


def test_halving_keeps_a_plain_picture() -> None:
    image = np.full((1, 3, 64, 128), 0.7, np.float32)
    np.testing.assert_allclose(blur_and_halve(image), np.full((1, 3, 32, 64), 0.7), atol=1e-6)


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
    found = decode_any("x", data)
    assert found.mode == "RGB"
    assert np.array_equal(np.asarray(found), wanted)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpegs_of_every_kind_become_rgb(mode: str) -> None:
    flat = Image.new("RGB", (16, 16), (200, 120, 40)).convert(mode)
    found = np.asarray(decode_any("x", encoded(flat, "JPEG")))
    assert found.shape == (16, 16, 3)
    assert np.abs(found.astype(int) - np.asarray(flat.convert("RGB"))).max() <= 4


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.9])
def test_a_picture_that_is_cut_off_or_none_is_named(form: str, share: float) -> None:
    data = encoded(noise(64, 64, 3), form)
    with pytest.raises(DataError, match=r"^val/a\.JPEG cannot be decoded \(.*\)\. Copy this file again"):
        decode_any("val/a.JPEG", data[: int(share * len(data))])


def test_formats_that_start_programs_are_not_opened() -> None:
    with pytest.raises(DataError, match="no picture that is known"):
        decode_any("x", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n")


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_resize_and_crop_are_torchvisions(height: int, width: int) -> None:
    found = resize_and_crop(Image.fromarray(picture(height, width)))
    assert found.shape == (224, 224, 3)
    assert found.dtype == np.uint8
    with np.load(GOLDEN) as golden:
        rows, columns = golden[f"{height}x{width}.places"].T
        assert np.array_equal(found[rows, columns], golden[f"{height}x{width}.pixels"])
        assert hashlib.sha256(found.tobytes()).hexdigest() == str(golden[f"{height}x{width}.sha256"])

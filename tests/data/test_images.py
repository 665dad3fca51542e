"""Normalising and halving are held to their formulas, written again slowly; resizing to torchvision's pixels."""

from __future__ import annotations

import hashlib
import io

import numpy as np
import pytest
import torch
from PIL import Image
from support.golden.imagenet_golden import GOLDEN, SIZES, picture

from ffnet_deploy.data.images import blur_and_halve, decode_and_crop, normalise, resize_and_crop
from ffnet_deploy.errors import DataError
from ffnet_deploy.synthetic.scenes import draw_scene
from ffnet_deploy.zoo.network import Smoothing


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


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


# --- resize and crop ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_resize_and_crop_are_torchvisions(height: int, width: int) -> None:
    found = resize_and_crop(Image.fromarray(picture(height, width)))
    assert found.shape == (224, 224, 3)
    assert found.dtype == np.uint8
    with np.load(GOLDEN) as golden:
        rows, columns = golden[f"{height}x{width}.places"].T
        assert np.array_equal(found[rows, columns], golden[f"{height}x{width}.pixels"])
        assert hashlib.sha256(found.tobytes()).hexdigest() == str(golden[f"{height}x{width}.sha256"])


def test_long_and_narrow_pictures_take_no_gigabytes() -> None:
    out = io.BytesIO()
    Image.new("L", (1, 8000)).save(out, "PNG")
    with pytest.raises(DataError, match=r"^x has 8000x1 pixels \(one side at most 256 times the other was needed\)\."):
        decode_and_crop("x", out.getvalue())
    out = io.BytesIO()
    Image.fromarray(noise(2, 512)).save(out, "PNG")
    assert decode_and_crop("x", out.getvalue()).shape == (224, 224, 3)

"""The tolerance is held to, on the worst image, and a miss says by how much."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pytest
from fakes import FakeRunner

from ffnet_deploy.errors import VerificationError
from ffnet_deploy.verify import Tolerance, verify

if TYPE_CHECKING:
    from ffnet_deploy.runtimes.base import Feeds, Runner

SHAPE = (1, 3, 8, 8)


def feeds(count: int = 3) -> list[Feeds]:
    rng = np.random.default_rng(0)
    return [{"image": rng.normal(size=SHAPE).astype(np.float32)} for _ in range(count)]


def itself(image: np.ndarray) -> np.ndarray:
    return image


def runner(function: Callable[[np.ndarray], np.ndarray] = itself) -> Runner:
    return FakeRunner(function, SHAPE)


def test_equal_runners_pass_and_every_pixel_is_counted() -> None:
    found = verify(runner(), runner(), feeds(), Tolerance(0, 0, 1))
    assert found.to_json() == {
        "images": 3,
        "max_difference": 0.0,
        "mean_difference": 0.0,
        "equal": 1.0,
        "count": 3 * 64,
    }


def test_the_worst_image_decides_on_differences_and_the_mean_on_labels() -> None:
    images = feeds()
    marked = images[1]["image"]

    def other(image: np.ndarray) -> np.ndarray:
        if not np.array_equal(image, marked):
            return image
        changed = image.copy()
        winner = int(image[0, :, 0, 0].argmax())
        changed[0, winner, 0, 0] -= 10
        return changed

    found = verify(runner(), runner(other), images, Tolerance(100, 100, 0))
    spread = float(marked.std(dtype=np.float64))
    assert found.agreement.max_difference == pytest.approx(10 / spread, rel=1e-6)
    assert found.agreement.mean_difference == pytest.approx(10 / spread / marked.size, rel=1e-6)
    assert found.agreement.equal == pytest.approx(1 - 1 / (3 * 64))


@pytest.mark.parametrize(
    ("tolerance", "named"),
    [
        (Tolerance(0.05, 1, 0), "largest difference"),
        (Tolerance(1, 0.001, 0), "mean difference"),
        (Tolerance(1, 1, 1), "equal labels"),
    ],
)
def test_each_limit_is_held_on_its_own(tolerance: Tolerance, named: str) -> None:
    noise = np.random.default_rng(1).uniform(-0.1, 0.1, SHAPE).astype(np.float32)

    # One pixel's label hangs on a hair: it changes although the logits hardly do.
    def tied(image: np.ndarray) -> np.ndarray:
        changed = image.copy()
        changed[0, :, 0, 0] = (0, 0, 0.01)
        return changed

    def flipped(image: np.ndarray) -> np.ndarray:
        changed = image + noise
        changed[0, :, 0, 0] = (0.01, 0, 0)
        return changed

    with pytest.raises(VerificationError) as caught:
        verify(runner(tied), runner(flipped), feeds(), tolerance)
    message = str(caught.value)
    others = {"largest difference", "mean difference", "equal labels"} - {named}
    assert named in message
    assert not any(other in message for other in others)
    assert "\n" not in message
    assert caught.value.exit_code == 1


def test_a_difference_of_exactly_the_limit_passes() -> None:
    def constant(value: float) -> Callable[[np.ndarray], np.ndarray]:
        return lambda image: np.full_like(image, value)

    assert verify(runner(constant(1)), runner(constant(1.5)), feeds(1), Tolerance(0.5, 0.5, 1)).images == 1
    with pytest.raises(VerificationError, match=r"largest difference 0\.5 "):
        verify(runner(constant(1)), runner(constant(1.5)), feeds(1), Tolerance(0.49, 0.5, 1))


def test_a_nan_never_passes() -> None:
    def broken(image: np.ndarray) -> np.ndarray:
        changed = image.copy()
        changed[0, 0, 0, 0] = np.nan
        return changed

    with pytest.raises(VerificationError, match="inf"):
        verify(runner(), runner(broken), feeds(), Tolerance(1e9, 1e9, 0))


def test_no_image_is_no_verification() -> None:
    with pytest.raises(AssertionError):
        verify(runner(), runner(), [], Tolerance())

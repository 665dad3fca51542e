"""The tolerance is held to, on the worst image, and a miss says by how much."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pytest
from support.fakes import FakeRunner

from ffnet_deploy.artifacts.values import Verification
from ffnet_deploy.data.images import normalise
from ffnet_deploy.errors import VerificationError
from ffnet_deploy.metrics import Agreement
from ffnet_deploy.runtimes.runner import TensorSpec, check_feeds
from ffnet_deploy.verify.agreement import TOLERANCES, Batch, Tolerance, compare, verified

if TYPE_CHECKING:
    from ffnet_deploy.runtimes.runner import Feeds, Runner

SHAPE = (1, 3, 8, 8)


def feeds(count: int = 3) -> list[Feeds]:
    rng = np.random.default_rng(0)
    return [{"image": rng.normal(size=SHAPE).astype(np.float32)} for _ in range(count)]


def itself(image: np.ndarray) -> np.ndarray:
    return image


def runner(function: Callable[[np.ndarray], np.ndarray] = itself) -> Runner:
    return FakeRunner(function, SHAPE)


def test_equal_runners_pass_and_every_pixel_is_counted() -> None:
    found = verified(runner(), runner(), feeds(), Tolerance(0, 0, 1))
    assert found == Verification(images=3, max_difference=0.0, mean_difference=0.0, equal=1.0, count=3 * 64)


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

    found = verified(runner(), runner(other), images, Tolerance(100, 100, 0))
    spread = float(marked.std(dtype=np.float64))
    assert found.max_difference == pytest.approx(10 / spread, rel=1e-6)
    assert found.mean_difference == pytest.approx(10 / spread / marked.size, rel=1e-6)
    assert found.equal == pytest.approx(1 - 1 / (3 * 64))


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
        verified(runner(tied), runner(flipped), feeds(), tolerance)
    message = str(caught.value)
    others = {"largest difference", "mean difference", "equal labels"} - {named}
    assert named in message
    assert not any(other in message for other in others)
    assert "\n" not in message
    assert caught.value.exit_code == 1


def test_of_a_few_classes_the_logits_tell_more_than_the_labels() -> None:
    def ahead(lead: float) -> Callable[[np.ndarray], np.ndarray]:
        return lambda _: np.array([[0.0, lead, -1.0]], np.float32)

    found = verified(runner(ahead(0.01)), runner(ahead(-0.01)), feeds(2), Tolerance(0.1, 0.1, 0.98))
    assert (found.equal, found.count) == (0.0, 2)
    with pytest.raises(VerificationError, match=r"largest difference .* mean difference"):
        verified(runner(ahead(1)), runner(ahead(-1)), feeds(2), Tolerance(0.1, 0.1, 0.98))


def test_a_difference_of_exactly_the_limit_passes() -> None:
    def constant(value: float) -> Callable[[np.ndarray], np.ndarray]:
        return lambda image: np.full_like(image, value)

    assert verified(runner(constant(1)), runner(constant(1.5)), feeds(1), Tolerance(0.5, 0.5, 1)).images == 1
    with pytest.raises(VerificationError, match=r"largest difference 0\.5 "):
        verified(runner(constant(1)), runner(constant(1.5)), feeds(1), Tolerance(0.49, 0.5, 1))


def test_a_nan_never_passes() -> None:
    def broken(image: np.ndarray) -> np.ndarray:
        changed = image.copy()
        changed[0, 0, 0, 0] = np.nan
        return changed

    with pytest.raises(VerificationError, match="inf"):
        verified(runner(), runner(broken), feeds(), Tolerance(1e9, 1e9, 0))


def test_no_image_is_no_verification() -> None:
    with pytest.raises(AssertionError):
        verified(runner(), runner(), [], Tolerance())


# --- the ladder -----------------------------------------------------------------------------------------------------

IMAGES = np.random.default_rng(2).integers(0, 256, (2, 8, 8, 3), np.uint8)


def batches() -> list[Batch]:
    """Three images, in batches of one: two different ones and the first once more."""
    return [Batch(IMAGES[i : i + 1], 1) for i in (0, 1, 0)]


def as_labels(logits: np.ndarray) -> np.ndarray:
    return np.asarray(logits.argmax(axis=1).astype(np.uint8))


def shifted(image: np.ndarray) -> np.ndarray:
    return image + np.float32(0.5)


def test_rungs_are_compared_on_the_same_images() -> None:
    same, moved = compare(runner(), [runner(), runner(shifted)], batches(), [as_labels, as_labels])
    assert same.agreement == Agreement(0.0, 0.0, 1.0, 3 * 64)
    spreads = [normalise(image).std(dtype=np.float64) for image in IMAGES]
    assert moved.agreement.max_difference == pytest.approx(0.5 / min(spreads), rel=1e-5)
    assert moved.agreement.mean_difference == pytest.approx(0.5 / min(spreads), rel=1e-5)
    assert moved.agreement.equal == 1.0
    assert moved.labels_at == (8, 8)


def test_pixels_near_a_border_and_away_are_all_pixels() -> None:
    def painted(image: np.ndarray) -> np.ndarray:
        """Class 0 in the first column, class 1 elsewhere; columns 0 to 3 are near the border."""
        logits = np.zeros((1, 3, *image.shape[2:]), np.float32)
        logits[:, 1] = 1
        logits[:, 0, :, 0] = 2
        return logits

    def wrong(image: np.ndarray) -> np.ndarray:
        logits = painted(image)
        logits[0, 2, 0, 1] = logits[0, 2, :2, 6] = 5
        return logits

    (found,) = compare(runner(painted), [runner(wrong)], batches(), [as_labels])
    assert found.near
    assert found.away
    assert (found.near.count, found.away.count) == (3 * 8 * 4, 3 * 8 * 4)
    assert found.near.equal == pytest.approx(1 - 1 / 32)
    assert found.away.equal == pytest.approx(1 - 2 / 32)
    assert found.agreement.equal == pytest.approx(1 - 3 / 64)


def test_images_that_fill_a_batch_do_not_count() -> None:
    shape = (2, 3, 8, 8)

    def second_wrong(image: np.ndarray) -> np.ndarray:
        changed = image.copy()
        changed[1] = 0
        return changed

    one_of_two = [Batch(IMAGES, 1)]
    (found,) = compare(FakeRunner(itself, shape), [FakeRunner(second_wrong, shape)], one_of_two, [as_labels])
    assert found.agreement == Agreement(0.0, 0.0, 1.0, 64)


class ImageToLabels(FakeRunner):
    """The deployable engine: uint8 image in, label map out."""

    def __init__(self, wrong: int) -> None:
        super().__init__(itself, SHAPE)
        self.inputs = [TensorSpec("image", (1, 8, 8, 3), "uint8")]
        self._wrong = wrong

    def __call__(self, feeds: Feeds) -> dict[str, np.ndarray]:
        check_feeds(feeds, self.inputs)
        labels = as_labels(normalise(feeds["image"][0]))
        labels[0, 0, : self._wrong] = 9
        return {"labels": labels}


def test_an_engine_that_takes_images_and_gives_labels_is_compared_on_labels_alone() -> None:
    (found,) = compare(runner(), [ImageToLabels(2)], batches()[:1], [as_labels])
    assert found.labels_only
    assert found.agreement.equal == pytest.approx(1 - 2 / 64)
    assert found.beyond(Tolerance(0, 0, 0.9)) == []
    assert found.beyond(Tolerance(0, 0, 0.999)) == ["equal labels 0.96875 (at least 0.984375 was needed)"]


def test_one_label_may_always_differ_but_not_two() -> None:
    one, two = compare(runner(), [ImageToLabels(1), ImageToLabels(2)], batches()[:1], [as_labels] * 2)
    assert one.beyond(Tolerance()) == []
    assert two.beyond(Tolerance())


def test_classification_has_no_borders() -> None:
    def pooled(image: np.ndarray) -> np.ndarray:
        return np.asarray(image.mean(axis=(2, 3)))

    (found,) = compare(runner(pooled), [runner(pooled)], batches(), [as_labels])
    assert (found.near, found.away, found.labels_at) == (None, None, None)
    assert found.agreement.count == 3


def test_a_rung_that_gives_nan_is_beyond_every_tolerance() -> None:
    def broken(image: np.ndarray) -> np.ndarray:
        return np.full_like(image, np.nan)

    (found,) = compare(runner(), [runner(broken)], batches(), [as_labels])
    assert found.agreement.max_difference == np.inf
    assert not found.labels_only
    assert all(found.beyond(tolerance) for tolerance in TOLERANCES.values())


def test_half_precision_ends_are_fed_halves() -> None:
    half = FakeRunner(itself, SHAPE)
    half.inputs = [TensorSpec("image", SHAPE, "float16")]
    (found,) = compare(runner(), [half], batches(), [as_labels])
    assert 0 < found.agreement.max_difference < 1e-3

"""Stand-ins: a runner made of a function, an object for workers, real-looking inputs, and one small real graph."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn, Self

import numpy as np

from ffnet_deploy.errors import DataError
from ffnet_deploy.runtimes.runner import TensorSpec, check_feeds

if TYPE_CHECKING:
    from ffnet_deploy.runtimes.runner import Feeds

SMALL = "segmentation_ffnet46NS_CCC_mobile"
SMALL_SHAPE = (1, 3, 64, 128)


class FakeRunner:
    """Computes logits with a function of the image; counts its runs and pretends that each takes ``ms``."""

    parallel = True

    def __init__(
        self,
        function: Callable[[np.ndarray], np.ndarray],
        shape: tuple[int, ...] = SMALL_SHAPE,
        *,
        ms: float = 1.0,
        dtype: str = "float32",
        output: str = "logits",
    ) -> None:
        self._function, self._ms, self._output = function, ms, output
        out = function(np.zeros(shape, dtype))
        self.inputs: Sequence[TensorSpec] = [TensorSpec("image", tuple(shape), dtype)]
        self.outputs: Sequence[TensorSpec] = [TensorSpec(output, out.shape, str(out.dtype))]
        self.spans: Mapping[str, list[float]] = {}
        self.calls = 0
        self.closed = False

    def __call__(self, feeds: Feeds) -> dict[str, np.ndarray]:
        check_feeds(feeds, self.inputs)
        self.calls += 1
        return {self._output: self._function(feeds["image"])}

    def latencies(self, feeds: Sequence[Feeds], iters: int) -> list[float]:
        for feed in feeds:
            check_feeds(feed, self.inputs)
        self.calls += iters
        return [self._ms] * iters

    def close(self) -> None:
        self.closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


class Chore:
    """What tests let a worker process do. It lives here because a worker imports its module, and this one is light."""

    def __init__(self, note: str = "") -> None:
        if note:
            with open(note, "a", encoding="utf-8") as file:  # noqa: PTH123
                file.write("made\n")
            raise DataError("This chore refuses to be made. Leave the note out.")

    def pid(self) -> int:
        return os.getpid()

    def double(self, values: np.ndarray) -> np.ndarray:
        return values * 2

    def refuse(self) -> NoReturn:
        raise DataError("The set is not complete. Copy it again.")

    def fill(self, path: str) -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device", path)

    def want_too_much(self) -> NoReturn:
        raise MemoryError

    def stumble(self) -> NoReturn:
        raise ZeroDivisionError("a bug of ours")

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class Surroundings:
    """Stands in for a benchmark's subject: runs no rung, and tells of the process that it is in."""

    def __init__(self, *_: object) -> None:
        pass

    def variable(self, name: str) -> str | None:
        return os.environ.get(name)


class WorkerHere:
    """Stands in for a worker process, in this process: for results that do not depend on where they are computed."""

    def __init__(self, _what: str, make: Callable[..., object], *args: object) -> None:
        self._served = make(*args)

    def call(self, method: str, *args: object) -> object:
        return getattr(self._served, method)(*args)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def street_feeds(shape: tuple[int, int, int, int], count: int = 2) -> list[Feeds]:
    """Drawn street scenes, normalised: float32 of ``shape``."""
    from ffnet_deploy.data.images import normalise
    from ffnet_deploy.synthetic.scenes import draw_scene

    batch, _, height, width = shape
    images = [normalise(draw_scene(height, width, seed).image) for seed in range(count * batch)]
    return [{"image": np.concatenate(images[i * batch : (i + 1) * batch])} for i in range(count)]


@cache
def small_graph() -> bytes:
    """The FP32 graph of ``SMALL`` with random weights at ``SMALL_SHAPE``, serialised."""
    from ffnet_deploy.graph.from_torch import export
    from ffnet_deploy.zoo.specs import find
    from ffnet_deploy.zoo.weights import load_random

    spec = find(SMALL)
    model = export(load_random(spec).module, spec, SMALL_SHAPE, opset=20, metadata={"model": SMALL})
    return bytes(model.SerializeToString(deterministic=True))

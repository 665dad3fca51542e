"""PyTorch FP32: the reference of every comparison."""

from __future__ import annotations

import itertools
import time
from collections.abc import Collection, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np
import torch

from ffnet_deploy.errors import EngineError, MissingDependencyError
from ffnet_deploy.runtimes.base import TensorSpec, check_feeds
from ffnet_deploy.runtimes.inner import InnerTensors

if TYPE_CHECKING:
    from torch import nn

    from ffnet_deploy.runtimes.base import Feeds


class PyTorchRunner:
    """Runs a module eagerly in FP32, on the CPU or on a CUDA device with TF32 off."""

    def __init__(
        self, module: nn.Module, shape: tuple[int, ...], *, threads: int | None = None, device: int | None = None
    ) -> None:
        """Place a module.

        Args:
            module: in eval mode; moved to the device.
            shape: (N, 3, H, W) that will be fed.
            threads: of PyTorch's operators, for the whole process; None leaves them as they are.
            device: a CUDA device's number; None is the CPU.

        Raises:
            MissingDependencyError: a device was asked for and PyTorch sees none.
        """
        if threads:
            torch.set_num_threads(threads)
        if device is not None and not torch.cuda.is_available():
            raise MissingDependencyError(
                f"CUDA device {device} was asked for and PyTorch {torch.__version__} sees none. Leave --device out."
            )
        # "FP32" on recent GPUs is TF32 unless it is switched off.
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        self._device = torch.device("cpu" if device is None else f"cuda:{device}")
        self.parallel = device is None
        self._module = module.to(self._device)
        with torch.inference_mode():
            out = self._module(torch.zeros(shape, device=self._device))
        self.inputs: Sequence[TensorSpec] = [TensorSpec("image", tuple(shape), "float32")]
        self.outputs: Sequence[TensorSpec] = [TensorSpec("logits", tuple(out.shape), "float32")]

    def __call__(self, feeds: Feeds) -> dict[str, np.ndarray]:
        check_feeds(feeds, self.inputs)
        with torch.inference_mode():
            image = torch.from_numpy(np.ascontiguousarray(feeds["image"])).to(self._device)
            return {"logits": self._module(image).cpu().numpy()}

    def inner(self, feeds: Feeds, wanted: Collection[str]) -> dict[str, np.ndarray]:
        """Compute once and give inner tensors, float32, by the names that export gives to the graph's nodes.

        Raises:
            EngineError: the module has no operator of such a name.
        """
        check_feeds(feeds, self.inputs)
        tensors = InnerTensors(self._module, wanted)
        with torch.inference_mode():
            image = torch.from_numpy(np.ascontiguousarray(feeds["image"])).to(self._device)
            with tensors.watching():
                self._module(image)
        missing = [name for name in wanted if name not in tensors.found]
        if missing:
            raise EngineError(
                f"PyTorch {torch.__version__} ran nothing that is called {missing[0]} (the graph has such a node). "
                "Export the graph again with the installed version."
            )
        return tensors.found

    def latencies(self, feeds: Sequence[Feeds], iters: int) -> list[float]:
        for feed in feeds:
            check_feeds(feed, self.inputs)
        images = [torch.from_numpy(np.ascontiguousarray(feed["image"])).to(self._device) for feed in feeds]
        run = self._cuda_ms if self._device.type == "cuda" else self._cpu_ms
        with torch.inference_mode():
            return [run(image) for image in itertools.islice(itertools.cycle(images), iters)]

    def _cpu_ms(self, image: torch.Tensor) -> float:
        start = time.perf_counter_ns()
        self._module(image)
        return (time.perf_counter_ns() - start) / 1e6

    def _cuda_ms(self, image: torch.Tensor) -> float:
        stream = torch.cuda.current_stream(self._device)
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record(stream)
        self._module(image)
        end.record(stream)
        end.synchronize()
        return float(start.elapsed_time(end))

    def close(self) -> None:
        self._module.cpu()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

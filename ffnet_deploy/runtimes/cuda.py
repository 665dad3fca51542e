"""Device memory, a stream and event timing for TensorRT's runner: by pycuda where it is installed, else by torch."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ffnet_deploy.errors import MissingDependencyError

if TYPE_CHECKING:
    import torch


class Buffer(Protocol):
    """Device memory of one tensor; copies go through the device's stream and wait for it."""

    address: int

    def upload(self, array: np.ndarray) -> None: ...

    def download(self) -> np.ndarray: ...


class CudaDevice(Protocol):
    """One GPU with one stream."""

    stream: int

    def allocate(self, shape: tuple[int, ...], dtype: str) -> Buffer: ...

    def milliseconds(self, enqueue: Callable[[], None]) -> float:
        """Time between two events around ``enqueue`` on the stream; returns when the work is done."""
        ...

    def wait(self) -> None:
        """Return when all work on the stream is done."""
        ...

    def close(self) -> None: ...


def open_device(number: int) -> CudaDevice:
    """The GPU ``number``.

    Raises:
        MissingDependencyError: there is no such GPU, or nothing to reach it with.
    """
    if find_spec("pycuda") is not None:
        return _PyCudaDevice(number)
    import torch

    if not torch.cuda.is_available() or number >= torch.cuda.device_count():
        raise MissingDependencyError(
            f"No CUDA device {number} is visible here (an NVIDIA GPU and its driver were needed). "
            "Run this on the machine with the GPU."
        )
    return _TorchDevice(number)


class _TorchBuffer:
    def __init__(self, tensor: torch.Tensor, stream: torch.cuda.Stream) -> None:
        self._tensor, self._stream = tensor, stream
        self.address = tensor.data_ptr()

    def upload(self, array: np.ndarray) -> None:
        import torch

        with torch.cuda.stream(self._stream):
            self._tensor.copy_(torch.from_numpy(np.ascontiguousarray(array)))
        self._stream.synchronize()

    def download(self) -> np.ndarray:
        self._stream.synchronize()
        return self._tensor.cpu().numpy()


class _TorchDevice:
    def __init__(self, number: int) -> None:
        import torch

        self._device = torch.device(f"cuda:{number}")
        self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        self.stream: int = self._stream.cuda_stream

    def allocate(self, shape: tuple[int, ...], dtype: str) -> Buffer:
        import torch

        return _TorchBuffer(torch.empty(shape, dtype=getattr(torch, dtype), device=self._device), self._stream)

    def milliseconds(self, enqueue: Callable[[], None]) -> float:
        import torch

        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record(self._stream)
        enqueue()
        end.record(self._stream)
        end.synchronize()
        return float(start.elapsed_time(end))

    def wait(self) -> None:
        self._stream.synchronize()

    def close(self) -> None:
        self._stream.synchronize()


class _PyCudaBuffer:
    def __init__(self, driver: Any, stream: Any, shape: tuple[int, ...], dtype: str) -> None:  # noqa: ANN401
        self._driver, self._stream = driver, stream
        # Page-locked, so that copies are asynchronous and as fast as the bus.
        self._host = driver.pagelocked_empty(shape, np.dtype(dtype))
        self._memory = driver.mem_alloc(self._host.nbytes)
        self.address = int(self._memory)

    def upload(self, array: np.ndarray) -> None:
        np.copyto(self._host, array)
        self._driver.memcpy_htod_async(self._memory, self._host, self._stream)
        self._stream.synchronize()

    def download(self) -> np.ndarray:
        self._driver.memcpy_dtoh_async(self._host, self._memory, self._stream)
        self._stream.synchronize()
        return np.array(self._host)


class _PyCudaDevice:
    """Shares the primary context with torch and ONNX Runtime; ``pycuda.autoinit`` would make another."""

    def __init__(self, number: int) -> None:
        from pycuda import driver

        try:
            driver.init()
            self._context = driver.Device(number).retain_primary_context()
        except driver.Error as error:
            raise MissingDependencyError(
                f"pycuda cannot reach CUDA device {number} ({error}). Run this on the machine with the GPU."
            ) from error
        self._driver = driver
        self._context.push()
        self._stream = driver.Stream()
        self.stream: int = self._stream.handle

    def allocate(self, shape: tuple[int, ...], dtype: str) -> Buffer:
        return _PyCudaBuffer(self._driver, self._stream, shape, dtype)

    def milliseconds(self, enqueue: Callable[[], None]) -> float:
        start, end = self._driver.Event(), self._driver.Event()
        start.record(self._stream)
        enqueue()
        end.record(self._stream)
        end.synchronize()
        return float(start.time_till(end))

    def wait(self) -> None:
        self._stream.synchronize()

    def close(self) -> None:
        self._stream.synchronize()
        self._context.pop()

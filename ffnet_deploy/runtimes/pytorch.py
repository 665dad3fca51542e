"""PyTorch: the FP32 reference of every comparison, and the faster ways to run the same module."""

from __future__ import annotations

import itertools
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from torch.nn import functional as F

from ffnet_deploy.artifacts.values import Ends
from ffnet_deploy.data.images import MEAN, STD
from ffnet_deploy.errors import EngineError, MissingDependencyError
from ffnet_deploy.runtimes.pytorch_tensors import InnerTensors
from ffnet_deploy.runtimes.rung import Style
from ffnet_deploy.runtimes.runner import TensorSpec, check_feeds

if TYPE_CHECKING:
    from torch import nn

    from ffnet_deploy.runtimes.runner import Feeds


@contextmanager
def _memory_told() -> Iterator[None]:
    """Turn PyTorch's ways of saying that it gets no memory into an error of ours."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
            raise EngineError(
                "PyTorch needs more memory than it could get. Free some, or use a smaller batch or size."
            ) from error
        raise


class PyTorchRunner:
    """Runs a module, on the CPU or on a CUDA device with TF32 off."""

    def __init__(
        self,
        module: nn.Module,
        shape: tuple[int, ...],
        *,
        threads: int | None = None,
        device: int | None = None,
        half: bool = False,
        style: Style | None = None,
        ends: Ends | None = None,
        out: tuple[int, ...] | None = None,
    ) -> None:
        """Place a module.

        Args:
            module: in eval mode; moved to the device.
            shape: (N, 3, H, W) of the network's input.
            threads: of PyTorch's operators, for the whole process; None leaves them as they are.
            device: a CUDA device's number; None is the CPU.
            half: FP16 weights and activations; inputs and outputs stay FP32.
            style: beyond eager; see :class:`ffnet_deploy.runtimes.rung.Style`.
            ends: what it takes and gives; by default normalised floats and logits.
            out: shape of the logits; None finds it by a run.

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
        self._ends = ends or Ends()
        style = style or Style()
        self._dtype = torch.float16 if half else torch.float32
        self._layout = torch.channels_last if style.channels_last else torch.contiguous_format
        self._module = module.to(self._device, self._dtype)
        if style.channels_last:
            self._module = self._module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._network = torch.compile(self._module) if style.compiled else self._module
        self._hw = (shape[2], shape[3])
        if out is None:
            with torch.inference_mode():
                out = tuple(self._module(torch.zeros(shape, device=self._device, dtype=self._dtype)).shape)
        n, _, h, w = shape
        image = TensorSpec("image", (n, h, w, 3), "uint8") if self._ends.image_in else None
        self.inputs: Sequence[TensorSpec] = [image or TensorSpec("image", tuple(shape), "float32")]
        self.outputs: Sequence[TensorSpec] = [self._output(tuple(out))]
        self.spans: dict[str, list[float]] = {"enqueue": [], "upload": [], "download": []}

    def _output(self, logits: tuple[int, ...]) -> TensorSpec:
        if not self._ends.labels_out:
            return TensorSpec("logits", logits, "float32")
        if len(logits) == 2:
            return TensorSpec("labels", logits[:1], "int64")
        return TensorSpec("labels", (logits[0], *self._hw), "uint8")

    @_memory_told()
    def __call__(self, feeds: Feeds) -> dict[str, np.ndarray]:
        check_feeds(feeds, self.inputs)
        with torch.inference_mode():
            start = time.perf_counter_ns()
            image = self._placed(feeds)
            uploaded = time.perf_counter_ns()
            out = self._compute(image)
            out = out if self._ends.labels_out else out.float()
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)
            computed = time.perf_counter_ns()
            result = out.cpu().numpy()
        if self._device.type == "cuda":
            self.spans["upload"].append((uploaded - start) / 1e6)
            self.spans["download"].append((time.perf_counter_ns() - computed) / 1e6)
        return {self.outputs[0].name: result}

    @_memory_told()
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

    @_memory_told()
    def latencies(self, feeds: Sequence[Feeds], iters: int) -> list[float]:
        for feed in feeds:
            check_feeds(feed, self.inputs)
        placed = [self._placed(feed) for feed in feeds]
        # Before the clock starts, floats have the network's type and layout; what it does to an image is timed.
        images = placed if self._ends.image_in else [self._ready(image) for image in placed]
        run = self._cuda_ms if self._device.type == "cuda" else self._cpu_ms
        with torch.inference_mode():
            return [run(image) for image in itertools.islice(itertools.cycle(images), iters)]

    def _placed(self, feeds: Feeds) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(feeds["image"])).to(self._device)

    def _ready(self, image: torch.Tensor) -> torch.Tensor:
        """Floats in the type and layout that the network computes on."""
        return image.to(self._dtype).contiguous(memory_format=self._layout)

    def _compute(self, image: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self._network(self._ready(normalised(image) if self._ends.image_in else image))
        return labelled(logits, self._hw, self._ends.align_corners) if self._ends.labels_out else logits

    def _cpu_ms(self, image: torch.Tensor) -> float:
        start = time.perf_counter_ns()
        self._compute(image)
        return (time.perf_counter_ns() - start) / 1e6

    def _cuda_ms(self, image: torch.Tensor) -> float:
        stream = torch.cuda.current_stream(self._device)
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record(stream)
        before = time.perf_counter_ns()
        self._compute(image)
        self.spans["enqueue"].append((time.perf_counter_ns() - before) / 1e6)
        end.record(stream)
        end.synchronize()
        return float(start.elapsed_time(end))

    def close(self) -> None:
        self._module.cpu()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        # After an error of the GPU this fails too, and would hide it.
        with suppress(RuntimeError) if error else nullcontext():
            self.close()


def normalised(image: torch.Tensor) -> torch.Tensor:
    """uint8 (N, H, W, 3) RGB to float32 (N, 3, H, W), as ``data.images.normalise`` does, on the image's device."""
    scale = 1 / (torch.tensor(STD, device=image.device) * 255)
    shift = -torch.tensor(MEAN, device=image.device) / torch.tensor(STD, device=image.device)
    return torch.addcmul(shift, image.float(), scale).permute(0, 3, 1, 2).contiguous()


def labelled(logits: torch.Tensor, size: tuple[int, int], align_corners: bool) -> torch.Tensor:
    """Logits to labels on their device: uint8 (N, H, W) of ``size``, or int64 (N,) where there is no map."""
    if logits.ndim == 2:
        return logits.argmax(dim=1)
    full = F.interpolate(logits.float(), size=size, mode="bilinear", align_corners=align_corners)
    return full.argmax(dim=1).to(torch.uint8)

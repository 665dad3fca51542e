"""Inner tensors of a PyTorch module while it runs, under the names that export gives to the graph's nodes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from torch.utils._python_dispatch import TorchDispatchMode

if TYPE_CHECKING:
    from torch import Tensor, nn


# PyTorch's operators by the ONNX operator that export turns them into; some have another name outside inference mode.
_OPERATORS = {
    "conv2d": "Conv", "convolution": "Conv", "relu_": "Relu", "relu": "Relu", "add": "Add", "cat": "Concat",
    "upsample_nearest2d": "Resize", "upsample_bilinear2d": "Resize", "max_pool2d": "MaxPool",
    "max_pool2d_with_indices": "MaxPool", "pad": "Pad", "reflection_pad2d": "Pad", "mean": "ReduceMean",
    "linear": "Gemm", "addmm": "Gemm",
}  # fmt: skip
_BATCH_NORM = "batch_norm"


class InnerTensors(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Keeps what operators give: ``found[node name]`` for the wanted names, float32 on the host.

    A batch norm is the last part of the convolution before it, as in the exported graph.
    """

    def __init__(self, module: nn.Module, wanted: Collection[str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: dict[str, np.ndarray] = {}
        self.seen: list[str] = []
        """Names of all operators that ran, in their order."""
        self._module, self._wanted = module, frozenset(wanted)
        self._path: list[str] = []
        self._taken: Counter[str] = Counter()
        self._convolution: tuple[str, Tensor] | None = None

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Follow the module in the block; run it once in there."""
        handles = []
        for name, module in self._module.named_modules():
            handles.append(module.register_forward_pre_hook(partial(self._enter, name)))
            handles.append(module.register_forward_hook(self._leave))
        try:
            with self:
                yield
        finally:
            for handle in handles:
                handle.remove()
            self._convolution = None

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401 - an operator overload, which PyTorch does not type
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        result = func(*args, **(kwargs or {}))
        operator = func.overloadpacket.__name__
        before, self._convolution = self._convolution, None
        if _BATCH_NORM in operator:
            if before is not None and args[0] is before[1]:
                self._keep(before[0], result[0] if isinstance(result, tuple) else result)
        elif operator in _OPERATORS:
            name = self._named(_OPERATORS[operator])
            self.seen.append(name)
            self._keep(name, result[0] if isinstance(result, tuple) else result)
            if _OPERATORS[operator] == "Conv":
                self._convolution = (name, result)
        return result

    def _named(self, operator: str) -> str:
        """As ``graph.export`` names nodes: the module, the operator, and a number from the second call on."""
        stem = f"{self._path[-1]}/{operator}".lstrip("/")
        self._taken[stem] += 1
        return stem if self._taken[stem] == 1 else f"{stem}_{self._taken[stem] - 1}"

    def _keep(self, name: str, value: Tensor) -> None:
        if name in self._wanted:
            # A copy: the ReLU that follows works in place.
            self.found[name] = np.array(value.float().cpu().numpy(), copy=True)

    def _enter(self, name: str, _module: nn.Module, _args: object) -> None:
        self._path.append(name)

    def _leave(self, _module: nn.Module, _args: object, _result: object) -> None:
        self._path.pop()

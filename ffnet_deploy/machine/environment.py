"""The machine and the versions that a figure rests on."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ffnet_deploy.artifacts.records import tool_versions
from ffnet_deploy.artifacts.values import Count, NotNegative, Size
from ffnet_deploy.machine.devices import default_threads, visible_gpus
from ffnet_deploy.machine.processor import Hardware, describe

_TOOLS = ("torch", "onnx", "onnxruntime-gpu", "onnxruntime", "numpy", "tensorrt", "tensorrt-rtx", "pycuda")


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment(Hardware):
    """The processor and its memory, and what this process gets and uses of the machine."""

    cores: Size
    """Cores that this process may use."""
    load_average: tuple[NotNegative, NotNegative, NotNegative]
    """Over 1, 5 and 15 minutes."""
    system: str
    """The operating system."""
    gpus: Count
    """NVIDIA GPUs that the driver shows."""
    tools: Mapping[str, str]
    """Versions of the packages that compute."""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            **asdict(self),
            "flags": list(self.flags),
            "load_average": list(self.load_average),
            "tools": dict(self.tools),
        }


def describe_environment() -> Environment:
    """What a figure that is measured now rests on."""
    return Environment(
        **asdict(describe()),
        cores=default_threads(),
        load_average=os.getloadavg(),
        system=platform.platform(),
        gpus=visible_gpus(),
        tools=tool_versions(*_TOOLS),
    )

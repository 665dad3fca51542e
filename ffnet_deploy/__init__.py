"""ffnet-deploy: from an FFNet's name to a verified graph, engines, and figures one can trust."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ffnet_deploy.runtimes.opening import load_engine
    from ffnet_deploy.zoo.specs import list_models
    from ffnet_deploy.zoo.weights import build_model

__version__ = "0.1.0"
__all__ = ["__version__", "build_model", "list_models", "load_engine"]

# Resolved on first use, so that `import ffnet_deploy` loads neither torch nor onnxruntime.
_HOMES = {
    "build_model": "ffnet_deploy.zoo.weights",
    "list_models": "ffnet_deploy.zoo.specs",
    "load_engine": "ffnet_deploy.runtimes.opening",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)

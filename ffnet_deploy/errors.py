"""Every error a user can meet, one class per stage.

    FFNetDeployError              one line on stderr, no traceback
    ├── UsageError                options that do not fit together                       (exit 2)
    ├── UnknownModelError         no such name; suggests near ones                       (exit 2)
    ├── MissingDependencyError    an optional package or device is absent                (exit 4)
    ├── WeightsError              checkpoint absent, corrupt, or its keys do not fit     (exit 3)
    ├── ExportError               torch.onnx could not write the graph                   (exit 3)
    ├── PrecisionError            an FP16 or INT8 pass could not be applied              (exit 3)
    ├── EngineError               an engine could not be built, loaded or run            (exit 3)
    ├── ArtifactError             a file of the workspace is absent, damaged or stale    (exit 3)
    ├── VerificationError         two runners disagree by more than the tolerance        (exit 1)
    ├── GateError                 a gate such as --max-drop was missed                   (exit 1)
    └── DataError                 a data set is absent, incomplete or misread            (exit 3)

The class answers *where*, the message answers *what now*: "what was found (what was needed). Next step."
Anything else that escapes is a bug of ours and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import ClassVar

from ffnet_deploy.foreign import shown

_LONGEST, _LONG_WORD = 500, 120
"""Characters of a message, and of a name in one that is too long."""


class FFNetDeployError(Exception):
    """An expected failure: its text is one line that ends with the next step."""

    exit_code: ClassVar[int] = 3

    def __init__(self, text: str) -> None:
        """Keep the text as one line that is safe to print: names in it may come from anywhere."""
        super().__init__(_bounded(shown(text)))


def _bounded(line: str) -> str:
    """A message of bounded length. A command in it stays whole: cut, it would do something else."""
    if len(line) <= _LONGEST:
        return line
    told, run, command = line.partition(" Run: ")
    told = " ".join(_cut(word, _LONG_WORD) for word in told.split(" "))
    return f"{_cut(told, max(_LONGEST - len(run + command), _LONGEST // 2))}{run}{command}"


def _cut(text: str, length: int) -> str:
    half = length // 2 - 2
    return text if len(text) <= length else f"{text[:half]}...{text[-half:]}"


class UsageError(FFNetDeployError):
    """The options given do not fit together, or do not fit the model."""

    exit_code = 2


class UnknownModelError(FFNetDeployError):
    """The zoo has no model of this name."""

    exit_code = 2


class MissingDependencyError(FFNetDeployError):
    """This machine lacks a package or a device that the command needs."""

    exit_code = 4


class WeightsError(FFNetDeployError):
    """A weight file is absent, corrupt, hostile, or does not fit its model."""


class ExportError(FFNetDeployError):
    """PyTorch's exporter failed, or wrote operators that the contract does not allow."""


class PrecisionError(FFNetDeployError):
    """A precision pass could not be applied to the graph."""


class EngineError(FFNetDeployError):
    """A runtime refused to build, load or run an engine."""


class ArtifactError(FFNetDeployError):
    """A file of the workspace is absent, damaged, half-written or stale."""


class VerificationError(FFNetDeployError):
    """Two runners disagree by more than the tolerance."""

    exit_code = 1


class GateError(FFNetDeployError):
    """The result is complete but misses a gate that was asked for."""

    exit_code = 1


class DataError(FFNetDeployError):
    """A data set is absent, incomplete or unreadable."""


# Distribution to install for each import name, where pip alone is not the whole story.
_REMEDIES = {
    "tensorrt": "Run: pip install 'ffnet-deploy[gpu]'",
    "tensorrt_rtx": "Run: pip install tensorrt-rtx",
    "onnxruntime": "Run: pip install onnxruntime-gpu (or onnxruntime)",
    "pycuda": "Run: pip install pycuda (it needs a CUDA toolkit)",
    "scipy": "Run: pip install 'ffnet-deploy[imagenet]'",
    "pyarrow": "Run: pip install 'ffnet-deploy[imagenet]'",
}


@contextmanager
def needs(package: str) -> Iterator[None]:
    """Turn a failed import in the block into an instruction.

    Raises:
        MissingDependencyError: the import failed; the message says what to install.
    """
    try:
        yield
    except ImportError as error:
        remedy = _REMEDIES.get(package, f"Run: pip install {package}")
        raise MissingDependencyError(f"{package} cannot be imported ({error}). {remedy}") from error


def require(module: str) -> None:
    """Check that a package is installed, without importing it.

    Raises:
        MissingDependencyError: it is not installed; as from :func:`needs`.
    """
    with needs(module):
        if find_spec(module) is None:
            raise ModuleNotFoundError(f"No module named {module!r}", name=module)


@dataclass(frozen=True, slots=True)
class ErrorFacts:
    """An error as results say it."""

    type: str
    message: str
    exit_code: int


def facts_of_error(error: FFNetDeployError | None) -> ErrorFacts | None:
    """What results say of the error that a command ended with; None where it ended well."""
    return None if error is None else ErrorFacts(type(error).__name__, str(error), error.exit_code)

"""The devkit's table of classes, read by SciPy in a process of its own: a damaged file can crash its reader."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec

from ffnet_deploy.errors import needs
from ffnet_deploy.foreign import load_json

_SECONDS = 60.0
_READ = """
import io, json, sys
from scipy.io import loadmat
table = loadmat(io.BytesIO(sys.stdin.buffer.read()), squeeze_me=True, variable_names=["synsets"])["synsets"]
rows = zip(table["ILSVRC2012_ID"], table["WNID"], table["num_children"], strict=True)
print(json.dumps([[int(number), str(wnid)] for number, wnid, children in rows if int(children) == 0]))
"""


def leaves(data: bytes) -> list[tuple[int, str]]:
    """ILSVRC2012_ID and wnid of every class without classes below it, which the 1000 are.

    Args:
        data: ``meta.mat``.

    Raises:
        ValueError: it is no such table.
        MissingDependencyError: SciPy is absent.

    Source: torchvision ``datasets/imagenet.py``.
    """
    with needs("scipy"):
        if find_spec("scipy.io") is None:
            raise ModuleNotFoundError("No module named 'scipy.io'")
    # Without -P it would import what lies in the current folder.
    command = [sys.executable, "-P", "-c", _READ]
    try:
        done = subprocess.run(command, input=data, capture_output=True, timeout=_SECONDS, check=False)  # noqa: S603 - ours
    except subprocess.TimeoutExpired as error:
        raise ValueError(f"reading it took more than {_SECONDS:.0f} s") from error
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise ValueError(said[-1] if said and done.returncode > 0 else f"its reader ended with {done.returncode}")
    return [(number, wnid) for number, wnid in load_json(done.stdout)]

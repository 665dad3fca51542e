"""What a command has left: its files as hashes in which times do not count, its processes, and what readers take."""

from __future__ import annotations

import hashlib
import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from ffnet_deploy.artifacts.records import check_file, read_record
from ffnet_deploy.artifacts.workspace import Workspace
from ffnet_deploy.bench.result import read_benchmark
from ffnet_deploy.calibration.record import read_calibration
from ffnet_deploy.errors import FFNetDeployError
from ffnet_deploy.evaluate.reread import read_evaluation

_TIMES = ("created", "seconds", "run", "checksum", "resumed_at")
"""Of JSON files: what no two runs have in common, and what follows from it."""
_MEASURED = ("model", "mode", "shape", "graph_sha256", "weights_sha256", "marks", "skipped")
"""Of a benchmark: what two runs have in common."""
_FOLDERS = ("models", "engines", "weights")


def state(root: Path) -> dict[str, str]:
    """Every file below a folder by its path there, with a hash of what it holds."""
    files = (path for path in sorted(root.rglob("*")) if path.is_file())
    return {str(path.relative_to(root)): _digest(path) for path in files}


def _digest(path: Path) -> str:
    data = path.read_bytes()
    if path.suffix == ".json":
        with suppress(ValueError):
            data = json.dumps(_lasting(json.loads(data)), sort_keys=True).encode()
    return hashlib.sha256(data).hexdigest()


def _lasting(value: Any) -> Any:  # noqa: ANN401 - what JSON holds
    if isinstance(value, list):
        return [_lasting(item) for item in value]
    if not isinstance(value, dict):
        return value
    if value.get("command") == "bench":
        return [*(value.get(key) for key in _MEASURED), [rung["rung"] for rung in value.get("rungs") or ()]]
    return {key: _lasting(item) for key, item in value.items() if key not in _TIMES}


def accepts(path: Path) -> bool:
    """Whether a reader takes a file for a whole one. What no command reads is never taken."""
    try:
        return _read(path)
    except FFNetDeployError:
        return False


def _read(path: Path) -> bool:
    if path.name.startswith("."):
        return False
    if path.suffix in (".onnx", ".engine", ".pth"):
        check_file(path, read_record(path, remedy="again"), remedy="again")
    elif path.suffix == ".png":
        from ffnet_deploy.data.decoding import decode_labels, decode_rgb

        (decode_rgb if path.stem.endswith("leftImg8bit") else decode_labels)(path, path.read_bytes())
    elif path.suffix == ".json" and path.parent.name == "calibration":
        read_calibration(Workspace(path.parent.parent), path)
    elif path.suffix == ".json" and path.parent.name in _FOLDERS:
        read_record(path.with_suffix(""), remedy="again")
        return False
    elif path.suffix == ".json":
        command = json.loads(path.read_bytes() or b"{}").get("command", "")
        read_benchmark(path) if command == "bench" else read_evaluation(path)
    else:
        return path.name == "SHA256SUMS"
    return True


def orphans(session: int, wait_s: float) -> list[str]:
    """Processes of a session that are still there when its first one has ended and some time has passed."""
    deadline = time.monotonic() + wait_s
    while (found := _alive(session)) and time.monotonic() < deadline:
        time.sleep(0.01)
    return found


def _alive(session: int) -> list[str]:
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = status.read_text("utf-8", "replace").rpartition(")")
        except OSError:
            continue
        fields = rest.split()
        if int(fields[3]) == session and fields[0] not in "ZX":
            found.append(name)
    return found

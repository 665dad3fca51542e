"""JSON files as someone would forge them: changed, and with a checksum that fits again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ffnet_deploy.artifacts.writing import hash_json


def resealed(values: Mapping[str, Any]) -> str:
    """JSON with a checksum that fits, whatever the values are; NaN too."""
    plain = json.loads(json.dumps(values))
    if not isinstance(plain, dict):
        return json.dumps(plain)
    plain.pop("checksum", None)
    return json.dumps({**plain, "checksum": hash_json(plain)})


def reseal(file: Path, text: str | None = None) -> None:
    """Make the checksum fit in a file, or write a JSON text with one that fits."""
    file.write_text(resealed(json.loads(file.read_text() if text is None else text)))

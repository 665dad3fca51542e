"""What the zoo holds, and fetching its weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ffnet_deploy.artifacts.workspace import Workspace
from ffnet_deploy.progress import Progress, quiet
from ffnet_deploy.zoo import specs
from ffnet_deploy.zoo.specs import ModelSpec

if TYPE_CHECKING:
    from ffnet_deploy.zoo.archive import Fetched


def list_models(workspace: Workspace, text: str = "") -> list[tuple[ModelSpec, specs.Cost, bool]]:
    """Specs whose name contains ``text``, what they cost, and whether their weights are present."""
    return [
        (spec, specs.costs()[name], (workspace.weights / spec.weights_file).is_file())
        for name, spec in specs.SPECS.items()
        if text.lower() in name.lower()
    ]


def fetch_weights(
    workspace: Workspace, names: Sequence[str], *, source: str | None = None, progress: Progress = quiet
) -> list[Fetched]:
    """Download and unpack the archives that hold the weights of ``names``."""
    from ffnet_deploy.zoo.fetch import fetch

    archives = list(dict.fromkeys(specs.find(name).archive for name in names))
    return fetch(
        archives,
        workspace.weights,
        source=source,
        progress=lambda p: progress(f"fetching {p.archive}", p.done, p.total),
    )

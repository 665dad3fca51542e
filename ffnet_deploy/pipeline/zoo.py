"""What the zoo holds, and fetching its weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ffnet_deploy.artifacts.workspace import Workspace
from ffnet_deploy.errors import WeightsError
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
    workspace: Workspace,
    names: Sequence[str],
    *,
    source: str | None = None,
    again: bool = False,
    progress: Progress = quiet,
) -> list[Fetched]:
    """Download and unpack the archives that hold the weights of ``names``; ``again`` also where they are in place.

    Raises:
        UnknownModelError: no such model.
        WeightsError: nothing there, no connection, files of no use, or an archive without the weights of ``names``.
        ArtifactError: the workspace cannot be written, or another process fetches the same archive.
    """
    from ffnet_deploy.zoo.fetch import fetch

    wanted = [specs.find(name) for name in names]
    fetched = fetch(
        list(dict.fromkeys(spec.archive for spec in wanted)),
        workspace.weights,
        source=source,
        again=again,
        progress=lambda p: progress(f"fetching {p.archive}", p.done, p.total),
    )
    for spec in wanted:
        if not (workspace.weights / spec.weights_file).is_file():
            raise WeightsError(
                f"The archive {spec.archive} has no {spec.weights_file} (the weights of {spec.name} were needed). "
                "Name another place with --from URL_OR_FOLDER."
            )
    return fetched

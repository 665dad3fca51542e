"""What export, calibrate and build made, as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ffnet_deploy.artifacts.workspace import EngineFile
from ffnet_deploy.calibration.methods import METHODS
from ffnet_deploy.calibration.record import Calibration
from ffnet_deploy.pipeline.export import Exported
from ffnet_deploy.report.table import marked, marked_line, megabytes, table


def exported(result: Exported) -> str:
    """What export wrote, and how well it agrees with PyTorch."""
    record = result.record
    found = record.found.verification
    assert found is not None
    return (
        f"{result.path}  {megabytes(record.file.size)}  opset {record.options.opset}{marked(record.marks)}\n"
        f"verified against PyTorch on {found.images} images: largest difference {found.max_difference:.1e}, "
        f"mean {found.mean_difference:.1e} of the output's spread, {100 * found.equal:.3f} % equal labels"
    )


def calibrated(result: Calibration) -> str:
    """What calibration looked at, and where the ranges are."""
    file, images = result.file, result.file.images
    how = "already there" if result.reused else f"{file.seconds:.1f} s"
    resized = ", resized to the network's input" if images.resized else ""
    return (
        f"{result.path}  {len(file.tensors)} tensors, {len(images.names)} images of {images.title}{resized}  ({how})"
        f"{marked(file.marks)}\n"
        f"ranges by {', '.join(METHODS)}; build uses {result.method} by default"
    )


def built(results: Sequence[EngineFile]) -> str:
    """The engines that were built."""
    rows = [
        (
            path.name,
            megabytes(record.file.size),
            f"{record.file.seconds:.1f} s",
            _shares(record.found.share),
        )
        for path, record in results
    ]
    body = table(("engine", "size", "built in", "found in it"), rows)
    return f"{results[0].path.parent}/\n{body}{marked_line(results[0].record.marks)}"


def _shares(share: Mapping[str, float]) -> str | None:
    """Shares of the multiply-accumulates by the precision that was found."""
    return ", ".join(f"{100 * part:.4g} % {name}" for name, part in share.items()) or None

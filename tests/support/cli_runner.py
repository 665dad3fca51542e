"""The real command line in tests: run in this process, or started in one of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from ffnet_deploy import cli
from ffnet_deploy.commands import output

NAME = "segmentation_ffnet46NS_CCC_mobile"
SIZE = ("--allow-size", "--height", "64", "--width", "128")
STEM = f"{NAME}@64x128"


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


class Cli:
    """Runs ``ffnet-deploy`` in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys
        # Progress bars are for terminals; with ``pytest -s`` on one they would mix with what is tested.
        monkeypatch.setattr(output, "_on_terminal", lambda: False)
        # On a busy machine small work takes long too, and lines that say so are tested by themselves.
        monkeypatch.setattr(output, "PlainProgress", partial(output.PlainProgress, interval=3600.0))

    def __call__(self, *args: str | Path) -> Result:
        self._monkeypatch.setattr(sys, "argv", ["ffnet-deploy", *map(str, args)])
        self._capsys.readouterr()
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        captured = self._capsys.readouterr()
        return Result(code, captured.out, captured.err)


def started(folder: Path, *args: str) -> subprocess.Popen[str]:
    """``ffnet-deploy`` in a process of its own."""
    command = [sys.executable, "-m", "ffnet_deploy.cli", *args]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


_TELLING = """
import functools, os, sys
from contextlib import contextmanager
from ffnet_deploy.commands import output

def tell(what, *_):
    print(what, file=sys.stderr, flush=True)
    if what == "exporting":
        from ffnet_deploy.zoo.network import FFNet
        forward = FFNet.forward

        @functools.wraps(forward)
        def telling(*args):
            print("running the network", file=sys.stderr, flush=True)
            return forward(*args)

        FFNet.forward = telling
        if graph := os.environ.get("EXPORTED_BEFORE"):
            import onnx
            from ffnet_deploy.pipeline import export
            export._exported = lambda *_: onnx.load(graph)

@contextmanager
def progress():
    yield tell

output.progress = progress
from ffnet_deploy import cli
cli.main()
"""


def started_telling(folder: Path, *args: str, exported: Path | None = None) -> subprocess.Popen[str]:
    """As ``started``, with a line on stderr for each stage, and when the network runs from the export on.

    Args:
        folder: where it runs.
        args: of the command line.
        exported: a graph that stands in for what the exporter makes, which takes it long.
    """
    command = [sys.executable, "-c", _TELLING, *args]
    environment = {**os.environ, **({"EXPORTED_BEFORE": str(exported)} if exported else {})}
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def link_workspace(made: Path, folder: Path) -> Path:
    """A copy of a workspace to change; files are linked and only ever replaced."""
    for file in made.glob("*/*.*"):
        (folder / file.parent.name).mkdir(parents=True, exist_ok=True)
        os.link(file, folder / file.parent.name / file.name)
    return folder


def rewrite(file: Path, data: bytes) -> None:
    """Replace a linked file by new bytes without touching the other name of it."""
    file.unlink()
    file.write_bytes(data)

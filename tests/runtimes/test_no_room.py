"""A full disk and too little memory are told as what they are, by whatever writes: this process or the builder's."""

from __future__ import annotations

import errno
import resource
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper
from support.cli_runner import Cli
from support.graphs import put_graph

from ffnet_deploy.artifacts.workspace import Workspace
from ffnet_deploy.artifacts.writing import replacing
from ffnet_deploy.errors import ArtifactError, EngineError
from ffnet_deploy.runtimes.onnxruntime import OnnxRuntimeRunner, build

MIB = 1 << 20
WIDE = """
    <ir_version: 10, opset_import: ["" : 20]>
    net (float[1,3,64,128] image) => (float[1,1024,64,128] logits)
    { [c0] a = Conv(image, w0) [c1] logits = Conv(a, w1) }
"""
HUGE = """
    <ir_version: 10, opset_import: ["" : 20]>
    net (float[1] image) => (float[N] logits) { logits = Expand(image, shape) }
"""


def wide() -> bytes:
    """A graph of few nodes, and of 2 MiB."""
    model = onnx.parser.parse_model(WIDE)
    for name, shape in (("w0", (512, 3, 1, 1)), ("w1", (1024, 512, 1, 1))):
        model.graph.initializer.append(numpy_helper.from_array(np.ones(shape, np.float32), name))
    return bytes(model.SerializeToString())


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """No file may become larger, in this process and those that it starts."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    command = [mount or "mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if mount is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a file system is not allowed here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_onnx_runtime_on_a_full_disk(tmp_path: Path, small_disk: Path) -> None:
    (tmp_path / "graph.onnx").write_bytes(wide())
    engine = small_disk / "engine.onnx"
    with (
        pytest.raises(ArtifactError, match=r"engine\.onnx cannot be written: No space left on device\. Free"),
        replacing(engine) as part,
    ):
        build(tmp_path / "graph.onnx", part)
    assert list(small_disk.iterdir()) == []


@pytest.mark.parametrize(
    "runtime",
    [
        "onnxruntime",
        pytest.param(
            "tensorrt-rtx",
            marks=pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx is not installed"),
        ),
    ],
)
def test_a_build_that_has_no_room_for_its_engine(run: Cli, workspace: Workspace, runtime: str) -> None:
    put_graph(workspace, wide())
    with files_of_at_most(MIB):
        result = run("build", "--fp32", "--runtime", runtime, "--workspace", workspace.root)
    assert result.code == 3
    lines = [line for line in result.err.splitlines() if not line.startswith("model: ")]
    assert len(lines) == 1
    assert f".fp32.{runtime}." in lines[0]
    assert lines[0].startswith("error: ")
    assert "cannot be written: File too large. Free or unlock the folder" in lines[0]
    assert not list(workspace.root.glob("engines/*"))


def test_the_first_error_is_told_though_cleaning_up_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    def interrupted() -> None:
        with replacing(tmp_path / "a"):
            monkeypatch.setattr(Path, "unlink", refuse)
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(ArtifactError, match="cannot be written: No space left on device"):
        interrupted()


@pytest.mark.parametrize("arena", [True, False])
def test_too_little_memory_is_told_in_one_line(capfd: pytest.CaptureFixture[str], arena: bool) -> None:
    model = onnx.parser.parse_model(HUGE)
    model.graph.initializer.append(numpy_helper.from_array(np.array([1 << 50]), "shape"))
    with (
        OnnxRuntimeRunner(model.SerializeToString(), threads=1, arena=arena) as runner,
        pytest.raises(EngineError, match=r"^The graph needs more memory than ONNX Runtime \S+ could get\. Free some"),
    ):
        runner({"image": np.ones(1, np.float32)})
    assert capfd.readouterr() == ("", "")


def test_lengths_beyond_all_numbers_print_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    model = onnx.parser.parse_model(HUGE)
    model.graph.initializer.append(numpy_helper.from_array(np.array([1 << 62]), "shape"))
    with (
        OnnxRuntimeRunner(model.SerializeToString(), threads=1) as runner,
        pytest.raises(EngineError, match=r"^The graph fails in ONNX Runtime") as caught,
    ):
        runner({"image": np.ones(1, np.float32)})
    assert "/onnxruntime_src" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_refused_engine_is_tried_once_and_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "graph.onnx").write_bytes(wide())
    (tmp_path / "engine.onnx").mkdir()
    # What ONNX Runtime cannot write to is no refused graph.
    with pytest.raises(IsADirectoryError):
        build(tmp_path / "graph.onnx", tmp_path / "engine.onnx")
    assert capfd.readouterr() == ("", "")

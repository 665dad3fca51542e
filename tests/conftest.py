"""The same start for every test: seeds, one thread, no TF32, none of the user's settings; a skip without a GPU."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pytest
import torch
from filelock import FileLock
from support.calibrated import write_photos, write_streets
from support.cli_runner import NAME, SIZE, Cli
from support.fakes import small_graph
from support.graphs import put_graph
from support.traced import kept

from ffnet_deploy import cli
from ffnet_deploy.artifacts.workspace import Workspace
from ffnet_deploy.bench import turns
from ffnet_deploy.graph import from_torch
from ffnet_deploy.machine.devices import visible_gpus
from ffnet_deploy.pipeline.build import BuildOptions, build
from ffnet_deploy.pipeline.calibrate import CalibrateOptions, calibrate
from ffnet_deploy.runtimes.onnxruntime import build as build_engine
from ffnet_deploy.synthetic.scenes import write_cityscapes
from ffnet_deploy.zoo import weights
from ffnet_deploy.zoo.specs import find
from ffnet_deploy.zoo.weights import load_random

if TYPE_CHECKING:
    from support.mirror import Site


@pytest.fixture(scope="session", autouse=True)
def _settings() -> None:
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    # For what modules and sessions share, which is made before the first test's own start.
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _same_start(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.node.get_closest_marker("gpu") and not visible_gpus():
        pytest.skip("needs a CUDA device; the driver shows none")
    for variable in ("CITYSCAPES_DATASET", "IMAGENET_DATASET"):
        monkeypatch.delenv(variable, raising=False)
    # On a busy machine the warm-up is the longest part of a benchmark, and no test needs it but its own.
    monkeypatch.setattr(turns, "BenchPlan", partial(turns.BenchPlan, warm_up_s=0.0, most_warm_up_s=0.0))
    # Small work: on busy cores a second thread is waited for longer than it helps; runners may have set another count.
    torch.set_num_threads(1)
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def _drawn_once() -> Iterator[None]:
    """Random weights depend on name, shape and seed alone; the commands' model alone is drawn a hundred times."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weights, "draw", lru_cache(maxsize=1500)(weights.draw))
        yield


@pytest.fixture(scope="session", autouse=True)
def _traced_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(from_torch, "_traced", kept(from_torch._traced, partial(shared, tmp_path_factory)))
        yield


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """An empty workspace of the test's own."""
    return Workspace(tmp_path)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """The command line, in this process."""
    return Cli(monkeypatch, capsys)


def shared(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder that is made once for all of pytest's worker processes; tests must not change it."""
    base = factory.getbasetemp()
    # Workers have folders of their own below the one of the session.
    folder = (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / name
    ready = folder.with_name(f"{name}.ready")
    with FileLock(folder.with_name(f"{name}.lock")):
        if not ready.exists():
            folder.mkdir(exist_ok=True)  # What made it may have failed the first time.
            make(folder)
            ready.touch()
    return folder


def _build(folder: Path) -> None:
    torch.set_num_threads(1)
    for command in (("export", NAME, "--weights", "random", *SIZE), ("build", "--fp32", "--fp16")):
        cli.app([*command, "--workspace", str(folder)], standalone_mode=False)


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a graph and FP32 and FP16 engines; tests must not change it."""
    return shared(tmp_path_factory, "built", _build)


@pytest.fixture(scope="session")
def streets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A custom set whose images the model of ``built`` sees at half size; tests must not change it."""
    cities = {"eichenfurt": 4, "lindenhafen": 3}
    return shared(
        tmp_path_factory, "streets", lambda root: write_cityscapes(root, "val", cities, seed=3, size=(128, 256))
    )


def _draw(root: Path) -> None:
    for split, city in (("train", "ahornstadt"), ("val", "eichenfurt")):
        write_cityscapes(root, split, {city: 2}, seed=5, size=(128, 256))


@pytest.fixture(scope="session")
def trained_streets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set with two train and two val images of 128x256; tests must not change it."""
    return shared(tmp_path_factory, "trained_streets", _draw)


@pytest.fixture(scope="session")
def calibration_streets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set with five train and two val images, twice the input of the network; tests must not change it."""
    return shared(tmp_path_factory, "calibration_streets", write_streets)


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three pictures of other sizes and kinds; tests must not change it."""
    return shared(tmp_path_factory, "photos", write_photos)


@pytest.fixture(scope="session")
def quantised(tmp_path_factory: pytest.TempPathFactory, trained_streets: Path) -> Path:
    """A workspace with a graph, its calibration, and what ``build --int8`` makes of them; tests must not change it."""

    def make(folder: Path) -> None:
        space = Workspace(folder)
        put_graph(space, small_graph())
        calibrate(space, None, CalibrateOptions(trained_streets))
        build(space, None, BuildOptions(("int8",)))

    return shared(tmp_path_factory, "quantised", make)


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A web server with the archive ffnet18, which no proxy is asked for."""
    from support.mirror import Site, served

    monkeypatch.setenv("no_proxy", "*")
    with served(Site()) as state:
        yield state


class Exported(Protocol):
    """Gives the FP32 graph of a model with random weights at a size, (H, W), serialised."""

    def __call__(self, name: str, size: tuple[int, int]) -> bytes: ...


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Graphs that several files need, each exported once."""

    def graph(name: str, size: tuple[int, int]) -> bytes:
        def make(folder: Path) -> None:
            model = from_torch.export(load_random(find(name)).module, find(name), (1, 3, *size), opset=20, metadata={})
            (folder / "graph.onnx").write_bytes(model.SerializeToString())

        return (shared(tmp_path_factory, f"{name}@{size[0]}x{size[1]}", make) / "graph.onnx").read_bytes()

    return graph


@pytest.fixture(scope="session")
def small_engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ONNX Runtime's engine of the small graph, which lies beside it as ``graph.onnx``; tests must not change it."""

    def make(folder: Path) -> None:
        (folder / "graph.onnx").write_bytes(small_graph())
        build_engine(folder / "graph.onnx", folder / "engine.onnx")

    return shared(tmp_path_factory, "small_engine", make) / "engine.onnx"

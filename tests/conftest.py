"""The same start for every test: seeds, one thread, no TF32, none of the user's settings; a skip without a GPU."""

from __future__ import annotations

import random
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import NAME, SIZE, Cli

from ffnet_deploy import bench, runtimes
from ffnet_deploy.artifacts import Workspace
from ffnet_deploy.data.scenes import write_cityscapes


@pytest.fixture(scope="session", autouse=True)
def _settings() -> None:
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


@pytest.fixture(autouse=True)
def _same_start(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.node.get_closest_marker("gpu") and not runtimes.visible_gpus():
        pytest.skip("needs a CUDA device; the driver shows none")
    for variable in ("CITYSCAPES_DATASET", "IMAGENET_DATASET"):
        monkeypatch.delenv(variable, raising=False)
    # On a busy machine the warm-up is the longest part of a benchmark, and no test needs it but its own.
    monkeypatch.setattr(bench, "Plan", partial(bench.Plan, warm_up_s=0.0, most_warm_up_s=0.0))
    # Small work: on busy cores a second thread is waited for longer than it helps; runners may have set another count.
    torch.set_num_threads(1)
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """An empty workspace of the test's own."""
    return Workspace(tmp_path)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """The command line, in this process."""
    return Cli(monkeypatch, capsys)


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a graph and FP32 and FP16 engines; tests must not change it."""
    folder = tmp_path_factory.mktemp("built")
    for command in (("export", NAME, "--weights", "random", *SIZE), ("build", "--fp32", "--fp16")):
        subprocess.run(
            [sys.executable, "-m", "ffnet_deploy.cli", *command], cwd=folder, check=True, capture_output=True
        )
    return folder


@pytest.fixture(scope="session")
def streets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A custom set whose images the model of ``built`` sees at half size; tests must not change it."""
    root = tmp_path_factory.mktemp("streets")
    write_cityscapes(root, "val", {"eichenfurt": 4, "lindenhafen": 3}, seed=3, size=(128, 256))
    return root

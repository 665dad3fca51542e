"""The same start for every test: seeds, one thread, no TF32, none of the user's settings; a skip without a GPU."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from ffnet_deploy import runtimes
from ffnet_deploy.artifacts import Workspace


@pytest.fixture(scope="session", autouse=True)
def _settings() -> None:
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


@pytest.fixture(autouse=True)
def _same_start(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.node.get_closest_marker("gpu") and not runtimes.visible_gpus():
        pytest.skip("needs a CUDA device; the driver shows none")
    monkeypatch.delenv("CITYSCAPES_DATASET", raising=False)
    # Small work: on busy cores a second thread is waited for longer than it helps; runners may have set another count.
    torch.set_num_threads(1)
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """An empty workspace of the test's own."""
    return Workspace(tmp_path)

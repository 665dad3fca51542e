"""OpenMP's waiting threads: asleep by default, spinning in what is timed, and as the user says."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from ffnet_deploy.machine import threads


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    # Set and deleted, so that it is as before after the test, whatever the test makes of it.
    monkeypatch.setenv("OMP_WAIT_POLICY", "")
    monkeypatch.delenv("OMP_WAIT_POLICY")
    monkeypatch.setattr(threads, "_ours", set())


def test_waiting_threads_sleep_but_not_in_what_is_timed() -> None:
    threads.wait_asleep()
    threads.wait_asleep()
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
    with threads.threads_spin():
        assert "OMP_WAIT_POLICY" not in os.environ
    with threads.threads_spin(wanted=False):
        assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"


def test_the_users_word_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    threads.wait_asleep()
    with threads.threads_spin():
        assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"


def test_pytorch_hears_it() -> None:
    """The environment of a running process is read when PyTorch's OpenMP is loaded."""
    program = "from ffnet_deploy.machine.threads import wait_asleep; wait_asleep(); import torch"
    environment = {**os.environ, "OMP_DISPLAY_ENV": "TRUE"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True, timeout=300
    )
    assert "OMP_WAIT_POLICY = 'PASSIVE'" in done.stderr

"""An object in a process of its own: what comes through, and how it ends."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from support.fakes import Chore

from ffnet_deploy.errors import DataError, EngineError
from ffnet_deploy.runtimes.worker import Worker

ROOT = Path(__file__).parents[2]


def gone(pid: int) -> bool:
    """No such process, or one that ended and that nobody asked about yet."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return Path("/proc").is_dir()


def wait_until_gone(pid: int, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not gone(pid) and time.monotonic() < end:
        time.sleep(0.05)
    return gone(pid)


def test_a_worker_computes_in_another_process_and_ends_with_its_block() -> None:
    with Worker("the chore", Chore) as worker:
        pid = worker.call("pid")
        assert pid != os.getpid()
        assert worker.call("pid") == pid
        assert worker.call("double", np.arange(3)).tolist() == [0, 2, 4]
    assert wait_until_gone(pid, 5)


def test_our_errors_come_through_as_they_are() -> None:
    with pytest.raises(DataError, match=r"^The set is not complete\. Copy it again\.$"), Worker("it", Chore) as worker:
        worker.call("refuse")


def test_what_the_system_refuses_comes_through_as_it_is() -> None:
    with pytest.raises(OSError, match="No space left on device: '/full'") as caught, Worker("it", Chore) as worker:
        worker.call("fill", "/full")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, "/full")
    with pytest.raises(MemoryError), Worker("it", Chore) as worker:
        worker.call("want_too_much")


def test_an_error_while_making_the_object_comes_through(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="refuses to be made"):
        Worker("the chore", Chore, str(tmp_path / "note"))


def test_an_object_that_cannot_be_made_is_tried_once_and_in_silence(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(DataError):
        Worker("the chore", Chore, str(tmp_path / "note"))
    assert (tmp_path / "note").read_text() == "made\n"
    assert capfd.readouterr() == ("", "")


def test_a_bug_keeps_its_traceback() -> None:
    with pytest.raises(RuntimeError) as caught, Worker("the chore", Chore) as worker:
        worker.call("stumble")
    message = str(caught.value)
    assert message.startswith("in the process of the chore:")
    assert "Traceback (most recent call last)" in message
    assert "ZeroDivisionError: a bug of ours" in message
    assert "stumble" in message


def test_a_worker_that_is_killed_is_an_error_that_names_it() -> None:
    with pytest.raises(EngineError) as caught, Worker("the chore", Chore) as worker:
        worker.call("die")
    message = str(caught.value)
    assert message.startswith("The process of the chore was killed by SIGKILL.")
    assert "memory" in message
    assert "\n" not in message


def test_a_worker_that_was_killed_between_two_calls_is_an_error_that_names_it() -> None:
    with Worker("the chore", Chore) as worker:
        pid = worker.call("pid")
        os.kill(pid, signal.SIGKILL)
        worker._process.join(10)  # all its threads, so that its end of the pipe is closed
        with pytest.raises(EngineError, match="The process of the chore was killed by SIGKILL"):
            worker.call("pid")


def test_leaving_by_an_error_does_not_wait_for_the_run_in_progress() -> None:
    pids = []

    def interrupted() -> None:
        with Worker("the chore", Chore) as worker:
            pids.append(worker.call("pid"))
            worker._conn.send(("sleep", (60,)))
            raise KeyboardInterrupt

    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert time.monotonic() - start < 30
    assert gone(pids[0])


def test_a_worker_dies_with_its_parent_in_the_middle_of_a_call() -> None:
    code = """if True:
        from support.fakes import Chore
        from ffnet_deploy.runtimes.worker import Worker
        worker = Worker("the chore", Chore)
        print(worker.call("pid"), flush=True)
        worker.call("sleep", 60)
    """
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests")))}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=env) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        time.sleep(0.2)  # the call is on its way
        assert not gone(pid)
        parent.kill()
        parent.wait()
        assert wait_until_gone(pid, 10)

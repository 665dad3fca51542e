"""Progress where there is no terminal: plain lines, from time to time, whatever the work reports."""

from __future__ import annotations

import threading
import time

import pytest

from ffnet_deploy.commands import output
from ffnet_deploy.commands.output import PlainProgress, plain_line


class Lines:
    """What was written, and a way to wait for it."""

    def __init__(self) -> None:
        self.all: list[str] = []
        self._came = threading.Condition()

    def __call__(self, line: str) -> None:
        with self._came:
            self.all.append(line)
            self._came.notify_all()

    def wait(self, count: int) -> None:
        """Until there are ``count`` lines."""
        with self._came:
            assert self._came.wait_for(lambda: len(self.all) >= count, timeout=60)


@pytest.mark.parametrize(
    ("state", "line"),
    [
        (("training", 120, 400), "training: 120 of 400 (30 %)"),
        (("fetching", 5_000_000, None), "fetching: 5,000,000"),
        (("exporting", 0, None), "exporting"),
        (("scoring", 0, 0), "scoring"),
    ],
)
def test_a_state_in_words(state: tuple[str, int, int | None], line: str) -> None:
    assert plain_line(*state) == line


def test_lines_go_on_when_the_work_reports_nothing() -> None:
    lines = Lines()
    with PlainProgress(0.02, lines) as told:
        told("training", 3, 12)
        lines.wait(2)
    assert all(line.startswith("training: 3 of 12 (25 %), ") for line in lines.all)


def test_short_work_and_what_comes_after_the_end_print_nothing() -> None:
    lines = Lines()
    with PlainProgress(60, lines) as told:
        for done in range(1000):
            told("training", done, 1000)
    assert lines.all == []
    with PlainProgress(0.02, lines):
        lines.wait(1)
    count = len(lines.all)
    time.sleep(0.1)
    assert len(lines.all) == count
    assert lines.all[0].startswith("working, ")


def test_lines_end_with_an_error() -> None:
    before = threading.active_count()
    with pytest.raises(ValueError, match="broken"), PlainProgress(60, Lines()):
        raise ValueError("broken")
    assert threading.active_count() == before


def test_without_a_terminal_lines_come_on_stderr(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(output, "_on_terminal", lambda: False)
    with output.progress() as told:
        assert isinstance(told, PlainProgress)
        told("exporting", 0, None)
    assert capsys.readouterr() == ("", "")

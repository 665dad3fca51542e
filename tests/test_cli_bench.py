"""What the real ``bench`` command refuses; what it gives is in test_bench_json.py, from one run of each mode."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import Cli


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--iters", "0"), "1 or more"),
        (("--iters", "0", "--mode", "cold"), "1 or more"),
        (("--min-seconds", "-1"), "0 or more"),
        (("--min-seconds", "nan"), "0 or more"),
        (("--concurrency", "2"), "--mode throughput"),
        (("--concurrency", "1", "--mode", "cold"), "--mode throughput"),
        (("--concurrency", "0", "--mode", "throughput"), "1 to 64"),
        (("--threads", "0"), "1 to 256"),
        (("--mode", "fast"), "end-to-end"),
        (("--profile", "--mode", "cold"), "--profile does not go with --mode cold"),
        (("--profile", "--concurrency", "2"), "--mode throughput"),
    ],
)
def test_bench_refuses_what_makes_no_sense(run: Cli, built: Path, args: tuple[str, ...], says: str) -> None:
    result = run("bench", *args, "--workspace", built)
    assert result.code == 2
    assert says in result.err
    assert not result.out


def test_json_to_nowhere_is_refused_before_anything_is_timed(run: Cli, built: Path, tmp_path: Path) -> None:
    result = run("bench", "--json", tmp_path / "none" / "a.json", "--workspace", built)
    assert result.code == 2
    assert "in no folder that exists" in result.err
    assert not result.out

"""Trust on first use: what is recorded, what is compared, and what is told of a damaged record."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from pathlib import Path

import pytest
from support.mirror import ARCHIVE, MODELS, NAMES, Site, untouched

from ffnet_deploy.artifacts.writing import sha256_of
from ffnet_deploy.errors import ArtifactError, WeightsError
from ffnet_deploy.zoo import checksums
from ffnet_deploy.zoo.checksums import SUMS, check_recorded
from ffnet_deploy.zoo.fetch import fetch


def test_check_recorded_trusts_the_first_use(tmp_path: Path) -> None:
    path = tmp_path / ARCHIVE / NAMES[0]
    path.parent.mkdir()
    path.write_bytes(b"first")
    assert check_recorded(path, tmp_path) == hashlib.sha256(b"first").hexdigest()
    assert (tmp_path / SUMS).read_text() == f"{sha256_of(path)}  {ARCHIVE}/{NAMES[0]}\n"
    path.write_bytes(b"second")
    with pytest.raises(WeightsError) as caught:
        check_recorded(path, tmp_path)
    for content in (b"first", b"second"):
        assert hashlib.sha256(content).hexdigest()[:16] in str(caught.value)
    assert "Restore the file, or delete its line" in str(caught.value)
    (tmp_path / SUMS).unlink()
    assert check_recorded(path, tmp_path) == hashlib.sha256(b"second").hexdigest()


def test_check_recorded_keeps_the_other_lines(tmp_path: Path) -> None:
    other = f"{'A' * 64} *ffnet34/x.pth\n\n"
    (tmp_path / SUMS).write_text(other)
    path = tmp_path / "a.pth"
    path.write_bytes(b"a")
    check_recorded(path, tmp_path)
    assert (tmp_path / SUMS).read_text() == f"{sha256_of(path)}  a.pth\n{'a' * 64}  ffnet34/x.pth\n"


def test_check_recorded_only_hashes_a_file_outside(tmp_path: Path) -> None:
    folder, path = tmp_path / "weights", tmp_path / "mine.pth"
    folder.mkdir()
    path.write_bytes(b"mine")
    for spelling in (path, folder / ".." / "mine.pth"):
        assert check_recorded(spelling, folder) == hashlib.sha256(b"mine").hexdigest()
    assert untouched(folder)


def test_check_recorded_follows_a_link_under_its_own_name(tmp_path: Path) -> None:
    folder, path = tmp_path / "weights", tmp_path / "disk.pth"
    folder.mkdir()
    path.write_bytes(b"elsewhere")
    (folder / "a.pth").symlink_to(path)
    check_recorded(folder / "a.pth", folder)
    path.write_bytes(b"changed")
    with pytest.raises(WeightsError, match="recorded at its first use"):
        check_recorded(folder / "a.pth", folder)


def test_check_recorded_bears_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise ArtifactError("read-only")

    monkeypatch.setattr(checksums, "write_bytes", refuse)
    path = tmp_path / "a.pth"
    path.write_bytes(b"a")
    assert check_recorded(path, tmp_path) == hashlib.sha256(b"a").hexdigest()


@pytest.mark.parametrize("text", [b"not a line\n", b"\xff\xfe\n"])
def test_a_damaged_record_is_told(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "a.pth"
    path.write_bytes(b"a")
    (tmp_path / SUMS).write_bytes(text)
    with pytest.raises(WeightsError, match=SUMS):
        check_recorded(path, tmp_path)
    assert (tmp_path / SUMS).read_bytes() == text


def test_a_damaged_record_is_told_before_the_download(site: Site, tmp_path: Path) -> None:
    (tmp_path / SUMS).write_text("not a line\n")
    with pytest.raises(WeightsError, match=f"Line 1 of .*{SUMS}"):
        fetch([ARCHIVE], tmp_path, source=site.url)
    assert site.asked == []


def test_check_recorded_of_an_absent_file(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"a\.pth cannot be read .*--weights"):
        check_recorded(tmp_path / "a.pth", tmp_path)


@pytest.mark.parametrize(
    "line",
    [f"{'a' * 63}  x", f"\\{'a' * 64}  x", f"{'a' * 64}x", f"{'a' * 64}  ", f"{'٣' * 64}  x", "\x00", "x" * 300],
)
def test_an_odd_line_is_told(tmp_path: Path, line: str) -> None:
    (tmp_path / SUMS).write_text(f"{'b' * 64}  good\n{line}\n", "utf-8")
    with pytest.raises(WeightsError, match=r"Line 2 of .*Correct or delete the line\."):
        checksums.recorded(tmp_path)


def test_two_hashes_of_one_file_are_told(tmp_path: Path) -> None:
    (tmp_path / SUMS).write_text(f"{'a' * 64}  x\n{'A' * 64} *x\n{'b' * 64}  x\n")
    with pytest.raises(WeightsError, match=r"Line 3 of .* has another hash for x\. Delete one of the two lines\."):
        checksums.recorded(tmp_path)


def test_names_may_hold_what_breaks_no_line(tmp_path: Path) -> None:
    names = [" two  words ", "a\u2028b", "tab\tbed", "\x0c"]
    for name in names:
        (tmp_path / name).write_bytes(name.encode())
        check_recorded(tmp_path / name, tmp_path)
    assert set(checksums.recorded(tmp_path)) == set(names)
    (tmp_path / SUMS).write_text((tmp_path / SUMS).read_text().replace("\n", "\r\n"))
    assert checksums.recorded(tmp_path)["tab\tbed"] == hashlib.sha256(b"tab\tbed").hexdigest()


@pytest.mark.parametrize("name", [b"a\nb.pth", b"a\\b.pth", b"\xff.pth", b"a\r.pth"])
def test_a_name_that_fits_no_line_is_only_hashed(tmp_path: Path, name: bytes) -> None:
    path = tmp_path / os.fsdecode(name)
    path.write_bytes(b"a")
    assert check_recorded(path, tmp_path) == hashlib.sha256(b"a").hexdigest()
    assert not (tmp_path / SUMS).exists()


def test_a_record_that_is_too_long_or_no_file(tmp_path: Path) -> None:
    with (tmp_path / SUMS).open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(WeightsError, match=r"has more than 1048576 bytes\. Restore it"):
        checksums.recorded(tmp_path)
    (tmp_path / SUMS).unlink()
    (tmp_path / SUMS).mkdir()
    with pytest.raises(WeightsError, match=r"SHA256SUMS cannot be read .*Restore it"):
        checksums.recorded(tmp_path)


def test_two_processes_that_record_lose_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, real = threading.Thread(target=lambda: checksums.record(tmp_path, {"a": "a" * 64})), checksums.recorded
    read = threading.Event()

    def slow(folder: Path) -> dict[str, str]:
        known = real(folder)
        if threading.current_thread() is first:
            read.set()
            time.sleep(0.05)
        return known

    monkeypatch.setattr(checksums, "recorded", slow)
    first.start()
    read.wait()
    checksums.record(tmp_path, {"b": "b" * 64})
    first.join()
    assert real(tmp_path) == {"a": "a" * 64, "b": "b" * 64}
    assert [path.name for path in tmp_path.iterdir()] == [SUMS]


def test_what_lies_in_another_models_place_is_not_fetched_again() -> None:
    path = Path("w", "models", "weights", ARCHIVE, NAMES[0])
    assert checksums.fetch_again(path, MODELS[1]) is None
    for name in (None, MODELS[0]):
        assert str(checksums.fetch_again(path, name)) == f"ffnet-deploy weights fetch {MODELS[0]} --again --workspace w"


def test_the_error_names_the_command_that_helps(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "weights"
    for name, words in (
        (f"{ARCHIVE}/{NAMES[1]}", "Run: ffnet-deploy weights fetch segmentation_ffnet18_dAAA --again --workspace "),
        ("mine.pth", "Restore the file, or delete its line"),
    ):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"first")
        check_recorded(path, folder)
        path.write_bytes(b"second")
        with pytest.raises(WeightsError, match=words):
            check_recorded(path, folder)

"""Trust on first use: what is recorded, what is compared, and what is told of a damaged record."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from support.mirror import ARCHIVE, NAMES, Site, untouched

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
        assert hashlib.sha256(content).hexdigest() in str(caught.value)
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

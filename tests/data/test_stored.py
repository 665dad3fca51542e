"""Bytes come back whole from files, archives and slices, from many threads; what is damaged is one clear line."""

from __future__ import annotations

import os
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from ffnet_deploy.data.stored import MOST_BYTES, File, Slice, Stored, ZipMember, members
from ffnet_deploy.errors import DataError

COUNT = 40


def content(i: int) -> bytes:
    """Half noise, half zeros: some of it packs, some does not."""
    return np.random.default_rng(i).bytes(3000 + 17 * i) + bytes(2000)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("folder/", "")
        for i in range(COUNT):
            file.writestr(f"folder/{i}.png", content(i), zipfile.ZIP_DEFLATED if i % 2 else zipfile.ZIP_STORED)
    return path


@pytest.fixture
def tar(tmp_path: Path) -> Path:
    path = tmp_path / "set.tar"
    with tarfile.open(path, "w") as file:
        for i in range(COUNT):
            (tmp_path / "one").write_bytes(content(i))
            file.add(tmp_path / "one", f"{i}.JPEG")
    return path


def slices(tar: Path) -> list[Slice]:
    with tarfile.open(tar) as file:
        return [Slice(tar, item.name, item.offset_data, item.size) for item in file]


def one_line(error: DataError) -> str:
    assert "\n" not in str(error)
    return str(error)


# --- reading --------------------------------------------------------------------------------------------------------


def test_each_kind_gives_the_bytes_and_says_where_they_are(tmp_path: Path, archive: Path, tar: Path) -> None:
    (tmp_path / "file.png").write_bytes(content(3))
    for stored, where in (
        (File(tmp_path / "file.png"), f"{tmp_path}/file.png"),
        (ZipMember(archive, "folder/3.png"), f"{archive}:folder/3.png"),
        (slices(tar)[3], f"{tar}:3.JPEG"),
    ):
        assert stored.read() == content(3)
        assert str(stored) == where


def test_members_are_the_files(archive: Path) -> None:
    assert members(archive) == [f"folder/{i}.png" for i in range(COUNT)]


@pytest.mark.parametrize("threads", [1, 8])
def test_archives_are_read_from_several_threads(archive: Path, tar: Path, threads: int) -> None:
    both: list[list[Stored]] = [[ZipMember(archive, f"folder/{i}.png") for i in range(COUNT)], [*slices(tar)]]
    for stored in both:
        wanted = [content(i) for i in range(COUNT)] * 5
        with ThreadPoolExecutor(threads) as pool:
            assert list(pool.map(lambda one: one.read(), stored * 5)) == wanted


def test_threads_that_end_leave_no_archive_open(archive: Path) -> None:
    open_files = Path("/proc/self/fd")
    if not open_files.is_dir():
        pytest.skip("this system does not tell its open files")
    before = len(list(open_files.iterdir()))
    for _ in range(5):
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda i: ZipMember(archive, f"folder/{i}.png").read(), range(COUNT)))
    assert len(list(open_files.iterdir())) <= before + 1


def test_an_archive_that_was_replaced_is_opened_anew(archive: Path) -> None:
    member = ZipMember(archive, "folder/3.png")
    assert member.read() == content(3)
    other = archive.with_name("other.zip")
    with zipfile.ZipFile(other, "w") as file:
        file.writestr("folder/3.png", b"new")
    other.replace(archive)
    assert member.read() == b"new"


# --- what is damaged ------------------------------------------------------------------------------------------------


def test_what_is_not_there_is_named(tmp_path: Path, archive: Path) -> None:
    for stored in (
        File(tmp_path / "none"),
        File(tmp_path),
        ZipMember(tmp_path / "none.zip", "a"),
        ZipMember(archive, "folder/none.png"),
        Slice(tmp_path / "none.tar", "a", 0, 5),
    ):
        with pytest.raises(DataError, match="cannot be read") as caught:
            stored.read()
        assert one_line(caught.value).startswith(f"{stored} cannot be read (")
        assert one_line(caught.value).endswith("Check the disk and its permissions, or copy it again.")


def test_no_flipped_bit_in_a_member_gives_other_bytes(tmp_path: Path) -> None:
    path = tmp_path / "small.zip"
    wanted = b"some label image " * 9
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a.png", wanted)
    data = path.read_bytes()
    refused = 0
    for position in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[position // 8] ^= 1 << position % 8
        # Another name each time: by size and time it would be the same archive.
        other = tmp_path / f"{position}.zip"
        other.write_bytes(bytes(flipped))
        try:
            assert "a.png" not in members(other) or ZipMember(other, "a.png").read() == wanted, position
        except DataError as error:
            one_line(error)
            refused += 1
        other.unlink()
    # Times and attributes matter to nobody; all the rest is refused.
    assert refused > 3 * len(data)


def test_a_truncated_archive_is_refused(archive: Path) -> None:
    data = archive.read_bytes()
    for size in (0, 10, len(data) // 2, len(data) - 30):
        archive.write_bytes(data[:size])
        with pytest.raises(DataError, match=r"cannot be read as a zip archive .* Download it again\.$"):
            members(archive)


def test_an_encrypted_member_is_refused(archive: Path) -> None:
    data = bytearray(archive.read_bytes())
    with zipfile.ZipFile(archive) as file:
        at = file.getinfo("folder/0.png").header_offset
    directory = data.index(b"PK\x01\x02")
    # The flag stands in the member's own header and in the directory.
    data[at + 6] |= 1
    data[directory + len(b"PK\x01\x02") + 4] |= 1
    archive.write_bytes(bytes(data))
    refused = [name for name in ("folder/", "folder/0.png") if _is_refused(ZipMember(archive, name))]
    assert refused


def _is_refused(stored: Stored) -> bool:
    try:
        stored.read()
    except DataError as error:
        one_line(error)
        return True
    return False


def test_a_slice_that_is_cut_off_says_how_much_is_there(tar: Path) -> None:
    last = slices(tar)[-1]
    with tar.open("r+b") as file:
        file.truncate(last.offset + 100)
    with pytest.raises(DataError, match=rf"is cut off \(100 of {last.size} bytes are there\)\. Copy the archive again"):
        last.read()
    assert slices_read(last) == content(COUNT - 2)


def slices_read(last: Slice) -> bytes:
    """The member before the last one, which is still whole."""
    with tarfile.open(last.path) as file:
        item = next(item for item in file if item.name == f"{COUNT - 2}.JPEG")
    return Slice(last.path, item.name, item.offset_data, item.size).read()


# --- stamps ---------------------------------------------------------------------------------------------------------


def test_a_stamp_stays_while_nothing_changes(tmp_path: Path, archive: Path, tar: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    for stored in (File(tmp_path / "file"), ZipMember(archive, "folder/3.png"), slices(tar)[3]):
        before = stored.stamp()
        stored.read()
        assert stored.stamp() == before


def test_a_stamp_changes_with_size_and_with_time(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x")
    stamps = {File(path).stamp()}
    path.write_bytes(b"xy")
    stamps.add(File(path).stamp())
    os.utime(path, ns=(1, 1))
    stamps.add(File(path).stamp())
    path.unlink()
    stamps.add(File(path).stamp())
    assert len(stamps) == 4


def test_members_of_an_archive_are_stamped_by_their_content(tmp_path: Path, archive: Path) -> None:
    stamps = {ZipMember(archive, f"folder/{i}.png").stamp() for i in range(COUNT)}
    assert len(stamps) == COUNT
    # Packed in another way and at another time, the content is the same.
    with zipfile.ZipFile(tmp_path / "again.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("elsewhere.png", content(0))
    again = ZipMember(tmp_path / "again.zip", "elsewhere.png")
    assert again.stamp() == ZipMember(archive, "folder/0.png").stamp()


def test_slices_of_one_archive_have_stamps_of_their_own(tar: Path) -> None:
    assert len({one.stamp() for one in slices(tar)}) == COUNT
    before = slices(tar)[0].stamp()
    os.utime(tar, ns=(1, 1))
    assert slices(tar)[0].stamp() != before


def test_what_is_not_there_has_a_stamp(tmp_path: Path, archive: Path) -> None:
    for stored in (File(tmp_path / "none"), ZipMember(tmp_path / "none.zip", "a"), ZipMember(archive, "none")):
        assert stored.stamp() == "absent"


def test_files_that_declare_gigabytes_are_not_read(tmp_path: Path) -> None:
    sparse = tmp_path / "a.png"
    with sparse.open("wb") as file:
        file.truncate(MOST_BYTES + 1)
    member = tmp_path / "a.zip"
    with zipfile.ZipFile(member, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as out, out.open("a.png", "w") as file:
        for _ in range(513):
            file.write(bytes(1 << 20))
    assert member.stat().st_size < 4_000_000
    for stored in (File(sparse), ZipMember(member, "a.png"), Slice(sparse, "a", 0, MOST_BYTES + 1)):
        with pytest.raises(DataError, match=r"has 53[67],[0-9,]+ bytes \(a picture of at most 536,870,912 was"):
            stored.read()

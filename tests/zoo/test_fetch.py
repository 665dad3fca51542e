"""Fetching against a real server on loopback that cuts, lies and changes its mind."""

from __future__ import annotations

import hashlib
import io
import random
import stat
import struct
import subprocess
import threading
import urllib.request
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.error import URLError

import pytest

from ffnet_deploy.artifacts.writing import sha256_of
from ffnet_deploy.errors import ArtifactError, UnknownModelError, WeightsError
from ffnet_deploy.zoo import archive as unpacking
from ffnet_deploy.zoo import checksums
from ffnet_deploy.zoo import fetch as module
from ffnet_deploy.zoo.archive import Fetched
from ffnet_deploy.zoo.checksums import SUMS, check_recorded
from ffnet_deploy.zoo.fetch import ARCHIVES, FetchProgress, fetch
from ffnet_deploy.zoo.specs import SPECS

ARCHIVE = "ffnet18"
NAMES = sorted({s.weights_file.partition("/")[2] for s in SPECS.values() if s.archive == ARCHIVE})
CONTENTS = {name: random.Random(name).randbytes(150_000) for name in NAMES}
FAST = (0.0, 0.0)


def zip_of(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as zipped:
        for name, data in members.items():
            zipped.writestr(name, data)
    return out.getvalue()


GOOD = zip_of({f"{ARCHIVE}/{name}": data for name, data in CONTENTS.items()} | {f"{ARCHIVE}/README.txt": b"no weights"})


@dataclass
class Site:
    """What the server does; the lists are used up one item per request."""

    data: bytes = GOOD
    version: str | None = '"one"'
    """The entity tag, or a date if it does not look like one."""
    status: int = 200
    statuses: list[int] = field(default_factory=list)
    cuts: list[int] = field(default_factory=list)
    """Bytes of the body after which the connection is closed."""
    ranges: bool = True
    conditions: bool = True
    """Heed If-Range."""
    announce: bool = True
    """Send a Content-Length."""
    total: int | None = None
    """What Content-Range says of the whole file, where it lies."""
    first: int = 0
    """Added to the first byte that Content-Range names, where it lies."""
    location: str | None = None
    asked: list[tuple[str | None, str | None]] = field(default_factory=list)
    """Range and If-Range of every request so far."""
    url: str = ""


class Handler(BaseHTTPRequestHandler):
    site: Site

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name it has in the base class
        pass

    def do_GET(self) -> None:
        site = self.site
        wanted, condition = self.headers.get("Range"), self.headers.get("If-Range")
        site.asked.append((wanted, condition))
        status = site.statuses.pop(0) if site.statuses else site.status
        if self.path != f"/models/{ARCHIVE}.zip":
            status = 404
        start = 0
        if status == 200 and wanted and site.ranges and (condition == site.version or not site.conditions):
            status, start = 206, int(wanted.removeprefix("bytes=").removesuffix("-"))
        body = site.data[start:] if status in (200, 206) else b"no such thing"
        self.send_response(status)
        if site.location:
            self.send_header("Location", site.location)
        if status == 206:
            self.send_header("Content-Range", f"bytes {start + site.first}-{len(site.data) - 1}/{site.total or '*'}")
        if site.version:
            self.send_header("ETag" if '"' in site.version else "Last-Modified", site.version)
        if site.announce:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: site.cuts.pop(0) if site.cuts else None])


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("no_proxy", "*")
    state = Site()
    with ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"site": state})) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        state.url = f"http://127.0.0.1:{server.server_port}/models"
        yield state
        server.shutdown()
        thread.join()


@pytest.fixture
def archives(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Every archive as it was handed to be unpacked: a zip is readable even with rubbish before it."""
    seen: list[bytes] = []
    unpack = unpacking.unpack

    def spy(archive: str, folder: Path, path: Path, origin: str) -> Fetched:
        seen.append(path.read_bytes())
        return unpack(archive, folder, path, origin)

    monkeypatch.setattr(module, "unpack", spy)
    return seen


def complete(folder: Path) -> bool:
    """Every state dict is there with the right bytes, recorded, and nothing else is."""
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    sums = "".join(f"{hashlib.sha256(CONTENTS[name]).hexdigest()}  {ARCHIVE}/{name}\n" for name in NAMES)
    return (
        names == {SUMS, *(f"{ARCHIVE}/{name}" for name in NAMES)}
        and all((folder / ARCHIVE / name).read_bytes() == CONTENTS[name] for name in NAMES)
        and (folder / SUMS).read_text() == sums
    )


def untouched(folder: Path) -> bool:
    return not [path for path in folder.rglob("*") if path.is_file()]


def part(folder: Path) -> Path:
    return folder / ".downloads" / f"{ARCHIVE}.zip.part"


def test_there_are_19_archives() -> None:
    assert len(ARCHIVES) == 19
    assert {"ffnet46NS", "ffnet150S"} <= set(ARCHIVES)


def test_fetches_from_a_url_and_reports_bytes(site: Site, tmp_path: Path) -> None:
    seen: list[FetchProgress] = []
    (fetched,) = fetch([ARCHIVE, ARCHIVE], tmp_path, source=f"{site.url}/", progress=seen.append)
    assert complete(tmp_path)
    assert fetched.files == tuple(tmp_path / ARCHIVE / name for name in NAMES)
    assert fetched.origin == f"{site.url}/{ARCHIVE}.zip"
    assert seen[-1] == FetchProgress(ARCHIVE, len(GOOD), len(GOOD))
    assert [p.done for p in seen] == sorted({p.done for p in seen})
    assert site.asked == [(None, None)]
    assert not (tmp_path / ".downloads").exists()


def test_the_published_place_is_the_default(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BASE_URL", site.url)
    fetch([ARCHIVE], tmp_path)
    assert complete(tmp_path)


def test_sha256sum_reads_the_record(site: Site, tmp_path: Path) -> None:
    fetch([ARCHIVE], tmp_path, source=site.url)
    subprocess.run(["sha256sum", "--check", "--strict", SUMS], cwd=tmp_path, check=True, capture_output=True)


def test_what_is_in_place_is_not_downloaded_again(site: Site, tmp_path: Path) -> None:
    fetch([ARCHIVE], tmp_path, source=site.url)
    (again,) = fetch([ARCHIVE], tmp_path, source=site.url)
    assert again.origin is None
    assert again.files == tuple(tmp_path / ARCHIVE / name for name in NAMES)
    assert len(site.asked) == 1


def test_a_damaged_file_is_mended(site: Site, tmp_path: Path) -> None:
    fetch([ARCHIVE], tmp_path, source=site.url)
    (tmp_path / ARCHIVE / NAMES[0]).write_bytes(b"damaged")
    fetch([ARCHIVE], tmp_path, source=site.url)
    assert complete(tmp_path)


def test_a_cut_connection_goes_on_where_it_was(site: Site, tmp_path: Path, archives: list[bytes]) -> None:
    site.cuts = [200_000, 100_000]
    fetch([ARCHIVE], tmp_path, source=site.url, pauses_s=FAST)
    assert complete(tmp_path)
    assert archives == [GOOD]
    assert site.asked == [(None, None), ("bytes=200000-", '"one"'), ("bytes=300000-", '"one"')]


def test_a_date_serves_where_there_is_no_strong_tag(site: Site, tmp_path: Path) -> None:
    site.version = "Wed, 01 May 2024 10:00:00 GMT"
    site.cuts = [200_000]
    fetch([ARCHIVE], tmp_path, source=site.url, pauses_s=FAST)
    assert complete(tmp_path)
    assert site.asked[1] == ("bytes=200000-", site.version)


@pytest.mark.parametrize("version", [None, 'W/"weak"'])
def test_without_a_version_nothing_is_continued(site: Site, tmp_path: Path, version: str | None) -> None:
    site.version = version
    site.cuts = [200_000]
    fetch([ARCHIVE], tmp_path, source=site.url, pauses_s=FAST)
    assert complete(tmp_path)
    assert site.asked == [(None, None), (None, None)]
    site.data, site.cuts = GOOD, [200_000]
    with pytest.raises(WeightsError, match=f"200000 of {len(GOOD)} bytes arrived") as caught:
        fetch([ARCHIVE], tmp_path / "other", source=site.url, pauses_s=())
    assert "kept" not in str(caught.value)


def test_cut_every_time_keeps_the_part_and_the_next_call_ends_it(site: Site, tmp_path: Path) -> None:
    site.cuts = [100_000, 50_000, 50_000]
    with pytest.raises(WeightsError, match=r"200000 bytes are kept in .*Run the same command"):
        fetch([ARCHIVE], tmp_path, source=site.url, pauses_s=FAST)
    assert part(tmp_path).read_bytes() == GOOD[:200_000]
    assert not (tmp_path / ARCHIVE).exists()
    fetch([ARCHIVE], tmp_path, source=site.url, pauses_s=FAST)
    assert complete(tmp_path)
    assert site.asked[-1] == ("bytes=200000-", '"one"')


def test_cut_without_a_length_is_not_taken_for_whole(site: Site, tmp_path: Path) -> None:
    site.announce = False
    site.cuts = [200_000]
    with pytest.raises(WeightsError, match="cannot be unpacked"):
        fetch([ARCHIVE], tmp_path, source=site.url, pauses_s=FAST)
    assert untouched(tmp_path)


def test_ctrl_c_keeps_the_part(site: Site, tmp_path: Path) -> None:
    def interrupt(progress: FetchProgress) -> None:
        if progress.done > 100_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch([ARCHIVE], tmp_path, source=site.url, progress=interrupt)
    kept = part(tmp_path).stat().st_size
    assert kept > 100_000
    fetch([ARCHIVE], tmp_path, source=site.url)
    assert complete(tmp_path)
    assert site.asked[1] == (f"bytes={kept}-", '"one"')


def test_stopped_while_unpacking_downloads_nothing_again(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "unpack", interrupt)
        with pytest.raises(KeyboardInterrupt):
            fetch([ARCHIVE], tmp_path, source=site.url)
    fetch([ARCHIVE], tmp_path, source=site.url)
    assert complete(tmp_path)
    assert len(site.asked) == 1


def test_a_server_without_ranges_starts_over(site: Site, tmp_path: Path, archives: list[bytes]) -> None:
    site.ranges = False
    site.cuts = [200_000]
    fetch([ARCHIVE], tmp_path, source=site.url, pauses_s=FAST)
    assert complete(tmp_path)
    assert archives == [GOOD]
    assert site.asked[1] == ("bytes=200000-", '"one"')


def test_a_changed_file_is_never_mixed_with_the_old_one(site: Site, tmp_path: Path, archives: list[bytes]) -> None:
    site.data, site.cuts = bytes(len(GOOD)), [200_000]
    with pytest.raises(WeightsError, match="200000 bytes are kept"):
        fetch([ARCHIVE], tmp_path, source=site.url, pauses_s=())
    site.data, site.version = GOOD, '"two"'
    fetch([ARCHIVE], tmp_path, source=site.url, pauses_s=())
    assert complete(tmp_path)
    assert archives == [GOOD]
    assert site.asked[1] == ("bytes=200000-", '"one"')


def test_a_range_of_a_changed_file_is_thrown_away(site: Site, tmp_path: Path, archives: list[bytes]) -> None:
    site.data, site.cuts, site.conditions = bytes(len(GOOD)), [200_000], False
    with pytest.raises(WeightsError, match="200000 bytes are kept"):
        fetch([ARCHIVE], tmp_path, source=site.url, pauses_s=())
    site.data, site.version = GOOD, '"two"'
    fetch([ARCHIVE], tmp_path, source=site.url, pauses_s=FAST)
    assert complete(tmp_path)
    assert archives == [GOOD]
    assert [wanted for wanted, _ in site.asked] == [None, "bytes=200000-", None]


def test_a_network_that_comes_back_is_waited_for(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site.cuts = [200_000]
    real, calls = urllib.request.urlopen, iter([True, False, True])

    def flaky(request: urllib.request.Request, timeout: float) -> object:
        if next(calls):
            return real(request, timeout=timeout)
        raise URLError("network is down")

    monkeypatch.setattr("urllib.request.urlopen", flaky)
    fetch([ARCHIVE], tmp_path, source=site.url, pauses_s=FAST)
    assert complete(tmp_path)
    assert site.asked[1] == ("bytes=200000-", '"one"')


def test_another_mirror_starts_over(site: Site, tmp_path: Path) -> None:
    site.cuts = [200_000]
    with pytest.raises(WeightsError, match="bytes are kept"):
        fetch([ARCHIVE], tmp_path, source=site.url, pauses_s=())
    fetch([ARCHIVE], tmp_path, source=site.url.replace("127.0.0.1", "localhost"), pauses_s=())
    assert complete(tmp_path)
    assert site.asked[1] == (None, None)


def test_a_wrong_range_is_thrown_away(site: Site, tmp_path: Path, archives: list[bytes]) -> None:
    site.cuts, site.first = [200_000], 7
    fetch([ARCHIVE], tmp_path, source=site.url, pauses_s=FAST)
    assert complete(tmp_path)
    assert archives == [GOOD]
    assert [wanted for wanted, _ in site.asked] == [None, "bytes=200000-", None]


def test_a_part_that_does_not_fit_starts_over(site: Site, tmp_path: Path, archives: list[bytes]) -> None:
    site.cuts, site.statuses = [200_000], [200, 416]
    fetch([ARCHIVE], tmp_path, source=site.url, pauses_s=FAST)
    assert complete(tmp_path)
    assert archives == [GOOD]
    assert [wanted for wanted, _ in site.asked] == [None, "bytes=200000-", None]


def test_more_than_the_announced_bytes(site: Site, tmp_path: Path) -> None:
    site.cuts = [200_000]
    with pytest.raises(WeightsError, match="bytes are kept"):
        fetch([ARCHIVE], tmp_path, source=site.url, pauses_s=())
    site.announce, site.total = False, 300_000
    with pytest.raises(WeightsError, match="more than the 300000 bytes announced"):
        fetch([ARCHIVE], tmp_path, source=site.url, pauses_s=())
    assert untouched(tmp_path)


def test_fewer_than_the_announced_bytes(site: Site, tmp_path: Path) -> None:
    site.cuts = [0]
    with pytest.raises(WeightsError, match=f"0 of {len(GOOD)} bytes arrived"):
        fetch([ARCHIVE], tmp_path, source=site.url, pauses_s=())


@pytest.mark.parametrize("announce", [True, False])
def test_an_endless_download_is_stopped(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, announce: bool
) -> None:
    site.announce = announce
    monkeypatch.setattr(unpacking, "TOTAL_LIMIT", 100_000)
    with pytest.raises(WeightsError, match="sends too much"):
        fetch([ARCHIVE], tmp_path, source=site.url, pauses_s=FAST)
    assert untouched(tmp_path)
    assert len(site.asked) == 1


def test_a_busy_server_is_asked_again(site: Site, tmp_path: Path) -> None:
    site.statuses = [503, 429]
    fetch([ARCHIVE], tmp_path, source=site.url, pauses_s=FAST)
    assert complete(tmp_path)
    assert len(site.asked) == 3


def test_404_names_the_url_and_the_ways_on(site: Site, tmp_path: Path) -> None:
    site.status = 404
    with pytest.raises(WeightsError) as caught:
        fetch([ARCHIVE], tmp_path, source=site.url, pauses_s=FAST)
    for text in (f"{site.url}/{ARCHIVE}.zip", "HTTP 404", "--from", str(tmp_path / ARCHIVE)):
        assert text in str(caught.value)
    assert len(site.asked) == 1
    assert untouched(tmp_path)


def test_a_refused_connection_is_told_at_once(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(_: float) -> None:
        raise AssertionError("waited for a host that never answered")

    monkeypatch.setattr("time.sleep", never)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        port = server.server_port
    with pytest.raises(WeightsError, match=r"no connection.*--from"):
        fetch([ARCHIVE], tmp_path, source=f"http://127.0.0.1:{port}")
    with pytest.raises(WeightsError, match=r"not a usable address.*--from"):
        fetch([ARCHIVE], tmp_path, source="http://127.0.0.1/a b")
    assert site.asked == []


def test_a_redirect_is_followed_but_not_off_the_web(site: Site, tmp_path: Path) -> None:
    site.status, site.location = 302, "file:///etc/passwd"
    with pytest.raises(WeightsError, match="HTTP 302"):
        fetch([ARCHIVE], tmp_path, source=site.url)
    site.statuses, site.status, site.location = [302], 200, f"{site.url}/{ARCHIVE}.zip"
    fetch([ARCHIVE], tmp_path, source=site.url)
    assert complete(tmp_path)


def test_a_redirect_may_not_drop_encryption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Plain(io.BytesIO):
        url = "http://elsewhere.example/ffnet18.zip"

    answer = Plain(GOOD)
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: answer)
    with pytest.raises(WeightsError, match=r"leads to http://elsewhere.*without encryption"):
        fetch([ARCHIVE], tmp_path)
    assert answer.closed
    assert untouched(tmp_path)


def test_an_unknown_archive(tmp_path: Path) -> None:
    with pytest.raises(UnknownModelError, match=r"'ffnet19' .*ffnet18"):
        fetch(["ffnet19"], tmp_path, source=tmp_path)


def linked() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as zipped:
        info = zipfile.ZipInfo(f"{ARCHIVE}/{NAMES[0]}")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        zipped.writestr(info, "/etc/passwd")
    return out.getvalue()


def patched(data: bytes, local: int, central: int, layout: str, value: int) -> bytes:
    """The zip with one field of its first member's local and central header replaced."""
    out = bytearray(data)
    struct.pack_into(layout, out, data.index(b"PK\3\4") + local, value)
    struct.pack_into(layout, out, data.index(b"PK\1\2") + central, value)
    return bytes(out)


def bomb(declared: int) -> bytes:
    data = zip_of({f"{ARCHIVE}/{NAMES[0]}": bytes(5_000_000)}, zipfile.ZIP_DEFLATED)
    return patched(data, 22, 24, "<I", declared)


PLAIN = zip_of({f"{ARCHIVE}/{NAMES[0]}": CONTENTS[NAMES[0]]})
HOSTILE = {
    "parent": (zip_of({f"../{NAMES[0]}": b"x"}), r"'\.\./ffnet18_.*out of the folder"),
    "deeper parent": (zip_of({f"{ARCHIVE}/../../{NAMES[0]}": b"x"}), "out of the folder"),
    "parent of another file": (zip_of({f"{ARCHIVE}/{NAMES[0]}": b"x", "../evil.sh": b"x"}), r"'\.\./evil\.sh'"),
    "absolute": (zip_of({f"/tmp/{NAMES[0]}": b"x"}), "'/tmp/ffnet18_.*out of the folder"),
    "backslash": (zip_of({f"..\\{NAMES[0]}": b"x"}), "out of the folder"),
    "drive": (zip_of({f"C:{NAMES[0]}": b"x"}), "out of the folder"),
    "line break": (zip_of({f"{ARCHIVE}/ffnet18_\n_state_dict_quarts.pth": b"x"}), "out of the folder"),
    "symlink": (linked(), "a link or a device"),
    "encrypted": (patched(PLAIN, 6, 8, "<H", 1), r": encrypted \(needed"),
    "packed otherwise": (zip_of({f"{ARCHIVE}/{NAMES[0]}": b"x"}, zipfile.ZIP_LZMA), "packed by method 14"),
    "bomb that declares less": (bomb(1000), "CRC"),
    "declares more": (bomb(6_000_000), "does not unpack to the 6000000 bytes"),
    "declares too much": (bomb(3_000_000_000), "3000000000 bytes where 1073741824 is the limit"),
    "no state dict": (zip_of({f"{ARCHIVE}/readme.txt": b"x", f"{ARCHIVE}/other.pth": b"x"}), "no member is named"),
    "another's state dicts": (zip_of({"ffnet34/ffnet34_AAX_imagenet_state_dict_quarts.pth": b"x"}), "no member"),
    "twice": (zip_of({f"a/{NAMES[0]}": b"x", f"b/{NAMES[0]}": b"y"}), "is in it twice"),
    "not a zip": (b"<html>Please log in</html>", "cannot be unpacked: File is not a zip file"),
    "empty": (b"", "cannot be unpacked"),
    "truncated": (GOOD[:-1000], "cannot be unpacked"),
    "damaged inside": (GOOD[:500] + b"XXXX" + GOOD[504:], "CRC"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_bad_archive_is_refused_and_removed(site: Site, tmp_path: Path, case: str) -> None:
    site.data, message = HOSTILE[case]
    folder = tmp_path / "a" / "weights"
    with pytest.raises(WeightsError, match=message) as caught:
        fetch([ARCHIVE], folder, source=site.url, pauses_s=FAST)
    assert "--from" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert untouched(tmp_path)
    site.data, site.version = GOOD, '"mended"'
    fetch([ARCHIVE], folder, source=site.url)
    assert complete(folder)
    assert site.asked == [(None, None), (None, None)]


def test_many_members_together_are_limited(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site.data = zip_of({f"{ARCHIVE}/{name}": bytes(50_000) for name in NAMES}, zipfile.ZIP_DEFLATED)
    monkeypatch.setattr(unpacking, "TOTAL_LIMIT", 50_001)
    with pytest.raises(WeightsError, match="declare 150000 bytes where 50001 is the limit"):
        fetch([ARCHIVE], tmp_path, source=site.url)
    assert untouched(tmp_path)


def test_one_bad_member_keeps_the_good_ones_out(site: Site, tmp_path: Path) -> None:
    broken = bytearray(GOOD)
    broken[GOOD.index(CONTENTS[NAMES[-1]])] ^= 1
    site.data = bytes(broken)
    with pytest.raises(WeightsError, match=f"{NAMES[-1]}.*CRC"):
        fetch([ARCHIVE], tmp_path, source=site.url)
    assert untouched(tmp_path)


@pytest.mark.parametrize("lead", ["", "model_weights/ffnet18/"])
def test_members_are_placed_by_name(tmp_path: Path, lead: str) -> None:
    source = tmp_path / "mirror"
    source.mkdir()
    members = {f"{lead}{name}": data for name, data in CONTENTS.items()}
    members |= {f"__MACOSX/{lead}._{NAMES[0]}": b"resource fork"}
    (source / f"{ARCHIVE}.zip").write_bytes(zip_of(members, zipfile.ZIP_DEFLATED))
    fetch([ARCHIVE], tmp_path / "weights", source=str(source))
    assert complete(tmp_path / "weights")
    assert (source / f"{ARCHIVE}.zip").is_file()


@pytest.mark.parametrize("below", ["", ARCHIVE])
def test_a_folder_of_state_dicts(tmp_path: Path, below: str) -> None:
    source = tmp_path / "mirror"
    (source / below).mkdir(parents=True)
    for name, data in CONTENTS.items():
        (source / below / name).write_bytes(data)
    (source / below / "ffnet34_AAX_imagenet_state_dict_quarts.pth").write_bytes(b"of another archive")
    (source / below / "ffnet18_optimizer.pth").write_bytes(b"not a state dict")
    seen: list[FetchProgress] = []
    fetch([ARCHIVE], tmp_path / "weights", source=source, progress=seen.append)
    assert complete(tmp_path / "weights")
    assert seen == [FetchProgress(ARCHIVE, 150_000 * len(NAMES), 150_000 * len(NAMES))]


def test_a_folder_with_a_bad_zip_keeps_it(tmp_path: Path) -> None:
    (tmp_path / f"{ARCHIVE}.zip").write_bytes(GOOD[:5000])
    with pytest.raises(WeightsError, match="cannot be unpacked"):
        fetch([ARCHIVE], tmp_path / "weights", source=tmp_path)
    assert (tmp_path / f"{ARCHIVE}.zip").read_bytes() == GOOD[:5000]
    assert untouched(tmp_path / "weights")


def test_a_folder_without_the_archive(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightsError, match=r"empty has no state dicts of ffnet18 .*ffnet18\.zip.*--from"):
        fetch([ARCHIVE], tmp_path / "weights", source=tmp_path / "empty")


@pytest.mark.parametrize("source", ["absent", "file.zip", "ftp://127.0.0.1/x", "file:///tmp", ""])
def test_a_source_that_is_no_place(tmp_path: Path, source: str) -> None:
    (tmp_path / "file.zip").write_bytes(GOOD)
    place = source if "://" in source or not source else str(tmp_path / source)
    with pytest.raises(WeightsError, match=r"holds no archives \(an http\(s\) URL or a folder was needed\)"):
        fetch([ARCHIVE], tmp_path / "weights", source=place)


def test_an_archive_that_differs_from_the_record_changes_nothing(site: Site, tmp_path: Path) -> None:
    fetch([ARCHIVE], tmp_path, source=site.url)
    (tmp_path / ARCHIVE / NAMES[0]).unlink()
    site.data = zip_of({name: bytes(10) for name in NAMES})
    with pytest.raises(WeightsError, match=rf"place or recorded: [0-9a-f]{{64}}.*{SUMS}"):
        fetch([ARCHIVE], tmp_path, source=site.url)
    assert not (tmp_path / ARCHIVE / NAMES[0]).exists()
    assert (tmp_path / ARCHIVE / NAMES[1]).read_bytes() == CONTENTS[NAMES[1]]
    assert not (tmp_path / ".downloads").exists()
    site.data = GOOD
    fetch([ARCHIVE], tmp_path, source=site.url)
    assert complete(tmp_path)


def test_a_file_nobody_recorded_is_not_overwritten(site: Site, tmp_path: Path) -> None:
    mine = tmp_path / ARCHIVE / NAMES[0]
    mine.parent.mkdir()
    mine.write_bytes(b"trained at home")
    with pytest.raises(WeightsError, match="The old file is kept; to take the new one, delete"):
        fetch([ARCHIVE], tmp_path, source=site.url)
    assert mine.read_bytes() == b"trained at home"


def test_a_folder_that_cannot_be_written_is_the_artefacts_error(site: Site, tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(b"a file where the folder should be")
    with pytest.raises(ArtifactError, match="--workspace DIR"):
        fetch([ARCHIVE], tmp_path / "weights", source=site.url)


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

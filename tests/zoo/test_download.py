"""Downloading from a real server on loopback that cuts, lies and changes its mind."""

from __future__ import annotations

import json
import socket
import threading
from contextlib import suppress
from http.server import ThreadingHTTPServer
from pathlib import Path
from urllib.error import URLError
from urllib.request import OpenerDirector, Request

import pytest
from support.mirror import ARCHIVE, FAST, GOOD, OTHERS, Handler, Site, complete, part, untouched, zip_of

from ffnet_deploy.artifacts.sealing import sealed
from ffnet_deploy.errors import ArtifactError, WeightsError
from ffnet_deploy.zoo import archive as unpacking
from ffnet_deploy.zoo import fetch as module
from ffnet_deploy.zoo.address import Address
from ffnet_deploy.zoo.archive import Fetched, Origin
from ffnet_deploy.zoo.download import FetchProgress
from ffnet_deploy.zoo.fetch import fetch


@pytest.fixture
def archives(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Every archive as it was handed to be unpacked: a zip is readable even with rubbish before it."""
    seen: list[bytes] = []
    unpack = unpacking.unpack

    def spy(archive: str, folder: Path, path: Path, origin: Origin, *, again: bool) -> Fetched:
        seen.append(path.read_bytes())
        return unpack(archive, folder, path, origin, again=again)

    monkeypatch.setattr(module, "unpack", spy)
    return seen


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
    assert not list((tmp_path / ARCHIVE).glob("*.pth"))
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
    def interrupt(*_: object, **__: object) -> None:
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
    real, calls = OpenerDirector.open, iter([True, False, True])

    def flaky(opener: OpenerDirector, request: Request, timeout: float) -> object:
        if next(calls):
            return real(opener, request, timeout=timeout)
        raise URLError("network is down")

    monkeypatch.setattr(OpenerDirector, "open", flaky)
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


def test_another_query_starts_over(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where all has arrived: what tells two archives apart may be a token, which is not kept."""

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    site.path = f"/models/{ARCHIVE}.zip?version=1"
    with monkeypatch.context() as patch:
        patch.setattr(module, "unpack", stop)
        with pytest.raises(KeyboardInterrupt):
            fetch([ARCHIVE], tmp_path, source=f"{site.url}?version=1")
    site.path, site.data = f"/models/{ARCHIVE}.zip?version=2", zip_of(OTHERS)
    fetch([ARCHIVE], tmp_path, source=f"{site.url}?version=2")
    assert complete(tmp_path, OTHERS)
    assert site.asked == [(None, None), (None, None)]


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


# --- what is not ours -----------------------------------------------------------------------------------------------

NOTES = {
    "no JSON": "{",
    "deep": "[" * 100_000,
    "a list": "[1]",
    "nothing": "{}",
    "a number of another type": '{"url_sha256": 1, "version": "x", "total": 5}',
    "a list for a version": '{"url_sha256": "URL", "version": ["x"], "total": 900000}',
    "true for a total": '{"url_sha256": "URL", "version": "x", "total": true}',
    "text for a total": '{"url_sha256": "URL", "version": "x", "total": "900000"}',
    "a fraction": '{"url_sha256": "URL", "version": "x", "total": 900000.5}',
    "a huge total": '{"url_sha256": "URL", "version": "x", "total": 1' + "0" * 400 + "}",
    "a number of many digits": '{"url_sha256": "URL", "version": "x", "total": 1' + "0" * 5000 + "}",
    "less than there is": '{"url_sha256": "URL", "version": "x", "total": 5}',
    "another header in it": '{"url_sha256": "URL", "version": "x\\r\\nEvil: 1", "total": 900000}',
    "a version that no header holds": '{"url_sha256": "URL", "version": "\\ud800\\u20ac", "total": 900000}',
    "long": '{"url_sha256": "URL", "version": "' + "x" * 100_000 + '", "total": 900000}',
}


@pytest.mark.parametrize("case", NOTES)
def test_a_note_that_is_not_ours_continues_nothing(site: Site, tmp_path: Path, case: str) -> None:
    part(tmp_path).parent.mkdir()
    part(tmp_path).write_bytes(b"not of that archive")
    text = NOTES[case].replace("URL", Address.of(f"{site.url}/{ARCHIVE}.zip").sha256)
    # With a checksum that fits, where it can have one.
    with suppress(ValueError, TypeError, RecursionError):
        text = json.dumps(sealed(json.loads(text)))
    part(tmp_path).with_suffix(".json").write_text(text)
    fetch([ARCHIVE], tmp_path, source=site.url, pauses_s=())
    assert complete(tmp_path)
    assert site.asked == [(None, None)]


@pytest.mark.parametrize("name", [".download.part", ".download.json"])
def test_folders_in_the_place_of_our_files(site: Site, tmp_path: Path, name: str) -> None:
    (tmp_path / ARCHIVE / name).mkdir(parents=True)
    with pytest.raises(ArtifactError, match=r"cannot be written: Is a directory.*--workspace DIR"):
        fetch([ARCHIVE], tmp_path, source=site.url, pauses_s=())


@pytest.mark.parametrize(
    "line",
    ["", "bytes */5", "bytes 1-2/" + "9" * 5000, "bytes " + "9" * 5000 + "-3/5", "bytes ٣-٤/٥", "items 200000-1/2"],
)
def test_a_range_that_is_none_starts_over(site: Site, tmp_path: Path, line: str, archives: list[bytes]) -> None:
    site.cuts, site.range_line = [200_000], line.encode().decode("latin-1")
    fetch([ARCHIVE], tmp_path, source=site.url, pauses_s=FAST)
    assert complete(tmp_path)
    assert archives == [GOOD]


@pytest.mark.parametrize("version", ['"a\r\n b"', '"' + "x" * 500 + '"', '"ä"', '"\x1b[2J"'])
def test_a_version_that_cannot_be_sent_back(site: Site, tmp_path: Path, version: str) -> None:
    site.cuts, site.version = [200_000], version
    fetch([ARCHIVE], tmp_path, source=site.url, pauses_s=FAST)
    assert complete(tmp_path)
    assert site.asked == [(None, None), (None, None)]


ANSWERS = {
    "nothing": b"",
    "no HTTP": b"\x1b[2J\x00SSH-2.0 hello\r\n\r\n",
    "half a line": b"HTTP/1.1 20",
    "a status that is none": b"HTTP/1.1 \x1b[2J\xff gone\r\n\r\n",
    "a long line": b"HTTP/1.1 200 " + b"x" * 70_000,
    "many headers": b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 200 + b"\r\n",
    "a bad chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "a negative chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\n",
    "a huge length": b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\nabc",
    "a negative length": b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nabc",
    "a reason": b"HTTP/1.1 418 \x1b]0;owned\x07\r\n\r\n",
}


@pytest.mark.parametrize("case", ANSWERS)
def test_no_answer_ends_in_a_traceback(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65_536)
                connection.sendall(ANSWERS[case])

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(WeightsError) as caught:
            fetch([ARCHIVE], tmp_path, source=f"http://127.0.0.1:{listener.getsockname()[1]}", pauses_s=())
        thread.join()
    assert str(caught.value).isprintable()
    assert "--from" in str(caught.value)
    assert not list(tmp_path.rglob("*.pth"))

"""Downloading from a real server on loopback that cuts, lies and changes its mind."""

from __future__ import annotations

from http.server import ThreadingHTTPServer
from pathlib import Path
from urllib.error import URLError
from urllib.request import OpenerDirector, Request

import pytest
from support.mirror import ARCHIVE, FAST, GOOD, Handler, Site, complete, part, untouched

from ffnet_deploy.errors import WeightsError
from ffnet_deploy.zoo import archive as unpacking
from ffnet_deploy.zoo import fetch as module
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

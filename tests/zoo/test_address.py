"""Addresses: no secret is shown or kept, and no redirect leads off encryption or off the web."""

from __future__ import annotations

import base64
import socket
import subprocess
from pathlib import Path

import pytest
from support.mirror import ARCHIVE, FAST, NAMES, OTHERS, Site, complete, part, served, untouched, zip_of

from ffnet_deploy.errors import WeightsError
from ffnet_deploy.zoo.address import Address, AddressError, without_secrets
from ffnet_deploy.zoo.fetch import fetch

SECRET = "s3cr3t"
BASIC = f"Basic {base64.b64encode(b'user@home:s3cr3t/?').decode()}"


def with_user(url: str) -> str:
    return url.replace("//", f"//user%40home:{SECRET}%2F%3F@")


@pytest.fixture
def other(monkeypatch: pytest.MonkeyPatch) -> Site:
    """A second server, not started yet."""
    monkeypatch.setenv("no_proxy", "*")
    return Site()


def test_credentials_are_sent_and_never_told(site: Site, tmp_path: Path) -> None:
    site.cuts = [200_000]
    source = f"{with_user(site.url)}?token={SECRET}"
    site.path += f"?token={SECRET}"
    with pytest.raises(WeightsError, match="200000 bytes are kept") as caught:
        fetch([ARCHIVE], tmp_path, source=source, pauses_s=())
    assert SECRET not in str(caught.value)
    assert f"{site.url}/{ARCHIVE}.zip broke off" in str(caught.value)
    note = part(tmp_path).with_suffix(".json").read_text()
    assert SECRET not in note
    assert Address.of(f"{site.url}/{ARCHIVE}.zip?token={SECRET}").sha256 in note
    (fetched,) = fetch([ARCHIVE], tmp_path, source=source)
    assert complete(tmp_path)
    assert fetched.origin == f"{site.url}/{ARCHIVE}.zip"
    assert site.addressed == [(site.path, BASIC)] * 2
    assert site.asked[1] == ("bytes=200000-", '"one"')


@pytest.mark.parametrize("status", [404, 401, 503])
def test_an_error_does_not_tell_credentials(site: Site, tmp_path: Path, status: int) -> None:
    site.status = status
    with pytest.raises(WeightsError, match=f"HTTP {status}") as caught:
        fetch([ARCHIVE], tmp_path, source=with_user(site.url), pauses_s=())
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "source",
    [
        "ftp://user:{}@127.0.0.1/x",
        "file://user:{}@host/x",
        "http://user:{}@[::1/x",
        "http://user:{}@127.0.0.1:port/x",
        "http://user:p/{}@127.0.0.1/x",
        "http://user:p?{}@127.0.0.1/x",
        "http://user:p#{}@127.0.0.1/x",
        "http://user:p@{}@:1/x",
        "http://user:{}@127.0.0.1/a b",
        "http://user:{}@127.0.0.1/\x1b[2J",
        "HTTPS://user:{}@/x",
    ],
)
def test_what_is_no_address_tells_no_credentials(source: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError) as caught:
        fetch([ARCHIVE], tmp_path, source=source.format(SECRET))
    assert SECRET not in str(caught.value)
    assert str(caught.value).isprintable()
    assert untouched(tmp_path)


def test_credentials_stay_with_their_server(site: Site, other: Site, tmp_path: Path) -> None:
    with served(other):
        site.statuses, site.location = [302], f"{other.url}/{ARCHIVE}.zip?signature={SECRET}"
        other.path += f"?signature={SECRET}"
        fetch([ARCHIVE], tmp_path / "a", source=with_user(site.url))
    assert site.addressed[0][1] == BASIC
    assert other.addressed == [(other.path, None)]
    site.statuses, site.location = [302], f"/models/{ARCHIVE}.zip"
    fetch([ARCHIVE], tmp_path / "b", source=with_user(site.url))
    assert [sent for _, sent in site.addressed[1:]] == [BASIC, BASIC]
    assert complete(tmp_path / "a")
    assert complete(tmp_path / "b")


def test_a_redirect_to_nowhere_tells_no_token(site: Site, tmp_path: Path) -> None:
    site.status, site.location = 302, f"http://user:{SECRET}@[/x?signature={SECRET}"
    with pytest.raises(WeightsError, match=r"is not a usable address\. Name another place") as caught:
        fetch([ARCHIVE], tmp_path, source=site.url)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("scheme", ["ftp", "file", "data", "gopher", "\x1b[2J"])
def test_no_redirect_leads_off_the_web(site: Site, tmp_path: Path, scheme: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        site.status, site.location = 302, f"{scheme}://127.0.0.1:{listener.getsockname()[1]}/etc/passwd"
        with pytest.raises(WeightsError, match=r"is not a usable address|more than 10 times") as caught:
            fetch([ARCHIVE], tmp_path, source=site.url, pauses_s=FAST)
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert str(caught.value).isprintable()
    assert untouched(tmp_path)


def test_redirects_end(site: Site, tmp_path: Path) -> None:
    site.status, site.location = 302, f"{site.url}/{ARCHIVE}.zip"
    with pytest.raises(WeightsError, match=r"redirected more than 10 times\. Name another place"):
        fetch([ARCHIVE], tmp_path, source=site.url)
    assert len(site.asked) == 10
    site.statuses, site.status = [301, 303, 307, 308], 200
    fetch([ARCHIVE], tmp_path, source=site.url)
    assert complete(tmp_path)


def test_a_redirect_without_an_address(site: Site, tmp_path: Path) -> None:
    site.status = 302
    with pytest.raises(WeightsError, match="HTTP 302"):
        fetch([ARCHIVE], tmp_path, source=site.url)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a certificate for 127.0.0.1, in one file."""
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=127.0.0.1"
    command = ["openssl", *words.split(), "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "-", "-out", "-"]
    path.write_bytes(subprocess.run(command, check=True, capture_output=True).stdout)
    return path


def test_https_stays_https_on_the_way(
    site: Site, certificate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with served(Site(), certificate) as first, served(Site(), certificate) as second:
        first.statuses, first.location = [302], f"{second.url}/{ARCHIVE}.zip"
        fetch([ARCHIVE], tmp_path / "good", source=first.url)
        assert complete(tmp_path / "good")
        # The way back to https would be too late: what is asked on the way is read by everyone.
        site.status, site.location = 302, f"{second.url}/{ARCHIVE}.zip"
        first.statuses, first.location = [302], f"{site.url}/{ARCHIVE}.zip"
        with pytest.raises(WeightsError, match=rf"it leads to {site.url}/{ARCHIVE}\.zip, without encryption\. Name"):
            fetch([ARCHIVE], tmp_path / "bad", source=with_user(first.url))
    assert site.asked == []
    assert untouched(tmp_path / "bad")


def test_a_server_of_unknown_certificate(certificate: Path, other: Site, tmp_path: Path) -> None:
    with served(other, certificate), pytest.raises(WeightsError, match=r"no connection.*certificate"):
        fetch([ARCHIVE], tmp_path, source=other.url)
    assert other.asked == []


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://host/a/b", "https://host/a/b"),
        ("https://u:p@host:8443/a?token=t#f", "https://host:8443/a"),
        ("https://u:p@host/gh/user/repo@main/a", "https://host/gh/user/repo@main/a"),
        ("https://host/a?token=a/b@c", "https://host/a"),
        ("https://u:p@host/a#b@c", "https://host/a"),
        ("//u:p@host/a", "//host/a"),
        (" http://u:p@host/a", " http://host/a"),
        ("http://u:p/q@host/a", "http://host/a"),
        ("http://[/a?token=b@c", "http://…"),
        ("http://u:p?q@host/a", "http://…"),
        ("/a/folder?", "/a/folder?"),
    ],
)
def test_what_is_shown(text: str, shown: str) -> None:
    assert without_secrets(text) == shown
    if text.startswith("https"):
        address = Address.of(text)
        assert str(address) == f"{address}" == shown
        assert "p@" not in repr(address)
        assert "token" not in repr(address)


def test_an_address_with_an_at_is_asked_shown_and_named_again(site: Site, tmp_path: Path) -> None:
    weights = tmp_path / "models" / "weights"
    site.path, site.status = f"/gh/user/repo@main/{ARCHIVE}.zip", 404
    source = site.url.replace("/models", "/gh/user/repo@main")
    with pytest.raises(WeightsError, match=rf"^{source}/{ARCHIVE}\.zip cannot be downloaded: HTTP 404"):
        fetch([ARCHIVE], weights, source=source)
    site.status = 200
    fetch([ARCHIVE], weights, source=source)
    (weights / ARCHIVE / NAMES[0]).unlink()
    site.data, site.version = zip_of(OTHERS), '"two"'
    with pytest.raises(WeightsError, match=rf" Run: .* --from {source}( |$)"):
        fetch([ARCHIVE], weights, source=source)


def test_a_folder_keeps_its_query() -> None:
    assert Address.of("http://host/models/?key=1").below("a.zip").url == "http://host/models/a.zip?key=1"
    assert Address.of("http://host").below("a.zip").url == "http://host/a.zip"


def test_a_location_may_hold_any_byte() -> None:
    assert Address.of("https://host/a").redirected("/ä b").url == "https://host/%E4%20b"
    with pytest.raises(AddressError):
        Address.of("https://host/a").redirected("https://[half")

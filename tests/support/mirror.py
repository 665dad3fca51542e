"""A real web server on loopback that holds one archive of weights, and cuts, lies and changes its mind as told."""

from __future__ import annotations

import hashlib
import io
import ssl
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import torch

from ffnet_deploy.zoo.checksums import SUMS
from ffnet_deploy.zoo.specs import ModelSpec, find
from ffnet_deploy.zoo.weights import shapes_of

ARCHIVE = "ffnet18"
MODELS = ("classification_ffnet18_AAX", "segmentation_ffnet18_dAAA", "segmentation_ffnet18_dAAC")
FAST = (0.0, 0.0)
_PADDING = 38_000
"""Values that a file holds though its tensors need one: the file must be long enough to be cut."""


def file_of(spec: ModelSpec) -> str:
    return spec.weights_file.partition("/")[2]


def state_of(spec: ModelSpec, value: float = 0.25, padding: int = _PADDING) -> dict[str, torch.Tensor]:
    """A state dict that fits, in two small storages: every tensor is one number, seen through strides of zero."""
    number, count = torch.full((padding,), value)[:1], torch.tensor(7)
    return {
        key: (count if key.endswith("num_batches_tracked") else number.reshape([1] * len(shape))).expand(shape)
        for key, shape in shapes_of(spec).items()
    }


def saved_bytes(value: object, *, legacy: bool = False) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, _use_new_zipfile_serialization=not legacy)
    return file.getvalue()


def zip_of(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as zipped:
        for name, data in members.items():
            zipped.writestr(name, data)
    return out.getvalue()


NAMES = [file_of(find(name)) for name in MODELS]
CONTENTS = {file_of(find(name)): saved_bytes(state_of(find(name), 0.1 * n)) for n, name in enumerate(MODELS, 1)}
OTHERS = {file_of(find(name)): saved_bytes(state_of(find(name), 0.7 * n)) for n, name in enumerate(MODELS, 1)}
"""As good, with other values."""
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
    range_line: str | None = None
    """Content-Range as it is sent, where that is no range."""
    first: int = 0
    """Added to the first byte that Content-Range names, where it lies."""
    location: str | None = None
    """Where the old address leads."""
    path: str = f"/models/{ARCHIVE}.zip"
    asked: list[tuple[str | None, str | None]] = field(default_factory=list)
    """Range and If-Range of every request so far."""
    addressed: list[tuple[str, str | None]] = field(default_factory=list)
    """Path, and Authorization."""
    url: str = ""


class Handler(BaseHTTPRequestHandler):
    """Answers as its site says."""

    site: Site

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name it has in the base class
        pass

    def do_GET(self) -> None:
        site = self.site
        wanted, condition = self.headers.get("Range"), self.headers.get("If-Range")
        site.asked.append((wanted, condition))
        site.addressed.append((self.path, self.headers.get("Authorization")))
        status = site.statuses.pop(0) if site.statuses else site.status
        if self.path != site.path and status == 200:
            status = 404
        start = 0
        if status == 200 and wanted and site.ranges and (condition == site.version or not site.conditions):
            status, start = 206, int(wanted.removeprefix("bytes=").removesuffix("-"))
        body = site.data[start:] if status in (200, 206) else b"no such thing"
        self.send_response(status)
        if site.location:
            self.send_header("Location", site.location)
        if status == 206:
            line = f"bytes {start + site.first}-{len(site.data) - 1}/{site.total or '*'}"
            self.send_header("Content-Range", site.range_line or line)
        if site.version:
            self.send_header("ETag" if '"' in site.version else "Last-Modified", site.version)
        if site.announce:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: site.cuts.pop(0) if site.cuts else None])


@contextmanager
def served(site: Site, certificate: Path | None = None) -> Iterator[Site]:
    """Serve a site on a port of its own; with a certificate and its key in one file, by https."""
    with ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"site": site})) as server:
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        site.url = f"http{'s' if certificate else ''}://127.0.0.1:{server.server_port}/models"
        yield site
        server.shutdown()
        thread.join()


def complete(folder: Path, contents: dict[str, bytes] = CONTENTS) -> bool:
    """Every state dict is there with the right bytes, recorded, and nothing else is."""
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    sums = "".join(f"{hashlib.sha256(contents[name]).hexdigest()}  {ARCHIVE}/{name}\n" for name in NAMES)
    return (
        names == {SUMS, *(f"{ARCHIVE}/{name}" for name in NAMES)}
        and all((folder / ARCHIVE / name).read_bytes() == contents[name] for name in NAMES)
        and (folder / SUMS).read_text() == sums
    )


def untouched(folder: Path) -> bool:
    return not [path for path in folder.rglob("*") if path.is_file()]


def part(folder: Path) -> Path:
    return folder / ARCHIVE / ".download.part"

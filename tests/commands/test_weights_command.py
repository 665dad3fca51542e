"""The real ``weights fetch`` command: what it says, and that the commands which errors name really help."""

from __future__ import annotations

import hashlib
import re
import shlex
from pathlib import Path

import pytest
from support.cli_runner import Cli, Result
from support.mirror import ARCHIVE, CONTENTS, NAMES, OTHERS, Site, complete, zip_of

from ffnet_deploy.artifacts.workspace import Workspace
from ffnet_deploy.pipeline.export import ExportOptions, export
from ffnet_deploy.zoo import fetch as module
from ffnet_deploy.zoo import weights
from ffnet_deploy.zoo.checksums import SUMS
from ffnet_deploy.zoo.specs import ModelSpec, find
from ffnet_deploy.zoo.weights import LoadedWeights, load

MODEL = "segmentation_ffnet18_dAAA"


@pytest.fixture
def space(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """An empty workspace; the authors publish at ``site``."""
    monkeypatch.setattr(module, "BASE_URL", site.url)
    return Workspace(tmp_path / "some work space")


def named(result: Result) -> list[str]:
    """The words of the command that an error ends with."""
    assert result.code == 3, result
    assert result.err.count("\n") == 1
    found = re.fullmatch(r"error: .* Run: ffnet-deploy (.*)\n", result.err)
    assert found, result.err
    return shlex.split(found[1])


def put(space: Workspace, name: str, data: bytes, *, trusted: bool) -> Path:
    file = space.weights / ARCHIVE / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    if trusted:
        with (space.weights / SUMS).open("a") as sums:
            sums.write(f"{hashlib.sha256(data).hexdigest()}  {ARCHIVE}/{name}\n")
    return file


def test_fetch_says_what_came_and_what_was_there(run: Cli, space: Workspace) -> None:
    lines = [str(space.weights / ARCHIVE / name) for name in NAMES]
    assert run("weights", "fetch", MODEL, "--workspace", space.root).out.splitlines() == lines
    again = run("weights", "fetch", MODEL, "--workspace", space.root)
    assert again.out.splitlines() == [f"{line}  (already there)" for line in lines]
    assert run("weights", "fetch", MODEL, "--again", "--workspace", space.root).out.splitlines() == lines
    assert complete(space.weights)


@pytest.mark.parametrize("data", [b"<html>404", b"", CONTENTS[NAMES[2]]], ids=["page", "empty", "of another model"])
def test_export_of_a_bad_file_that_was_trusted(run: Cli, space: Workspace, data: bytes) -> None:
    """Versions before this one recorded whatever came, so that fetching again did nothing."""
    for name, content in (CONTENTS | {NAMES[1]: data}).items():
        file = put(space, name, content, trusted=True)
    words = named(run("export", MODEL, "--workspace", space.root))
    assert words[:4] == ["weights", "fetch", MODEL, "--again"]
    assert run(*words).code == 0
    assert complete(space.weights)
    assert load(find(MODEL), file.with_name(NAMES[1])).marks == ()


def test_export_of_another_models_file(run: Cli, space: Workspace) -> None:
    file = put(space, NAMES[0], CONTENTS[NAMES[0]], trusted=True)
    result = run("export", MODEL, "--weights", file, "--workspace", space.root)
    assert result.code == 3
    assert result.err.endswith(f"or get {ARCHIVE}/{NAMES[1]}: ffnet-deploy weights fetch {MODEL}\n")


def test_inspect_of_a_bad_file_that_was_trusted(run: Cli, space: Workspace) -> None:
    file = put(space, NAMES[1], b"<html>404", trusted=True)
    words = named(run("inspect", file, "--workspace", space.root))
    assert run(*words).code == 0
    assert run("inspect", file, "--workspace", space.root).code == 0


def test_export_of_a_file_that_changed(run: Cli, space: Workspace) -> None:
    assert run("weights", "fetch", MODEL, "--workspace", space.root).code == 0
    put(space, NAMES[1], OTHERS[NAMES[1]], trusted=False)
    assert run(*named(run("export", MODEL, "--workspace", space.root))).code == 0
    assert complete(space.weights)


def test_export_records_what_it_read(space: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    file = put(space, NAMES[1], CONTENTS[NAMES[1]], trusted=False)

    def and_replace(spec: ModelSpec, path: Path) -> LoadedWeights:
        loaded = load(spec, path)
        path.write_bytes(OTHERS[NAMES[1]])
        return loaded

    def stop(stage: str, *_: object) -> None:
        if stage == "exporting":
            raise KeyboardInterrupt

    monkeypatch.setattr(weights, "load", and_replace)
    with pytest.raises(KeyboardInterrupt):
        export(space, MODEL, ExportOptions(), stop)
    known = f"{hashlib.sha256(CONTENTS[NAMES[1]]).hexdigest()}  {ARCHIVE}/{NAMES[1]}\n"
    assert (space.weights / SUMS).read_text() == known
    assert file.read_bytes() == OTHERS[NAMES[1]]


@pytest.mark.parametrize("mirrored", [True, False])
def test_weights_that_were_published_anew(run: Cli, space: Workspace, site: Site, mirrored: bool) -> None:
    source = ("--from", site.url) if mirrored else ()
    assert run("weights", "fetch", MODEL, *source, "--workspace", space.root).code == 0
    (space.weights / ARCHIVE / NAMES[1]).unlink()
    site.data, site.version = zip_of(OTHERS), '"two"'
    words = named(run("weights", "fetch", MODEL, *source, "--workspace", space.root))
    assert ("--from" in words) == mirrored
    assert named(run("export", MODEL, "--workspace", space.root)) == [w for w in words if w not in source]
    assert run(*words).code == 0
    assert complete(space.weights, OTHERS)


def test_an_archive_without_the_weights_that_were_asked_for(run: Cli, space: Workspace, site: Site) -> None:
    site.data = zip_of({NAMES[0]: CONTENTS[NAMES[0]]})
    result = run("weights", "fetch", MODEL, "--workspace", space.root)
    assert result.code == 3
    assert f"The archive {ARCHIVE} has no {ARCHIVE}/{NAMES[1]}" in result.err
    assert result.err.endswith(" were needed). Name another place with --from URL_OR_FOLDER.\n")
    exported = run("export", MODEL, "--workspace", space.root)
    assert exported.err.startswith(result.err.rstrip("\n"))
    assert exported.err.count("--weights FILE") == 1
    assert run("weights", "fetch", "classification_ffnet18_AAX", "--workspace", space.root).code == 0


def test_credentials_reach_neither_the_terminal_nor_the_disk(run: Cli, space: Workspace, site: Site) -> None:
    source = site.url.replace("//", "//user:s3cr3t@")
    for cuts in ([200_000] * 9, [], [], []):
        site.cuts = cuts
        site.status = 200
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("time.sleep", lambda _: None)
            result = run("weights", "fetch", MODEL, "--from", source, "--again", "--workspace", space.root)
        assert "s3cr3t" not in result.out + result.err
        assert not [p for p in space.root.rglob("*") if p.is_file() and b"s3cr3t" in p.read_bytes()]
    assert result.code == 0


def test_what_a_server_says_cannot_move_the_cursor(run: Cli, space: Workspace, site: Site) -> None:
    site.status, site.location = 302, "http://\x1b[2Jhost:x/\x1b]0;title\x07"
    result = run("weights", "fetch", MODEL, "--workspace", space.root)
    assert result.code == 3
    assert result.err.rstrip("\n").isprintable()
    site.status, site.location = 200, None
    site.data = zip_of({f"\x1b[2J/../{NAMES[0]}": b"x"})
    result = run("weights", "fetch", MODEL, "--workspace", space.root)
    assert "out of the folder" in result.err
    assert result.err.rstrip("\n").isprintable()

"""Fetching: from where, what is in place, what is replaced and what is not."""

from __future__ import annotations

import hashlib
import subprocess
import zipfile
from pathlib import Path

import pytest
from support.mirror import ARCHIVE, CONTENTS, GOOD, NAMES, OTHERS, Site, complete, untouched, zip_of

from ffnet_deploy.errors import ArtifactError, UnknownModelError, WeightsError
from ffnet_deploy.zoo import checksums, weights
from ffnet_deploy.zoo import fetch as module
from ffnet_deploy.zoo.checksums import SUMS
from ffnet_deploy.zoo.download import FetchProgress
from ffnet_deploy.zoo.fetch import ARCHIVES, fetch
from ffnet_deploy.zoo.specs import ModelSpec
from ffnet_deploy.zoo.weights import FittingState


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


def test_an_unknown_archive(tmp_path: Path) -> None:
    with pytest.raises(UnknownModelError, match=r"'ffnet19' .*ffnet18"):
        fetch(["ffnet19"], tmp_path, source=tmp_path)


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
    size = sum(map(len, CONTENTS.values()))
    assert seen == [FetchProgress(ARCHIVE, size, size)]


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
    site.data = zip_of(OTHERS)
    with pytest.raises(WeightsError, match=r"in place or recorded: [0-9a-f]{16}…\)\. The old file is kept\."):
        fetch([ARCHIVE], tmp_path, source=site.url)
    assert not (tmp_path / ARCHIVE / NAMES[0]).exists()
    assert (tmp_path / ARCHIVE / NAMES[1]).read_bytes() == CONTENTS[NAMES[1]]
    site.data = GOOD
    fetch([ARCHIVE], tmp_path, source=site.url)
    assert complete(tmp_path)


def test_a_file_nobody_recorded_is_not_overwritten(site: Site, tmp_path: Path) -> None:
    mine = tmp_path / ARCHIVE / NAMES[0]
    mine.parent.mkdir()
    mine.write_bytes(b"trained at home")
    with pytest.raises(WeightsError, match=r"The old file is kept\. Add --again"):
        fetch([ARCHIVE], tmp_path, source=site.url)
    assert mine.read_bytes() == b"trained at home"


def test_a_folder_that_cannot_be_written_is_the_artefacts_error(site: Site, tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(b"a file where the folder should be")
    with pytest.raises(ArtifactError, match="--workspace DIR"):
        fetch([ARCHIVE], tmp_path / "weights", source=site.url)


# --- what is trusted, and what is replaced when that is asked for ---------------------------------------------------


def test_again_replaces_what_differs(site: Site, tmp_path: Path) -> None:
    fetch([ARCHIVE], tmp_path, source=site.url)
    site.data, site.version = zip_of(OTHERS), '"two"'
    (fetched,) = fetch([ARCHIVE], tmp_path, source=site.url)
    assert fetched.origin is None
    (fetched,) = fetch([ARCHIVE], tmp_path, source=site.url, again=True)
    assert fetched.origin == f"{site.url}/{ARCHIVE}.zip"
    assert complete(tmp_path, OTHERS)
    assert len(site.asked) == 2


def test_again_keeps_what_is_in_place_where_the_new_is_of_no_use(site: Site, tmp_path: Path) -> None:
    fetch([ARCHIVE], tmp_path, source=site.url)
    site.data = zip_of(OTHERS | {NAMES[-1]: b"<html>"})
    with pytest.raises(WeightsError, match=f"{NAMES[-1]} from .* nothing of it was installed"):
        fetch([ARCHIVE], tmp_path, source=site.url, again=True)
    assert complete(tmp_path)


def test_again_replaces_a_file_nobody_recorded(tmp_path: Path) -> None:
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror" / f"{ARCHIVE}.zip").write_bytes(GOOD)
    weights = tmp_path / "weights"
    mine = weights / ARCHIVE / NAMES[0]
    mine.parent.mkdir(parents=True)
    mine.write_bytes(OTHERS[NAMES[0]])
    with pytest.raises(WeightsError, match="The old file is kept"):
        fetch([ARCHIVE], weights, source=tmp_path / "mirror")
    assert mine.read_bytes() == OTHERS[NAMES[0]]
    assert [path.name for path in weights.rglob("*") if path.is_file()] == [NAMES[0]]
    fetch([ARCHIVE], weights, source=tmp_path / "mirror", again=True)
    assert complete(weights)


def test_what_is_of_no_use_is_not_recorded_where_it_lies(site: Site, tmp_path: Path) -> None:
    (tmp_path / ARCHIVE).mkdir()
    for name, data in (CONTENTS | {NAMES[-1]: b"<html>"}).items():
        (tmp_path / ARCHIVE / name).write_bytes(data)
    with pytest.raises(WeightsError, match=f"{NAMES[-1]} from .* The old file is kept"):
        fetch([ARCHIVE], tmp_path, source=site.url)
    assert NAMES[-1] not in checksums.recorded(tmp_path)
    (tmp_path / ARCHIVE / NAMES[-1]).write_bytes(CONTENTS[NAMES[-1]])
    fetch([ARCHIVE], tmp_path, source="http://127.0.0.1:1/nobody")
    assert complete(tmp_path)


def test_what_is_recorded_is_what_was_read(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ARCHIVE).mkdir()
    for name, data in CONTENTS.items():
        (tmp_path / ARCHIVE / name).write_bytes(data)
    real = weights.read_fitting

    def and_replace(spec: ModelSpec, path: Path) -> FittingState:
        fitting = real(spec, path)
        path.write_bytes(b"another file")
        return fitting

    monkeypatch.setattr(module, "read_fitting", and_replace)
    (fetched,) = fetch([ARCHIVE], tmp_path, source=site.url)
    assert fetched.origin is None
    assert checksums.recorded(tmp_path) == {
        f"{ARCHIVE}/{name}": hashlib.sha256(data).hexdigest() for name, data in CONTENTS.items()
    }


def test_a_loose_file_that_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / NAMES[0]).write_bytes(CONTENTS[NAMES[0]])
    monkeypatch.setattr(module, "byte_limit", lambda _: 150_000)
    with pytest.raises(WeightsError, match=r"is too large \(150000 bytes at most"):
        fetch([ARCHIVE], tmp_path / "weights", source=tmp_path)
    assert untouched(tmp_path / "weights")


# --- two at a time --------------------------------------------------------------------------------------------------


def test_two_fetches_of_one_archive(site: Site, tmp_path: Path) -> None:
    refused: list[str] = []

    def second(progress: FetchProgress) -> None:
        if progress.done > 200_000 and not refused:
            with pytest.raises(ArtifactError) as caught:
                fetch([ARCHIVE], tmp_path, source=site.url)
            refused.append(str(caught.value))

    fetch([ARCHIVE], tmp_path, source=site.url, progress=second)
    assert complete(tmp_path)
    assert refused == [
        f"{ARCHIVE} is being fetched to {tmp_path / ARCHIVE} by another process. Wait for it, then run this again."
    ]
    assert len(site.asked) == 1


@pytest.mark.parametrize("kind", [BlockingIOError, PermissionError])
def test_errors_of_the_progress_are_not_taken_for_the_folders(site: Site, tmp_path: Path, kind: type[OSError]) -> None:
    def refuse(_: FetchProgress) -> None:
        raise kind(11, "no", "terminal")

    with pytest.raises(OSError, match="terminal") as caught:
        fetch([ARCHIVE], tmp_path, source=site.url, progress=refuse)
    assert caught.type is kind


def test_a_killed_fetch_locks_nobody_out(site: Site, tmp_path: Path) -> None:
    (tmp_path / ARCHIVE).mkdir()
    (tmp_path / ARCHIVE / ".fetch.lock").touch()
    fetch([ARCHIVE], tmp_path, source=site.url)
    assert complete(tmp_path)

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ffnet_deploy.data.cityscapes import LABEL_IDS, find_split, load
from ffnet_deploy.errors import DataError
from ffnet_deploy.synthetic.scenes import MARKER, draw_scene, write_cityscapes

SIZE = (64, 128)


def state(root: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(p.relative_to(root)): (p.read_bytes(), p.stat().st_mtime_ns)
        for p in sorted(root.rglob("*"))
        if p.is_file() and p.name != MARKER
    }


def test_same_numbers_same_scene_and_another_seed_another_scene() -> None:
    one, two, other = draw_scene(96, 128, 5), draw_scene(96, 128, 5), draw_scene(96, 128, 6)
    assert np.array_equal(one.image, two.image)
    assert np.array_equal(one.label_ids, two.label_ids)
    assert not np.array_equal(one.label_ids, other.label_ids)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (97, 161), (224, 224), (512, 128)])
def test_any_size(height: int, width: int) -> None:
    for seed in range(10):
        scene = draw_scene(height, width, seed)
        assert scene.image.shape == (height, width, 3)
        assert scene.label_ids.shape == (height, width)
        assert scene.image.dtype == scene.label_ids.dtype == np.uint8
    assert scene.image.std() > 10


def test_all_classes_and_some_ignored_ids_appear() -> None:
    found: set[int] = set()
    for seed in range(12):
        found |= set(np.unique(draw_scene(128, 256, seed).label_ids).tolist())
    assert set(LABEL_IDS) <= found
    assert {0, 1, 4} <= found
    assert max(found) <= 33


def test_layout_and_names(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    write_cityscapes(
        tmp_path, "val", {"seefeld": 2, "altburg": 1}, seed=3, size=SIZE, progress=lambda *c: calls.append(c)
    )
    assert sorted(state(tmp_path)) == [
        "gtFine/val/altburg/altburg_000000_000019_gtFine_labelIds.png",
        "gtFine/val/seefeld/seefeld_000000_000019_gtFine_labelIds.png",
        "gtFine/val/seefeld/seefeld_000001_000019_gtFine_labelIds.png",
        "leftImg8bit/val/altburg/altburg_000000_000019_leftImg8bit.png",
        "leftImg8bit/val/seefeld/seefeld_000000_000019_leftImg8bit.png",
        "leftImg8bit/val/seefeld/seefeld_000001_000019_leftImg8bit.png",
    ]
    assert [c for i, c in enumerate(calls) if c not in calls[:i]] == [(1, 3), (2, 3), (3, 3)]
    split = find_split(tmp_path)
    assert not split.official
    images = [load(sample, SIZE).image for sample in split.samples]
    assert not any(np.array_equal(images[0], other) for other in images[1:])
    with Image.open(str(split.samples[0].labels)) as labels:
        assert (labels.mode, labels.size) == ("L", (128, 64))


def test_a_second_write_changes_nothing_and_splits_differ(tmp_path: Path) -> None:
    write_cityscapes(tmp_path, "val", {"seefeld": 2}, seed=3, size=SIZE)
    before = state(tmp_path)
    write_cityscapes(tmp_path, "val", {"seefeld": 2}, seed=3, size=SIZE)
    assert state(tmp_path) == before
    write_cityscapes(tmp_path, "train", {"seefeld": 1}, seed=3, size=SIZE)
    after = state(tmp_path)
    assert before.items() <= after.items()
    train, val = (f"leftImg8bit/{s}/seefeld/seefeld_000000_000019_leftImg8bit.png" for s in ("train", "val"))
    assert after[train][0] != after[val][0]


def test_what_is_missing_or_asked_differently_is_written_again(tmp_path: Path) -> None:
    write_cityscapes(tmp_path, "val", {"seefeld": 3}, seed=3, size=SIZE)
    before = {name: data for name, (data, _) in state(tmp_path).items()}
    next(iter((tmp_path / "gtFine").rglob("*.png"))).unlink()
    write_cityscapes(tmp_path, "val", {"seefeld": 3}, seed=3, size=SIZE)
    assert {name: data for name, (data, _) in state(tmp_path).items()} == before
    write_cityscapes(tmp_path, "val", {"seefeld": 2}, seed=3, size=SIZE)
    fewer = {name: data for name, (data, _) in state(tmp_path).items()}
    assert len(fewer) == 4
    assert fewer.items() <= before.items()
    write_cityscapes(tmp_path, "val", {"seefeld": 2}, seed=4, size=SIZE)
    assert not fewer.items() & {name: data for name, (data, _) in state(tmp_path).items()}.items()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"sets": {"val/seefeld": 1}}', '{"sets": {"val/seefeld": {"scenes": "x"}}}']
)
def test_a_damaged_marker_only_costs_time(tmp_path: Path, text: str) -> None:
    write_cityscapes(tmp_path, "val", {"seefeld": 1}, seed=3, size=SIZE)
    before = state(tmp_path)
    (tmp_path / MARKER).write_text(text)
    write_cityscapes(tmp_path, "val", {"seefeld": 1}, seed=3, size=SIZE)
    assert [data for data, _ in state(tmp_path).values()] == [data for data, _ in before.values()]
    assert list(json.loads((tmp_path / MARKER).read_text())["sets"]) == ["val/seefeld"]


def test_no_scenes_of_another_seed_stay_behind_a_damaged_marker(tmp_path: Path) -> None:
    write_cityscapes(tmp_path, "val", {"seefeld": 3}, seed=3, size=SIZE)
    own = tmp_path / "leftImg8bit" / "val" / "seefeld" / "seefeld_000001_000019_leftImg8bit.txt"
    own.write_text("the user's")
    (tmp_path / MARKER).write_text("{")
    write_cityscapes(tmp_path, "val", {"seefeld": 1}, seed=4, size=SIZE)
    assert [sample.name for sample in find_split(tmp_path).samples] == ["seefeld/seefeld_000000_000019"]
    assert sorted(Path(name).name for name in state(tmp_path)) == [
        "seefeld_000000_000019_gtFine_labelIds.png",
        "seefeld_000000_000019_leftImg8bit.png",
        own.name,
    ]


def test_the_real_cityscapes_is_never_added_to(tmp_path: Path) -> None:
    (tmp_path / "leftImg8bit" / "val" / "frankfurt").mkdir(parents=True)
    with pytest.raises(DataError, match=r"empty folder\.$"):
        write_cityscapes(tmp_path, "val", {"seefeld": 1}, seed=3, size=SIZE)
    assert not state(tmp_path)

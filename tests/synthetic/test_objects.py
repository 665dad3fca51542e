from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ffnet_deploy.data.imagenet import find_set, load
from ffnet_deploy.data.imagenet.truth import wnids
from ffnet_deploy.errors import DataError
from ffnet_deploy.synthetic.objects import _SHAPES, _TEXTURES, MARKER, OBJECT_KINDS, draw_object, write_objects


def state(root: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(p.relative_to(root)): (p.read_bytes(), p.stat().st_mtime_ns)
        for p in sorted(root.rglob("*"))
        if p.is_file() and p.name != MARKER
    }


def test_classes_are_imagenets_and_no_two_look_alike() -> None:
    assert OBJECT_KINDS.keys() <= wnids().keys()
    assert len(OBJECT_KINDS) == len(set(OBJECT_KINDS.values())) == 20
    assert {kind.shape for kind in OBJECT_KINDS.values()} == _SHAPES.keys()
    assert {kind.texture for kind in OBJECT_KINDS.values()} == _TEXTURES.keys()


def test_same_numbers_same_picture_and_another_seed_another() -> None:
    kind = OBJECT_KINDS["n02391049"]
    one, two, other = draw_object(kind, 5), draw_object(kind, 5), draw_object(kind, 6)
    assert np.array_equal(one, two)
    assert one.shape != other.shape or not np.array_equal(one, other)


def test_sizes_differ_and_something_is_to_be_seen() -> None:
    shapes = set()
    for seed in range(3):
        for kind in OBJECT_KINDS.values():
            picture = draw_object(kind, seed)
            assert picture.dtype == np.uint8
            assert 120 <= picture.shape[0] < 240
            assert 120 <= picture.shape[1] <= 300
            assert picture.std() > 10
            shapes.add(picture.shape)
    # Each seed has its size, whatever the class.
    assert len(shapes) == 3


def test_the_tree_is_imagenets(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    write_objects(tmp_path, train=2, val=1, seed=3, progress=lambda *call: calls.append(call))
    assert calls == [(done, 60) for done in range(1, 61)]
    found = find_set(tmp_path)
    assert found.title == "subset, 20 classes, 20 images"
    assert [WNIDS[s.label] for s in found.samples] == list(OBJECT_KINDS)
    assert len(find_set(tmp_path / "train").samples) == 40
    with Image.open(tmp_path / "val" / "n02391049" / "n02391049_0.JPEG") as image:
        assert image.format == "JPEG"
    assert load(found.samples[0]).shape == (224, 224, 3)
    assert "not ImageNet" in json.loads((tmp_path / MARKER).read_text())["about"]
    pictures = {data for data, _ in state(tmp_path).values()}
    assert len(pictures) == 60


WNIDS = list(wnids())


def test_complete_files_are_kept_and_others_made_again(tmp_path: Path) -> None:
    write_objects(tmp_path, train=1, val=1, seed=3)
    before = state(tmp_path)
    lost = tmp_path / "val" / "n02391049" / "n02391049_0.JPEG"
    lost.unlink()
    write_objects(tmp_path, train=2, val=1, seed=3)
    after = state(tmp_path)
    name = str(lost.relative_to(tmp_path))
    assert after[name][0] == before[name][0]
    assert {k: v for k, v in after.items() if k in before and k != name} == {
        k: v for k, v in before.items() if k != name
    }
    assert len(after) == 60
    write_objects(tmp_path, train=1, val=1, seed=3)
    assert {k: v[0] for k, v in state(tmp_path).items()} == {k: v[0] for k, v in before.items()}


def test_another_seed_or_a_lost_marker_draws_all_again(tmp_path: Path) -> None:
    write_objects(tmp_path, train=0, val=1, seed=3)
    before = state(tmp_path)
    (tmp_path / MARKER).write_text("damaged")
    write_objects(tmp_path, train=0, val=1, seed=3)
    again = state(tmp_path)
    assert {k: v[0] for k, v in again.items()} == {k: v[0] for k, v in before.items()}
    assert all(again[k][1] > before[k][1] for k in before)
    write_objects(tmp_path, train=0, val=1, seed=4)
    other = state(tmp_path)
    assert other.keys() == before.keys()
    assert all(other[k][0] != before[k][0] for k in before)


def test_the_real_imagenet_is_never_added_to(tmp_path: Path) -> None:
    (tmp_path / "val" / "n01440764").mkdir(parents=True)
    with pytest.raises(DataError, match="it may be the real ImageNet"):
        write_objects(tmp_path, train=1, val=1, seed=0)
    assert not (tmp_path / MARKER).exists()

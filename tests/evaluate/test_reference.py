"""The reference's label maps: computed once, kept, and computed again where they do not fit."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.fakes import FakeRunner
from support.segmentation import (
    AUTO,
    IMAGES,
    PROTOCOL,
    SIZE,
    Opener,
    drawn_set,
    evaluate,
    named,
    network,
    rung,
)

from ffnet_deploy.artifacts.writing import replacing
from ffnet_deploy.data.cityscapes import CityscapesSplit, find_split
from ffnet_deploy.evaluate.protocols import SegmentationProtocol
from ffnet_deploy.evaluate.reference import LabelMaps, Reference, _MapsKey
from ffnet_deploy.synthetic.scenes import write_cityscapes


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> CityscapesSplit:
    """A set of three scenes that no test changes."""
    return drawn_set(tmp_path_factory.mktemp("drawn"))


def maps_key(weights: str) -> _MapsKey:
    return _MapsKey(named(weights), SIZE, None, False, "2.0", {})


def test_the_reference_is_computed_once(drawn: CityscapesSplit, tmp_path: Path) -> None:
    first, second = Opener(network(0)), Opener(network(0))
    before = evaluate(drawn, first, [rung(FakeRunner(network(1)))], tmp_path)
    after = evaluate(drawn, second, [rung(FakeRunner(network(1)))], tmp_path)
    assert (first.count, before.reference.computed) == (1, IMAGES)
    assert (second.count, after.reference.computed) == (0, 0)
    for a, b in zip(before.scores, after.scores, strict=True):
        assert np.array_equal(a.matrix, b.matrix)
        assert a.equal == b.equal


def test_both_up_samplings_need_one_run_and_serve_each_alone(drawn: CityscapesSplit, tmp_path: Path) -> None:
    opener = Opener(network(0))
    evaluate(drawn, opener, [], tmp_path, AUTO)
    assert opener.runner.calls == IMAGES
    for align in (False, True):
        again = Opener(network(0))
        evaluate(drawn, again, [], tmp_path, SegmentationProtocol(SIZE, None, (align,)))
        assert again.count == 0


def test_only_missing_label_maps_are_computed(drawn: CityscapesSplit, tmp_path: Path) -> None:
    evaluate(drawn, Opener(network(0)), [], tmp_path)
    next(tmp_path.rglob("sketchton_*.png")).unlink()
    opener = Opener(network(0))
    again = evaluate(drawn, opener, [], tmp_path)
    assert (opener.count, opener.runner.calls, again.reference.computed) == (1, 1, 1)


def damage_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def damage_one_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def another_size(path: Path) -> None:
    Image.new("L", (32, 16)).save(path)


def another_kind(path: Path) -> None:
    Image.new("RGB", SIZE[::-1]).save(path)


def unknown_class(path: Path) -> None:
    Image.new("L", SIZE[::-1], 19).save(path)


@pytest.mark.parametrize("damage", [damage_half, damage_one_bit, another_size, another_kind, unknown_class])
def test_a_damaged_label_map_is_computed_again(
    drawn: CityscapesSplit, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    wanted = evaluate(drawn, Opener(network(0)), [], tmp_path)
    damage(next(tmp_path.rglob("sketchton_*.png")))
    found = evaluate(drawn, Opener(network(0)), [], tmp_path)
    assert found.reference.computed == 1
    assert np.array_equal(wanted.scores[0].matrix, found.scores[0].matrix)
    assert evaluate(drawn, Opener(network(0)), [], tmp_path).reference.computed == 0


def _bomb(path: Path) -> None:
    """A PNG that says it is 200000x200000 pixels, with a checksum that fits."""
    head = struct.pack(">IIBBBBB", 200_000, 200_000, 8, 0, 0, 0, 0)
    chunk = struct.pack(">I", len(head)) + b"IHDR" + head + struct.pack(">I", zlib.crc32(b"IHDR" + head))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + path.read_bytes()[33:])


def _other_mode(path: Path) -> None:
    Image.new("RGB", SIZE[::-1]).save(path)


def _other_format(path: Path) -> None:
    Image.new("L", SIZE[::-1]).save(path, format="BMP")


@pytest.mark.parametrize("forge", [_bomb, _other_mode, _other_format])
def test_what_is_no_label_map_is_not_loaded(tmp_path: Path, forge: Callable[[Path], None]) -> None:
    maps = LabelMaps(tmp_path, maps_key("a"))
    maps.save("one", "0" * 64, np.zeros(SIZE, np.uint8))
    (file,) = tmp_path.rglob("*.png")
    assert maps.load("one", "0" * 64) is not None
    forge(file)
    assert maps.load("one", "0" * 64) is None


def test_other_weights_have_label_maps_of_their_own(drawn: CityscapesSplit, tmp_path: Path) -> None:
    evaluate(drawn, Opener(network(0)), [], tmp_path, model="a")
    opener = Opener(network(1))
    other = evaluate(drawn, opener, [rung(FakeRunner(network(1)))], tmp_path, model="b")
    assert (opener.count, other.reference.computed) == (1, IMAGES)
    assert other.scores[1].agreement == 100


def test_label_maps_belong_to_weights_protocol_and_pytorch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def kept(model: str, protocol: SegmentationProtocol) -> list[list[np.ndarray]] | None:
        reference = Reference("pytorch fp32", Opener(network(0)), tmp_path, named(model), protocol)
        found = reference.kept([("a/b", "0" * 64)])
        reference.keep([("a/b", "0" * 64)], [[np.zeros(SIZE, np.uint8)]] * len(protocol.align_corners))
        return found

    others = [
        PROTOCOL,
        SegmentationProtocol(SIZE, None, (True,)),
        SegmentationProtocol(SIZE, "blur"),
        SegmentationProtocol(SIZE, "area"),
    ]
    for protocol in others:
        assert kept("a", protocol) is None
        assert kept("a", protocol) is not None
    assert kept("b", PROTOCOL) is None
    monkeypatch.setattr(torch, "__version__", "0.0")
    assert kept("a", PROTOCOL) is None
    assert len(list(tmp_path.rglob("key.json"))) == len(list(tmp_path.iterdir())) == 6


def test_other_bytes_of_an_image_are_another_label_map(tmp_path: Path) -> None:
    write_cityscapes(tmp_path / "set", "val", {"drawnville": 2}, seed=0, size=SIZE)
    split = find_split(tmp_path / "set")
    evaluate(split, Opener(network(0)), [], tmp_path / "maps")
    path = Path(str(split.samples[1].image))
    Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    opener = Opener(network(0))
    again = evaluate(split, opener, [rung(FakeRunner(network(0)))], tmp_path / "maps")
    assert (opener.runner.calls, again.reference.computed) == (1, 1)
    assert again.scores[1].agreement == 100


def test_a_label_map_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    maps = LabelMaps(tmp_path, maps_key("a"))
    labels = np.random.default_rng(0).integers(0, 19, SIZE).astype(np.uint8)
    assert maps.load("city/name", "0" * 64) is None
    maps.save("city/name", "0" * 64, labels)
    found = LabelMaps(tmp_path, maps_key("a")).load("city/name", "0" * 64)
    assert found is not None
    assert np.array_equal(found, labels)
    assert maps.load("city/name", "1" * 64) is None
    assert LabelMaps(tmp_path, maps_key("b")).load("city/name", "0" * 64) is None


def test_a_map_that_another_evaluation_writes_is_left_to_it(tmp_path: Path) -> None:
    maps = LabelMaps(tmp_path, maps_key("a"))
    labels = np.zeros(SIZE, np.uint8)
    path = maps._path("city/name", "a" * 64)
    with replacing(path) as part:
        maps.save("city/name", "a" * 64, labels)
        part.write_bytes(b"theirs")
    assert path.read_bytes() == b"theirs"

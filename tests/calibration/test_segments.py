"""A graph in pieces computes what the whole does, and keeps nothing longer than it is needed."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import pytest
from onnx import helper
from support.fakes import SMALL_SHAPE, small_graph, street_feeds

from ffnet_deploy.calibration.segments import Segment, cut, walk
from ffnet_deploy.graph.facts import shapes
from ffnet_deploy.graph.qdq import watched
from ffnet_deploy.runtimes.onnxruntime import OnnxRuntimeRunner


def runner(model: onnx.ModelProto) -> OnnxRuntimeRunner:
    return OnnxRuntimeRunner(model.SerializeToString(), threads=1, spinning=False)


def whole(model: onnx.ModelProto, names: tuple[str, ...], feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    opened = onnx.ModelProto()
    opened.CopyFrom(model)
    del opened.graph.output[:]
    known = shapes(model)
    opened.graph.output.extend(helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, known[n]) for n in names)
    with runner(opened) as run:
        return run(feed)


@pytest.mark.parametrize("budget", [1, 50_000, 1 << 30], ids=["node by node", "some", "at once"])
def test_pieces_compute_what_the_whole_does(budget: int) -> None:
    model = onnx.load_from_string(small_graph())
    names = watched(model)
    pieces = cut(model, names, budget)
    assert (len(pieces) == 1) == (budget == 1 << 30)
    feed = dict(street_feeds(SMALL_SHAPE, 1)[0])
    runs = [runner(piece.model) for piece in pieces]
    seen = list(walk(pieces, runs, feed))
    assert sorted(name for name, _ in seen) == sorted(names)
    for name, values in whole(model, names, feed).items():
        np.testing.assert_allclose(dict(seen)[name], values, rtol=1e-3, atol=1e-4, err_msg=name)


def test_each_weight_is_in_one_piece_and_each_piece_within_its_budget() -> None:
    model = onnx.load_from_string(small_graph())
    names, known = watched(model), shapes(model)
    budget = 100_000
    pieces = cut(model, names, budget)
    held = [tensor.name for piece in pieces for tensor in piece.model.graph.initializer]
    assert len(held) == len(set(held)) + sum(held.count(n) - 1 for n in set(held) if "Resize" in n)
    assert {n for n in held if n.endswith("weight")} == {
        t.name for t in model.graph.initializer if t.name.endswith("weight")
    }
    for piece in pieces:
        sizes = [4 * int(np.prod(known[name])) for name in piece.watched]
        assert sum(sizes) <= budget or len(sizes) == 1


def test_what_is_no_longer_needed_is_let_go() -> None:
    model = onnx.load_from_string(small_graph())
    pieces = cut(model, watched(model), 20_000)
    alive: set[str] = {"image"}
    most = 0
    for piece in pieces:
        assert {value.name for value in piece.model.graph.input} <= alive
        alive |= {value.name for value in piece.model.graph.output}
        most = max(most, len(alive))
        alive -= set(piece.last_use)
    assert not alive
    # The four maps that wait for the head, and what the piece at work has: not the 94 tensors that are watched.
    assert most < 20


def test_the_last_piece_ends_the_walk() -> None:
    assert list(walk([Segment(onnx.ModelProto(), (), ())], [lambda _feeds: {}], {})) == []

"""The demo's story at a small size; and, as a slow test, what its trained weights must show."""

from __future__ import annotations

import shutil
from dataclasses import replace
from itertools import takewhile
from pathlib import Path

import numpy as np
import pytest
import torch

from ffnet_deploy.artifacts.filenames import FileName
from ffnet_deploy.artifacts.records import EngineRecord, load_record, read_record, record_path
from ffnet_deploy.artifacts.values import Precision
from ffnet_deploy.artifacts.workspace import Workspace
from ffnet_deploy.calibration.methods import DEFAULT_METHOD
from ffnet_deploy.data.cityscapes import find_split, load
from ffnet_deploy.data.images import blur_and_halve, normalise
from ffnet_deploy.demo.story import MARK, MODEL, DemoPlan, run
from ffnet_deploy.evaluate.labels import upsampled_labels
from ffnet_deploy.evaluate.result import SegmentationRung
from ffnet_deploy.evaluate.session import EvalOptions
from ffnet_deploy.pipeline.build import BuildOptions, build
from ffnet_deploy.pipeline.calibrate import CalibrateOptions, calibrate
from ffnet_deploy.pipeline.evaluate import evaluate_cityscapes
from ffnet_deploy.progress import quiet
from ffnet_deploy.zoo.specs import find
from ffnet_deploy.zoo.weights import build_model

ROOT = Path(__file__).parents[2]
TRAINED = ROOT / "demo" / "weights" / "ffnet46NS_CCC_demo.pth"
TINY = DemoPlan(
    size=(128, 256), train={"ahornstadt": 2}, val={"eichenfurt": 1, "lindenhafen": 1}, steps=2, iters=2, pictures=(2, 1)
)


def until_export(folder: Path, plan: DemoPlan) -> list[str]:
    """What the demo says before it begins to export."""
    return list(takewhile(lambda text: not text.startswith("3/8"), run(folder, quiet, plan)))


def test_the_story_ends_with_every_rung_and_does_not_train_twice(tmp_path: Path) -> None:
    told = list(run(tmp_path, quiet, TINY))
    ladder = told[-1]
    for rung in ("pytorch fp32", "onnxruntime fp32", "tensorrt-rtx fp16"):
        assert rung in ladder
    assert ladder.count("built; needs an NVIDIA GPU") == 1
    assert any("training" in text for text in told)
    for file in (*tmp_path.glob("models/*.onnx"), *tmp_path.glob("engines/*.engine"), *tmp_path.glob("engines/*.onnx")):
        assert MARK in read_record(file, remedy="").marks, file
    assert not (tmp_path / "models" / "weights").exists()

    weights = TRAINED.name
    before = (tmp_path / "weights" / weights).stat().st_mtime_ns
    again = until_export(tmp_path, TINY)
    assert any("trained before" in text for text in again)
    assert (tmp_path / "weights" / weights).stat().st_mtime_ns == before
    # Another plan is another training.
    other = until_export(tmp_path, replace(TINY, steps=1))
    assert any("training" in text for text in other)


@pytest.mark.slow
@pytest.mark.skipif(not TRAINED.exists(), reason="needs the weights of: make demo")
def test_labels_agree_with_the_twin_that_blurs_inside() -> None:
    """The 512x1024 model behind our blur and its ``_pre_down`` twin give the same labels on the demo's scenes."""
    half = build_model(MODEL, TRAINED)
    twin_name = find(MODEL).pre_down_twin
    assert twin_name
    twin = build_model(twin_name, TRAINED)
    equal = []
    for sample in find_split(TRAINED.parents[1] / "cityscapes").samples:
        image = normalise(load(sample).image)
        with torch.inference_mode():
            ours = half(torch.from_numpy(blur_and_halve(image))).numpy()
            theirs = twin(torch.from_numpy(image)).numpy()
        a, b = (upsampled_labels(one[0], (1024, 2048), align_corners=False) for one in (ours, theirs))
        equal.append(float((a == b).mean()))
    figures = f"mean {100 * np.mean(equal):.3f} %, worst {100 * min(equal):.3f} %"
    print(f"label agreement with the twin: {figures}")  # noqa: T201 - the figure is asked for
    assert np.mean(equal) >= 0.995


@pytest.mark.slow
@pytest.mark.skipif(not TRAINED.exists(), reason="needs the weights of: make demo")
def test_the_demo_is_worth_looking_at() -> None:
    """Weights that know next to nothing would make every drop look small."""
    options = EvalOptions(root=TRAINED.parents[1] / "cityscapes", max_drop=0.5)
    result = evaluate_cityscapes(Workspace(TRAINED.parents[1]), MODEL, options)
    reference = result.file.rungs[0]
    assert isinstance(reference, SegmentationRung)
    assert reference.miou is not None
    assert reference.miou > 60
    assert result.failure is None


@pytest.fixture(scope="module")
def int8(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The demo's FP32 graph in a workspace of its own, calibrated on its train scenes, with INT8 and FP32 engines."""
    space = Workspace(tmp_path_factory.mktemp("int8"))
    made = TRAINED.parents[1]
    space.models.mkdir()
    (space.root / "weights").symlink_to(made / "weights")
    graph = Workspace(made).path_of(FileName(MODEL))
    for file in (graph, record_path(graph)):
        shutil.copy(file, space.models)
    found = calibrate(space, MODEL, CalibrateOptions(made / "cityscapes"))
    assert (len(found.file.images.names), found.method) == (24, DEFAULT_METHOD)
    build(space, MODEL, BuildOptions(("fp32", "int8")))
    return space


@pytest.mark.slow
@pytest.mark.skipif(not TRAINED.exists(), reason="needs the weights of: make demo")
def test_int8_of_either_dialect_costs_next_to_nothing(int8: Workspace) -> None:
    only = ("onnxruntime int8", "onnx int8 emulated")
    options = EvalOptions(root=TRAINED.parents[1] / "cityscapes", only=only)
    result = evaluate_cityscapes(int8, MODEL, options)
    found = {
        rung.rung: (rung.drop, rung.agreement)
        for rung in result.file.rungs
        if isinstance(rung, SegmentationRung) and rung.precision == "int8"
    }
    result.delivered()
    print(f"INT8, drop in points and agreement in %: {found}")  # noqa: T201 - the figures are asked for
    assert found.keys() == set(only)
    for drop, agreement in found.values():
        assert drop is not None
        assert drop <= 0.1
        assert agreement >= 99.5


@pytest.mark.slow
@pytest.mark.skipif(not TRAINED.exists(), reason="needs the weights of: make demo")
def test_int8_engines_are_small_and_compute_in_integers(int8: Workspace) -> None:
    sizes = {}
    precisions: tuple[Precision, ...] = ("int8", "fp32")
    for runtime in ("tensorrt-rtx", "onnxruntime"):
        small, large = (int8.path_of(FileName(MODEL, precision=p, runtime=runtime)) for p in precisions)
        sizes[runtime] = small.stat().st_size / large.stat().st_size
        assert load_record(small, EngineRecord, remedy="build").found.share["int8"] >= 0.98
    print(f"size of INT8 engines by FP32's: {sizes}")  # noqa: T201 - the figures are asked for
    assert max(sizes.values()) <= 0.42

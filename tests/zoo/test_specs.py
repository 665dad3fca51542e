"""The zoo as data, against the published facts and a golden list that one can grep.

Write the list again after a meant change::

    PYTHONPATH=tests python tests/zoo/test_specs.py > tests/support/golden/models.tsv
"""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import pytest
from support.golden import published_zoo

import ffnet_deploy
from ffnet_deploy.errors import UnknownModelError
from ffnet_deploy.zoo import specs
from ffnet_deploy.zoo.specs import SPECS, Cost, ModelSpec

GOLDEN = Path(__file__).parents[1] / "support" / "golden" / "models.tsv"
MAKE_COSTS = Path(__file__).parents[2] / "scripts" / "make_costs.py"
ZOO = published_zoo()

# Parameters in millions and 10^9 multiply-accumulates as counted on the published definitions.
COUNTED = {
    "segmentation_ffnet150_AAA": (98.84, 1045.2),
    "segmentation_ffnet150_dAAC": (97.07, 206.9),
    "segmentation_ffnet46N_CBB": (20.21, 207.5),
    "segmentation_ffnet40S_dBBB_mobile": (13.91, 62.4),
    "segmentation_ffnet46NS_CCC_mobile": (12.53, 28.0),
    "segmentation_ffnet101_AAA": (47.55, 664.0),
    "classification_ffnet101_AAX": (56.96, 9.5),
    "classification_ffnet122NS_CBX_mobile": (43.73, 5.1),
}


def text(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value)


def golden_table() -> str:
    """Every field of every spec, and what is derived from them, one model a line."""
    rows = []
    for spec in SPECS.values():
        fields = asdict(spec)
        published = fields.pop("published")
        derived = {"upsampling": spec.upsampling, "output_hw": spec.output_hw(*spec.input_hw)}
        rows.append(fields | derived | published)
    lines = [list(rows[0]), *([text(value) for value in row.values()] for row in rows)]
    return "".join("\t".join(line) + "\n" for line in lines)


def facts(spec: ModelSpec) -> dict[str, Any]:
    """A spec in the words of ``zoo.json``."""
    entry: dict[str, Any] = {
        "task": spec.task,
        "deployment": spec.deployment,
        "backbone": f"Resnet{spec.backbone}{'_D' if spec.strided else ''}",
        "up_head": spec.up_head,
        "segmentation_head": spec.segmentation_head,
        "upsampling": {"nearest": "nearest", "bilinear": "bilinear_align_corners"}[spec.upsampling],
        "num_classes": spec.classes,
        "pre_downsampling": spec.pre_down,
        "weights_file": spec.weights_file,
        "weights_role": "training_initialisation" if spec.train else "trained",
        "input_hw": spec.input_hw,
    }
    if spec.task == "segmentation":
        entry["output_hw"] = spec.output_hw(*spec.input_hw)
    if spec.task == "segmentation" and not spec.train:
        figures = spec.published
        named = {"cityscapes_miou": figures.miou, "fp32_ms": figures.fp32_ms, "fp16_ms": figures.fp16_ms}
        entry["published"] = {name: value for name, value in named.items() if value is not None}
        entry["imagenet_backbone_model"] = spec.imagenet_model
    return entry


def test_golden_list() -> None:
    assert golden_table() == GOLDEN.read_text("utf-8"), (
        "the list of models changed; if that was meant, run: "
        "PYTHONPATH=tests python tests/zoo/test_specs.py > tests/support/golden/models.tsv"
    )
    assert len(GOLDEN.read_text("utf-8").splitlines()) == 1 + 94


def test_there_are_94_models_87_to_deploy_and_7_to_train() -> None:
    names = ffnet_deploy.list_models()
    assert set(names) == set(ZOO)
    assert len(names) == len(set(names)) == 94
    trained = specs.deployable()
    assert len(trained) == 87
    assert sorted(set(names) - set(trained)) == sorted(name for name in ZOO if name.endswith("_train"))
    assert sum(name.endswith("_train") for name in names) == 7


@pytest.mark.parametrize("name", ZOO)
def test_spec_equals_the_published_facts(name: str) -> None:
    spec = specs.find(name)
    assert spec.name == name
    assert json.loads(json.dumps(facts(spec))) == ZOO[name]


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_what_the_published_facts_leave_out(spec: ModelSpec) -> None:
    letters = spec.name.split("_")[2]
    stem = {"N": "C", "S": "B"}.get(spec.backbone.lstrip("0123456789")[:1], "A")
    assert spec.stem == letters.removeprefix("d")[0] == stem
    assert spec.strided == letters.startswith("d")
    assert spec.archive == f"ffnet{spec.backbone}"
    if spec.task == "classification":
        assert (spec.imagenet_model, spec.published, spec.pre_down_twin) == (None, specs.Published(), None)
        return
    assert spec.imagenet_model is not None
    parent = SPECS[spec.imagenet_model]
    assert (parent.task, parent.backbone, parent.stem) == ("classification", spec.backbone, spec.stem)
    # Weights of slim networks for GPUs and for mobile differ in nothing but their file.
    assert (parent.deployment == "mobile") == (spec.deployment == "mobile")
    if spec.train:
        assert spec.weights_file == parent.weights_file
        assert spec.published == specs.Published()


def test_models_that_take_half_the_image_have_a_twin_with_the_same_weights() -> None:
    halved = [spec for spec in SPECS.values() if spec.pre_down_twin]
    assert len(halved) == 16
    for spec in halved:
        twin = SPECS[str(spec.pre_down_twin)]
        assert twin.pre_down
        assert not spec.pre_down
        assert (twin.input_hw, spec.input_hw) == ((1024, 2048), (512, 1024))
        assert (twin.weights_file, twin.published) == (spec.weights_file, spec.published)
        # The blur gives 511x1022, of which the logits are as large as of 512x1024.
        assert twin.output_hw(1024, 2048) == spec.output_hw(512, 1024) == (128, 256)


def test_there_are_19_archives() -> None:
    assert len({spec.archive for spec in SPECS.values()}) == 19


def test_published_blur() -> None:
    by_hand = {(2, 2): 0.32472423, (2, 1): 0.11704613, (1, 1): 0.04218902, (2, 0): 0.00551466, (0, 0): 0.00009365}
    for (y, x), weight in by_hand.items():
        assert specs.BLUR_TAPS[y] * specs.BLUR_TAPS[x] == pytest.approx(weight, abs=2e-8)
    assert sum(specs.BLUR_TAPS) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("segmentation_ffnet86S_BC_mobile", "segmentation_ffnet86S_BCC_mobile"),
        ("segmentation_ffnet46NS_CCC_mobil", "segmentation_ffnet46NS_CCC_mobile"),
        ("SEGMENTATION_FFNET46NS_CCC_MOBILE", "segmentation_ffnet46NS_CCC_mobile"),
        ("ffnet46NS_CCC_mobile", "segmentation_ffnet46NS_CCC_mobile"),
        ("ffnet40s_dbbb", "segmentation_ffnet40S_dBBB_mobile"),
        ("ffnet150_AAX", "classification_ffnet150_AAX"),
        ("segmentation_ffnet122NS_CBB", "segmentation_ffnet122NS_CBB_mobile"),
    ],
)
def test_a_wrong_name_gets_the_nearest(typed: str, meant: str) -> None:
    near = specs.nearest(typed)
    assert meant in near
    assert len(near) == len(set(near)) <= 3
    assert set(near) <= set(SPECS)
    with pytest.raises(UnknownModelError) as caught:
        specs.find(typed)
    assert str(caught.value) == f"No model is named {typed!r}. Did you mean {', '.join(near)}?"
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("typed", ["", "resnet", "?" * 40])
def test_a_name_like_none_gets_the_list(typed: str) -> None:
    assert specs.nearest(typed) == []
    with pytest.raises(UnknownModelError) as caught:
        specs.find(typed)
    assert str(caught.value) == f"No model is named {typed!r}. Run: ffnet-deploy models"


@pytest.fixture(scope="session")
def count() -> Callable[[ModelSpec], Cost]:
    return cast("Callable[[ModelSpec], Cost]", runpy.run_path(str(MAKE_COSTS))["count"])


def test_costs_are_known_of_every_model() -> None:
    assert list(specs.costs()) == list(SPECS)


@pytest.mark.parametrize("name", SPECS)
def test_costs_are_those_of_the_network(count: Callable[[ModelSpec], Cost], name: str) -> None:
    assert specs.costs()[name] == count(SPECS[name]), "run: python scripts/make_costs.py > ffnet_deploy/zoo/costs.tsv"


@pytest.mark.parametrize(("name", "figures"), COUNTED.items())
def test_costs_are_those_of_the_published_definitions(name: str, figures: tuple[float, float]) -> None:
    cost = specs.costs()[name]
    assert (round(cost.parameters / 1e6, 2), round(cost.macs / 1e9, 1)) == figures


def test_the_blur_costs_no_parameters_and_little_else() -> None:
    for spec in SPECS.values():
        if spec.pre_down_twin:
            plain, twin = specs.costs()[spec.name], specs.costs()[spec.pre_down_twin]
            assert twin.parameters == plain.parameters
            assert round((twin.macs - plain.macs) / 1e9, 2) == 0.04


if __name__ == "__main__":
    sys.stdout.write(golden_table())

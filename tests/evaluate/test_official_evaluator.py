"""The data set's own evaluator, run on the predictions that ``eval`` saves, gives the scores that ``eval`` gives."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.cli_runner import Cli, link_workspace

# Scores by instance are switched off, as the evaluator itself allows: NumPy 2.4 lacks the ``in1d`` that they call. They
# have keys of their own and change none of the scores compared here.
PROGRAM = """
from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as evaluator
evaluator.args.evalInstLevelScore = False
evaluator.main()
"""


def official(dataset: Path, predictions: Path, export: Path) -> dict[str, Any]:
    """The evaluator's result file. It reads its folders from the environment when it is imported."""
    export.mkdir()
    folders = {
        "CITYSCAPES_DATASET": str(dataset),
        "CITYSCAPES_RESULTS": str(predictions),
        "CITYSCAPES_EXPORT_DIR": str(export),
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, **folders, "MPLCONFIGDIR": str(export)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    values: dict[str, Any] = json.loads((export / "resultPixelLevelSemanticLabeling.json").read_text())
    return values


def test_the_official_evaluator_gives_the_same_scores(run: Cli, built: Path, streets: Path, tmp_path: Path) -> None:
    args = ("--root", streets, "--align-corners", "auto", "--save-predictions", tmp_path / "out", "--json", "-")
    result = run("eval", "cityscapes", *args, "--workspace", link_workspace(built, tmp_path / "workspace"))
    assert result.code == 0, result.err
    values = json.loads(result.out)
    assert len(values["rungs"]) == 6
    # Entries that differ in what matters: the reference with either up-sampling, and an engine.
    for i in (0, 1, 5):
        mine = values["rungs"][i]
        folder = f"{mine['rung'].replace(' ', '-')}-align-corners-{str(mine['align_corners']).lower()}"
        its = official(streets, tmp_path / "out" / folder, tmp_path / f"result-{i}")
        assert mine["miou"] / 100 == pytest.approx(its["averageScoreClasses"], abs=1e-9)
        assert mine["miou_categories"] / 100 == pytest.approx(its["averageScoreCategories"], abs=1e-9)
        compared = 0
        for ours, theirs in ((mine["iou"], its["classScores"]), (mine["iou_categories"], its["categoryScores"])):
            for name, value in ours.items():
                if value is None:
                    assert math.isnan(theirs[name]), name
                else:
                    assert value / 100 == pytest.approx(theirs[name], abs=1e-9), name
                    compared += 1
        assert compared > 15
        assert 0 < its["averageScoreClasses"] < 1
        # The whole matrix, too: the evaluator's is by label id.
        labels = its["labels"]
        ids = [labels[name] for name in mine["iou"]]
        counts = np.array(its["confMatrix"], np.int64)[np.ix_(ids, ids)]
        assert np.array_equal(counts, np.array(mine["confusion"]))

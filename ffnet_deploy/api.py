"""The Python interface: every command as a function, with the result that the command prints and writes as JSON.

    from pathlib import Path
    from ffnet_deploy import api

    space = api.Workspace(Path())
    api.export(space, "segmentation_ffnet46NS_CCC_mobile", api.ExportOptions())
    api.build(space, None, api.BuildOptions(("fp32", "fp16")))
    result = api.bench(space, None, api.BenchOptions(iters=50))
    print(result.file.rungs[0].median_ms)

``None`` in place of a name is the model that was exported last. Errors are those of :mod:`ffnet_deploy.errors`.
"""

from __future__ import annotations

from ffnet_deploy.artifacts.values import BatchProfile, EngineOptions
from ffnet_deploy.artifacts.workspace import Workspace
from ffnet_deploy.bench.compare import compare
from ffnet_deploy.bench.options import BenchOptions
from ffnet_deploy.bench.result import read_benchmark
from ffnet_deploy.evaluate.merge import merge
from ffnet_deploy.evaluate.reread import read_evaluation
from ffnet_deploy.evaluate.session import EvalOptions
from ffnet_deploy.pipeline.bench import bench
from ffnet_deploy.pipeline.build import BuildOptions, build
from ffnet_deploy.pipeline.calibrate import CalibrateOptions, calibrate
from ffnet_deploy.pipeline.evaluate import evaluate_cityscapes, evaluate_imagenet
from ffnet_deploy.pipeline.export import ExportOptions, export
from ffnet_deploy.pipeline.inspect import inspect
from ffnet_deploy.pipeline.precision import Int8Options
from ffnet_deploy.pipeline.profile import profile
from ffnet_deploy.pipeline.verify import VerifyOptions, verify_ladder
from ffnet_deploy.pipeline.zoo import fetch_weights, list_models
from ffnet_deploy.runtimes.opening import load_engine

__all__ = [
    "BatchProfile",
    "BenchOptions",
    "BuildOptions",
    "CalibrateOptions",
    "EngineOptions",
    "EvalOptions",
    "ExportOptions",
    "Int8Options",
    "VerifyOptions",
    "Workspace",
    "bench",
    "build",
    "calibrate",
    "compare",
    "evaluate_cityscapes",
    "evaluate_imagenet",
    "export",
    "fetch_weights",
    "inspect",
    "list_models",
    "load_engine",
    "merge",
    "profile",
    "read_benchmark",
    "read_evaluation",
    "verify_ladder",
]

"""The story of each command, straight through: the only room that knows all stages. It prints nothing."""

from __future__ import annotations

from ffnet_deploy.pipeline.bench import BENCH_SCHEMA, Benchmark, BenchOptions, bench, environment
from ffnet_deploy.pipeline.build import BuildOptions, Built, build, plan
from ffnet_deploy.pipeline.calibrate import CalibrateOptions, Calibration, calibrate
from ffnet_deploy.pipeline.compare import Comparison, compare
from ffnet_deploy.pipeline.current import Graph, Progress, current_graph, quiet, street_feeds
from ffnet_deploy.pipeline.doctor import Diagnosis, doctor
from ffnet_deploy.pipeline.evaluate import EvalOptions, Evaluation, evaluate_cityscapes, evaluate_imagenet
from ffnet_deploy.pipeline.export import RANDOM, Exported, ExportOptions, export
from ffnet_deploy.pipeline.inspect import Inspection, inspect
from ffnet_deploy.pipeline.ladder import Ladder, Skipped, error_json, ladder
from ffnet_deploy.pipeline.merge import merge
from ffnet_deploy.pipeline.precision import Int8Options
from ffnet_deploy.pipeline.profile import Profile, profile
from ffnet_deploy.pipeline.verify import Verified, VerifyOptions, verify_ladder
from ffnet_deploy.pipeline.zoo import fetch_weights, list_models

__all__ = [
    "BENCH_SCHEMA",
    "RANDOM",
    "BenchOptions",
    "Benchmark",
    "BuildOptions",
    "Built",
    "CalibrateOptions",
    "Calibration",
    "Comparison",
    "Diagnosis",
    "EvalOptions",
    "Evaluation",
    "ExportOptions",
    "Exported",
    "Graph",
    "Inspection",
    "Int8Options",
    "Ladder",
    "Profile",
    "Progress",
    "Skipped",
    "Verified",
    "VerifyOptions",
    "bench",
    "build",
    "calibrate",
    "compare",
    "current_graph",
    "doctor",
    "environment",
    "error_json",
    "evaluate_cityscapes",
    "evaluate_imagenet",
    "export",
    "fetch_weights",
    "inspect",
    "ladder",
    "list_models",
    "merge",
    "plan",
    "profile",
    "quiet",
    "street_feeds",
    "verify_ladder",
]

"""Every expected failure has a class, an exit code, and one line that ends with the next step."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ffnet_deploy import errors, load_engine
from ffnet_deploy.artifacts.records import GraphRecord, Stamp, load_record, save_record
from ffnet_deploy.artifacts.values import GraphOptions, SourceWeights
from ffnet_deploy.artifacts.workspace import Workspace
from ffnet_deploy.artifacts.writing import write_bytes
from ffnet_deploy.bench.options import BenchOptions
from ffnet_deploy.data import cityscapes, decoding, stored
from ffnet_deploy.errors import ErrorFacts, FFNetDeployError, facts_of_error
from ffnet_deploy.evaluate.merge import merge
from ffnet_deploy.evaluate.session import EvalOptions
from ffnet_deploy.pipeline import export as exporting
from ffnet_deploy.pipeline.bench import bench
from ffnet_deploy.pipeline.build import build, plan
from ffnet_deploy.pipeline.evaluate import evaluate_cityscapes
from ffnet_deploy.runtimes.onnxruntime import OnnxRuntimeRunner
from ffnet_deploy.runtimes.runner import TensorSpec, check_feeds
from ffnet_deploy.zoo import checkpoint, checksums, fetch, specs

PACKAGE = Path(errors.__file__).parent
SMALL = "segmentation_ffnet46NS_CCC_mobile"
CLASSES = {
    name: value
    for name, value in vars(errors).items()
    if isinstance(value, type) and issubclass(value, FFNetDeployError) and value is not FFNetDeployError
}
STEPS = (
    "Add", "Build", "Check", "Copy", "Did you mean", "Do not", "Download", "Evaluate", "Export", "Feed", "Fetch",
    "Free", "Give", "Install", "Leave", "Look", "Make", "Mend", "Name", "Put", "Restore", "Run", "Save", "Say",
    "Train", "Unpack", "Update", "Use", "Wait",
)  # fmt: skip
"""How a next step begins."""


def drawn_tree() -> dict[str, int]:
    """Class and exit code of every line of the tree in the module's docstring."""
    lines = re.findall(r"[├└]── (\w+) +\S.*\(exit (\d)\)$", str(errors.__doc__), re.MULTILINE)
    return {name: int(code) for name, code in lines}


def test_the_drawn_tree_is_the_real_one() -> None:
    assert drawn_tree() == {name: value.exit_code for name, value in CLASSES.items()}
    assert str(errors.__doc__).count("── ") == len(CLASSES) == 11


@pytest.mark.parametrize("name", CLASSES)
def test_every_class_is_one_level_below_the_root_and_documented(name: str) -> None:
    error = CLASSES[name]
    assert error.__bases__ == (FFNetDeployError,)
    assert error.__doc__ != FFNetDeployError.__doc__
    assert str(error.__doc__).endswith(".")
    assert error.exit_code in (1, 2, 3, 4)


@pytest.mark.parametrize("name", CLASSES)
def test_every_class_is_raised_somewhere(name: str) -> None:
    calls = (path.read_text("utf-8") for path in PACKAGE.rglob("*.py") if path.name != "errors.py")
    own = inspect.getsource(errors.needs)
    assert any(f"{name}(" in text for text in (*calls, own))


# --- a missing package ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("package", "remedy"),
    [
        ("tensorrt", "Run: pip install 'ffnet-deploy[gpu]'"),
        ("tensorrt_rtx", "Run: pip install tensorrt-rtx"),
        ("onnxruntime", "Run: pip install onnxruntime-gpu (or onnxruntime)"),
        ("some_package", "Run: pip install some_package"),
    ],
)
def test_a_missing_package_becomes_an_instruction(package: str, remedy: str) -> None:
    with pytest.raises(errors.MissingDependencyError) as caught, errors.needs(package):
        importlib.import_module("no_such_module")
    assert str(caught.value) == f"{package} cannot be imported (No module named 'no_such_module'). {remedy}"
    assert isinstance(caught.value.__cause__, ImportError)


def test_a_package_is_required_without_importing_it() -> None:
    with pytest.raises(errors.MissingDependencyError) as required:
        errors.require("no_such_module")
    with pytest.raises(errors.MissingDependencyError) as imported, errors.needs("no_such_module"):
        importlib.import_module("no_such_module")
    assert str(required.value) == str(imported.value)
    errors.require("onnx")


def test_other_errors_of_a_package_are_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError), errors.needs("onnx"):
        _ = 1 / 0


# --- messages -------------------------------------------------------------------------------------------------------


def file(folder: Path, data: bytes = b"damaged") -> Path:
    path = folder / "file"
    path.write_bytes(data)
    return path


def export(space: Workspace, name: str = SMALL, **options: object) -> object:
    return exporting.export(space, name, exporting.ExportOptions(**options))  # type: ignore[arg-type]


def evaluate(space: Workspace, **options: object) -> object:
    return evaluate_cityscapes(space, SMALL, EvalOptions(space.root, **options))  # type: ignore[arg-type]


def damaged_record(space: Workspace) -> object:
    path = file(space.root)
    note = GraphRecord(
        model=SMALL,
        precision="fp32",
        file=Stamp(sha256="0" * 64, size=7, seconds=0.0, tools={}, created=""),
        options=GraphOptions(shape=(1, 3, 64, 128), opset=20, contract=(512, 1024)),
        weights=SourceWeights(None, ""),
    )
    save_record(path, note)
    return load_record(path, GraphRecord, remedy="ffnet-deploy export NAME")


def changed_weights(space: Workspace) -> object:
    path = file(space.root)
    checksums.check_recorded(path, space.root)
    path.write_bytes(b"other")
    return checksums.check_recorded(path, space.root)


CASES: dict[str, tuple[type[FFNetDeployError], Callable[[Workspace], object]]] = {
    "typo": (errors.UnknownModelError, lambda _: specs.find(f"{SMALL}s")),
    "no such model": (errors.UnknownModelError, lambda _: specs.find("resnet")),
    "no such archive": (errors.UnknownModelError, lambda s: fetch.fetch(["ffnet1"], s.weights)),
    "to train": (errors.UsageError, lambda s: export(s, "segmentation_ffnet86S_BBB_train")),
    "to train, pre_down": (errors.UsageError, lambda s: export(s, "segmentation_ffnet78S_BCC_mobile_pre_down_train")),
    "halved twice": (errors.UsageError, lambda s: export(s, f"{SMALL}_pre_down", hw=(512, 1024))),
    "off contract": (errors.UsageError, lambda s: export(s, hw=(500, 1000))),
    "too large": (errors.UsageError, lambda s: export(s, hw=(10**30, 64), allow_size=True)),
    "too many": (errors.UsageError, lambda s: export(s, batch=10**30)),
    "too small": (errors.UsageError, lambda s: export(s, hw=(63, 64), allow_size=True)),
    "no batch": (errors.UsageError, lambda s: export(s, batch=0)),
    "opset": (errors.UsageError, lambda s: export(s, opset=9)),
    "no iterations": (errors.UsageError, lambda s: bench(s, SMALL, BenchOptions(iters=0))),
    "offline": (errors.WeightsError, lambda s: export(s, offline=True)),
    "no weights": (errors.WeightsError, lambda s: export(s, weights=s.root / "none.pth")),
    "empty weights": (errors.WeightsError, lambda s: checkpoint.read_state(file(s.root, b""))),
    "damaged weights": (errors.WeightsError, lambda s: checkpoint.read_state(file(s.root))),
    "changed weights": (errors.WeightsError, changed_weights),
    "nothing to fetch": (errors.WeightsError, lambda s: fetch.fetch(["ffnet18"], s.weights, source=s.root)),
    "nothing exported": (errors.ArtifactError, lambda s: build(s, None)),
    "not exported": (errors.ArtifactError, lambda s: build(s, SMALL)),
    "no engine": (errors.ArtifactError, lambda s: load_engine(s.root / "none.engine")),
    "no record": (errors.ArtifactError, lambda s: load_engine(file(s.root))),
    "damaged": (errors.ArtifactError, damaged_record),
    "no folder": (errors.ArtifactError, lambda s: write_bytes(file(s.root) / "models" / "x", b"")),
    "refused graph": (errors.EngineError, lambda _: OnnxRuntimeRunner(b"damaged", threads=1)),
    "FP16 on a CPU": (errors.MissingDependencyError, lambda _: plan(["fp16"], "onnxruntime")),
    "no set": (errors.DataError, lambda s: cityscapes.find_split(s.root / "none")),
    "empty set": (errors.DataError, lambda s: cityscapes.find_split(s.root)),
    "no archive": (errors.DataError, lambda s: stored.members(file(s.root))),
    "no member": (errors.DataError, lambda s: stored.ZipMember(file(s.root), "a").read()),
    "nothing to merge": (errors.UsageError, lambda _: merge([])),
    "no result": (errors.DataError, lambda s: merge([file(s.root)])),
    "no gate": (errors.UsageError, lambda s: merge([file(s.root)], -1.0)),
    "no images": (errors.UsageError, lambda s: evaluate(s, limit=0)),
    "no shard": (errors.UsageError, lambda s: evaluate(s, shard=(3, 2))),
    "gate on a shard": (errors.UsageError, lambda s: evaluate(s, shard=(1, 2), max_drop=0.5)),
    "too many threads": (errors.UsageError, lambda s: evaluate(s, threads=1000)),
    "damaged image": (errors.DataError, lambda s: decoding.decode_rgb(file(s.root), b"damaged")),
}


def assert_ends_with_the_next_step(message: str) -> None:
    assert "\n" not in message
    found, *rest = re.split(r"(?<=[.?]) (?=[A-Z])", message)
    assert found
    assert any(sentence.startswith(STEPS) for sentence in rest), message


@pytest.mark.parametrize("case", CASES)
def test_a_real_message_ends_with_the_next_step(case: str, workspace: Workspace) -> None:
    kind, call = CASES[case]
    with pytest.raises(kind) as caught:
        call(workspace)
    assert type(caught.value) is kind
    assert_ends_with_the_next_step(str(caught.value))


def test_an_error_as_json_keeps_class_message_and_code() -> None:
    error = errors.GateError("Missed. Look again.")
    assert facts_of_error(error) == ErrorFacts(type="GateError", message="Missed. Look again.", exit_code=1)
    assert facts_of_error(None) is None


def written(node: ast.expr) -> str:
    """A message as it stands in the source, with {} for what is put in."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(written(part) for part in parts)
        case ast.BinOp(left=left, right=right):
            return written(left) + written(right)
    return "{}"


def messages() -> list[tuple[str, str]]:
    """Place and text of every message in the package that is written where it is raised."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            match node:
                case ast.Call(func=ast.Name(id=name), args=[text, *_]) if name in CLASSES and written(text) != "{}":
                    found.append((f"{path.relative_to(PACKAGE)}: {name}({written(text)[:40]}…", written(text)))
    return found


MESSAGES = messages()


def test_messages_are_found() -> None:
    assert len(MESSAGES) > 50


@pytest.mark.parametrize("text", [text for _, text in MESSAGES], ids=[place for place, _ in MESSAGES])
def test_every_message_says_more_than_what_went_wrong(text: str) -> None:
    assert "\n" not in text
    # A message that starts with another one adds a step to it.
    assert re.search(r"([^.?][.?]|^{}) (?=[A-Z{])", text), text


def test_a_feed_that_does_not_fit_says_so() -> None:
    spec = TensorSpec("image", (1, 3, 64, 64), "float32")
    for feeds in ({}, {"image": np.zeros((1, 3, 64, 65), np.float32)}, {"image": np.zeros((1, 3, 64, 64), np.uint8)}):
        with pytest.raises(errors.EngineError) as caught:
            check_feeds(feeds, [spec])
        assert_ends_with_the_next_step(str(caught.value))

"""Rules that matter, as tests: the order of the rooms, what is light, what is public, how long anything may get."""

from __future__ import annotations

import ast
import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

import ffnet_deploy
from ffnet_deploy.zoo.specs import SPECS

PACKAGE = Path(ffnet_deploy.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

# A module imports from rooms before its own, and from its own.
ROOMS = (
    ("foreign",),
    ("errors",),
    ("progress",),
    ("artifacts",),
    ("machine",),
    ("zoo",),
    ("data",),
    ("synthetic",),
    ("graph",),
    ("runtimes",),
    ("metrics",),
    ("calibration",),
    ("ladder",),
    ("verify", "evaluate", "bench"),
    ("pipeline",),
    ("api",),
    ("report",),
    ("demo",),
    ("commands",),
    ("cli",),
)
LEVEL = {name: level for level, names in enumerate(ROOMS) for name in names}

HEAVY = ("torch", "onnx", "onnxruntime", "onnxscript", "numpy", "PIL", "polygraphy", "tensorrt", "tensorrt_rtx",
         "tensorrt_bindings", "tensorrt_libs", "pycuda", "matplotlib", "scipy", "pyarrow")  # fmt: skip
LIGHT = (
    "cli",
    *(f"commands.{path.stem}" for path in sorted(PACKAGE.glob("commands/*.py")) if path.stem != "__init__"),
    *(f"pipeline.{path.stem}" for path in sorted(PACKAGE.glob("pipeline/*.py")) if path.stem != "__init__"),
    *(f"report.{path.stem}" for path in sorted(PACKAGE.glob("report/*.py")) if path.stem != "__init__"),
    *(f"artifacts.{path.stem}" for path in sorted(PACKAGE.glob("artifacts/*.py")) if path.stem != "__init__"),
    *(f"machine.{path.stem}" for path in sorted(PACKAGE.glob("machine/*.py")) if path.stem != "__init__"),
    "api",
    "foreign",
    "errors",
    "progress",
    "ladder",
    "zoo.specs",
    "graph.current",
    "synthetic.feeds",
    "calibration.methods",
    "calibration.observe",
    "calibration.record",
    "calibration.selection",
    "runtimes.rung",
    "runtimes.opening",
    "runtimes.runner",
    "runtimes.worker",
    "runtimes.engine_options",
    "runtimes.engine_checks",
    "bench.options",
    "bench.result",
    "bench.compare",
    "bench.doubts",
    "bench.profiled",
    "evaluate.protocols",
    "evaluate.result",
    "evaluate.reread",
    "evaluate.tasks",
    "evaluate.outcome",
    "evaluate.session",
    "evaluate.merge",
    "evaluate.journal",
    "evaluate.loop",
    "verify.result",
)
"""Modules that load none of ``HEAVY``; the rooms of commands, stories and results are light as a whole."""
MOST_LINES = 400
MOST_PIPELINE_LINES = 2200
LONGEST_FUNCTION = 45


class Import(NamedTuple):
    """One imported module of the package, as seen from one file."""

    module: str
    room: str
    types_only: bool
    line: int


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def is_module(name: str) -> bool:
    path = PACKAGE.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def types_only(tree: ast.Module) -> set[int]:
    """Ids of the nodes below ``if TYPE_CHECKING``."""
    blocks = (n for n in ast.walk(tree) if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING")
    return {id(node) for block in blocks for statement in block.body for node in ast.walk(statement)}


def modules_of(node: ast.AST) -> Iterator[str]:
    """Full names of the modules that a statement imports."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0
        for alias in node.names:
            # What comes from a package is a module of it, or a name that its __init__ defines.
            whole = f"{node.module}.{alias.name}"
            of_package = whole.startswith("ffnet_deploy.") and is_module(whole.removeprefix("ffnet_deploy."))
            if of_package:
                yield whole
            elif node.module != "ffnet_deploy" or alias.name not in ffnet_deploy.__all__:
                yield str(node.module)


def imports_of(path: Path) -> list[Import]:
    """Every import from the package in a file, those inside of functions included."""
    tree = ast.parse(path.read_text("utf-8"))
    unseen = types_only(tree)
    found = []
    for node in ast.walk(tree):
        for module in modules_of(node):
            package, _, name = module.partition(".")
            if package == "ffnet_deploy":
                found.append(Import(name, name.partition(".")[0], id(node) in unseen, getattr(node, "lineno", 0)))
    return found


def test_every_module_has_a_room() -> None:
    rooms = {name_of(path).partition(".")[0] for path in FILES} - {""}
    assert rooms == set(LEVEL)


@pytest.mark.parametrize("path", [path for path in FILES if name_of(path)], ids=name_of)
def test_modules_import_from_rooms_before_their_own(path: Path) -> None:
    own = name_of(path).partition(".")[0]
    for item in imports_of(path):
        where = f"{path.name}:{item.line} imports {item.module}"
        assert is_module(item.module), where
        assert item.room == own or LEVEL[item.room] < LEVEL[own], where


def test_only_the_command_line_knows_the_demo() -> None:
    knowing = {name_of(path) for path in FILES for item in imports_of(path) if item.room == "demo"}
    assert {name for name in knowing if not name.startswith("demo.")} == {"commands.demo"}


def test_the_package_itself_imports_nothing_of_its_own() -> None:
    assert all(item.types_only for item in imports_of(PACKAGE / "__init__.py"))


def test_commands_parse_and_print() -> None:
    """What a command does lies one import below it: a command knows stories, reports and results alone."""
    allowed = {"pipeline", "report", "commands", "errors", "artifacts", "zoo", "calibration", "progress", "demo"}
    allowed |= {"bench", "evaluate", "verify", "foreign"}  # their options and results, and what has no story of its own
    for path in PACKAGE.glob("commands/*.py"):
        assert {item.room for item in imports_of(path) if item.module != "__version__"} <= allowed, path


def test_stages_are_imported_where_they_are_used() -> None:
    """Commands and stories answer at once: at their top they import light modules alone."""
    for path in (*PACKAGE.glob("pipeline/*.py"), *PACKAGE.glob("commands/*.py"), PACKAGE / "cli.py"):
        tree = ast.parse(path.read_text("utf-8"))
        top = [module for node in tree.body for module in modules_of(node) if module.startswith("ffnet_deploy.")]
        assert {module.removeprefix("ffnet_deploy.") for module in top} <= set(LIGHT), path


# --- names ----------------------------------------------------------------------------------------------------------

OF_A_COMMAND = ("commands", "pipeline", "report", "bench", "zoo")
"""A command's file, its story and its report may have the command's name."""
OF_A_ROOM = ("result",)
"""What a room finds."""


def test_files_of_one_name_mean_the_same() -> None:
    homes: dict[str, list[str]] = {}
    for path in FILES:
        if path.stem != "__init__":
            homes.setdefault(path.stem, []).append(path.relative_to(PACKAGE).parts[0])
    commands = {path.stem for path in PACKAGE.glob("commands/*.py")}
    for name, rooms in homes.items():
        same = name in OF_A_ROOM or (name in commands and set(rooms) <= set(OF_A_COMMAND))
        assert len(rooms) == 1 or same, (name, rooms)
    assert not {name for name in homes if name in ("base", "utils", "helpers", "common")}


def test_no_two_types_have_one_name() -> None:
    homes: dict[str, list[str]] = {}
    for path in FILES:
        for node in ast.parse(path.read_text("utf-8")).body:
            names = [node.name] if isinstance(node, ast.ClassDef) else aliases(node)
            for name in names:
                homes.setdefault(name.lstrip("_"), []).append(name_of(path))
    assert {name: found for name, found in homes.items() if len(found) > 1} == {}


def aliases(node: ast.stmt) -> list[str]:
    """Names of types that an assignment makes: written like a class, and no type variable."""
    if not isinstance(node, ast.Assign) or "TypeVar(" in ast.unparse(node.value):
        return []
    found = [target.id for target in node.targets if isinstance(target, ast.Name)]
    return [name for name in found if re.fullmatch(r"_?[A-Z][a-z]\w*", name)]


def test_packages_export_nothing() -> None:
    """So nothing shadows a file, and a name has one home."""
    for path in PACKAGE.rglob("__init__.py"):
        if path.parent not in (PACKAGE, PACKAGE / "data" / "imagenet"):
            assert [type(node) for node in ast.parse(path.read_text("utf-8")).body] == [ast.Expr], path


# --- light ----------------------------------------------------------------------------------------------------------

LOADED = f"""
import json, sys
def loaded():
    return sorted(set({HEAVY!r}) & {{name.partition(".")[0] for name in sys.modules}})
"""
RUN = """
sys.argv = ["ffnet-deploy", *sys.argv[1:]]
from ffnet_deploy.cli import main
try:
    main()
    code = 0
except SystemExit as end:
    code = end.code
print("\\n" + json.dumps({"code": code or 0, "loaded": loaded()}))
"""
BLOCK = f"""
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {HEAVY!r}:
            raise ModuleNotFoundError(f"{{name}} is blocked", name=name)
sys.meta_path.insert(0, Absent())
"""


class Outcome(NamedTuple):
    """Of a command in an interpreter of its own."""

    code: int
    loaded: list[str]
    out: str
    err: str


def python(program: str, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program, *args],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env={**os.environ, "COLUMNS": "200", **env},
    )


def command(*args: str, setup: str = "") -> Outcome:
    done = python(LOADED + setup + RUN, *args)
    out, _, last = done.stdout.rstrip("\n").rpartition("\n")
    result = json.loads(last)
    return Outcome(result["code"], result["loaded"], out, done.stderr)


def test_light_modules_load_nothing_heavy() -> None:
    lines = "\n".join(f"import ffnet_deploy.{name}" for name in LIGHT)
    assert json.loads(python(f"{LOADED}\n{lines}\nprint(json.dumps(loaded()))").stdout) == []


def test_what_is_heavy_would_be_seen() -> None:
    assert json.loads(python(f"{LOADED}\nimport numpy.linalg\nprint(json.dumps(loaded()))").stdout) == ["numpy"]


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (("--help",), 0, "export"),
        (("--version",), 0, ffnet_deploy.__version__),
        (("models",), 0, "segmentation_ffnet46NS_CCC_mobile"),
        (("models", "dAAC"), 0, "segmentation_ffnet150_dAAC"),
        (("models", "segmentation_ffnet46NS_CCC_mobile_pre_down"), 0, "1024x2048"),
        (("models", "segmentation_ffnet86S_BC_mobile"), 2, "error: No model is named"),
        (("export", "segmentation_ffnet86S_BC_mobile"), 2, "segmentation_ffnet86S_BCC_mobile"),
        (("export", "segmentation_ffnet86S_BBB_train"), 2, "for training"),
        (
            ("export", "segmentation_ffnet46NS_CCC_mobile", "--offline", "--workspace", "/nonexistent"),
            3,
            "weights fetch",
        ),
        (("export",), 2, "Missing argument"),
        (("export", "--nonsense"), 2, "No such option"),
        (("build", "--method", "guess"), 2, "--method"),
        (("bench", "--workspace", "/nonexistent"), 3, "ffnet-deploy export"),
        (("bench", "--iters", "many"), 2, "--iters"),
        (("eval", "cityscapes"), 2, "--root"),
        (("weights", "fetch"), 2, "--all"),
        (("nonsense",), 2, "No such command"),
    ],
)
def test_light_commands_load_nothing_heavy(args: tuple[str, ...], code: int, words: str) -> None:
    done = command(*args)
    assert (done.code, done.loaded) == (code, [])
    assert words in (done.err if code else done.out)
    assert "Traceback" not in done.err
    assert not (done.out.strip() if code else done.err)


def test_every_command_helps_with_nothing_heavy_installed() -> None:
    program = f"""{LOADED}{BLOCK}
import typer
from ffnet_deploy.cli import app
def walk(command, path):
    yield path
    for name, sub in getattr(command, "commands", {{}}).items():
        yield from walk(sub, [*path, name])
for path in walk(typer.main.get_command(app), []):
    try:
        app([*path, "--help"], prog_name="ffnet-deploy")
    except SystemExit as end:
        assert not end.code, path
    print("helped:", *path)
"""
    out = python(program).stdout
    helped = {line.removeprefix("helped:").strip() for line in out.splitlines() if line.startswith("helped:")}
    wanted = {"", "models", "weights", "weights fetch", "export", "build", "bench", "eval", "eval cityscapes", "demo"}
    assert wanted <= helped
    assert out.count("Usage: ffnet-deploy") == len(helped)


@pytest.mark.parametrize("args", [("models",), ("models", "segmentation_ffnet150_AAA"), ("export", "nonsense")])
def test_light_commands_work_with_nothing_heavy_installed(args: tuple[str, ...]) -> None:
    done = command(*args, setup=BLOCK)
    assert done.code == (2 if "nonsense" in args else 0)
    assert "Traceback" not in done.err


def test_a_missing_runtime_becomes_an_instruction() -> None:
    program = f"""{BLOCK.replace(repr(HEAVY), "('onnxruntime',)")}
from ffnet_deploy.errors import MissingDependencyError
try:
    import ffnet_deploy.runtimes.onnxruntime
except MissingDependencyError as error:
    print(error)
"""
    out = python(f"import sys\n{program}").stdout
    assert out == (
        "onnxruntime cannot be imported (onnxruntime is blocked). Run: pip install onnxruntime-gpu (or onnxruntime)\n"
    )


def test_the_shell_completes_names() -> None:
    done = python(
        f"{LOADED}{RUN}",
        _FFNET_DEPLOY_COMPLETE="complete_bash",
        COMP_WORDS="ffnet-deploy export segmentation_ffnet46NS",
        COMP_CWORD="2",
    )
    *names, last = done.stdout.split("\n")[:-1]
    assert [name for name in names if name] == [name for name in SPECS if "segmentation_ffnet46NS" in name]
    assert json.loads(last) == {"code": 0, "loaded": []}


# --- public names ---------------------------------------------------------------------------------------------------

PUBLIC = {
    "build_model": "(name: 'str', weights: 'str | Path | None' = None) -> 'nn.Module'",
    "list_models": "() -> 'list[str]'",
    "load_engine": "(path: 'str | Path', *, device: 'int | None' = None, threads: 'int | None' = None) -> 'Runner'",
}


def test_public_names() -> None:
    assert sorted(ffnet_deploy.__all__) == dir(ffnet_deploy) == sorted([*PUBLIC, "__version__"])
    for name, signature in PUBLIC.items():
        function = getattr(ffnet_deploy, name)
        assert function.__name__ == name
        assert function.__module__.startswith("ffnet_deploy.")
        assert function.__doc__
        assert str(inspect.signature(function)) == signature
    with pytest.raises(AttributeError, match="has no attribute 'torch'"):
        _ = ffnet_deploy.torch


def test_importing_the_package_loads_nothing_heavy() -> None:
    program = f"{LOADED}\nimport ffnet_deploy\nffnet_deploy.list_models()\nprint(json.dumps(loaded()))"
    assert json.loads(python(program).stdout) == []


# --- size -----------------------------------------------------------------------------------------------------------


@cache
def lines_of(path: Path) -> int:
    return len(path.read_text("utf-8").splitlines())


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_stay_short(path: Path) -> None:
    assert lines_of(path) <= MOST_LINES


def test_stories_stay_short() -> None:
    assert sum(lines_of(path) for path in PACKAGE.glob("pipeline/*.py")) <= MOST_PIPELINE_LINES
    assert max(lines_of(path) for path in PACKAGE.glob("pipeline/*.py")) <= 350


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_functions_stay_short(path: Path) -> None:
    functions = (
        node
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    # A command's signature is the table of its options: what counts is the work below it.
    lengths = {node.name: (node.end_lineno or 0) - node.body[0].lineno + 1 for node in functions}
    assert {name: length for name, length in lengths.items() if length > LONGEST_FUNCTION} == {}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_modules_say_what_they_are_for_in_one_line(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text("utf-8")))
    assert docstring
    assert docstring.splitlines()[0].endswith((".", ":"))


# --- what comes from elsewhere ----------------------------------------------------------------------------------------

ONE_PLACE = {
    "json.loads": {"foreign"},
    "json.load": set(),
    "Image.open": {"data.decoding"},
    "print": set(),
    "sys.stdout.write": {"commands.output"},
    "sys.stderr.write": {"commands.output"},
    "onnx.load_model": set(),
    "pickle.load": set(),
    "pickle.loads": set(),
}
"""Calls that read or print what is not trusted, and the only module that may make them."""


def test_what_is_not_trusted_is_read_and_printed_in_one_place() -> None:
    calls: dict[str, set[str]] = {name: set() for name in ONE_PLACE}
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and (name := ast.unparse(node.func)) in calls:
                calls[name].add(name_of(path))
    assert calls == ONE_PLACE

"""What an engine can be asked for, and that a runtime refuses what it does not have."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from support.recorded import engine_record

from ffnet_deploy.artifacts.replay import again
from ffnet_deploy.artifacts.values import BatchProfile, EngineOptions
from ffnet_deploy.artifacts.workspace import Workspace
from ffnet_deploy.errors import UsageError
from ffnet_deploy.runtimes.engine_options import check

RTX, TRT, ORT = "tensorrt-rtx", "tensorrt", "onnxruntime"
BATCH = BatchProfile(1, 4, 8)


@pytest.mark.parametrize(
    ("text", "profile"), [("1,4,8", (1, 4, 8)), ("2,2,2", (2, 2, 2)), (" 1 , 2,3 ", (1, 2, 3)), ("1,1,64", (1, 1, 64))]
)
def test_a_profile_is_three_numbers_in_order(text: str, profile: tuple[int, int, int]) -> None:
    assert BatchProfile.parse(text) == profile
    assert str(BatchProfile.parse(text)) == ",".join(map(str, profile))


@pytest.mark.parametrize("text", ["", "4", "1,4", "1,4,8,16", "1,4,x", "1,-4,8", "1.0,4,8", "1,,8", "a b"])
def test_what_is_not_three_whole_numbers_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=rf"^--batch {re.escape(repr(text))} is not MIN,OPT,MAX .*--batch 1,4,8$"):
        BatchProfile.parse(text)


@pytest.mark.parametrize("text", ["0,1,2", "0,0,0", "4,1,8", "1,8,4", "8,4,1"])
def test_numbers_out_of_order_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match=rf"^--batch '{text}' is out of order .*--batch 1,4,8$"):
        BatchProfile.parse(text)


@pytest.mark.parametrize("runtime", [RTX, TRT, ORT])
def test_no_option_fits_every_runtime(runtime: str) -> None:
    check(EngineOptions(), runtime)
    assert EngineOptions().asked() == {}


@pytest.mark.parametrize(
    ("options", "runtimes"),
    [
        (EngineOptions(gpus=("sm86", "sm89")), {RTX}),
        (EngineOptions(portable=True), {RTX}),
        (EngineOptions(tf32=True), {RTX, TRT}),
        (EngineOptions(level=0), {TRT}),
        (EngineOptions(level=5), {TRT}),
        (EngineOptions(workspace_mb=64), {TRT}),
        (EngineOptions(timing_cache=True), {TRT}),
        (EngineOptions(hardware_compatible=True), {TRT}),
        (EngineOptions(version_compatible=True), {TRT}),
        (EngineOptions(batch=BATCH), {RTX, TRT, ORT}),
    ],
)
def test_who_has_what(options: EngineOptions, runtimes: set[str]) -> None:
    (name,) = options.asked()
    for runtime in (RTX, TRT, ORT):
        if runtime in runtimes:
            check(options, runtime)
            continue
        with pytest.raises(UsageError) as caught:
            check(options, runtime)
        message = str(caught.value)
        flag = "--gpu" if name == "gpus" else f"--{name.replace('_', '-')}"
        assert message.startswith(f"{runtime} has no {flag}")
        others = [other for other in (RTX, TRT) if other in runtimes]
        assert message.endswith(f"Leave it out, or build with --runtime {' or '.join(others)}.")
        assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("options", "runtime", "says"),
    [
        (EngineOptions(timing_cache=True), RTX, "it would force a GPU at build time"),
        (EngineOptions(gpus=("sm86",)), TRT, "it builds for the GPU of this machine"),
        (EngineOptions(portable=True), TRT, "--hardware-compatible comes nearest"),
        (EngineOptions(portable=True, gpus=("sm86",)), RTX, "Leave one of them out"),
        (EngineOptions(level=6), TRT, "--level 6 does not exist (0 to 5 were needed)"),
        (EngineOptions(level=-1), TRT, "--level -1 does not exist"),
    ],
)
def test_a_refusal_says_why(options: EngineOptions, runtime: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        check(options, runtime)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("options", "target"),
    [
        (EngineOptions(), ""),
        (EngineOptions(portable=True), "portable"),
        (EngineOptions(gpus=("sm89",)), "sm89"),
        (EngineOptions(gpus=("sm86", "sm89"), tf32=True), "sm86+sm89"),
        (EngineOptions(batch=BATCH), ""),
    ],
)
def test_the_target_is_the_part_of_file_names(options: EngineOptions, target: str) -> None:
    assert options.target == target


def test_asked_tells_what_differs_from_the_defaults() -> None:
    options = EngineOptions(level=0, batch=BATCH, gpus=("sm86",))
    assert options.asked() == {"gpus": ("sm86",), "level": 0, "batch": BATCH}


@pytest.mark.parametrize(
    ("runtime", "options", "flags"),
    [
        (
            RTX,
            EngineOptions(gpus=("sm86", "sm89"), tf32=True, batch=BATCH),
            ["--gpu", "sm86", "--gpu", "sm89", "--tf32", "--batch", "1,4,8"],
        ),
        (TRT, EngineOptions(tf32=True, level=2, batch=BATCH), ["--tf32", "--level", "2", "--batch", "1,4,8"]),
        (ORT, EngineOptions(batch=BATCH), ["--batch", "1,4,8"]),
        (ORT, EngineOptions(), []),
    ],
)
def test_flags_are_those_of_the_command_line(runtime: str, options: EngineOptions, flags: list[str]) -> None:
    check(options, runtime)
    line = again(Workspace(Path()), Path("engine"), replace(engine_record(runtime=runtime), engine=options))
    assert list(line.words[line.words.index(runtime) + 1 :]) == flags

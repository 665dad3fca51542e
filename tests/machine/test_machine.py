"""What the system tells of itself, what others do meanwhile, and what NVML tells: here by stand-ins for a driver."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import pytest

from ffnet_deploy.artifacts.reading import parse
from ffnet_deploy.machine import load, nvml
from ffnet_deploy.machine import processor as machine
from ffnet_deploy.machine.environment import Environment, describe_environment
from ffnet_deploy.machine.load import Extent, GpuLoad, Load, Watch, other_work
from ffnet_deploy.machine.nvml import Gpu, GpuFacts, GpuSample


def test_the_processor_is_described_from_what_the_system_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "/proc/cpuinfo": "".join(
            f"processor\t: {i}\nmodel name\t: Some CPU @ 3 GHz\ncpu MHz\t\t: {2000.5 + 1000 * i}\n"
            "flags\t\t: fpu avx2 avx512_vnni sse\n"
            for i in range(2)
        ),
        "/proc/meminfo": "MemTotal:       2048 kB\nMemFree: 1 kB\n",
        "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "powersave",
        "/sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq": "3500000",
    }
    monkeypatch.setattr(machine, "_text", lambda path: files.get(str(path)))
    found = machine.describe()
    assert found.processor == "Some CPU @ 3 GHz"
    assert found.flags == ("avx2", "avx512_vnni")
    assert found.virtual is False
    assert (found.governor, found.most_mhz, found.memory_bytes) == ("powersave", 3500.0, 2048 * 1024)
    assert machine.megahertz() == 2500.5


def test_a_system_that_tells_nothing_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_text", lambda _: None)
    found = machine.describe()
    assert found.processor
    assert (found.flags, found.governor, found.most_mhz, found.memory_bytes) == ((), None, None, None)
    assert machine.megahertz() is None
    assert machine.peak_bytes() is None


def test_this_machine_is_described() -> None:
    found = describe_environment()
    assert found.cores_online is not None
    assert found.cores_online >= found.cores >= 1
    assert found.memory_bytes is not None
    assert found.memory_bytes > 1e8
    assert found.tools["torch"]


def test_the_environment_is_plain_json() -> None:
    found = describe_environment()
    value = found.to_json()
    assert json.loads(json.dumps(value)) == value
    assert parse(Environment, json.dumps(asdict(found))) == found
    assert list(value) == [
        "processor", "flags", "virtual", "cores_online", "governor", "most_mhz", "memory_bytes",
        "cores", "load_average", "system", "gpus", "tools",
    ]  # fmt: skip


def test_peak_memory_is_that_of_the_process() -> None:
    program = (
        "from ffnet_deploy.machine.processor import peak_bytes; x = b'1' * 300_000_000; del x; print(peak_bytes())"
    )
    peak = int(subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True).stdout)
    assert 300e6 < peak < 400e6


# --- other work -----------------------------------------------------------------------------------------------------

BURN = [sys.executable, "-c", "import time\nend = time.monotonic() + 5\nwhile time.monotonic() < end: pass"]


def test_own_work_and_that_of_own_processes_is_not_others() -> None:
    before = load._our_ticks()
    assert before >= sum(os.times()[:2]) * os.sysconf("SC_CLK_TCK") - 2 > 0
    process = subprocess.Popen(BURN)
    try:
        while load._our_ticks() < before + 20:
            assert process.poll() is None
    finally:
        process.kill()
        process.wait()
    # Its work stays ours when it is gone.
    assert load._our_ticks() >= before + 20
    burnt = sum(os.times()[2:4]) * os.sysconf("SC_CLK_TCK")
    assert load._our_ticks() >= burnt


def test_what_others_take_is_what_is_busy_beyond_us(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "_EVERY_S", 0.01)
    busy = iter((100 * i, 200 * i) for i in range(10_000))
    ours = iter(40 * i for i in range(10_000))
    monkeypatch.setattr(load, "_busy_and_total", lambda: next(busy))
    monkeypatch.setattr(load, "_our_ticks", lambda: next(ours))
    with Watch() as watch:
        while len(watch._others) < 3:
            pass
    seen = watch.found(0.0)
    assert seen.other_work == pytest.approx(0.3)
    assert seen.most_other_work == pytest.approx(0.3)
    found = watch.found(0.25)
    assert found.other_work_before == 0.25
    assert found.other_work == pytest.approx(0.3)
    assert found.most_other_work == pytest.approx(0.3)


def test_a_system_without_proc_tells_of_no_other_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "_busy_and_total", lambda: None)
    assert other_work(0.0) == 0.0
    with Watch() as watch:
        pass
    seen = watch.found(0.0)
    assert (seen.other_work, seen.most_other_work) == (0.0, 0.0)


# --- GPUs -----------------------------------------------------------------------------------------------------------

FACTS = GpuFacts("GPU", "GPU-1", "600.1", 1000, 2000, 350.0, 8 << 30)
SAMPLE = GpuSample(900, 1800, 123.456, 61, ("software power cap",), 5 << 30)
NO_FUNCTION = "(?!)"
"""Matches no name."""
UNKNOWN_FACTS = GpuFacts(*[None] * 7)
UNKNOWN_SAMPLE = GpuSample(None, None, None, None, (), None)


class Refused(Exception):  # noqa: N818
    """What a driver's refusal becomes."""


class Memory:
    total, used = 8 << 30, 5 << 30


class Answers:
    """An NVML that knows some of its functions and refuses some."""

    NVMLError: type[Exception] = Refused

    def __init__(self, absent: str = NO_FUNCTION, refused: str = NO_FUNCTION) -> None:
        self._absent, self._refused = absent, refused

    def __getattr__(self, name: str) -> Any:
        if name not in KNOWN or re.search(self._absent, name):
            raise AttributeError(name)
        return lambda *args: self._answer(name, args)

    def _answer(self, name: str, args: tuple[object, ...]) -> Any:
        if re.search(self._refused, name):
            raise Refused
        found = KNOWN[name]
        return found[args[1]] if isinstance(found, dict) else found


KNOWN: dict[str, Any] = {
    "nvmlDeviceGetName": "GPU",
    "nvmlDeviceGetUUID": "GPU-1",
    "nvmlSystemGetDriverVersion": "600.1",
    "nvmlDeviceGetMaxClockInfo": {1: 1000, 2: 2000},
    "nvmlDeviceGetClockInfo": {1: 900, 2: 1800},
    "nvmlDeviceGetEnforcedPowerLimit": 350_000,
    "nvmlDeviceGetPowerUsage": 123_456,
    "nvmlDeviceGetTemperatureV": {0: 61},
    "nvmlDeviceGetTemperature": {0: 61},
    "nvmlDeviceGetCurrentClocksEventReasons": 0x4,
    "nvmlDeviceGetCurrentClocksThrottleReasons": 0x4,
    "nvmlDeviceGetMemoryInfo": Memory(),
}


def test_without_a_device_or_nvml_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    assert nvml.find(None) is None
    assert nvml.used_bytes(None) is None
    monkeypatch.setattr(nvml, "_library", lambda: None)
    assert nvml.find(0) is None
    assert nvml.used_bytes(0) is None
    assert Watch(0).found(0.0).gpu is None


def test_a_gpu_tells_its_figures() -> None:
    gpu = Gpu(Answers(), None)
    assert gpu.describe() == FACTS
    assert gpu.sample() == SAMPLE


@pytest.mark.parametrize("how", ["absent", "refused"])
@pytest.mark.parametrize(
    ("functions", "facts", "sample"),
    [
        ("GetName", {"name": None}, {}),
        ("GetUUID", {"uuid": None}, {}),
        ("DriverVersion", {"driver": None}, {}),
        ("MaxClockInfo", {"most_sm_mhz": None, "most_memory_mhz": None}, {}),
        ("GetClockInfo", {}, {"sm_mhz": None, "memory_mhz": None}),
        ("EnforcedPowerLimit", {"power_limit_w": None}, {}),
        ("PowerUsage", {}, {"power_w": None}),
        ("MemoryInfo", {"memory_bytes": None}, {"used_bytes": None}),
        ("Temperature", {}, {"temperature_c": None}),
        ("Reasons", {}, {"throttle_reasons": ()}),
        # A new name or an old one alone is enough.
        ("TemperatureV$", {}, {}),
        ("Temperature$", {}, {}),
        ("EventReasons", {}, {}),
        ("ThrottleReasons", {}, {}),
    ],
)
def test_a_figure_that_is_not_told_leaves_the_others(
    how: str, functions: str, facts: dict[str, Any], sample: dict[str, Any]
) -> None:
    gpu = Gpu(Answers(**{how: functions}), None)
    assert gpu.describe() == replace(FACTS, **facts)
    assert gpu.sample() == replace(SAMPLE, **sample)


@pytest.mark.parametrize("answers", [Answers(absent="nvml"), Answers(refused="nvml")])
def test_a_gpu_that_tells_nothing_is_no_error(answers: Answers) -> None:
    gpu = Gpu(answers, None)
    assert gpu.describe() == UNKNOWN_FACTS
    assert gpu.sample() == UNKNOWN_SAMPLE
    found = asdict(GpuLoad.of(gpu, [gpu.sample()]))
    assert {name: value for name, value in found.items() if value is not None} == {"throttle_reasons": ()}


def test_reasons_for_low_clocks_are_named_and_harmless_ones_are_no_warning() -> None:
    assert nvml.throttle_reasons(0) == ()
    assert nvml.throttle_reasons(0x1 | 0x4 | 0x40) == ("idle", "software power cap", "hardware thermal slow-down")
    watch = Watch()
    watch._gpu = Gpu(Answers(), None)
    watch._gpu_samples = [
        replace(SAMPLE, throttle_reasons=nvml.throttle_reasons(bits)) for bits in (0x1, 0x2 | 0x4, 0x0)
    ]
    found = watch.found(0.0)
    assert found.gpu is not None
    assert found.gpu.throttle_reasons == ("application clocks", "idle", "software power cap")
    assert found.throttled == ("software power cap",)


def test_a_load_is_plain_json() -> None:
    watch = Watch()
    watch._gpu = Gpu(Answers(), None)
    watch._gpu_samples = [SAMPLE, replace(SAMPLE, power_w=None, sm_mhz=700)]
    watch._clocks = [2000.0, 3000.0]
    found = watch.found(0.25)
    value = json.loads(json.dumps(asdict(found)))
    assert parse(Load, json.dumps(asdict(found))) == found
    assert list(value) == [field.name for field in fields(Load)]
    assert (value["other_work_before"], value["mhz"]) == (0.25, {"min": 2000.0, "mean": 2500.0, "max": 3000.0})
    sample = [name for name in asdict(SAMPLE) if name != "throttle_reasons"]
    assert list(value["gpu"]) == [*asdict(FACTS), *sample, "throttle_reasons"]
    assert {name: value["gpu"][name] for name in asdict(FACTS)} == asdict(FACTS)
    assert value["gpu"]["power_w"] == {"min": 123.456, "mean": 123.456, "max": 123.456}
    assert value["gpu"]["sm_mhz"] == {"min": 700, "mean": 800.0, "max": 900}
    assert value["gpu"]["throttle_reasons"] == ["software power cap"]


def test_the_extent_of_nothing_is_unknown() -> None:
    assert Extent.of([]) is None
    assert Extent.of([None]) is None
    assert Extent.of([None, 3, 1]) == Extent(1, 2.0, 3)


# --- the package nvidia-ml-py ---------------------------------------------------------------------------------------

NO_PACKAGE = "nvidia-ml-py is not installed (extra gpu)"


def test_a_package_that_is_absent_is_no_error() -> None:
    program = "import sys; sys.modules['pynvml'] = None; from ffnet_deploy.machine import nvml; print(nvml._library())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True)
    assert done.stdout == "None\n"


def test_every_name_of_pynvml_is_one() -> None:
    pynvml = pytest.importorskip("pynvml", reason=NO_PACKAGE)
    names = set(re.findall(r"\b(?:nvml[A-Z]\w+|NVML\w+)\b(?!\*)", Path(nvml.__file__).read_text("utf-8")))
    assert {"nvmlInit", "NVMLError", "nvmlDeviceGetMemoryInfo"} <= names
    # A later package may lack the old names: the new ones come first.
    old = {name for group in (nvml._TEMPERATURE, nvml._SLOWED_BY) for name in group[1:]}
    assert {name for name in names - old if not hasattr(pynvml, name)} == set()
    assert issubclass(pynvml.NVMLError, Exception)
    assert issubclass(pynvml.NVMLError_FunctionNotFound, pynvml.NVMLError)
    assert {"total", "used"} <= {field[0] for field in pynvml.c_nvmlMemory_t._fields_}
    assert (pynvml.NVML_CLOCK_SM, pynvml.NVML_CLOCK_MEM) == (nvml._SM, nvml._MEMORY)
    assert pynvml.NVML_TEMPERATURE_GPU == nvml._ON_DIE


def test_every_reason_of_pynvml_has_its_name() -> None:
    pynvml = pytest.importorskip("pynvml", reason=NO_PACKAGE)
    named = {
        "GpuIdle": "idle",
        "ApplicationsClocksSetting": "application clocks",
        "SwPowerCap": "software power cap",
        "HwSlowdown": "hardware slow-down",
        "SyncBoost": "sync boost",
        "SwThermalSlowdown": "software thermal slow-down",
        "HwThermalSlowdown": "hardware thermal slow-down",
        "HwPowerBrakeSlowdown": "hardware power brake",
        "DisplayClockSetting": "display clocks",
        "BoardLimit": "board limit",
        "Reliability": "reliability",
    }
    found = {}
    for name in dir(pynvml):
        match = re.fullmatch(r"nvmlClocks(?:Event|Throttle)Reason(?!All|None|UserDefinedClocks)([A-Z]\w+)", name)
        if match:
            found[match[1]] = getattr(pynvml, name)
    assert len(found) >= 9
    assert {name: nvml.throttle_reasons(bit) for name, bit in found.items()} == {name: (named[name],) for name in found}


NVML = """
typedef struct { unsigned long long total, free, used; } memory;
typedef struct { unsigned version, sensor; int temperature; } degrees;
#define GPU(d) if (d != (void *)7) return 2
int nvmlInitWithFlags(unsigned flags) { return 0; }
int nvmlDeviceGetHandleByPciBusId_v2(const char *a, void **d)
{ *d = (void *)7; return __builtin_strcmp(a, "0000:65:00.0") ? 6 : 0; }
int nvmlDeviceGetName(void *d, char *t, unsigned n) { GPU(d); __builtin_strcpy(t, "GPU"); return n < 64; }
int nvmlDeviceGetUUID(void *d, char *t, unsigned n) { GPU(d); __builtin_strcpy(t, "GPU-1"); return n < 80; }
int nvmlSystemGetDriverVersion(char *t, unsigned n) { __builtin_strcpy(t, "600.1"); return n < 80; }
int nvmlDeviceGetMaxClockInfo(void *d, unsigned kind, unsigned *v) { GPU(d); *v = 1000 * kind; return 0; }
int nvmlDeviceGetClockInfo(void *d, unsigned kind, unsigned *v) { GPU(d); *v = 900 * kind; return 0; }
int nvmlDeviceGetEnforcedPowerLimit(void *d, unsigned *v) { GPU(d); *v = 350000; return 0; }
int nvmlDeviceGetPowerUsage(void *d, unsigned *v) { GPU(d); *v = 123456; return 0; }
int nvmlDeviceGetMemoryInfo(void *d, memory *m)
{ GPU(d); m->total = 8ull << 30; m->free = 1; m->used = 5ull << 30; return 0; }
#ifdef NEW
int nvmlDeviceGetTemperatureV(void *d, degrees *t)
{ GPU(d); t->temperature = 61; return t->version != 0x100000C || t->sensor; }
int nvmlDeviceGetCurrentClocksEventReasons(void *d, unsigned long long *v) { GPU(d); *v = 0x4; return 0; }
#else
int nvmlDeviceGetTemperature(void *d, unsigned sensor, unsigned *v) { GPU(d); *v = 61; return sensor; }
int nvmlDeviceGetCurrentClocksThrottleReasons(void *d, unsigned long long *v) { GPU(d); *v = 0x4; return 0; }
#endif
"""
"""NVML's documented C interface: a driver with the new names alone, or with the old ones."""
CUDA = """
int cuInit(unsigned flags) { return 0; }
int cuDeviceGet(int *n, int device) { *n = 40 + device; return device != 1; }
int cuDeviceGetPCIBusId(char *t, int n, int device)
{ __builtin_strcpy(t, "0000:65:00.0"); return n < 13 || device != 41; }
"""
"""The same of CUDA's driver: the GPU that it numbers 1 is the one at that address."""
ASK = """
import json
from dataclasses import asdict
from ffnet_deploy.machine import nvml
gpu = nvml.find(1)
assert gpu and nvml.find(0) is None
print(json.dumps([asdict(gpu.describe()), asdict(gpu.sample()), nvml.used_bytes(1)]))
"""


def compiled(folder: Path, name: str, source: str, *flags: str) -> None:
    file = folder / f"{name}.c"
    file.write_text(source)
    subprocess.run(["cc", "-shared", "-fPIC", *flags, "-o", folder / f"{name}.so.1", file], check=True)


def asked(program: str, libraries: Path) -> str:
    env = {**os.environ, "LD_LIBRARY_PATH": str(libraries)}
    return subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, check=True, text=True).stdout


@pytest.mark.parametrize("flags", [["-DNEW"], []], ids=["new names", "old names"])
def test_a_driver_is_asked_through_the_package(flags: list[str], tmp_path: Path) -> None:
    pytest.importorskip("pynvml", reason=NO_PACKAGE)
    compiled(tmp_path, "libnvidia-ml", NVML, *flags)
    compiled(tmp_path, "libcuda", CUDA)
    facts, sample, used = json.loads(asked(ASK, tmp_path))
    assert GpuFacts(**facts) == FACTS
    assert GpuSample(**{**sample, "throttle_reasons": tuple(sample["throttle_reasons"])}) == SAMPLE
    assert used == SAMPLE.used_bytes


@pytest.mark.parametrize(
    ("source", "found"),
    [
        # Too old to start NVML.
        ("int nvmlInit_v2(void) { return 0; }", None),
        # The package is there, and its driver is not loaded.
        ("int nvmlInitWithFlags(unsigned flags) { return 9; }", None),
        # It starts, and knows no GPU and no figure.
        ("int nvmlInitWithFlags(unsigned flags) { return 0; }", None),
        (
            """int nvmlInitWithFlags(unsigned flags) { return 0; }
            int nvmlDeviceGetHandleByPciBusId_v2(const char *a, void **d) { *d = (void *)7; return 0; }""",
            [list(asdict(UNKNOWN_FACTS).values()), [None, None, None, None, [], None]],
        ),
    ],
    ids=["old", "not loaded", "no GPU", "no figures"],
)
def test_a_driver_that_lacks_functions_is_no_error(source: str, found: object, tmp_path: Path) -> None:
    pytest.importorskip("pynvml", reason=NO_PACKAGE)
    compiled(tmp_path, "libnvidia-ml", source)
    compiled(tmp_path, "libcuda", CUDA)
    program = ASK.partition("assert")[0] + (
        "told = gpu and [list(asdict(part).values()) for part in (gpu.describe(), gpu.sample())]\n"
        "print(json.dumps(told))"
    )
    assert json.loads(asked(program, tmp_path)) == found

"""What the system tells of itself, what others do meanwhile, and a GPU's state where there is none."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ffnet_deploy import machine
from ffnet_deploy.machine import load, nvml
from ffnet_deploy.machine.load import Watch, other_work
from ffnet_deploy.pipeline import environment


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
    assert found["processor"] == "Some CPU @ 3 GHz"
    assert found["flags"] == ["avx2", "avx512_vnni"]
    assert found["virtual"] is False
    assert (found["governor"], found["most_mhz"], found["memory_bytes"]) == ("powersave", 3500.0, 2048 * 1024)
    assert machine.megahertz() == 2500.5


def test_a_system_that_tells_nothing_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_text", lambda _: None)
    found = machine.describe()
    assert found["processor"]
    assert (found["flags"], found["governor"], found["most_mhz"], found["memory_bytes"]) == ([], None, None, None)
    assert machine.megahertz() is None
    assert machine.peak_bytes() is None


def test_this_machine_is_described() -> None:
    found = environment()
    assert found["cores_online"] >= found["cores"] >= 1
    assert found["memory_bytes"] > 1e8
    assert found["tools"]["torch"]


def test_peak_memory_is_that_of_the_process() -> None:
    program = "from ffnet_deploy import machine; x = b'1' * 300_000_000; del x; print(machine.peak_bytes())"
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
    # What it did stays ours when it is gone.
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
    assert watch.others == pytest.approx(0.3)
    assert watch.most_others == pytest.approx(0.3)
    assert watch.to_json()["other_work"] == pytest.approx(0.3)


def test_a_system_without_proc_tells_of_no_other_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "_busy_and_total", lambda: None)
    assert other_work(0.0) == 0.0
    with Watch() as watch:
        pass
    assert (watch.others, watch.most_others) == (0.0, 0.0)


# --- GPUs -----------------------------------------------------------------------------------------------------------


def test_without_a_device_or_a_driver_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    assert nvml.find(None) is None
    assert nvml.used_bytes(None) is None
    monkeypatch.setattr(nvml, "_library", lambda: None)
    assert nvml.find(0) is None
    assert Watch(0).to_json()["gpu"] is None


def test_reasons_for_low_clocks_are_named_and_harmless_ones_are_no_warning() -> None:
    assert nvml.throttle_reasons(0) == []
    assert nvml.throttle_reasons(0x1 | 0x4 | 0x40) == ["idle", "software power cap", "hardware thermal slow-down"]
    watch = Watch()
    watch._gpu_samples = [{"throttle_reasons": nvml.throttle_reasons(bits)} for bits in (0x1, 0x2 | 0x4, 0x0)]
    assert watch.throttled == ["software power cap"]


STAND_IN = """
typedef struct { unsigned long long total, free, used; } memory;
int nvmlDeviceGetName(void *d, char *t, unsigned n) { __builtin_strcpy(t, "GPU"); return d != (void *)7 || n < 64; }
int nvmlDeviceGetUUID(void *d, char *t, unsigned n) { __builtin_strcpy(t, "GPU-1"); return 0; }
int nvmlSystemGetDriverVersion(char *t, unsigned n) { __builtin_strcpy(t, "600.1"); return 0; }
int nvmlDeviceGetMaxClockInfo(void *d, unsigned kind, unsigned *v) { *v = 1000 * kind; return 0; }
int nvmlDeviceGetClockInfo(void *d, unsigned kind, unsigned *v) { *v = 900 * kind; return 0; }
int nvmlDeviceGetEnforcedPowerLimit(void *d, unsigned *v) { *v = 350000; return 0; }
int nvmlDeviceGetPowerUsage(void *d, unsigned *v) { *v = 123456; return 0; }
int nvmlDeviceGetTemperature(void *d, unsigned sensor, unsigned *v) { *v = 61; return sensor != 0; }
int nvmlDeviceGetCurrentClocksThrottleReasons(void *d, unsigned long long *v) { *v = 0x4; return 0; }
int nvmlDeviceGetMemoryInfo(void *d, memory *m) { m->total = 8ull << 30; m->free = 1; m->used = 5ull << 30; return 0; }
"""
"""NVML's documented C interface: numbers and pointers must arrive where it expects them."""


def test_a_gpu_is_asked_through_the_documented_c_interface(tmp_path: Path) -> None:
    source, library = tmp_path / "nvml.c", tmp_path / "libnvml.so"
    source.write_text(STAND_IN)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    gpu = nvml.Gpu(ctypes.CDLL(str(library)), ctypes.c_void_p(7))
    assert gpu.describe() == {
        "name": "GPU",
        "uuid": "GPU-1",
        "driver": "600.1",
        "most_sm_mhz": 1000,
        "most_memory_mhz": 2000,
        "power_limit_w": 350.0,
        "memory_bytes": 8 << 30,
    }
    assert gpu.sample() == {
        "sm_mhz": 900,
        "memory_mhz": 1800,
        "power_w": 123.456,
        "temperature_c": 61,
        "throttle_reasons": ["software power cap"],
        "used_bytes": 5 << 30,
    }
    watch = Watch()
    watch._gpu = gpu
    watch._gpu_samples = [gpu.sample(), {**gpu.sample(), "power_w": None}]
    told = watch.to_json()["gpu"]
    assert told["power_w"] == {"min": 123.456, "mean": 123.456, "max": 123.456}
    assert told["name"] == "GPU"

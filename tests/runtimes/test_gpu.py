"""What only a real GPU can show; skipped where the driver shows none."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from support.fakes import SMALL, SMALL_SHAPE

from ffnet_deploy.machine import load, nvml
from ffnet_deploy.machine.load import Watch
from ffnet_deploy.runtimes import cuda
from ffnet_deploy.runtimes.cuda import CudaDevice
from ffnet_deploy.runtimes.pytorch import PyTorchRunner, labelled, normalised
from ffnet_deploy.synthetic.feeds import street_feeds

pytestmark = pytest.mark.gpu

BLOCK = 256 << 20


@pytest.fixture
def gpu() -> nvml.Gpu:
    """CUDA's device 0, with torch's context on it: that takes memory too."""
    pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed (extra gpu)")
    torch.zeros(1, device="cuda:0")
    torch.cuda.synchronize(0)
    found = nvml.find(0)
    assert found, "the driver shows a GPU, and NVML does not find it"
    return found


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[CudaDevice]:
    """Device 0 by torch, also where pycuda is installed."""
    monkeypatch.setattr(cuda, "find_spec", lambda _: None)
    found = cuda.open_device(0)
    yield found
    found.close()


def multiply(seconds: float) -> None:
    """Keep the GPU busy."""
    values = torch.ones(4096, 4096, device="cuda:0")
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        _ = values @ values
        torch.cuda.synchronize(0)


def test_nvml_finds_the_gpu_that_cuda_numbers_0(gpu: nvml.Gpu) -> None:
    facts, seen = gpu.describe(), torch.cuda.get_device_properties(0)
    assert facts.name
    # A part of a GPU has the GPU's name and more.
    assert seen.name.startswith(facts.name)
    if "MIG" not in seen.name:
        assert facts.uuid == f"GPU-{seen.uuid}"


def test_nvml_tells_sane_figures_while_the_gpu_works(gpu: nvml.Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "_EVERY_S", 0.1)
    facts = gpu.describe()
    assert facts.driver
    assert facts.memory_bytes is None or 1 << 30 <= facts.memory_bytes < 1 << 40
    multiply(0.5)
    with Watch(0) as watch:
        multiply(1.0)
    found = watch.found(0.0).gpu
    assert found is not None
    assert (found.name, found.uuid, found.driver) == (facts.name, facts.uuid, facts.driver)
    for extent, least, most in (
        (found.sm_mhz, 100, facts.most_sm_mhz or 5000),
        (found.memory_mhz, 100, facts.most_memory_mhz or 20_000),
        (found.power_w, 1, 2 * (facts.power_limit_w or 1000)),
        (found.temperature_c, 5, 120),
        (found.used_bytes, 3 * 4096**2 * 4, facts.memory_bytes or 1 << 40),
    ):
        # A driver may tell none of one figure, as of power on a shared GPU.
        assert extent is None or least <= extent.min <= extent.mean <= extent.max <= most
    assert found.sm_mhz is not None
    assert set(found.throttle_reasons) <= set(nvml.throttle_reasons(-1))


def test_used_memory_grows_by_an_allocation(gpu: nvml.Gpu) -> None:
    torch.cuda.empty_cache()
    before = gpu.used_bytes()
    assert before is not None
    block = torch.zeros(BLOCK, dtype=torch.uint8, device="cuda:0")
    torch.cuda.synchronize(0)
    during = nvml.used_bytes(0)
    assert during is not None
    # Other processes may free or take some at the same time.
    assert 0.9 * BLOCK <= during - before <= 1.5 * BLOCK
    del block
    torch.cuda.empty_cache()
    after = gpu.used_bytes()
    assert after is not None
    assert after <= during - 0.9 * BLOCK


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8", "int64"])
def test_a_buffer_gives_back_what_it_was_given(device: CudaDevice, dtype: str) -> None:
    given = np.random.default_rng(0).integers(0, 200, (2, 3, 64, 128)).astype(dtype)
    buffer = device.allocate(given.shape, dtype)
    assert buffer.address
    buffer.upload(given)
    found = buffer.download()
    assert found.dtype == given.dtype
    assert np.array_equal(found, given)
    # A view that is not contiguous.
    buffer.upload(given[..., ::-1])
    assert np.array_equal(buffer.download(), given[..., ::-1])


def test_the_clock_is_that_of_the_stream(device: CudaDevice) -> None:
    stream = torch.cuda.ExternalStream(device.stream, device="cuda:0")  # type: ignore[no-untyped-call]
    values = torch.ones(4096, 4096, device="cuda:0")
    torch.cuda.synchronize(0)

    def work(times: int) -> None:
        with torch.cuda.stream(stream):
            for _ in range(times):
                _ = values @ values

    work(3)
    device.wait()
    assert stream.query()
    few, many = (device.milliseconds(lambda n=n: work(n)) for n in (2, 40))  # type: ignore[misc]
    assert 0 < few < many < 60_000
    assert stream.query()


def test_the_reference_computes_the_same_on_the_gpu() -> None:
    from ffnet_deploy.zoo.specs import find
    from ffnet_deploy.zoo.weights import load_random

    (feed,) = street_feeds(SMALL_SHAPE, 1)
    with PyTorchRunner(load_random(find(SMALL)).module, SMALL_SHAPE) as here:
        wanted = here(feed)["logits"]
    with PyTorchRunner(load_random(find(SMALL)).module, SMALL_SHAPE, device=0) as there:
        found = there(feed)["logits"]
        assert all(0 < sample < 60_000 for sample in there.latencies([feed], 3))
        assert there.spans["enqueue"]
    assert np.abs(found - wanted).max() < 1e-3


def test_images_are_normalised_on_the_gpu_as_on_the_cpu() -> None:
    image = torch.randint(0, 256, (2, 64, 128, 3), dtype=torch.uint8)
    found = normalised(image.cuda(0))
    assert found.device.type == "cuda"
    assert torch.allclose(found.cpu(), normalised(image), rtol=0, atol=1e-6)


@pytest.mark.parametrize("align_corners", [True, False])
def test_logits_are_labelled_on_the_gpu_as_on_the_cpu(align_corners: bool) -> None:
    logits = torch.randn(2, 19, 4, 8)
    found = labelled(logits.cuda(0), (8, 16), align_corners)
    assert found.device.type == "cuda"
    assert torch.equal(found.cpu(), labelled(logits, (8, 16), align_corners))
    classes = torch.randn(3, 10)
    assert torch.equal(labelled(classes.cuda(0), (1, 1), align_corners).cpu(), classes.argmax(1))

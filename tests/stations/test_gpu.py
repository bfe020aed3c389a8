"""What a worker says of its GPU: what torch says, and nothing that torch does not."""

import importlib.util
import sys
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch

from advdmd_ray.stations import gpu
from advdmd_ray.stations.gpu import gpu_use
from advdmd_ray.stations.records import GpuUse

DEVICE = torch.device("cuda", 0)


class NvmlError(Exception):
    """What the bindings of NVML raise."""


@pytest.fixture(autouse=True)
def one_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """A stand-in for torch's answers of one GPU whose bindings are installed."""
    gpu._refusals.cache_clear()

    def held(device: torch.device) -> int:
        assert device == DEVICE
        return 3 * 2**30

    def utilisation(device: torch.device) -> int:
        assert device == DEVICE
        return 42

    monkeypatch.setattr(torch.cuda, "memory_reserved", held)
    monkeypatch.setattr(torch.cuda, "utilization", utilisation)
    monkeypatch.setitem(sys.modules, "pynvml", SimpleNamespace(NVMLError=NvmlError))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    yield monkeypatch
    gpu._refusals.cache_clear()


def test_a_worker_on_a_gpu_says_what_torch_holds_of_it_and_which_share_of_the_time_it_computes() -> None:
    assert gpu_use(DEVICE) == GpuUse(3 * 2**30, 0.42)


def test_a_worker_on_a_cpu_asks_nobody_and_says_nothing(one_gpu: pytest.MonkeyPatch) -> None:
    def asked(_: torch.device) -> int:
        raise AssertionError("torch was asked for a GPU")

    for name in ("memory_reserved", "utilization"):
        one_gpu.setattr(torch.cuda, name, asked)
    assert gpu_use(torch.device("cpu")) is None


def test_without_the_bindings_the_utilisation_is_not_known(one_gpu: pytest.MonkeyPatch) -> None:
    one_gpu.setattr(importlib.util, "find_spec", lambda _: None)
    assert gpu_use(DEVICE) == GpuUse(3 * 2**30, None)


@pytest.mark.parametrize("error", [NvmlError("not supported"), RuntimeError("the driver is not there")])
def test_a_gpu_that_does_not_say_is_no_failure(one_gpu: pytest.MonkeyPatch, error: Exception) -> None:
    def refused(_: torch.device) -> int:
        raise error

    one_gpu.setattr(torch.cuda, "utilization", refused)
    assert gpu_use(DEVICE) == GpuUse(3 * 2**30, None)

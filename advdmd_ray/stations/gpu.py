"""What a worker's process has of its GPU, as far as torch tells."""

import importlib.util
from functools import cache
from importlib import import_module

import torch

from advdmd_ray.stations.records import GpuUse


def gpu_use(device: torch.device) -> GpuUse | None:
    """What this process has of its GPU; None for one whose networks are on the CPU."""
    if device.type != "cuda":
        return None
    return GpuUse(torch.cuda.memory_reserved(device), _utilisation(device))


def _utilisation(device: torch.device) -> float | None:
    refusals = _refusals()
    if not refusals:
        return None
    try:
        return torch.cuda.utilization(device) / 100
    except refusals:  # a part of a GPU (MIG) does not say
        return None


@cache
def _refusals() -> tuple[type[Exception], ...]:
    """What asking for the utilisation may raise; nothing: nobody can be asked, as nvidia-ml-py is not installed."""
    if importlib.util.find_spec("pynvml") is None:
        return ()
    return RuntimeError, import_module("pynvml").NVMLError

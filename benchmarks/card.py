"""Where the figures come from: the card and what it can do at most, the versions."""

import platform
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import psutil
import torch

ANSWER_S = 60.0
TERA = 10**12

# Dense bfloat16 products of tensor cores with float32 sums, TFLOP/s, by the name that CUDA gives the card. NVIDIA's
# data sheets give twice as much where they count sparse ones. A slice of a card has another name: it is not known here.
_H100 = "NVIDIA H100 Tensor Core GPU Architecture, white paper and data sheet"
_H200 = "NVIDIA H200 Tensor Core GPU, data sheet, half of the sparse figure"
_A100 = "NVIDIA A100 Tensor Core GPU, data sheet"
PEAKS: Mapping[str, tuple[float, str]] = {
    "NVIDIA H100 80GB HBM3": (989.4, _H100),
    "NVIDIA H100 PCIe": (756.0, _H100),
    "NVIDIA H100 NVL": (835.5, _H100),
    "NVIDIA H200": (989.4, _H200),
    "NVIDIA A100-SXM4-40GB": (312.0, _A100),
    "NVIDIA A100-SXM4-80GB": (312.0, _A100),
    "NVIDIA A100-PCIE-40GB": (312.0, _A100),
    "NVIDIA A100 80GB PCIe": (312.0, _A100),
}


@dataclass(frozen=True, slots=True)
class Hardware:
    """One device and the software that drives it.

    Attributes:
        device: Name of the GPU, or of the CPU.
        is_gpu: Whether it is a GPU.
        memory_bytes: Of the GPU, or of the host where there is none.
        driver: Version of NVIDIA's driver; None on a CPU, or where `nvidia-smi` is missing.
        cuda: Version of CUDA that torch was built with; None for a build without.
        peak_tflops: Dense bfloat16 peak; None on a CPU and for a card that `PEAKS` does not have.
        peak_source: Where it stands, or why there is none.
        versions: Of Python and of the packages that compute.
    """

    device: str
    is_gpu: bool
    memory_bytes: int
    driver: str | None
    cuda: str | None
    peak_tflops: float | None
    peak_source: str
    versions: Mapping[str, str]


def hardware(device: torch.device) -> Hardware:
    """Looks at a device of this machine."""
    packages = ("torch", "diffusers", "peft", "deepspeed")
    versions = {"python": platform.python_version(), **{name: version(name) for name in packages}}
    if device.type != "cuda":
        memory = psutil.virtual_memory().total
        name = f"CPU, {platform.machine()}, {torch.get_num_threads()} threads"
        why = "a CPU: no utilisation is claimed"
        return Hardware(name, False, memory, None, torch.version.cuda, None, why, versions)
    name = torch.cuda.get_device_name(device)
    memory = torch.cuda.get_device_properties(device).total_memory
    peak, source = peak_of(name)
    return Hardware(name, True, memory, _driver(), torch.version.cuda, peak, source, versions)


def peak_of(name: str) -> tuple[float | None, str]:
    """The peak of a card by its name, and its source, or why there is none."""
    return PEAKS.get(name, (None, f"the peak of {name!r} is not in {Path(__file__).name}: no utilisation is claimed"))


def _driver() -> str | None:
    command = shutil.which("nvidia-smi")
    if command is None:
        return None
    answer = subprocess.run(  # noqa: S603 - no shell
        [command, "--query-gpu=driver_version", "--format=csv,noheader"],
        capture_output=True,
        text=True,
        timeout=ANSWER_S,
        check=False,
    )
    lines = answer.stdout.splitlines()
    return lines[0].strip() if answer.returncode == 0 and lines else None

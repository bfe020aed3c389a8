"""Where and in which precision images are drawn: as a command's options say, or by what this machine has."""

from dataclasses import dataclass

import psutil
import torch

from advdmd_ray.errors import UserError
from advdmd_ray.models.folder import PipelineInfo

AUTO = "auto"
GIB = 2**30


@dataclass(frozen=True, slots=True)
class Place:
    """Where networks are and what they compute in.

    Attributes:
        device: `cpu`, or a CUDA device.
        half: Whether weights and matrix products are bfloat16; else float32.
    """

    device: torch.device
    half: bool

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return torch.bfloat16 if self.half else torch.float32


def place_of(device: str = AUTO, precision: str = AUTO) -> Place:
    """A place by its options.

    Args:
        device: `auto` for a GPU if torch sees one, `cpu`, `cuda` or `cuda:N`.
        precision: `float32`, `bfloat16`, or `auto` for bfloat16 on a GPU, as full-size pipelines are used, and float32
            on the CPU.

    Raises:
        UserError: if there is no such device here.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == AUTO:
        device = "cuda" if count else "cpu"
    kind, colon, number = device.partition(":")
    if kind not in {"cpu", "cuda"} or (colon and (kind == "cpu" or not number.isdecimal())):
        raise UserError(f"--device {device}: is none; use auto, cpu, cuda, or one of several GPUs as cuda:1")
    if kind == "cuda" and int(number or 0) >= count:
        there = f"sees {count}, cuda:0 to cuda:{count - 1}" if count else "sees no CUDA device here"
        raise UserError(f"--device {device}: torch {torch.__version__} {there}; use another, or --device cpu")
    half = kind == "cuda" if precision == AUTO else precision == "bfloat16"
    return Place(torch.device(device), half)


def check_room(info: PipelineInfo, place: Place) -> None:
    """Make sure that a pipeline's weights fit the memory that is free there.

    Raises:
        UserError: if they do not.
    """
    needed = sum(part.parameters for part in info.components) * place.dtype.itemsize
    on_gpu = place.device.type == "cuda"
    free = torch.cuda.mem_get_info(place.device)[0] if on_gpu else psutil.virtual_memory().available
    if needed > free:
        other = "--precision bfloat16" if not place.half else "--device cpu" if on_gpu else "a larger machine"
        raise UserError(
            f"{info.folder}: its weights are {needed / GIB:.1f} GiB in {str(place.dtype).removeprefix('torch.')}, and "
            f"{free / GIB:.1f} GiB are free on {place.device}; use {other}"
        )

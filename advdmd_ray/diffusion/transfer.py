"""Tensors on their way to an accelerator and back, through page-locked memory, so that nobody waits; and as bytes.

A copy from or to ordinary host memory makes the host wait until the device has done all that it was given before. On
the CPU nothing is copied.
"""

import gc

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device; the copy takes its turn behind the work that the device has, and the host goes on."""
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)  # torch frees the pages after the copy


def to_host(*tensors: Tensor) -> list[Tensor]:
    """The tensors in host memory, after one wait for all of them."""
    here = [tensor if tensor.device.type == "cpu" else _begun(tensor) for tensor in tensors]
    for device in {tensor.device for tensor in tensors if tensor.device.type == "cuda"}:
        torch.cuda.current_stream(device).synchronize()
    return here


def let_go() -> None:
    """Gives back the memory of networks that nobody names any more, a GPU's too: their modules refer to each other."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def raw_bytes(tensor: Tensor) -> UInt8[np.ndarray, " bytes"]:
    """The row-major bytes; those of the tensor itself where it lies on the CPU in this order."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()


def _begun(tensor: Tensor) -> Tensor:
    pinned = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return pinned.copy_(tensor, non_blocking=True)

"""A safetensors file that is written tensor by tensor, so that no process has to hold all of them.

The safetensors library writes a file from tensors that are all in memory; it reads what is written here.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from advdmd_ray.diffusion.transfer import raw_bytes

_DTYPES: Final = {
    torch.float64: "F64",
    torch.int64: "I64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_WIDEST: Final = 8
"""Bytes of the largest element, to which the first tensor is aligned."""

Layout = Mapping[str, tuple[torch.dtype, torch.Size]]
"""Name -> dtype and shape."""


def cpu_copy(tensor: Tensor) -> Tensor:
    """A detached copy on the CPU."""
    return tensor.detach().to("cpu", copy=True)


@dataclass(frozen=True, slots=True)
class TensorStream:
    """Named tensors that are made one at a time, once, and known by dtype and shape before.

    Where a tensor is gathered from several ranks, all of them go through the whole stream.

    Attributes:
        layout: What comes, in its order.
        tensors: Name and tensor, on any device. A tensor may be the very one that learns: copy what is kept.
    """

    layout: Layout
    tensors: Iterator[tuple[str, Tensor]]

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> "TensorStream":
        """Tensors that are there already; wide elements first, so that all are aligned in a file."""
        ordered = dict(sorted(tensors.items(), key=lambda item: (-item[1].dtype.itemsize, item[0])))
        return cls({name: (tensor.dtype, tensor.shape) for name, tensor in ordered.items()}, iter(ordered.items()))

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        return self.tensors

    def copied(self) -> dict[str, Tensor]:
        """Copies of all, on the CPU."""
        return {name: cpu_copy(tensor) for name, tensor in self.tensors}

    def drain(self) -> None:
        """Goes through what is left and keeps nothing, for the ranks that do."""
        for _ in self.tensors:
            pass


@dataclass(frozen=True, slots=True)
class Written:
    """A file's size in bytes and the SHA-256 of what was written to it, 64 hexadecimal digits."""

    size: int
    sha256: str


def write_tensors(path: Path, stream: TensorStream) -> Written:
    """Writes a safetensors file; one tensor at a time is in host memory.

    Raises:
        OSError: if the disk refuses.
        ValueError: for a dtype that is not stored, a tensor whose place would not be aligned, or a stream that does
            not keep to its layout.
    """
    digest, written = hashlib.sha256(), 0
    with path.open("wb") as file:

        def put(data: bytes | memoryview) -> None:
            nonlocal written
            file.write(data)
            digest.update(data)
            written += len(data)

        put(_header(stream.layout))
        for (name, (dtype, shape)), (came, tensor) in zip(stream.layout.items(), stream, strict=True):
            if (came, tensor.dtype, tensor.shape) != (name, dtype, shape):
                raise ValueError(
                    f"{path.name}: {came} of {tensor.dtype}{list(tensor.shape)} came in the place of {name} of "
                    f"{dtype}{list(shape)}"
                )
            if tensor.numel():
                put(raw_bytes(tensor).data)
    return Written(written, digest.hexdigest())


def _header(layout: Layout) -> bytes:
    """Length in eight bytes, then JSON with the place of every tensor, padded with spaces."""
    entries, end = {}, 0
    for name, (dtype, shape) in layout.items():
        if dtype not in _DTYPES or end % dtype.itemsize:
            raise ValueError(f"{name} of {dtype} cannot be stored at byte {end}; put wider elements first")
        start, end = end, end + shape.numel() * dtype.itemsize
        entries[name] = {"dtype": _DTYPES[dtype], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % _WIDEST)
    return len(text).to_bytes(8, "little") + text

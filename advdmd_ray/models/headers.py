"""The files of a pipeline folder without loading them: JSON, and the headers of safetensors."""

import json
import math
import struct
from pathlib import Path
from typing import Any

from advdmd_ray.errors import UserError

LENGTH_BYTES = 8
QUANTISED = frozenset({"U8", "I8", "F4", "F6_E2M3", "F6_E3M2", "F8_E4M3", "F8_E5M2", "F8_E8M0"})
"""Kinds of numbers that stand for others by scales elsewhere in the file, or in none."""
MAX_HEADER_BYTES = 100_000_000
"""The safetensors format's own limit."""


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        UserError: The file is missing, unreadable or holds something else.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{file}: missing; give a complete diffusers pipeline folder, or copy it again") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read as JSON ({error}); copy it again") from None
    if not isinstance(content, dict):
        raise UserError(f"{file}: is not a JSON object; copy it again")
    return content


def weight_files(home: Path) -> tuple[Path, ...]:
    """Find the safetensors files of a model folder: one file, or the shards that its index names.

    Raises:
        UserError: There are none, the weights are pickled, or the index names no shards.
    """
    for stem in ("diffusion_pytorch_model", "model"):
        index = home / f"{stem}.safetensors.index.json"
        if index.is_file():
            mapping = read_json(index).get("weight_map")
            if not isinstance(mapping, dict) or not mapping:
                raise UserError(f"{index}: has no weight_map; copy it again")
            return tuple(home / shard for shard in sorted(set(mapping.values())))
        if (home / f"{stem}.safetensors").is_file():
            return (home / f"{stem}.safetensors",)
    other = [file.name for file in sorted(home.iterdir()) if file.suffix in {".bin", ".pt", ".ckpt", ".pth"}]
    if other:
        raise UserError(f"{home / other[0]}: pickled weights are not read; save the pipeline with safetensors")
    raise UserError(f"{home}: holds no safetensors weights; copy the folder again")


def check_safetensors(file: Path) -> int:
    """Number of tensor elements in a safetensors file, checked as `tensor_shapes` does."""
    return sum(math.prod(shape) for shape in tensor_shapes(file).values())


def tensor_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Shapes in a safetensors file by name, from its header, which says: 8 + header + data bytes, no gap and no rest.

    Args:
        file: The file.

    Raises:
        UserError: The file is missing, shorter or longer than its header says, not in the format, or quantised.
    """
    size, length = 0, -1
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            prefix = stream.read(LENGTH_BYTES)
            length = struct.unpack("<Q", prefix)[0] if len(prefix) == LENGTH_BYTES else -1
            whole = 0 < length <= min(MAX_HEADER_BYTES, size - LENGTH_BYTES)
            header = json.loads(stream.read(length)) if whole else None
    except FileNotFoundError:
        raise UserError(f"{file}: missing; copy the pipeline folder again") from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); check its permissions") from None
    except ValueError:
        header = None
    if not isinstance(header, dict):
        raise UserError(f"{file}: is truncated or not a safetensors file ({size} bytes); copy it again")
    header.pop("__metadata__", None)
    try:
        data = max((tensor["data_offsets"][1] for tensor in header.values()), default=0)
        shapes = {name: tuple(int(side) for side in tensor["shape"]) for name, tensor in header.items()}
        quantised = [name for name, tensor in header.items() if tensor["dtype"] in QUANTISED]
    except (KeyError, TypeError, IndexError):
        raise UserError(f"{file}: has a damaged safetensors header; copy it again") from None
    if quantised:
        raise UserError(
            f"{file}: {quantised[0]} is {header[quantised[0]]['dtype']}, and quantised weights are not read; give the "
            "model in bfloat16, float16 or float32"
        )
    expected = LENGTH_BYTES + length + data
    if size != expected:
        raise UserError(f"{file}: has {size} bytes, its header says {expected}; it is damaged, copy it again")
    return shapes

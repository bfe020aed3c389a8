"""Snapshots of weights: manifest, digest and the safetensors bytes themselves. Nothing is unpickled."""

import hashlib
import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import get_args

import numpy as np
import safetensors
import safetensors.torch
import torch
from jaxtyping import UInt8
from torch import Tensor

from advdmd_ray.errors import WeightsMismatchError
from advdmd_ray.stations.records import Stream

STREAMS: tuple[Stream, ...] = get_args(Stream)


@dataclass(frozen=True, slots=True, order=True)
class TensorSpec:
    """Name, dtype (such as `float32`) and shape of one tensor."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a snapshot must contain.

    Attributes:
        stream: Which network, or the prompt table.
        version: Counted from 0 in each stream.
        digest: `digest_of` the state.
        base_digest: Digest of the frozen teacher that the state belongs to; None where nobody asks.
        tensors: Sorted by name.
    """

    stream: Stream
    version: int
    digest: str
    base_digest: str | None
    tensors: tuple[TensorSpec, ...]

    @property
    def tensor_bytes(self) -> int:
        """Size of all tensors, without the payload's header."""
        return sum(math.prod(spec.shape) * getattr(torch, spec.dtype).itemsize for spec in self.tensors)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A manifest and the safetensors bytes it describes."""

    manifest: Manifest
    payload: UInt8[np.ndarray, " bytes"]


def _specs(state: Mapping[str, Tensor]) -> tuple[TensorSpec, ...]:
    specs = (TensorSpec(n, str(t.dtype).removeprefix("torch."), tuple(t.shape)) for n, t in state.items())
    return tuple(sorted(specs))


def digest_of(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over `[name, dtype, shape]` (a JSON line) and the row-major raw bytes of each tensor, by name.

    Independent of the mapping's order, of devices and of memory layout; any changed bit, name, dtype or shape
    changes it.

    Returns:
        64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for spec in _specs(state):
        digest.update(json.dumps([spec.name, spec.dtype, spec.shape]).encode() + b"\n")
        raw = state[spec.name].detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(raw.numpy().data)
    return digest.hexdigest()


def pack(stream: Stream, version: int, state: Mapping[str, Tensor], base_digest: str | None = None) -> Snapshot:
    """A snapshot of the state, copied off its device.

    Raises:
        ValueError: for an unknown stream, a negative version or an empty state.
    """
    if stream not in STREAMS or version < 0 or not state:
        raise ValueError(f"a snapshot needs one of {STREAMS}, version >= 0 and tensors, got {stream!r}, {version}")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    manifest = Manifest(stream, version, digest_of(tensors), base_digest, _specs(tensors))
    return Snapshot(manifest, np.frombuffer(safetensors.torch.save(tensors), np.uint8))


def _difference(required: Collection[TensorSpec], came: Collection[TensorSpec]) -> str | None:
    """The first thing in which two lists of tensors differ, in words, or None."""
    wanted = {spec.name: spec for spec in required}
    found = {spec.name: spec for spec in came}
    for name in sorted(wanted.keys() | found.keys()):
        if name not in found:
            return f"tensor {name} is missing"
        if name not in wanted:
            return f"tensor {name} is not in the manifest"
        ours, theirs = found[name], wanted[name]
        if ours != theirs:
            return f"tensor {name} is {ours.dtype}{list(ours.shape)}, published {theirs.dtype}{list(theirs.shape)}"
    return None


def _mismatch(manifest: Manifest, what: str, digest: str, difference: str) -> WeightsMismatchError:
    return WeightsMismatchError(
        f"{manifest.stream} version {manifest.version}: {what} has digest {digest}, published was {manifest.digest}: "
        f"{difference}"
    )


def check_specs(manifest: Manifest, state: Mapping[str, Tensor]) -> None:
    """Raises WeightsMismatchError if a network's names, dtypes or shapes are not the manifest's."""
    difference = _difference(manifest.tensors, _specs(state))
    if difference is not None:
        raise _mismatch(manifest, "the network before loading", digest_of(state), difference)


def check_digest(manifest: Manifest, state: Mapping[str, Tensor], what: str) -> str:
    """The state's digest; raises WeightsMismatchError, with the first difference, if it is not the manifest's."""
    digest = digest_of(state)
    if digest != manifest.digest:
        difference = _difference(manifest.tensors, _specs(state)) or "the bytes differ"
        raise _mismatch(manifest, what, digest, difference)
    return digest


def unpack(snapshot: Snapshot) -> dict[str, Tensor]:
    """The tensors of a snapshot, on the CPU, in memory of their own.

    Raises:
        WeightsMismatchError: if the payload is no whole safetensors file or differs from the manifest.
    """
    manifest = snapshot.manifest
    try:
        state = safetensors.torch.load(snapshot.payload.tobytes())
    except safetensors.SafetensorError as error:
        raise WeightsMismatchError(
            f"{manifest.stream} version {manifest.version}: the payload is no whole safetensors file ({error}), "
            f"published was {manifest.digest}"
        ) from error
    digest = check_digest(manifest, state, "the payload")
    if (difference := _difference(manifest.tensors, _specs(state))) is not None:
        raise _mismatch(manifest, "the payload", digest, difference)
    return state

"""Snapshots of weights: a manifest that names and checks every tensor, and the bytes of each. Nothing is unpickled."""

import hashlib
import json
import math
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TypeAlias, get_args

import numpy as np
import torch
import xxhash
from jaxtyping import UInt8
from torch import Tensor

from advdmd_ray.diffusion.transfer import raw_bytes
from advdmd_ray.errors import WeightsMismatchError
from advdmd_ray.stations.records import Stream

STREAMS: tuple[Stream, ...] = get_args(Stream)
# One array a tensor: Ray writes each into its store as it is, and a worker on the node reads it where it lies.
Payload: TypeAlias = tuple[UInt8[np.ndarray, " bytes"], ...]


@dataclass(frozen=True, slots=True, order=True)
class TensorSpec:
    """What one tensor must be.

    Attributes:
        name: In the state.
        dtype: Such as `float32`.
        shape: Its sizes.
        checksum: XXH3, 128 bits, of its row-major raw bytes; 32 hexadecimal digits. It finds damage, not an attacker.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    checksum: str

    @property
    def size_bytes(self) -> int:
        """Length of the raw bytes."""
        return math.prod(self.shape) * getattr(torch, self.dtype).itemsize


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a snapshot must contain.

    Attributes:
        stream: Which network.
        version: Counted from 0 in each stream.
        base_digest: Digest of the frozen teacher that the state belongs to; None where nobody asks.
        tensors: Sorted by name.
    """

    stream: Stream
    version: int
    base_digest: str | None
    tensors: tuple[TensorSpec, ...]

    @property
    def digest(self) -> str:
        """`digest_of` the state."""
        return _digest(self.tensors)

    @property
    def tensor_bytes(self) -> int:
        """Size of all tensors."""
        return sum(spec.size_bytes for spec in self.tensors)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A manifest and the raw bytes of its tensors, in its order."""

    manifest: Manifest
    payload: Payload


def _spec(name: str, tensor: Tensor, raw: UInt8[np.ndarray, " bytes"]) -> TensorSpec:
    dtype = str(tensor.dtype).removeprefix("torch.")
    return TensorSpec(name, dtype, tuple(tensor.shape), xxhash.xxh3_128_hexdigest(raw.data))


def specs_of(state: Mapping[str, Tensor]) -> tuple[TensorSpec, ...]:
    """What each tensor of a state is, by name."""
    return tuple(_spec(name, state[name], raw_bytes(state[name])) for name in sorted(state))


def _digest(specs: Collection[TensorSpec]) -> str:
    digest = hashlib.sha256()
    for spec in specs:
        digest.update(json.dumps([spec.name, spec.dtype, spec.shape, spec.checksum]).encode() + b"\n")
    return digest.hexdigest()


def digest_of(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over `[name, dtype, shape, checksum]` (a JSON line) of each tensor, by name.

    Independent of the mapping's order, of devices and of memory layout; any changed bit, name, dtype or shape
    changes it.

    Returns:
        64 hexadecimal digits.
    """
    return _digest(specs_of(state))


def pack(stream: Stream, version: int, state: Mapping[str, Tensor], base_digest: str | None = None) -> Snapshot:
    """A snapshot of a state, which must not change afterwards: what is on the CPU already is not copied.

    Raises:
        ValueError: for an unknown stream, a negative version or an empty state.
    """
    if stream not in STREAMS or version < 0 or not state:
        raise ValueError(f"a snapshot needs one of {STREAMS}, version >= 0 and tensors, got {stream!r}, {version}")
    names = sorted(state)
    payload = tuple(raw_bytes(state[name]) for name in names)
    specs = tuple(_spec(name, state[name], raw) for name, raw in zip(names, payload, strict=True))
    return Snapshot(Manifest(stream, version, base_digest, specs), payload)


def _misfit(required: Collection[TensorSpec], came: Collection[TensorSpec]) -> str | None:
    """The first tensor whose name, dtype or shape differs between two lists, in words, or None."""
    wanted = {spec.name: spec for spec in required}
    found = {spec.name: spec for spec in came}
    for name in sorted(wanted.keys() | found.keys()):
        if name not in found:
            return f"tensor {name} is missing"
        if name not in wanted:
            return f"tensor {name} is not in the manifest"
        ours, theirs = found[name], wanted[name]
        if (ours.dtype, ours.shape) != (theirs.dtype, theirs.shape):
            return f"tensor {name} is {ours.dtype}{list(ours.shape)}, published {theirs.dtype}{list(theirs.shape)}"
    return None


def _mismatch(manifest: Manifest, what: str, digest: str, difference: str) -> WeightsMismatchError:
    return WeightsMismatchError(
        f"{manifest.stream} version {manifest.version}: {what} has digest {digest}, published was {manifest.digest}: "
        f"{difference}"
    )


def check_fit(manifest: Manifest, state: Mapping[str, Tensor]) -> None:
    """Raises WeightsMismatchError if a network's names, dtypes or shapes are not the manifest's; reads no weight."""
    came = [TensorSpec(name, str(t.dtype).removeprefix("torch."), tuple(t.shape), "") for name, t in state.items()]
    difference = _misfit(manifest.tensors, came)
    if difference is not None:
        raise _mismatch(manifest, "the network before loading", digest_of(state), difference)


def check_digest(manifest: Manifest, state: Mapping[str, Tensor], what: str) -> str:
    """The state's digest; raises WeightsMismatchError, naming the first tensor that differs, if it is not published.

    Args:
        manifest: What was published.
        state: What came of it.
        what: The state, in words.
    """
    specs = specs_of(state)
    digest = _digest(specs)
    if digest != manifest.digest:
        differing = (ours.name for ours, theirs in zip(specs, manifest.tensors, strict=False) if ours != theirs)
        difference = _misfit(manifest.tensors, specs) or f"the bytes of tensor {next(differing)} differ"
        raise _mismatch(manifest, what, digest, difference)
    return digest


def _tensor(spec: TensorSpec, raw: UInt8[np.ndarray, " bytes"]) -> Tensor:
    """The bytes as the tensor that they are."""
    dtype = getattr(torch, spec.dtype)
    # An array without elements may have strides that no other dtype can take over.
    return torch.from_numpy(raw).view(dtype).reshape(spec.shape) if raw.size else torch.empty(spec.shape, dtype=dtype)


def unpack(snapshot: Snapshot) -> dict[str, Tensor]:
    """The tensors of a snapshot, on the CPU, where its bytes lie: memory that must not be written.

    Raises:
        WeightsMismatchError: if the payload differs from the manifest.
    """
    manifest, payload = snapshot.manifest, snapshot.payload
    lengths = [spec.size_bytes for spec in manifest.tensors]
    if [raw.nbytes for raw in payload] != lengths:
        raise WeightsMismatchError(
            f"{manifest.stream} version {manifest.version}: the payload has {sum(raw.nbytes for raw in payload)} bytes "
            f"in {len(payload)} tensors, published were {sum(lengths)} in {len(lengths)} (digest {manifest.digest})"
        )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        state = {spec.name: _tensor(spec, raw) for spec, raw in zip(manifest.tensors, payload, strict=True)}
    check_digest(manifest, state, "the payload")
    return state

"""Versioned weight snapshots that prove themselves: a manifest, a digest of the bytes, and who runs what.

A worker reports the digest of what its own network holds after loading, not of what it was sent; the store compares
it with what was published. Any difference stops the run. Payloads are safetensors; nothing is unpickled.
"""

import hashlib
import json
import math
from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Generic, Literal, Protocol, Self, TypeVar, get_args

import numpy as np
import safetensors
import safetensors.torch
import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from advdmd_ray.errors import WeightsMismatchError
from advdmd_ray.records import LoadReport

Stream = Literal["student", "discriminator", "prompts"]
STREAMS: tuple[Stream, ...] = get_args(Stream)
Reference = TypeVar("Reference")
# Digests outlive their snapshots, for reports that arrive late; a worker this far behind is lost anyway.
_DIGESTS_KEPT = 4096


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

    def as_dict(self) -> dict[str, Any]:
        """The manifest as JSON-able values."""
        return asdict(self) | {"tensors": [[spec.name, spec.dtype, list(spec.shape)] for spec in self.tensors]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `as_dict`.

        Raises:
            ValueError: for missing or unknown keys, an unknown stream, or malformed tensors.
        """
        if set(values) != set(cls.__dataclass_fields__):
            raise ValueError(f"manifest has keys {sorted(values)}, {sorted(cls.__dataclass_fields__)} are required")
        if values["stream"] not in STREAMS:
            raise ValueError(f"manifest stream {values['stream']!r} is none of {list(STREAMS)}")
        try:
            specs = tuple(TensorSpec(str(n), str(d), tuple(int(size) for size in s)) for n, d, s in values["tensors"])
        except TypeError as error:
            raise ValueError(f"manifest tensors must be [name, dtype, shape]: {error}") from error
        return cls(values["stream"], values["version"], values["digest"], values["base_digest"], specs)


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


def _check_specs(manifest: Manifest, state: Mapping[str, Tensor]) -> None:
    """Raises WeightsMismatchError if a network's names, dtypes or shapes are not the manifest's."""
    difference = _difference(manifest.tensors, _specs(state))
    if difference is not None:
        raise _mismatch(manifest, "the network before loading", digest_of(state), difference)


def _check_digest(manifest: Manifest, state: Mapping[str, Tensor], what: str) -> str:
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
    digest = _check_digest(manifest, state, "the payload")
    if (difference := _difference(manifest.tensors, _specs(state))) is not None:
        raise _mismatch(manifest, "the payload", digest, difference)
    return state


class Loader(Protocol):
    """Anything that can load a state and show what it holds."""

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Copies the tensors into place."""
        ...

    def loaded(self) -> Mapping[str, Tensor]:
        """The tensors in use, by the names of the manifest."""
        ...


class ModuleLoader:
    """Loads some or all tensors of a module.

    Args:
        module: The module.
        names: Names in its `state_dict` that a snapshot must cover, such as its trainable parameters; None: all.

    Raises:
        ValueError: if a name is not in the module.
    """

    def __init__(self, module: nn.Module, names: Collection[str] | None = None) -> None:
        held = module.state_dict().keys()
        if unknown := sorted(set(names or ()) - held):
            raise ValueError(f"the module has no tensor {unknown[0]}")
        self._module = module
        self._names = frozenset(held if names is None else names)

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Copies the tensors into the module; the rest of it stays."""
        self._module.load_state_dict(state, strict=False)

    def loaded(self) -> dict[str, Tensor]:
        """The module's own tensors."""
        return {name: tensor for name, tensor in self._module.state_dict().items() if name in self._names}


def load_verified(target: nn.Module | Loader, snapshot: Snapshot, worker: str) -> LoadReport:
    """Loads a snapshot and reports the digest of what the target then holds, computed from its own tensors.

    A payload that is damaged, or whose names, dtypes or shapes are not the target's, is refused before anything is
    changed. A plain module must be covered whole, buffers too; use `ModuleLoader` for a part.

    Raises:
        WeightsMismatchError: naming worker, stream, version and both digests.
    """
    loader = ModuleLoader(target) if isinstance(target, nn.Module) else target
    manifest = snapshot.manifest
    try:
        state = unpack(snapshot)
        _check_specs(manifest, loader.loaded())
        loader.load(state)
        digest = _check_digest(manifest, loader.loaded(), "the loaded network")
    except WeightsMismatchError as error:
        raise WeightsMismatchError(f"{worker}: {error}") from error
    return LoadReport(worker, manifest.stream, manifest.version, digest)


class VersionedModule:
    """A worker's frozen network and the version of the weights it holds.

    Args:
        worker: Name of the worker, for reports and errors.
        module: The network. Its trainable parameters come with snapshots, or all if none is trainable; the rest stays.
        base_digest: Digest of the teacher that this worker has on its disk.
    """

    def __init__(self, worker: str, module: nn.Module, base_digest: str | None = None) -> None:
        learning = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
        self._loader = ModuleLoader(module, learning or [name for name, _ in module.named_parameters()])
        self.module = module.eval().requires_grad_(requires_grad=False)
        self.version: int | None = None
        self._worker, self._base_digest = worker, base_digest

    def load(self, snapshot: Snapshot) -> LoadReport | None:
        """Loads the snapshot unless its version already runs; the report's digest is of what was loaded.

        Raises:
            WeightsMismatchError: if the loaded bytes differ from the manifest, or belong to another teacher.
        """
        manifest = snapshot.manifest
        if manifest.version == self.version:
            return None
        if manifest.base_digest != self._base_digest:
            raise WeightsMismatchError(
                f"{self._worker}: {manifest.stream} {manifest.version} belongs to the teacher {manifest.base_digest}, "
                f"this worker has {self._base_digest}; give all machines the same model.path"
            )
        report = load_verified(self._loader, snapshot, self._worker)
        self.version = manifest.version
        return report


@dataclass(frozen=True, slots=True)
class WeightStats:
    """Counters per stream, and what runs where.

    Attributes:
        published: Versions published since the start.
        verified: Load reports whose digest was the published one.
        mismatched: Load reports whose digest was not.
        running: For each stream, the version each worker reported last.
    """

    published: Mapping[Stream, int]
    verified: Mapping[Stream, int]
    mismatched: Mapping[Stream, int]
    running: Mapping[Stream, Mapping[str, int]]


class WeightStore(Generic[Reference]):
    """Owner of the versions: manifests and references of the last `keep` snapshots of each stream.

    Args:
        keep: Snapshots kept per stream, at least 1.
        first: Version that the next publish of a stream must have, when a run resumes; 0 where absent.

    Raises:
        ValueError: for a `keep` below 1, an unknown stream or a negative version.
    """

    def __init__(self, keep: int, first: Mapping[Stream, int] | None = None) -> None:
        first = first or {}
        if keep < 1 or not set(first) <= set(STREAMS) or any(version < 0 for version in first.values()):
            raise ValueError(
                f"a weight store needs keep >= 1 and versions of {list(STREAMS)}, got {keep}, {dict(first)}"
            )
        self._keep = keep
        self._next: dict[Stream, int] = {stream: first.get(stream, 0) for stream in STREAMS}
        self._snapshots: dict[Stream, OrderedDict[int, tuple[Manifest, Reference]]]
        self._snapshots = {stream: OrderedDict() for stream in STREAMS}
        self._digests: dict[Stream, OrderedDict[int, str]] = {stream: OrderedDict() for stream in STREAMS}
        self._published = dict.fromkeys(STREAMS, 0)
        self._verified = dict.fromkeys(STREAMS, 0)
        self._mismatched = dict.fromkeys(STREAMS, 0)
        self._running: dict[Stream, dict[str, int]] = {stream: {} for stream in STREAMS}

    def publish(self, manifest: Manifest, reference: Reference) -> int:
        """Makes a snapshot the newest of its stream; the oldest beyond `keep` is forgotten.

        Returns:
            Its version.

        Raises:
            ValueError: if the version is not the stream's last one plus 1.
        """
        stream, version = self._stream(manifest.stream), manifest.version
        if version != self._next[stream]:
            raise ValueError(f"{stream} version {version} is published, {self._next[stream]} must come next")
        self._snapshots[stream][version] = (manifest, reference)
        self._digests[stream][version] = manifest.digest
        if len(self._snapshots[stream]) > self._keep:
            self._snapshots[stream].popitem(last=False)
        if len(self._digests[stream]) > max(_DIGESTS_KEPT, self._keep):
            self._digests[stream].popitem(last=False)
        self._next[stream] += 1
        self._published[stream] += 1
        return version

    def latest(self, stream: Stream) -> tuple[Manifest, Reference]:
        """The newest snapshot.

        Raises:
            LookupError: if nothing was published yet.
        """
        if not self._snapshots[self._stream(stream)]:
            raise LookupError(f"no {stream} weights were published yet")
        return self._snapshots[stream][self._next[stream] - 1]

    def get(self, stream: Stream, version: int) -> tuple[Manifest, Reference]:
        """The snapshot of one version.

        Raises:
            LookupError: if it was never published or is no longer kept.
        """
        kept = self._snapshots[self._stream(stream)]
        if version not in kept:
            raise LookupError(f"{stream} version {version} is not kept; kept are {list(kept)}")
        return kept[version]

    def verify(self, report: LoadReport) -> None:
        """Compares what a worker loaded with what was published, and remembers what it runs.

        Raises:
            WeightsMismatchError: naming worker, stream, version and both digests.
        """
        stream = self._stream(report.stream)
        published = self._digests[stream].get(report.version)
        if report.digest != published:
            self._mismatched[stream] += 1
            raise WeightsMismatchError(
                f"{report.worker}: {stream} version {report.version}: loaded digest is {report.digest}, "
                f"published was {published or 'no such version'}"
            )
        self._verified[stream] += 1
        self._running[stream][report.worker] = report.version

    def forget(self, worker: str) -> None:
        """Removes a worker that has left from what runs where."""
        for running in self._running.values():
            running.pop(worker, None)

    def stats(self) -> WeightStats:
        """Counters and what runs where, copied."""
        running: dict[Stream, Mapping[str, int]] = {name: dict(workers) for name, workers in self._running.items()}
        return WeightStats(dict(self._published), dict(self._verified), dict(self._mismatched), running)

    def _stream(self, name: str) -> Stream:
        for stream in STREAMS:
            if stream == name:
                return stream
        raise ValueError(f"unknown stream {name!r}; known are {list(STREAMS)}")

"""Loading weights and proving it: a worker reports the digest of what its own network holds after loading.

It is not the digest of what it was sent. The store compares it with what was published; any difference stops the run.
Where the network runs with tensors that are computed from those, they are computed right after, from what was verified.
"""

from abc import abstractmethod
from collections.abc import Collection, Mapping

from torch import Tensor, nn

from advdmd_ray.errors import WeightsMismatchError
from advdmd_ray.stations.records import LoadReport
from advdmd_ray.stations.weights.snapshot import Manifest, Snapshot, check_digest, check_fit, unpack


class Derived(nn.Module):
    """A module that runs with tensors which it computes from its parameters, such as merged adapters."""

    @abstractmethod
    def derive(self) -> None:
        """Computes them anew; called whenever parameters were loaded and verified."""


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


def load_verified(loader: ModuleLoader, snapshot: Snapshot, worker: str) -> LoadReport:
    """Loads a snapshot and reports the digest of what the network then holds, computed from its own tensors.

    A payload that is damaged, or whose names, dtypes or shapes are not the network's, is refused before anything is
    changed.

    Raises:
        WeightsMismatchError: naming worker, stream, version and both digests.
    """
    manifest = snapshot.manifest
    try:
        state = unpack(snapshot)
        check_fit(manifest, loader.loaded())
        loader.load(state)
        digest = check_digest(manifest, loader.loaded(), "the loaded network")
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
        self._held: Manifest | None = None
        self._worker, self._base_digest = worker, base_digest

    def held(self) -> dict[str, Tensor]:
        """The tensors that snapshots cover, as they are now."""
        return self._loader.loaded()

    def load(self, snapshot: Snapshot) -> LoadReport | None:
        """Loads the snapshot unless these very weights already run; the report's digest is of what was loaded.

        A gang that goes on from a checkpoint may publish other weights as a version that was published before.

        Raises:
            WeightsMismatchError: if the loaded bytes differ from the manifest, or belong to another teacher.
        """
        manifest = snapshot.manifest
        if manifest == self._held:
            return None
        if manifest.base_digest != self._base_digest:
            raise WeightsMismatchError(
                f"{self._worker}: {manifest.stream} {manifest.version} belongs to the teacher {manifest.base_digest}, "
                f"this worker has {self._base_digest}; give all machines the same model.path"
            )
        report = load_verified(self._loader, snapshot, self._worker)
        for part in self.module.modules():
            if isinstance(part, Derived):
                part.derive()
        self.version, self._held = manifest.version, manifest
        return report

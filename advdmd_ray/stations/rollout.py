"""The rollout station: a student snapshot turns a lease into a whole group of SDE trajectories."""

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from advdmd_ray.diffusion.kernels import Kernel
from advdmd_ray.diffusion.resolution import Resolution
from advdmd_ray.diffusion.sampling import rollout
from advdmd_ray.diffusion.seeds import derive_seed
from advdmd_ray.diffusion.transfer import to_host
from advdmd_ray.stations.prompt_table import PromptTable
from advdmd_ray.stations.records import Lease, LoadReport, TrajectoryGroup
from advdmd_ray.stations.weights.loading import VersionedModule
from advdmd_ray.stations.weights.snapshot import Snapshot


def sample_seeds(group_seed: int, group_size: int) -> list[int]:
    """The seed of each sample of a group: a function of the work, not of the worker that does it."""
    return [derive_seed(group_seed, "sample", index) for index in range(group_size)]


class RolloutWorker:
    """Holds one version of the student and generates groups with it.

    Args:
        name: Such as `rollout-0`.
        student: The network; its weights come with snapshots.
        table: Encoded prompts.
        kernel: The transition kernel.
        resolution_of: Size and noise levels of the group with an ordinal.
        group_size_of: Trajectories of the group with an ordinal.
        base_digest: Digest of the teacher on this worker's disk.

    Attributes:
        name: As given.
        device: Where the network is.
    """

    def __init__(
        self,
        name: str,
        student: nn.Module,
        table: PromptTable,
        *,
        kernel: Kernel,
        resolution_of: Callable[[int], Resolution],
        group_size_of: Callable[[int], int],
        base_digest: str | None = None,
    ) -> None:
        self.name = name
        self._network = VersionedModule(name, student, base_digest)
        self.device = next(student.parameters()).device
        self._table = table
        self._kernel = kernel
        self._resolution_of = resolution_of
        self._group_size_of = group_size_of

    def weights(self) -> dict[str, Tensor]:
        """The student's tensors that snapshots cover; before the first of them those of the teacher."""
        return self._network.held()

    def load(self, snapshot: Snapshot) -> LoadReport | None:
        """Loads the snapshot unless its version already runs; the report's digest is of what was loaded.

        Raises:
            WeightsMismatchError: if the loaded bytes differ from the manifest.
        """
        return self._network.load(snapshot)

    def generate(self, lease: Lease) -> TrajectoryGroup:
        """One trajectory per sample of the group, all from the leased policy version.

        Raises:
            ValueError: if the loaded student is not the version that the lease names.
        """
        return self.generate_together([lease])[0]

    def generate_together(self, leases: Sequence[Lease]) -> list[TrajectoryGroup]:
        """The groups of several leases in one batch: fewer, larger calls of the network.

        Trajectories stay where the network is until all are there, and come to host memory at once. A sample's draws
        belong to its seed; its latents differ from those of a batch of its own by round-off only.

        Raises:
            ValueError: if the loaded student is not the version that a lease names, or the groups differ in size.
        """
        for lease in leases:
            if lease.policy_version != self._network.version:
                raise ValueError(
                    f"{self.name} runs student version {self._network.version}; ordinal {lease.ordinal} was leased "
                    f"for version {lease.policy_version}"
                )
        resolution = self._resolution_of(leases[0].ordinal)
        shape, sigmas = resolution.latent_shape, resolution.sigmas
        if any(self._resolution_of(lease.ordinal).latent_shape != shape for lease in leases[1:]):
            raise ValueError(f"{self.name}: groups of one batch are of one size; ordinals {_ordinals(leases)} are not")
        sizes = [self._group_size_of(lease.ordinal) for lease in leases]
        seeds = [seed for lease, size in zip(leases, sizes, strict=True) for seed in sample_seeds(lease.seed, size)]
        prompts = torch.tensor([lease.prompt_id for lease in leases])
        conditioning = self._table.rows(prompts.repeat_interleave(torch.tensor(sizes))).on(self.device)
        result = rollout(self._network.module, conditioning, self._kernel, sigmas, shape=shape, seeds=seeds)
        latents, means = to_host(result.latents, result.means)
        shares = [slice(end - size, end) for size, end in zip(sizes, itertools.accumulate(sizes), strict=True)]
        return [
            TrajectoryGroup(
                ordinal=lease.ordinal,
                prompt_id=lease.prompt_id,
                policy_version=lease.policy_version,
                seeds=np.asarray(seeds[share], dtype=np.int64),
                sigmas=_float32(sigmas),
                latents=_float32(latents[share]),
                means=_float32(means[share]),
                stds=_float32(result.stds),
            )
            for lease, share in zip(leases, shares, strict=True)
        ]


def _ordinals(leases: Sequence[Lease]) -> str:
    return ", ".join(str(lease.ordinal) for lease in leases)


def _float32(tensor: Tensor) -> np.ndarray:
    return tensor.detach().float().numpy()

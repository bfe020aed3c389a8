"""The rollout station: a student snapshot turns a lease into a whole group of SDE trajectories."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from advdmd_ray.diffusion.kernels import Kernel
from advdmd_ray.diffusion.sampling import rollout
from advdmd_ray.diffusion.seeds import derive_seed
from advdmd_ray.prompts import PromptTable
from advdmd_ray.records import Lease, LoadReport, TrajectoryGroup
from advdmd_ray.weights import Snapshot, VersionedModule


def sample_seeds(group_seed: int, group_size: int) -> list[int]:
    """The seed of each sample of a group: a function of the work, not of the worker that does it."""
    return [derive_seed(group_seed, "sample", index) for index in range(group_size)]


class RolloutWorker:
    """Holds one version of the student and generates groups with it."""

    def __init__(
        self,
        name: str,
        student: nn.Module,
        table: PromptTable,
        *,
        kernel: Kernel,
        sigmas: Float[Tensor, " k1"],
        latent_shape: tuple[int, int, int],
        group_size: int,
    ) -> None:
        self.name = name
        self._network = VersionedModule(name, student)
        self._table = table
        self._kernel = kernel
        self._sigmas = sigmas
        self._latent_shape = latent_shape
        self._group_size = group_size

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
        if lease.policy_version != self._network.version:
            raise ValueError(
                f"{self.name} runs student version {self._network.version}; ordinal {lease.ordinal} was leased for "
                f"version {lease.policy_version}"
            )
        seeds = sample_seeds(lease.seed, self._group_size)
        conditioning = self._table.of(lease.prompt_id, self._group_size)
        result = rollout(
            self._network.module, conditioning, self._kernel, self._sigmas, shape=self._latent_shape, seeds=seeds
        )
        return TrajectoryGroup(
            ordinal=lease.ordinal,
            prompt_id=lease.prompt_id,
            policy_version=lease.policy_version,
            seeds=np.asarray(seeds, dtype=np.int64),
            sigmas=_float32(self._sigmas),
            latents=_float32(result.latents),
            means=_float32(result.means),
            stds=_float32(result.stds),
            log_probs=_float32(result.log_probs),
        )


def _float32(tensor: Tensor) -> np.ndarray:
    return tensor.detach().to("cpu", torch.float32).numpy()

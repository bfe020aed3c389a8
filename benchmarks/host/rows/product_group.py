"""The product's own way of a group: the actors' code without the networks."""

from typing import Any

import numpy as np
import ray
import torch

from advdmd_ray.learner.batch import collate
from advdmd_ray.stations.buffer.record_batch import (
    decode_group,
    decode_scored,
    encode_group,
    encode_scored,
    from_bytes,
    to_bytes,
)
from advdmd_ray.stations.records import ScoredGroup, TrajectoryGroup


@ray.remote(num_cpus=0)
class GroupMaker:
    """Encodes the same group again and again."""

    def __init__(self, group: TrajectoryGroup) -> None:
        torch.set_num_threads(1)
        self._group = TrajectoryGroup(
            group.ordinal,
            group.prompt_id,
            group.policy_version,
            group.seeds,
            group.sigmas,
            group.latents.copy(),
            group.means.copy(),
            group.stds,
        )

    def made(self) -> Any:
        """As `work.generate` encodes it."""
        return to_bytes(encode_group(self._group))


@ray.remote(num_cpus=0)
class GroupScorer:
    """Decodes a group and says its rewards."""

    def __init__(self) -> None:
        torch.set_num_threads(1)

    def scored(self, data: Any) -> Any:
        """As `work.score` and `RewardWorker.score` do."""
        group = decode_group(from_bytes(data))
        latents = torch.tensor(group.latents)
        return to_bytes(encode_scored(ScoredGroup(group, latents[:, 1:, 0, 0, 0].numpy(), 0)))


@ray.remote(num_cpus=0)
class GroupLearner:
    """Makes the tensors of a cycle."""

    def __init__(self) -> None:
        torch.set_num_threads(1)

    def learned(self, data: Any) -> np.ndarray:
        """As `LearnerWorker.cycle` and `collate` do; returns the rewards."""
        return collate([decode_scored(from_bytes(data))], 0).rewards.numpy()

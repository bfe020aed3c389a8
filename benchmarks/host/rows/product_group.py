"""The product's own way of a group: the actors' code without the networks."""

from typing import Any

import numpy as np
import ray
import torch

from advdmd_ray.learner.batch import collate
from advdmd_ray.stations.buffer.record_batch import decode_group, decode_scored, encode_group, encode_scores
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
        return encode_group(self._group)


@ray.remote(num_cpus=0)
class GroupScorer:
    """Reads a group and says its rewards."""

    def __init__(self) -> None:
        torch.set_num_threads(1)

    def scored(self, batch: Any) -> Any:
        """As `work.score` and `RewardWorker.score` do."""
        group = decode_group(batch)
        latents = torch.from_dlpack(group.latents)
        return encode_scores(ScoredGroup(group, latents[:, 1:, 0, 0, 0].numpy(), 0))


@ray.remote(num_cpus=0)
class GroupLearner:
    """Makes the tensors of a cycle."""

    def __init__(self) -> None:
        torch.set_num_threads(1)

    def learned(self, group: Any, scores: Any) -> np.ndarray:
        """As `LearnerWorker.cycle` and `collate` do; returns the rewards."""
        return collate([decode_scored(group, scores)], 0).rewards.numpy()

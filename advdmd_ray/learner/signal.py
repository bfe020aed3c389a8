"""From a cycle's rewards to the advantages of its RL turn: the learner's share of `losses.advantage`."""

import math
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from advdmd_ray.config import Config
from advdmd_ray.learner.batch import LearnerBatch, shuffled
from advdmd_ray.learner.tensor_file import TensorStream
from advdmd_ray.losses.advantage import (
    GroupSummary,
    advantages,
    level_gate,
    level_z_scores,
    merge,
    nominal_scale,
    normalised,
    within_std,
)
from advdmd_ray.stations.records import GroupInfo

# A level whose rewards spread less than this inside their groups says nothing, in units of the reward; ours.
SMALLEST_STD = 1e-3
# A user's own reward has any unit; one that spreads less than this share of its size is round-off of one value; ours.
SMALLEST_SHARE = 1e-6


def own_moments(infos: Sequence[GroupInfo]) -> tuple[float, float] | None:
    """Mean of the user's own reward, and its standard deviation inside the groups of all ranks; None: there is none.

    The deviation is 0 where it is the round-off of one value for each group, whatever these values are.
    """
    summaries = [GroupSummary(info.samples, *((moment,) for moment in info.extra)) for info in infos if info.extra]
    if not summaries:
        return None
    whole, std = merge(summaries), float(within_std(summaries)[0])
    size = math.sqrt(math.fsum(each.count * each.mean[0] ** 2 for each in summaries) / whole.count)
    return whole.mean[0], 0.0 if std <= SMALLEST_SHARE * size else std


class RewardSignal:
    """Follows each level's spread and turns rewards into scaled, clipped advantages.

    Args:
        config: The run's configuration.

    Attributes:
        running_std: `[K]` smoothed standard deviation of each level's rewards inside their groups; 0 before the level
            was open for the first time.
        running_own: `[1]` the same of the user's own reward.
    """

    def __init__(self, config: Config) -> None:
        self._config, self._own_weight = config.policy_gradient, config.reward.extra_weight
        self._steps = config.steps
        self._learnt = slice(None if self._config.last_actions is None else -self._config.last_actions, None)
        self.running_std: Tensor = torch.zeros(config.steps)
        self.running_own: Tensor = torch.zeros(1)

    def follow(
        self, std: Float[Tensor, " k"], open_levels: Sequence[bool], own: tuple[float, float] | None = None
    ) -> tuple[float, float] | None:
        """Moves the running std of each open level towards that of one cycle, RL turn or not; returns `own`.

        A level that is shut is not followed, and none that spreads less than the smallest std: however long a
        discriminator was blind, its noise is not what the rewards of a later cycle are measured by. Nor is the user's
        own reward where it says nothing.

        Args:
            std: Of each level inside the groups of all ranks.
            open_levels: Those that are followed.
            own: From `own_moments`.
        """
        followed = self._followed(self.running_std, std)
        self.running_std = torch.where(torch.tensor(open_levels) & (std >= SMALLEST_STD), followed, self.running_std)
        if own is not None and own[1] > 0:
            self.running_own = self._followed(self.running_own, torch.tensor([own[1]]))
        return own

    def _followed(self, running: Float[Tensor, " k"], std: Float[Tensor, " k"]) -> Float[Tensor, " k"]:
        decay = self._config.std_decay
        return torch.where(running > 0, decay * running + (1 - decay) * std, std)

    def tensors(self) -> TensorStream:
        """What a checkpoint keeps."""
        return TensorStream.of({"std": self.running_std, "own": self.running_own})

    def restore(self, kept: Mapping[str, Tensor]) -> None:
        """Goes on from that; older checkpoints know of no reward of the user's own."""
        self.running_std = kept["std"]
        self.running_own = kept.get("own", self.running_own)

    @property
    def level_weights(self) -> Float[Tensor, " k"]:
        """Weight of each level's score, gates aside."""
        config = self._config
        given = config.intermediate_weight
        intermediate = given if isinstance(given, tuple) else (given,) * (self._steps - 1)
        return torch.tensor([*intermediate, config.final_weight])

    @property
    def used_levels(self) -> tuple[bool, ...]:
        """Levels whose score reaches the advantage of an action that RL learns from."""
        unit = torch.eye(self._steps).unsqueeze(0)
        response = advantages(unit, self._config.advantage, self._config.gamma, self.level_weights)[0]
        return tuple((response[:, self._learnt] != 0).any(dim=1).tolist())

    def advantages(
        self,
        batch: LearnerBatch,
        std: Float[Tensor, " k"],
        open_levels: Sequence[bool],
        own: tuple[float, float] | None = None,
    ) -> tuple[Float[Tensor, "g n m"], float]:
        """Scaled, clipped advantages of the m actions that RL learns from, and the spread of the levels' raw ones.

        Args:
            batch: This rank's groups.
            std: Standard deviation of each level inside the groups of all ranks.
            open_levels: The others have weight 0, and so has a level of less than the smallest std.
            own: From `own_moments`.
        """
        config = self._config
        heard = [is_open and spread >= SMALLEST_STD for is_open, spread in zip(open_levels, std.tolist(), strict=True)]
        weights = level_gate(self.level_weights, heard)
        floor = (config.std_floor * self.running_std).clamp(min=SMALLEST_STD)
        rewards = shuffled(batch, batch.rewards) if config.shuffle_rewards else batch.rewards
        # In float64 the mean of equal rewards is that reward, so a blind discriminator's advantages are exactly 0;
        # round-off would be enough for Adam to make a full step of it.
        z = level_z_scores(rewards.double(), std, floor).float()
        raw = advantages(z, config.advantage, config.gamma, weights)[..., self._learnt]
        scale = nominal_scale(config.advantage, config.gamma, weights, self._learnt)
        mixed = raw + scale * self._own_weight * self._own_z_scores(batch, own)
        return normalised(mixed, scale, config.clip), float(raw.std(correction=0))

    def _own_z_scores(self, batch: LearnerBatch, own: tuple[float, float] | None) -> Float[Tensor, "g n 1"]:
        """The user's own reward in standard deviations from the mean of its group, the same for every action.

        Its scale is treated as a level's: pooled over groups, with a floor of its running value. No gate shuts it.
        """
        if own is None or batch.extra is None or own[1] == 0:
            return torch.zeros(*batch.latents.shape[:2], 1)
        config, rewards = self._config, batch.extra[..., None]
        rewards = shuffled(batch, rewards) if config.shuffle_rewards else rewards
        floor = (config.std_floor * self.running_own).clamp(min=torch.finfo(torch.float32).tiny)
        return level_z_scores(rewards.double(), torch.tensor([own[1]]), floor).float()

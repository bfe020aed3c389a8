"""From a cycle's rewards to the advantages of its RL turn: the learner's share of `losses.advantage`."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from advdmd_ray.config import Config
from advdmd_ray.learner.batch import LearnerBatch, shuffled_rewards
from advdmd_ray.losses.advantage import advantages, level_gate, level_z_scores, nominal_scale, normalised

# A level whose rewards spread less than this inside their groups says nothing, in units of the reward; ours.
SMALLEST_STD = 1e-3


class RewardSignal:
    """Follows each level's spread and turns rewards into scaled, clipped advantages.

    Args:
        config: The run's configuration.

    Attributes:
        running_std: `[K]` smoothed standard deviation of each level's rewards inside their groups; 0 before the level
            was open for the first time.
    """

    def __init__(self, config: Config) -> None:
        self._config = config.policy_gradient
        self._steps = config.steps
        self.running_std: Tensor = torch.zeros(config.steps)

    def follow(self, std: Float[Tensor, " k"], open_levels: Sequence[bool]) -> None:
        """Moves the running std of each open level towards that of one cycle, RL turn or not.

        A level that is shut is not followed: however long a discriminator was blind, its noise is not what the rewards
        of a later cycle are measured by.
        """
        decay, known = self._config.std_decay, self.running_std > 0
        followed = torch.where(known, decay * self.running_std + (1 - decay) * std, std)
        self.running_std = torch.where(torch.tensor(open_levels), followed, self.running_std)

    @property
    def level_weights(self) -> Float[Tensor, " k"]:
        """Weight of each level's score, gates aside."""
        config = self._config
        given = config.intermediate_weight
        intermediate = given if isinstance(given, tuple) else (given,) * (self._steps - 1)
        return torch.tensor([*intermediate, config.final_weight])

    @property
    def used_levels(self) -> tuple[bool, ...]:
        """Levels whose score reaches an advantage: not those that the form, gamma or the weights leave out."""
        unit = torch.eye(self._steps).unsqueeze(0)
        response = advantages(unit, self._config.advantage, self._config.gamma, self.level_weights)[0]
        return tuple((response != 0).any(dim=1).tolist())

    def advantages(
        self, batch: LearnerBatch, std: Float[Tensor, " k"], open_levels: Sequence[bool]
    ) -> tuple[Float[Tensor, "g n m"], float]:
        """Scaled, clipped advantages and the spread of the raw ones.

        Args:
            batch: This rank's groups.
            std: Standard deviation of each level inside the groups of all ranks.
            open_levels: The others have weight 0, and so has a level of less than the smallest std.
        """
        config = self._config
        heard = [is_open and spread >= SMALLEST_STD for is_open, spread in zip(open_levels, std.tolist(), strict=True)]
        weights = level_gate(self.level_weights, heard)
        floor = (config.std_floor * self.running_std).clamp(min=SMALLEST_STD)
        rewards = shuffled_rewards(batch) if config.shuffle_rewards else batch.rewards
        # In float64 the mean of equal rewards is that reward, so a blind discriminator's advantages are exactly 0;
        # round-off would be enough for Adam to make a full step of it.
        z = level_z_scores(rewards.double(), std, floor).float()
        raw = advantages(z, config.advantage, config.gamma, weights)
        scale = nominal_scale(config.advantage, config.gamma, weights)
        return normalised(raw, scale, config.clip), float(raw.std(correction=0))

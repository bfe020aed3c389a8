"""From a cycle's rewards to the advantages of its RL turn: the learner's share of `losses.advantage`."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from advdmd_ray.config import Config
from advdmd_ray.learner.batch import LearnerBatch, shuffled_rewards
from advdmd_ray.losses.advantage import advantages, level_gate, level_z_scores, nominal_scale, normalised

# Smallest std a level's rewards are divided by before any running std exists, in units of the reward.
SMALLEST_STD = 1e-3


class RewardSignal:
    """Follows each level's spread and turns rewards into scaled, clipped advantages.

    Args:
        config: The run's configuration.

    Attributes:
        running_std: `[K]` smoothed standard deviation of each level's rewards inside their groups; None before the
            first cycle.
    """

    def __init__(self, config: Config) -> None:
        self._config = config.policy_gradient
        self._steps = config.steps
        self.running_std: Tensor | None = None

    def follow(self, std: Float[Tensor, " k"]) -> None:
        """Moves the running std towards that of one cycle; every cycle is followed, RL turn or not."""
        decay = self._config.std_decay
        self.running_std = std if self.running_std is None else decay * self.running_std + (1 - decay) * std

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
            open_levels: The others have weight 0.
        """
        config = self._config
        weights = level_gate(self.level_weights, open_levels)
        running = std if self.running_std is None else self.running_std
        floor = (config.std_floor * running).clamp(min=SMALLEST_STD)
        rewards = shuffled_rewards(batch) if config.shuffle_rewards else batch.rewards
        # In float64 the mean of equal rewards is that reward, so a blind discriminator's advantages are exactly 0;
        # round-off would be enough for Adam to make a full step of it.
        z = level_z_scores(rewards.double(), std, floor).float()
        raw = advantages(z, config.advantage, config.gamma, weights)
        scale = nominal_scale(config.advantage, config.gamma, weights)
        return normalised(raw, scale, config.clip), float(raw.std(correction=0))

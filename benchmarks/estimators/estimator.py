"""What an estimator is: from a turn's trajectories to losses of the student."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from advdmd_ray.learner.batch import LearnerBatch
from advdmd_ray.learner.parts import LossPart
from advdmd_ray.learner.signal import RewardSignal
from advdmd_ray.losses.advantage import group_summary, within_std
from benchmarks.estimators.field import Field


@dataclass(frozen=True)
class Estimator(ABC):
    """One way from an RL turn to gradients of the student.

    Attributes:
        title: What it is, for the table.
        overrides: `section.key: value` over the checkpoint's settings, of the sections policy_gradient, rollout and
            reward.
    """

    title: str
    overrides: Mapping[str, Any] = field(default_factory=dict)

    @property
    def draws(self) -> tuple[object, ...]:
        """What its turns depend on beside the number and the settings; turns of equal draws are the same."""
        return ()

    def turn(self, place: Field, number: int) -> LearnerBatch:
        """The scored groups of one RL turn, made by the student as it is.

        Args:
            place: The networks, under this estimator's settings.
            number: Of the turn.
        """
        return place.turn(number)

    @abstractmethod
    def updates(self, place: Field, batch: LearnerBatch) -> Iterator[list[LossPart]]:
        """The losses of the turn's updates in parts, each made when the one before is done; none without a signal.

        Args:
            place: The networks, under this estimator's settings.
            batch: The turn.
        """


def spread_of(batch: LearnerBatch) -> Float[Tensor, " k"]:
    """Standard deviation of each level's rewards inside the groups."""
    return within_std([group_summary(rewards) for rewards in batch.rewards])


def open_advantages(
    place: Field, batch: LearnerBatch, differs: Float[Tensor, " k"] | None = None
) -> Float[Tensor, "g n m"]:
    """Scaled advantages with every level open: whether one should be is not what is measured.

    Args:
        place: The networks, under the estimator's settings.
        batch: The turn.
        differs: Share of the groups whose states differ at each level, in (0, 1]; None: all do.
    """
    is_open = [True] * batch.steps
    if place.config.reward.kind == "oracle":
        truth = place.truth(batch).unsqueeze(2)
        batch = replace(batch, rewards=torch.cat([torch.zeros_like(batch.rewards[..., 1:]), truth], dim=2))
        is_open[:-1] = [False] * (batch.steps - 1)
    signal = RewardSignal(place.config)
    spread = spread_of(batch) if differs is None else spread_of(batch) / differs.sqrt()
    signal.follow(spread, is_open)
    return signal.advantages(batch, spread, is_open)[0]

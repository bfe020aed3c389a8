"""The stored actions that RL learns from, and which of a group's are worth an update.

Rows of one action need not be of the same trajectories as those of another: the loss of an action knows the state it
was taken in, the state it led to and its advantage, nothing else.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Self

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from advdmd_ray.learner.batch import LearnerBatch


@dataclass(frozen=True, slots=True)
class Actions:
    """g groups, s rows of each, m consecutive actions (steps that draw noise) up to the last one of a trajectory.

    Attributes:
        first: Step of the first of them.
        states: `[g, s, m, C, H, W]` where the action was taken.
        reached: `[g, s, m, C, H, W]` what it led to.
        means: `[g, s, m, C, H, W]` the behaviour policy's means.
        ends: `[g, s, m, C, H, W]` the final latent of the trajectory.
        advantages: `[g, s, m]`; zeros where nobody judged.
    """

    first: int
    states: Float[Tensor, "g s m c h w"]
    reached: Float[Tensor, "g s m c h w"]
    means: Float[Tensor, "g s m c h w"]
    ends: Float[Tensor, "g s m c h w"]
    advantages: Float[Tensor, "g s m"]

    @classmethod
    def of(cls, batch: LearnerBatch, advantages: Float[Tensor, "g n m"] | None = None) -> Self:
        """The stored actions of a batch, of each trajectory the last m; all of them without advantages."""
        count = batch.stds.numel()
        first = 0 if advantages is None else count - advantages.shape[2]
        means = batch.means[:, :, first:]
        return cls(
            first=first,
            states=batch.latents[:, :, first:count],
            reached=batch.latents[:, :, first + 1 : count + 1],
            means=means,
            ends=batch.latents[:, :, -1:].expand_as(means),
            advantages=torch.zeros(means.shape[:3]) if advantages is None else advantages,
        )

    def chosen(self, rows: Int64[Tensor, "g r m"]) -> Self:
        """The rows named for each group and action."""
        group = torch.arange(rows.shape[0]).reshape(-1, 1, 1)
        action = torch.arange(rows.shape[2])
        return self._at((group, rows, action))

    def share(self, rows: slice) -> Self:
        """The same rows of every group and action."""
        return self._at((slice(None), rows))

    def rows(self) -> "ActionRows":
        """All of them, one after the other: by group, then row, then step."""
        groups, count, steps = self.advantages.shape
        return ActionRows(
            group=torch.arange(groups).repeat_interleave(count * steps),
            step=torch.arange(self.first, self.first + steps).repeat(groups * count),
            states=self.states.flatten(0, 2),
            reached=self.reached.flatten(0, 2),
            means=self.means.flatten(0, 2),
            ends=self.ends.flatten(0, 2),
            advantages=self.advantages.flatten(0, 2),
        )

    def _at(self, index: tuple[Tensor | slice, ...]) -> Self:
        names = [field.name for field in fields(self) if field.name != "first"]
        return type(self)(first=self.first, **{name: getattr(self, name)[index] for name in names})


@dataclass(frozen=True, slots=True)
class ActionRows:
    """b actions of any groups and steps.

    Attributes:
        group: `[b]` index of the group in the batch.
        step: `[b]` step that was taken.
        states: `[b, C, H, W]`, see `Actions`.
        reached: The same.
        means: The same.
        ends: The same.
        advantages: `[b]`.
    """

    group: Int64[Tensor, " b"]
    step: Int64[Tensor, " b"]
    states: Float[Tensor, "b c h w"]
    reached: Float[Tensor, "b c h w"]
    means: Float[Tensor, "b c h w"]
    ends: Float[Tensor, "b c h w"]
    advantages: Float[Tensor, " b"]

    def __len__(self) -> int:
        """Number of actions, b."""
        return len(self.group)

    def part(self, rows: slice) -> Self:
        """Consecutive ones."""
        return type(self)(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})


def strongest(advantages: Float[Tensor, "g n m"], count: int) -> Int64[Tensor, "g r m"]:
    """For each group and action the rows with the `count / 2` largest and the `count / 2` smallest advantages.

    No other choice of as many rows has its two halves farther apart, and the farther apart they are the more a row
    tells: the learner pays for r of the n trajectories that actors made (cf. max-variance down-sampling, PODS, arXiv
    2504.13818; halves, and a choice for each action in place of one for the trajectory, are ours). Rows come in pairs
    of one low and one high, the strongest pair first, so that consecutive shares of two or more have both.

    Args:
        advantages: Of every row.
        count: r, even, at most n.

    Raises:
        ValueError: if `count` is odd or larger than n.
    """
    if count % 2 or not 0 < count <= advantages.shape[1]:
        raise ValueError(f"an even number of at most {advantages.shape[1]} rows can be chosen, got {count}")
    order = advantages.argsort(dim=1, stable=True)
    low, high = order[:, : count // 2], order.flip(1)[:, : count // 2]
    return torch.stack([low, high], dim=2).flatten(1, 2)


def minibatch_slices(rows: int, minibatches: int) -> Sequence[slice]:
    """Equal consecutive shares of a group's rows; every share sees every group."""
    share = rows // minibatches
    return [slice(index * share, (index + 1) * share) for index in range(minibatches)]

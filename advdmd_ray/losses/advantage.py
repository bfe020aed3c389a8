"""From the discriminator's scores to one advantage per action (GRPO, arXiv 2402.03300; the level rules are ours).

Rewards are `[g, n, k]`: g groups of n samples of one prompt, k = K levels. Column j is the state reached by action
j (noise level `sigmas[j + 1]`), the last column the final latent. Actions are the columns 0..K-2 (m = K - 1): the
last step draws no action.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

AdvantageForm: TypeAlias = Literal["reward_to_go", "own_step", "final_only", "potential"]


@dataclass(frozen=True, slots=True)
class GroupSummary:
    """What the index keeps of the rewards of a group, or of several merged groups; plain numbers, per level.

    Attributes:
        count: Number of samples.
        mean: Mean reward of each level, logits.
        m2: Sum of squared deviations from that mean.
    """

    count: int
    mean: tuple[float, ...]
    m2: tuple[float, ...]


def group_summary(rewards: Float[Tensor, "n k"]) -> GroupSummary:
    """Count, mean and sum of squared deviations of one group's rewards."""
    wide = rewards.double()
    mean = wide.mean(dim=0)
    m2 = (wide - mean).square().sum(dim=0)
    return GroupSummary(rewards.shape[0], tuple(mean.tolist()), tuple(m2.tolist()))


def _alike(summaries: Sequence[GroupSummary]) -> Sequence[GroupSummary]:
    if not summaries or len({len(s.mean) for s in summaries} | {len(s.m2) for s in summaries}) != 1:
        raise ValueError("at least one summary is needed, all with the same number of levels")
    return summaries


def merge(summaries: Sequence[GroupSummary]) -> GroupSummary:
    """The summary of all samples of all groups; the order of the groups does not change a single bit.

    `mean = sum n_i mean_i / N`, `m2 = sum (m2_i + n_i (mean_i - mean)^2)` (Chan et al. 1979) with exactly rounded
    sums, so every rank that knows the groups' metadata gets the same numbers without a collective.

    Raises:
        ValueError: if there is no summary or they differ in their number of levels.
    """
    count = sum(s.count for s in _alike(summaries))
    mean = tuple(
        math.fsum(s.count * s.mean[level] for s in summaries) / count for level in range(len(summaries[0].mean))
    )
    m2 = tuple(
        math.fsum(s.m2[level] + s.count * (s.mean[level] - centre) ** 2 for s in summaries)
        for level, centre in enumerate(mean)
    )
    return GroupSummary(count, mean, m2)


def within_std(summaries: Sequence[GroupSummary]) -> Float[Tensor, " k"]:
    """Standard deviation inside the groups, pooled: `sqrt(sum m2_i / sum n_i)` per level.

    What sets a prompt's rewards apart from another's is not in it: a discriminator may find some prompts harder, and
    one of relativistic pairs leaves every prompt's offset open.

    Raises:
        ValueError: if there is no summary or they differ in their number of levels.
    """
    count, columns = sum(s.count for s in _alike(summaries)), zip(*(s.m2 for s in summaries), strict=True)
    return torch.tensor([math.sqrt(math.fsum(column) / count) for column in columns], dtype=torch.float32)


def level_z_scores(
    rewards: Float[Tensor, "g n k"], std: Float[Tensor, " k"], floor: float | Float[Tensor, " k"]
) -> Float[Tensor, "g n k"]:
    """`z = (r - mean of its group) / max(std, floor)` per level.

    The mean is the group's, so prompts are not compared; the scale is pooled over the batch's groups, so a group
    without spread is not blown up. With `within_std`, z is blind to any offset of a prompt. The floor (tied to a
    running std) makes a blind discriminator yield no signal instead of noise at unit scale.

    Args:
        rewards: Logits.
        std: Standard deviation per level inside the groups of the batch, logits.
        floor: > 0, logits; one for all levels or one each.

    Raises:
        ValueError: if a floor is not positive.
    """
    lowest = torch.as_tensor(floor, dtype=torch.float32, device=rewards.device)
    if not bool((lowest > 0).all()):
        raise ValueError(f"the floor of a reward's std must be positive, got {floor}")
    return (rewards - rewards.mean(dim=1, keepdim=True)) / torch.maximum(std.to(rewards.device), lowest)


def level_gate(level_weights: Float[Tensor, " k"], open_levels: Sequence[bool]) -> Float[Tensor, " k"]:
    """The weights of the open levels; 0 for the others."""
    return torch.where(torch.tensor(open_levels), level_weights, torch.zeros_like(level_weights))


def _steps_of_potential(scores: Tensor, is_open: Tensor) -> Tensor:
    """Differences of successive open levels; a gated level repeats the score before it and so adds 0."""
    before = torch.zeros_like(scores[..., 0])
    differences = []
    for level in range(scores.shape[-1]):
        here = torch.where(is_open[level], scores[..., level], before)
        differences.append(here - before)
        before = here
    return torch.stack(differences, dim=-1)


def _to_go(scores: Tensor, gamma: float) -> Tensor:
    ahead = torch.zeros_like(scores[..., 0])
    sums = []
    for level in reversed(range(scores.shape[-1])):
        ahead = scores[..., level] + gamma * ahead
        sums.append(ahead)
    return torch.stack(sums[::-1], dim=-1)


def advantages(
    z: Float[Tensor, "g n k"], form: AdvantageForm, gamma: float, level_weights: Float[Tensor, " k"]
) -> Float[Tensor, "g n m"]:
    """One advantage per action k = 0..K-2, linear in z.

    * `reward_to_go`: `A_k = sum_{j>=k} gamma^(j-k) w_j z_j`, j up to the final level.
    * `own_step`: `A_k = w_k z_k`.
    * `final_only`: `A_k = gamma^(K-1-k) w_{K-1} z_{K-1}`.
    * `potential`: `A_k = sum_{j>=k} gamma^(j-k) (w_j z_j - w_{j-1} z_{j-1})` with `z_{-1} = 0`; for gamma = 1 it
      telescopes to the final score minus the score before the action, for gamma = 0 it is what the action added.
      A level of weight 0 is skipped: the difference spans it.

    Args:
        z: Scores of the levels from `level_z_scores`.
        form: Which of the above.
        gamma: Discount per step, in [0, 1].
        level_weights: w, >= 0; a gated level has weight 0 and its z is not read, be it NaN.

    Raises:
        ValueError: if gamma is out of range.
    """
    if not 0 <= gamma <= 1:
        raise ValueError(f"gamma must lie in [0, 1], got {gamma}")
    weights = level_weights.to(z.device)
    is_open = weights != 0
    scores = torch.where(is_open, weights * z, torch.zeros_like(z))
    match form:
        case "own_step":
            return scores[..., :-1]
        case "final_only":
            scores = torch.cat([torch.zeros_like(scores[..., :-1]), scores[..., -1:]], dim=-1)
        case "potential":
            scores = _steps_of_potential(scores, is_open)
        case "reward_to_go":
            pass
    return _to_go(scores, gamma)[..., :-1]


def nominal_scale(
    form: AdvantageForm, gamma: float, level_weights: Float[Tensor, " k"], learnt: slice = slice(None)
) -> Float[Tensor, ""]:
    """Root mean square over learnt actions of A's standard deviation if the levels' z were independent and of std 1.

    A scale for `normalised` that is known without data, the same on every rank, and does not undo the floor of
    `level_z_scores` as a measured std would. 1 where every weight is 0.
    """
    unit = torch.eye(level_weights.numel(), device=level_weights.device)
    response = advantages(unit.unsqueeze(0), form, gamma, level_weights)[0]
    scale = response[:, learnt].square().sum(dim=0).mean().sqrt()
    return torch.where(scale > 0, scale, torch.ones_like(scale))


def normalised(
    advantages: Float[Tensor, "*shape"], scale: float | Float[Tensor, ""], clip: float = 5.0
) -> Float[Tensor, "*shape"]:
    """`A / scale`, clipped to [-clip, clip].

    A scale measured on this very batch brings a blind discriminator's noise back to unit size: give `nominal_scale`
    or a slow running std.

    Raises:
        ValueError: if `scale` or `clip` is not positive.
    """
    if not float(scale) > 0 or not clip > 0:
        raise ValueError(f"scale and clip must be positive, got {float(scale)} and {clip}")
    return (advantages / scale).clamp(-clip, clip)

"""From scored groups to the tensors of one cycle, and the draws that every update takes from them.

Draws are named by the group's own seed, the objective, the version and the update, never by the rank: splitting
the groups over more ranks changes nothing that is drawn.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from advdmd_ray.data.real import RealImages
from advdmd_ray.diffusion.kernels import Kernel, clean_from_mean, clean_from_velocity
from advdmd_ray.diffusion.seeds import derive_seed, noise, uniform
from advdmd_ray.stations.prompt_table import PromptTable
from advdmd_ray.stations.records import ScoredGroup

Path = tuple[int | str, ...]


@dataclass(frozen=True, slots=True)
class LearnerBatch:
    """This rank's groups of one cycle: g groups of n samples, K steps, m stochastic ones.

    Attributes:
        prompt_ids: `[g]` row of the prompt table.
        group_seeds: One seed per group; names its draws.
        policy_ages: `[g]` learner version minus policy version.
        sigmas: `[K+1]` noise levels.
        latents: `[g, n, K+1, C, H, W]` states.
        means: `[g, n, m, C, H, W]` behaviour policy's means.
        stds: `[m]` standard deviations, latent units.
        rewards: `[g, n, K]` logits of levels 1..K.
        extra: `[g, n]` the user's own reward of the final images; None where there is none.
    """

    prompt_ids: Int64[Tensor, " g"]
    group_seeds: tuple[int, ...]
    policy_ages: Int64[Tensor, " g"]
    sigmas: Float[Tensor, " k1"]
    latents: Float[Tensor, "g n k1 c h w"]
    means: Float[Tensor, "g n m c h w"]
    stds: Float[Tensor, " m"]
    rewards: Float[Tensor, "g n k"]
    extra: Float[Tensor, "g n"] | None = None

    @property
    def steps(self) -> int:
        """K."""
        return self.sigmas.numel() - 1

    @property
    def samples(self) -> int:
        """N."""
        return self.latents.shape[1]

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """(C, H, W)."""
        return tuple(self.latents.shape[3:])


def collate(groups: Sequence[ScoredGroup], version: int) -> LearnerBatch:
    """Stacks groups of one shape; the one copy on the way from the object store to the device.

    One group alone is not copied: its tensors are where it lies, in memory that must not be written.

    Raises:
        ValueError: if there is no group, or the groups do not share their noise levels, or have not all a user's own
            reward that one of them has.
    """
    if not groups:
        raise ValueError("a cycle needs at least one group")
    first = groups[0].group
    if any(not np.array_equal(scored.group.sigmas, first.sigmas) for scored in groups):
        raise ValueError("the groups of a cycle must share their noise levels")
    extra = [scored.extra for scored in groups if scored.extra is not None]
    if len(extra) not in (0, len(groups)):
        raise ValueError(f"{len(extra)} of the {len(groups)} groups of a cycle have the user's own reward")

    def stacked(arrays: list[np.ndarray]) -> Tensor:
        return torch.from_dlpack(arrays[0])[None] if len(arrays) == 1 else torch.from_numpy(np.stack(arrays))

    return LearnerBatch(
        prompt_ids=torch.tensor([scored.group.prompt_id for scored in groups]),
        group_seeds=tuple(int(scored.group.seeds[0]) for scored in groups),
        policy_ages=torch.tensor([version - scored.group.policy_version for scored in groups]),
        sigmas=torch.tensor(first.sigmas),
        latents=stacked([scored.group.latents for scored in groups]),
        means=stacked([scored.group.means for scored in groups]),
        stds=torch.tensor(first.stds),
        rewards=stacked([scored.rewards for scored in groups]),
        extra=stacked(extra) if extra else None,
    )


def clean_predictions(batch: LearnerBatch, kernel: Kernel) -> Float[Tensor, "g n k c h w"]:
    """`x0_hat^k` of every step, k = 0..K-1: what the student generated, the fake score's training data.

    Stochastic steps are inverted from their stored means; a step without a stored mean is an Euler step, or the
    last one, whose result stands for its clean prediction: exactly so in the cps family, with the noise that
    `flow_sde` leaves in its final latent there.
    """
    sigmas = batch.sigmas
    clean = []
    for step in range(batch.steps - 1):
        x = batch.latents[:, :, step].flatten(0, 1)
        if batch.means.shape[2]:
            mean = batch.means[:, :, step].flatten(0, 1)
            x0 = clean_from_mean(kernel, x, mean, sigmas[step], sigmas[step + 1])
        else:
            reached = batch.latents[:, :, step + 1].flatten(0, 1)
            x0 = clean_from_velocity(x, (reached - x) / (sigmas[step + 1] - sigmas[step]), sigmas[step])
        clean.append(x0.unflatten(0, batch.latents.shape[:2]))
    return torch.stack([*clean, batch.latents[:, :, -1]], dim=2)


@dataclass(frozen=True, slots=True)
class Draw:
    """b = g x rows chosen states of a batch, `rows` from each group.

    Attributes:
        group: `[b]` index of the group in the batch.
        sample: `[b]` index of the trajectory in its group.
        level: `[b]` which of the offered steps or levels.
    """

    group: Int64[Tensor, " b"]
    sample: Int64[Tensor, " b"]
    level: Int64[Tensor, " b"]

    def part(self, rows: slice) -> Self:
        """Consecutive ones."""
        return type(self)(self.group[rows], self.sample[rows], self.level[rows])


def draw_states(batch: LearnerBatch, rows: int, levels: int, path: Path, emphasis: float = 1.0) -> Draw:
    """Chooses trajectories uniformly and levels by emphasis, with replacement, `rows` from each group.

    `P(level < k) = (k / levels)^emphasis`. One fake score serves all steps, so what it and the DMD update see is the
    mixture of all steps' clean predictions: with uniform draws the late steps bend to make up for the blur of the
    early ones, and the final image drifts from the data. Emphasis on late steps is the cure; it is ours.

    Args:
        batch: This rank's groups.
        rows: Rows of each group.
        levels: Number of steps or levels to choose from.
        path: Names the draw.
        emphasis: At least 1; 1 is uniform.
    """
    drawn = torch.stack([uniform((2, rows), seed, *path, "rows") for seed in batch.group_seeds])
    return Draw(
        group=torch.arange(len(batch.group_seeds)).repeat_interleave(rows),
        sample=(drawn[:, 0] * batch.samples).long().flatten(),
        level=(drawn[:, 1].pow(1 / emphasis) * levels).long().clamp(max=levels - 1).flatten(),
    )


def draw_noise(batch: LearnerBatch, rows: int, path: Path) -> Float[Tensor, "b c h w"]:
    """Standard normal latents, `rows` for each group."""
    shape = (rows, *batch.latent_shape)
    return torch.cat([noise(shape, seed, *path, "noise") for seed in batch.group_seeds])


def draw_levels(batch: LearnerBatch, rows: int, low: float, high: float, path: Path) -> Float[Tensor, " b"]:
    """Noise levels uniform in [low, high), `rows` for each group."""
    drawn = torch.cat([uniform((rows,), seed, *path, "t") for seed in batch.group_seeds])
    return low + (high - low) * drawn


def draw_real(
    batch: LearnerBatch, real: RealImages, rows: int, path: Path
) -> tuple[Float[Tensor, "b c h w"], Int64[Tensor, " b"]]:
    """Real latents of each group's prompt, where there are any, and the prompts of all; `rows` for each group."""
    drawn = [
        real.drawn(prompt_id.expand(rows), derive_seed(seed, *path, "real"))
        for prompt_id, seed in zip(batch.prompt_ids, batch.group_seeds, strict=True)
    ]
    return torch.cat([latents for latents, _ in drawn]), torch.cat([prompt_ids for _, prompt_ids in drawn])


def draw_other_prompts(
    batch: LearnerBatch, table: PromptTable, prompt_ids: Int64[Tensor, " b"], path: Path
) -> Int64[Tensor, " b"]:
    """For each row a prompt id, uniform over the rows of the table whose text is not that of the row's own prompt.

    Args:
        batch: This rank's groups, which name the draws.
        table: The prompts.
        prompt_ids: Of every row, as many for each group.
        path: Names the draw.

    Raises:
        ValueError: if every row of the table has the same text.
    """
    rows = len(prompt_ids) // len(batch.group_seeds)
    drawn = torch.cat([uniform((rows,), seed, *path, "other prompts") for seed in batch.group_seeds])
    return torch.tensor([table.other(int(own), float(u)) for own, u in zip(prompt_ids, drawn, strict=True)])


def shuffled(batch: LearnerBatch, rewards: Float[Tensor, "g n *more"]) -> Float[Tensor, "g n *more"]:
    """Rewards with each group's rows in an order drawn for the group; all rewards of a row stay together.

    What a group's rewards are is kept, which trajectory earned them is not: RL on them goes nowhere on average.
    """
    orders = [uniform((batch.samples,), seed, "shuffled rewards").argsort() for seed in batch.group_seeds]
    return torch.stack([rows[order] for rows, order in zip(rewards, orders, strict=True)])

"""Branch groups: siblings share a state and differ in the noise of one action; all of them are one learner row."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from advdmd_ray.diffusion.denoiser import Conditioning
from advdmd_ray.diffusion.kernels import transition
from advdmd_ray.diffusion.seeds import group_noise
from advdmd_ray.learner.actions import ActionRows
from advdmd_ray.learner.batch import LearnerBatch
from advdmd_ray.learner.parts import LossPart, in_parts
from advdmd_ray.learner.policy import action_means
from advdmd_ray.losses.policy_gradient import step_weights
from advdmd_ray.stations.rollout import sample_seeds
from benchmarks.estimators.estimator import Estimator, open_advantages
from benchmarks.estimators.field import Field


@dataclass(frozen=True)
class Branches(Estimator):
    """The policy gradient at few states, over many children of each.

    A family is a trajectory up to the state before action k, and `children` that leave it by noise z_i of their own;
    what follows is by the same noise for all of them. Its row has the gradient of
    `-w_k mean_i A_i z_i / std_k mean_k / numel`, A_i against the mean of the family: the policy gradient's, summed over
    the children, for one pass of the learner.

    Attributes:
        parents: Families of a prompt; they branch at each action in turn.
        children: Of a family.
        antithetic: Children come in pairs of z and -z.
        own_later: What follows is by noise of each child's own.
    """

    parents: int = 6
    children: int = 4
    antithetic: bool = False
    own_later: bool = False

    @property
    def draws(self) -> tuple[object, ...]:
        """See `Estimator`."""
        return (self.parents, self.children, self.antithetic, self.own_later)

    @torch.no_grad()
    def turn(self, place: Field, number: int) -> LearnerBatch:
        """See `Estimator`; a family is a group."""
        works = place.works(number)
        count = self.parents * self.children
        seeds = [seed for work in works for seed in sample_seeds(work.seed, count)]
        prompt_ids = torch.tensor([work.prompt_id for work in works]).repeat_interleave(self.parents)
        conditioning = place.setting.table.rows(prompt_ids.repeat_interleave(self.children))
        latents, means, stds = self._grown(place, conditioning, seeds)
        family = (len(prompt_ids), self.children)
        states, centres = latents.unflatten(0, family), means.unflatten(0, family)
        return place.scored(prompt_ids, seeds[:: self.children], states, centres, stds)

    def updates(self, place: Field, batch: LearnerBatch) -> Iterator[list[LossPart]]:
        """See `Estimator`: one."""
        family = torch.arange(len(batch.prompt_ids))
        step = self.steps(len(family), batch.stds.numel())
        # A state before the action is the same for all siblings and would take its share of the spread.
        differs = torch.stack([(step <= level).float().mean() for level in range(batch.steps)])
        scaled = open_advantages(place, batch, differs)
        if float(scaled.abs().max()) == 0:
            return
        old, std = batch.means[family, 0, step], batch.stds[step].reshape(-1, 1, 1, 1)
        z = (batch.latents[family, :, step + 1] - old.unsqueeze(1)) / std.unsqueeze(1)
        gains = scaled[family, :, step]
        rows = ActionRows(family, step, batch.latents[family, 0, step], old, old, old, gains.mean(dim=1))
        pulls = (gains.reshape(*gains.shape, 1, 1, 1) * z).mean(dim=1) / std
        weights = step_weights(batch.stds[step], place.config.policy_gradient.step_weight_power) / pulls[0].numel()

        def loss(part: slice) -> Tensor:
            means = action_means(place.student, place.setting, batch, rows.part(part))
            return -(weights[part] * (pulls[part] * means).flatten(1).sum(dim=1)).mean()

        yield in_parts(loss, len(rows), place.setting.micro_batch)

    def steps(self, families: int, actions: int) -> Int64[Tensor, " f"]:
        """The action at which each family branches."""
        return torch.arange(families) % self.parents % actions

    def _grown(
        self, place: Field, conditioning: Conditioning, seeds: Sequence[int]
    ) -> tuple[Float[Tensor, "b k1 c h w"], Float[Tensor, "b m c h w"], Float[Tensor, " m"]]:
        """All states, means and stds; before they differ, siblings are one row of the network."""
        setting, shape = place.setting, place.latent_shape
        rows = torch.arange(len(seeds))
        eldest = rows - rows % self.children
        actions = place.actions
        branch = self.steps(len(seeds) // self.children, actions).repeat_interleave(self.children)
        x = group_noise(shape, seeds[:: self.children], "initial")[rows // self.children]
        latents, means, stds = [x], [], []
        for step in range(setting.sigmas.numel() - 1):
            distinct, back = torch.where(branch < step, rows, eldest).unique(return_inverse=True)
            t = setting.sigmas[step].expand(len(distinct))
            velocity = place.student(x[distinct], t, conditioning.select(distinct))[back]
            gaussian = transition(setting.kernel, x, velocity, setting.sigmas[step], setting.sigmas[step + 1])
            x = gaussian.mean
            if step < actions:
                parts = branch == step
                drawn = group_noise(shape, seeds, "step", step)
                own = drawn.clone()
                if self.antithetic:
                    own[1::2] = -own[::2]
                apart = parts | (branch < step) if self.own_later else parts
                fresh = torch.where(apart.reshape(-1, 1, 1, 1), own, drawn[eldest])
                means.append(gaussian.mean)
                stds.append(gaussian.std)
                x = gaussian.mean + gaussian.std * fresh
            latents.append(x)
        return torch.stack(latents, 1), torch.stack(means, 1), torch.stack(stds)

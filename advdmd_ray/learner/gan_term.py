"""The direct GAN term of the student: what it draws, and its gradient at the clean predictions."""

from dataclasses import dataclass
from typing import Self

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from advdmd_ray.diffusion.denoiser import Conditioning
from advdmd_ray.learner.batch import LearnerBatch, Path, draw_levels, draw_noise, draw_real
from advdmd_ray.learner.setting import Setting
from advdmd_ray.losses.adversarial import direct_gan_gradient
from advdmd_ray.losses.fake_score import noised
from advdmd_ray.stations.reward import Critic


@dataclass(frozen=True, slots=True)
class GanTerm:
    """What the direct GAN term draws for the rows of one DMD update.

    Attributes:
        tau: Level at which each row is judged.
        noise: Its noise.
        real: Real states at these levels and the ids of their prompts; None unless logits are compared in pairs.
    """

    tau: Float[Tensor, " b"]
    noise: Float[Tensor, "b c h w"]
    real: tuple[Float[Tensor, "b c h w"], Int64[Tensor, " b"]] | None

    @classmethod
    def drawn(cls, setting: Setting, batch: LearnerBatch, rows: int, path: Path) -> Self:
        """Levels as `dmd.gan_levels` has them; the real latents are of the same prompts where these have any."""
        tau, eps, real = _levels(setting, batch, rows, path), draw_noise(batch, rows, path), None
        if setting.config.discriminator.pairing == "relativistic":
            latents, prompts = draw_real(batch, setting.real, rows, path)
            real = noised(latents, draw_noise(batch, rows, (*path, "real")), tau), prompts
        return cls(tau, eps, real)

    def gradient(
        self,
        discriminator: Critic,
        setting: Setting,
        x0: Float[Tensor, "b c h w"],
        conditioning: Conditioning,
        part: slice,
        reference: Float[Tensor, "b c h w"],
    ) -> Float[Tensor, "b c h w"]:
        """The weighted gradient at x0, the rows of `part`; each group is scaled by its own rows of the reference."""
        slopes, margins = [], []
        for rows in torch.arange(len(x0)).split(setting.micro_batch or len(x0)):
            where = rows + part.start
            leaf = x0[rows].requires_grad_()
            state = noised(leaf, self.noise[where], self.tau[where])
            logits = discriminator(state, self.tau[where], conditioning.select(rows))
            slopes.append(torch.autograd.grad(logits.sum(), leaf)[0])
            margins.append(logits.detach() - self._compared_with(discriminator, setting, where))
        group = setting.rows(setting.config.dmd.batch_size)
        split = (each.split(group) for each in (torch.cat(slopes), torch.cat(margins), reference))
        return setting.config.dmd.gan_weight * torch.cat(
            [direct_gan_gradient(*rows) for rows in zip(*split, strict=True)]
        )

    @torch.no_grad()
    def _compared_with(
        self, discriminator: Critic, setting: Setting, rows: Int64[Tensor, " r"]
    ) -> Float[Tensor, " r"] | float:
        if self.real is None:
            return 0.0
        states, prompts = self.real
        return discriminator(states[rows], self.tau[rows], setting.table.rows(prompts[rows]))


def _levels(setting: Setting, batch: LearnerBatch, rows: int, path: Path) -> Float[Tensor, " b"]:
    config = setting.config
    if config.dmd.gan_levels == "uniform":
        return draw_levels(batch, rows, config.dmd.t_min, config.dmd.t_max, path)
    final = torch.tensor(config.reward.final_levels)
    return final[draw_levels(batch, rows, 0.0, float(final.numel()), path).long()]


def relative_norms(
    gradient: Float[Tensor, "b c h w"], reference: Float[Tensor, "b c h w"], group: int
) -> Float[Tensor, " g"]:
    """Norm of one gradient by that of the other, in each group of so many rows; 0 where the other is 0."""
    ours, theirs = (each.unflatten(0, (-1, group)).flatten(1).norm(dim=1) for each in (gradient, reference))
    return torch.where(theirs > 0, ours / theirs, torch.zeros_like(ours))

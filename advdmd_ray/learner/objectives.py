"""What each update minimises on a batch of scored groups. Each objective is one loss of one network, in parts.

The student's two losses, DMD and RL, are separate updates with separate optimizer moments: policy gradients are
much smaller, and in one Adam their share of a step would be small. RL is in `policy.py`.
"""

from dataclasses import dataclass
from typing import Self

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from advdmd_ray.config import Config
from advdmd_ray.data.real import RealImages
from advdmd_ray.diffusion.denoiser import Conditioning, Denoiser
from advdmd_ray.diffusion.kernels import Kernel, clean_from_velocity
from advdmd_ray.diffusion.seeds import derive_seed, noise
from advdmd_ray.learner.batch import LearnerBatch, Path, draw_levels, draw_noise, draw_other_prompts, draw_states
from advdmd_ray.learner.parts import LossPart, in_parts
from advdmd_ray.losses.adversarial import (
    auc,
    discriminator_loss,
    generator_loss,
    gradient_norm_scale,
    mismatch_loss,
    r1_style_penalty,
    relativistic_loss,
)
from advdmd_ray.losses.distribution_matching import dmd_gradient, dmd_loss
from advdmd_ray.losses.fake_score import flow_matching_loss, noised
from advdmd_ray.stations.prompt_table import PromptTable
from advdmd_ray.stations.reward import Critic, final_noise_of, judged_states, level_scores, score_states

# Standard deviation of the perturbation of the R1-style term, latent units; ours.
PENALTY_SIGMA = 0.05


@dataclass(frozen=True, slots=True)
class Setting:
    """What the objectives share besides the batch: fixed for the whole run.

    Attributes:
        config: The run's configuration.
        table: Encoded prompts.
        kernel: The student's transition kernel.
        sigmas: `[K+1]` student levels, the last 0.
        real: Real latents to learn from.
        real_heldout: Real latents that only the AUC sees.
        teacher: The guided teacher.
        micro_batch: Most rows whose graphs are held at a time, of what can be parted; None: all.
    """

    config: Config
    table: PromptTable
    kernel: Kernel
    sigmas: Float[Tensor, " k1"]
    real: RealImages
    real_heldout: RealImages
    teacher: Denoiser
    micro_batch: int | None = None

    def rows(self, batch_size: int) -> int:
        """Rows of each group in an update of `batch_size` rows over all ranks."""
        return batch_size // self.config.rollout.groups_per_cycle


def fake_score_parts(
    fake_score: Denoiser, setting: Setting, batch: LearnerBatch, clean: Float[Tensor, "g n k c h w"], path: Path
) -> list[LossPart]:
    """Flow-matching regression on the student's clean predictions, at levels uniform in [t_min, t_max].

    The predictions are drawn with emphasis on late steps, `learner.late_steps`.
    """
    rows = setting.rows(setting.config.fake_score.batch_size)
    draw = draw_states(batch, rows, batch.steps, path, setting.config.learner.late_steps)
    x0 = clean[draw.group, draw.sample, draw.level]
    eps = draw_noise(batch, rows, path)
    t = draw_levels(batch, rows, setting.config.dmd.t_min, setting.config.dmd.t_max, path)

    def loss(part: slice) -> Tensor:
        conditioning = setting.table.rows(batch.prompt_ids[draw.group[part]])
        velocity = fake_score(noised(x0[part], eps[part], t[part]), t[part], conditioning)
        return flow_matching_loss(velocity, x0[part], eps[part])

    return in_parts(loss, len(t), setting.micro_batch)


def _drawn_real(
    real: RealImages, batch: LearnerBatch, rows: int, path: Path
) -> tuple[Float[Tensor, "b c h w"], Int64[Tensor, " b"]]:
    """Real latents of each group's prompt, where there are any, and the prompts of all; a draw belongs to the group."""
    drawn = [
        real.drawn(prompt_id.expand(rows), derive_seed(seed, *path, "real"))
        for prompt_id, seed in zip(batch.prompt_ids, batch.group_seeds, strict=True)
    ]
    return torch.cat([latents for latents, _ in drawn]), torch.cat([prompt_ids for _, prompt_ids in drawn])


def discriminator_parts(discriminator: Critic, setting: Setting, batch: LearnerBatch, path: Path) -> list[LossPart]:
    """Softplus loss on reached states and real latents noised to the same levels, with two optional terms.

    Row i of the real states and row i of the reached ones have one level and, where the prompt has real images, one
    prompt: the pairs of the relativistic form. Intermediate states are taken as they are; the final latent is noised to
    one of the final levels, as the reward workers do. The options are the R1-style term on these states, and the same
    real states with another prompt's text as a second kind of fakes. What belongs to a pair is in one part.
    """
    config = setting.config
    rows = setting.rows(config.discriminator.batch_size)
    final = torch.tensor(config.reward.final_levels)
    inner = batch.steps - 1
    levels = torch.cat([batch.sigmas[1:-1], final])
    draw = draw_states(batch, rows, inner + 1, path, config.learner.late_steps)
    # Levels 1..K are drawn with emphasis on late ones; the final one then falls on one of its noise levels.
    which_final = draw_levels(batch, rows, 0.0, float(final.numel()), (*path, "final")).long()
    slot = torch.where(draw.level < inner, draw.level, inner + which_final)
    t = levels[slot]
    reached = batch.latents[draw.group, draw.sample, draw.level + 1]
    is_final = (draw.level == inner).reshape(-1, 1, 1, 1)
    fake = torch.where(is_final, noised(reached, draw_noise(batch, rows, (*path, "fake")), t), reached)
    clean, real_prompts = _drawn_real(setting.real, batch, rows, path)
    real = noised(clean, draw_noise(batch, rows, (*path, "real")), t)
    states, prompts = [real, fake], [real_prompts, batch.prompt_ids[draw.group]]
    if config.discriminator.mismatched_text > 0:
        states, prompts = [*states, real], [*prompts, draw_other_prompts(batch, setting.table, real_prompts, path)]
    # Real rows first, then fake ones: each row meets the noise of its own group.
    shifts = [
        draw_noise(batch, rows, (*path, "penalty", side))
        for side in ("real", "fake")
        if config.discriminator.gradient_penalty > 0
    ]

    def loss(part: slice) -> Tensor:
        sides = [side[part] for side in states], [ids[part] for ids in prompts]
        return _discriminator_loss(discriminator, setting, *sides, t[part], [shift[part] for shift in shifts])

    return in_parts(loss, len(t), None if setting.micro_batch is None else max(1, setting.micro_batch // len(states)))


def _discriminator_loss(
    discriminator: Critic,
    setting: Setting,
    states: list[Float[Tensor, "b c h w"]],
    prompts: list[Int64[Tensor, " b"]],
    t: Float[Tensor, " b"],
    shifts: list[Float[Tensor, "b c h w"]],
) -> Float[Tensor, ""]:
    """The loss of b pairs: real and reached states and, if they take part, the real ones with another text."""
    config = setting.config.discriminator
    logits = discriminator(torch.cat(states), t.repeat(len(states)), setting.table.rows(torch.cat(prompts)))
    logits = logits.split(len(t))
    relativistic = config.pairing == "relativistic"
    loss = relativistic_loss(logits[0], logits[1]) if relativistic else discriminator_loss(logits[0], logits[1])
    if config.mismatched_text > 0:
        mismatch = relativistic_loss(logits[0], logits[2]) if relativistic else mismatch_loss(logits[2])
        loss = loss + config.mismatched_text * mismatch
    if config.gradient_penalty > 0:
        own = setting.table.rows(torch.cat(prompts[:2]))
        perturbed = discriminator(torch.cat(states[:2]) + PENALTY_SIGMA * torch.cat(shifts), t.repeat(2), own)
        penalty = r1_style_penalty(torch.cat(logits[:2]), perturbed)
        loss = loss + config.gradient_penalty / PENALTY_SIGMA**2 * penalty
    return loss


@torch.no_grad()
def heldout_auc(discriminator: Critic, setting: Setting, batch: LearnerBatch, path: Path) -> Float[Tensor, " k"]:
    """AUC per level 1..K on fresh trajectories against real latents the discriminator never learns from.

    Both sides are judged exactly as the reward workers judge. The mean over this rank's groups of each group's own
    AUC: rewards are compared inside a group only, and a mean does not depend on how the groups are spread over ranks.
    """
    rows, sigmas = min(setting.config.discriminator.auc_rows, batch.samples), batch.sigmas
    final_levels = setting.config.reward.final_levels
    areas = []
    for index, seed in enumerate(batch.group_seeds):
        prompt_id = int(batch.prompt_ids[index])
        draws = noise((rows, batch.steps, *batch.latent_shape), seed, *path, "auc")
        prompt_ids = torch.full((rows,), prompt_id)
        real, real_prompts = setting.real_heldout.drawn(prompt_ids, derive_seed(seed, *path, "auc"))
        levels = sigmas[:-1].reshape(1, -1, 1, 1, 1)
        noisy = (1 - levels) * real.unsqueeze(1) + levels * draws
        trajectory = torch.cat([noisy, real.unsqueeze(1)], dim=1)
        final_noise = final_noise_of(batch.latent_shape, seed, len(final_levels))
        both = torch.cat([batch.latents[index, :rows], trajectory])
        states, t = judged_states(both, sigmas, final_levels, final_noise)
        prompts = torch.cat([prompt_ids, real_prompts])
        scores = level_scores(score_states(discriminator, setting.table, prompts, states, t), batch.steps - 1)
        fake, true = scores.chunk(2)
        areas.append(torch.stack([auc(true[:, level], fake[:, level]) for level in range(batch.steps)]))
    return torch.stack(areas).mean(dim=0)


def dmd_parts(
    student: Denoiser,
    fake_score: Denoiser,
    discriminator: Critic,
    setting: Setting,
    batch: LearnerBatch,
    path: Path,
) -> list[LossPart]:
    """Distribution matching on clean predictions made, with gradient, from stored states.

    The states are drawn from all K steps, late ones more often (`learner.late_steps`).

    The optional direct GAN term enters as a gradient at x0, in each group scaled to the norm of that group's DMD
    gradient: no backward pass crosses two engines, and no rank needs another's norms. A group is in one part then.
    """
    config = setting.config.dmd
    rows = setting.rows(config.batch_size)
    draw = draw_states(batch, rows, batch.steps, path, setting.config.learner.late_steps)
    x, sigma = batch.latents[draw.group, draw.sample, draw.level], batch.sigmas[draw.level]
    t, eps = draw_levels(batch, rows, config.t_min, config.t_max, path), draw_noise(batch, rows, path)
    direct = _GanTerm.drawn(setting, batch, rows, (*path, "gan")) if config.gan_weight > 0 else None

    def loss(part: slice) -> Tensor:
        conditioning = setting.table.rows(batch.prompt_ids[draw.group[part]])
        level = t[part]
        x0 = clean_from_velocity(x[part], student(x[part], sigma[part], conditioning), sigma[part])
        with torch.no_grad():
            y = noised(x0.detach(), eps[part], level)
            x0_fake = clean_from_velocity(y, fake_score(y, level, conditioning), level)
            x0_real = clean_from_velocity(y, setting.teacher(y, level, conditioning), level)
            gradient = dmd_gradient(x0.detach(), x0_fake, x0_real)
        if direct is not None:
            gan = direct.gradient(discriminator, setting, x0.detach(), conditioning, part)
            pairs = zip(gradient.split(rows), gan.split(rows), strict=True)
            scaled = torch.cat([gradient_norm_scale(own, other) * other for own, other in pairs])
            gradient = gradient + config.gan_weight * scaled
        return dmd_loss(x0, gradient)

    return in_parts(loss, len(t), setting.micro_batch, together=1 if direct is None else rows)


@dataclass(frozen=True, slots=True)
class _GanTerm:
    """What the direct GAN term draws for the rows of one DMD update.

    Attributes:
        tau: Final level of each row.
        noise: Its noise.
        real: Real states at these levels and the ids of their prompts; None unless logits are compared in pairs.
    """

    tau: Float[Tensor, " b"]
    noise: Float[Tensor, "b c h w"]
    real: tuple[Float[Tensor, "b c h w"], Int64[Tensor, " b"]] | None

    @classmethod
    def drawn(cls, setting: Setting, batch: LearnerBatch, rows: int, path: Path) -> Self:
        """The real latents are of the same prompts where these have any."""
        final = torch.tensor(setting.config.reward.final_levels)
        tau = final[draw_levels(batch, rows, 0.0, float(final.numel()), path).long()]
        eps, real = draw_noise(batch, rows, path), None
        if setting.config.discriminator.pairing == "relativistic":
            latents, prompts = _drawn_real(setting.real, batch, rows, path)
            real = noised(latents, draw_noise(batch, rows, (*path, "real")), tau), prompts
        return cls(tau, eps, real)

    def gradient(
        self,
        discriminator: Critic,
        setting: Setting,
        x0: Float[Tensor, "b c h w"],
        conditioning: Conditioning,
        part: slice,
    ) -> Float[Tensor, "b c h w"]:
        """Gradient of the generator's loss at x0, the rows of `part`, in parts of its own.

        Any factor is as good: it is scaled to DMD's.
        """
        gradients = []
        for rows in torch.arange(len(x0)).split(setting.micro_batch or len(x0)):
            where = rows + part.start
            leaf = x0[rows].requires_grad_()
            logits = discriminator(
                noised(leaf, self.noise[where], self.tau[where]), self.tau[where], conditioning.select(rows)
            )
            if self.real is None:
                loss = generator_loss(logits)
            else:
                states, prompts = self.real
                with torch.no_grad():
                    real = discriminator(states[where], self.tau[where], setting.table.rows(prompts[where]))
                loss = relativistic_loss(logits, real)
            # The mean of all rows has the same gradient at each of them.
            gradients.append(torch.autograd.grad(loss * (len(rows) / len(x0)), leaf)[0])
        return torch.cat(gradients)

"""What each update minimises on a batch of scored groups. Each objective is one loss of one network, in parts.

The student's two losses, DMD and RL, are separate updates with separate optimizer moments: policy gradients are
much smaller, and in one Adam their share of a step would be small. RL is in `policy.py`.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from advdmd_ray.diffusion.denoiser import Denoiser
from advdmd_ray.diffusion.kernels import clean_from_velocity
from advdmd_ray.learner.batch import (
    LearnerBatch,
    Path,
    draw_levels,
    draw_noise,
    draw_other_prompts,
    draw_real,
    draw_states,
)
from advdmd_ray.learner.fakes import drawn_fakes
from advdmd_ray.learner.gan_term import GanTerm, relative_norms
from advdmd_ray.learner.parts import LossPart, in_parts
from advdmd_ray.learner.setting import Setting
from advdmd_ray.losses.adversarial import (
    discriminator_loss,
    mismatch_loss,
    r1_style_penalty,
    relativistic_loss,
)
from advdmd_ray.losses.distribution_matching import dmd_gradient, dmd_loss
from advdmd_ray.losses.fake_score import flow_matching_loss, noised
from advdmd_ray.stations.reward import Critic

# Standard deviation of the perturbation of the R1-style term, latent units; ours.
PENALTY_SIGMA = 0.05


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


def discriminator_parts(
    discriminator: Critic,
    setting: Setting,
    batch: LearnerBatch,
    clean: Float[Tensor, "g n k c h w"],
    path: Path,
) -> list[LossPart]:
    """Softplus loss on generated states and real latents noised to the same levels, with two optional terms.

    Row i of the real states and row i of the generated ones have one level and, where the prompt has real images, one
    prompt: the pairs of the relativistic form. The options are the R1-style term on these states, and the same real
    states with another prompt's text as a second kind of fakes. What belongs to a pair is in one part.
    """
    config = setting.config
    rows = setting.rows(config.discriminator.batch_size)
    fake, t, fake_prompts = drawn_fakes(setting, batch, clean, rows, path)
    latents, real_prompts = draw_real(batch, setting.real, rows, path)
    real = noised(latents, draw_noise(batch, rows, (*path, "real")), t)
    states, prompts = [real, fake], [real_prompts, fake_prompts]
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


def dmd_parts(
    student: Denoiser,
    fake_score: Denoiser,
    discriminator: Critic,
    setting: Setting,
    batch: LearnerBatch,
    path: Path,
    told: Callable[[Float[Tensor, " g"]], None] | None = None,
    *,
    gan: bool = True,
) -> list[LossPart]:
    """Distribution matching on clean predictions made, with gradient, from stored states.

    The states are drawn from all K steps, late ones more often (`learner.late_steps`).

    The optional direct GAN term enters as a gradient at x0, in each group in units of that group's DMD gradient: no
    backward pass crosses two engines, and no rank needs another's norms. A group is in one part then.

    Args:
        student: The network that learns.
        fake_score: The score of the student's distribution.
        discriminator: The critic of the GAN term.
        setting: What the objectives share.
        batch: This rank's groups.
        path: Names the draws.
        told: Gets, for each group of a part, the norm of the weighted GAN term by that of the DMD gradient.
        gan: Whether the GAN term has begun.
    """
    config = setting.config.dmd
    rows = setting.rows(config.batch_size)
    draw = draw_states(batch, rows, batch.steps, path, setting.config.learner.late_steps)
    x, sigma = batch.latents[draw.group, draw.sample, draw.level], batch.sigmas[draw.level]
    t, eps = draw_levels(batch, rows, config.t_min, config.t_max, path), draw_noise(batch, rows, path)
    direct = GanTerm.drawn(setting, batch, rows, (*path, "gan")) if gan and config.gan_weight > 0 else None

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
            gan = direct.gradient(discriminator, setting, x0.detach(), conditioning, part, gradient)
            if told is not None:
                told(relative_norms(gan, gradient, rows))
            gradient = gradient + gan
        return dmd_loss(x0, gradient)

    return in_parts(loss, len(t), setting.micro_batch, together=1 if direct is None else rows)

"""What each update minimises on a batch of scored groups. Each objective is one loss of one network.

The student's two losses, DMD and RL, are separate updates with separate optimizer moments: policy gradients are
much smaller, and in one Adam their share of a step would be small.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from advdmd_ray.config import Config
from advdmd_ray.config.objectives import PolicyGradientSection
from advdmd_ray.data.real import RealImages
from advdmd_ray.diffusion.denoiser import Conditioning, Denoiser
from advdmd_ray.diffusion.kernels import Kernel, clean_from_velocity, kl_per_element, log_ratio, transition
from advdmd_ray.diffusion.seeds import derive_seed, noise
from advdmd_ray.learner.actions import Actions
from advdmd_ray.learner.batch import LearnerBatch, Path, draw_levels, draw_noise, draw_other_prompts, draw_states
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
from advdmd_ray.losses.policy_gradient import (
    PolicyGradientReport,
    PolicyTerms,
    policy_gradient_loss,
    stale_mask,
    step_weights,
)
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
    """

    config: Config
    table: PromptTable
    kernel: Kernel
    sigmas: Float[Tensor, " k1"]
    real: RealImages
    real_heldout: RealImages
    teacher: Denoiser

    def rows(self, batch_size: int) -> int:
        """Rows of each group in an update of `batch_size` rows over all ranks."""
        return batch_size // self.config.rollout.groups_per_cycle


def fake_score_loss(
    fake_score: Denoiser, setting: Setting, batch: LearnerBatch, clean: Float[Tensor, "g n k c h w"], path: Path
) -> Float[Tensor, ""]:
    """Flow-matching regression on the student's clean predictions, at levels uniform in [t_min, t_max].

    The predictions are drawn with emphasis on late steps, `learner.late_steps`.
    """
    rows = setting.rows(setting.config.fake_score.batch_size)
    draw = draw_states(batch, rows, batch.steps, path, setting.config.learner.late_steps)
    x0 = clean[draw.group, draw.sample, draw.level]
    eps = draw_noise(batch, rows, path)
    t = draw_levels(batch, rows, setting.config.dmd.t_min, setting.config.dmd.t_max, path)
    conditioning = setting.table.rows(batch.prompt_ids[draw.group])
    return flow_matching_loss(fake_score(noised(x0, eps, t), t, conditioning), x0, eps)


def _drawn_real(
    real: RealImages, batch: LearnerBatch, rows: int, path: Path
) -> tuple[Float[Tensor, "b c h w"], Int64[Tensor, " b"]]:
    """Real latents of each group's prompt, where there are any, and the prompts of all; a draw belongs to the group."""
    drawn = [
        real.drawn(prompt_id.expand(rows), derive_seed(seed, *path, "real"))
        for prompt_id, seed in zip(batch.prompt_ids, batch.group_seeds, strict=True)
    ]
    return torch.cat([latents for latents, _ in drawn]), torch.cat([prompt_ids for _, prompt_ids in drawn])


def discriminator_update_loss(
    discriminator: Critic, setting: Setting, batch: LearnerBatch, path: Path
) -> Float[Tensor, ""]:
    """Softplus loss on reached states and real latents noised to the same levels, with two optional terms.

    Row i of the real states and row i of the reached ones have one level and, where the prompt has real images, one
    prompt: the pairs of the relativistic form. Intermediate states are taken as they are; the final latent is noised to
    one of the final levels, as the reward workers do. The options are the R1-style term on these states, and the same
    real states with another prompt's text as a second kind of fakes.
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
    conditioning = setting.table.rows(torch.cat(prompts))
    logits = discriminator(torch.cat(states), t.repeat(len(states)), conditioning).split(len(t))
    relativistic = config.discriminator.pairing == "relativistic"
    loss = relativistic_loss(logits[0], logits[1]) if relativistic else discriminator_loss(logits[0], logits[1])
    if config.discriminator.mismatched_text > 0:
        mismatch = relativistic_loss(logits[0], logits[2]) if relativistic else mismatch_loss(logits[2])
        loss = loss + config.discriminator.mismatched_text * mismatch
    if config.discriminator.gradient_penalty > 0:
        # Real rows first, then fake ones: each row meets the noise of its own group.
        shift = torch.cat([draw_noise(batch, rows, (*path, "penalty", side)) for side in ("real", "fake")])
        own = setting.table.rows(torch.cat(prompts[:2]))
        perturbed = discriminator(torch.cat(states[:2]) + PENALTY_SIGMA * shift, t.repeat(2), own)
        penalty = r1_style_penalty(torch.cat(logits[:2]), perturbed)
        loss = loss + config.discriminator.gradient_penalty / PENALTY_SIGMA**2 * penalty
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


def dmd_update_loss(
    student: Denoiser,
    fake_score: Denoiser,
    discriminator: Critic,
    setting: Setting,
    batch: LearnerBatch,
    path: Path,
) -> Float[Tensor, ""]:
    """Distribution matching on clean predictions made, with gradient, from stored states.

    The states are drawn from all K steps, late ones more often (`learner.late_steps`).

    The optional direct GAN term enters as a gradient at x0, in each group scaled to the norm of that group's DMD
    gradient: no backward pass crosses two engines, and no rank needs another's norms.
    """
    config = setting.config.dmd
    rows = setting.rows(config.batch_size)
    draw = draw_states(batch, rows, batch.steps, path, setting.config.learner.late_steps)
    conditioning = setting.table.rows(batch.prompt_ids[draw.group])
    x, sigma = batch.latents[draw.group, draw.sample, draw.level], batch.sigmas[draw.level]
    x0 = clean_from_velocity(x, student(x, sigma, conditioning), sigma)
    t = draw_levels(batch, rows, config.t_min, config.t_max, path)
    with torch.no_grad():
        y = noised(x0.detach(), draw_noise(batch, rows, path), t)
        x0_fake = clean_from_velocity(y, fake_score(y, t, conditioning), t)
        x0_real = clean_from_velocity(y, setting.teacher(y, t, conditioning), t)
        gradient = dmd_gradient(x0.detach(), x0_fake, x0_real)
    if config.gan_weight > 0:
        gan = _gan_gradient(discriminator, setting, batch, x0, conditioning, (*path, "gan"))
        pairs = zip(gradient.split(rows), gan.split(rows), strict=True)
        scaled = torch.cat([gradient_norm_scale(own, other) * other for own, other in pairs])
        gradient = gradient + config.gan_weight * scaled
    return dmd_loss(x0, gradient)


def _gan_gradient(
    discriminator: Critic,
    setting: Setting,
    batch: LearnerBatch,
    x0: Float[Tensor, "b c h w"],
    conditioning: Conditioning,
    path: Path,
) -> Float[Tensor, "b c h w"]:
    """Gradient of the generator's loss at x0, each noised to one of the final levels.

    The relativistic form compares with a real latent at the same level, of the same prompt where it has one.
    """
    rows = len(x0) // len(batch.group_seeds)
    final = torch.tensor(setting.config.reward.final_levels)
    tau = final[draw_levels(batch, rows, 0.0, float(final.numel()), path).long()]
    leaf = x0.detach().requires_grad_()
    logits = discriminator(noised(leaf, draw_noise(batch, rows, path), tau), tau, conditioning)
    if setting.config.discriminator.pairing == "relativistic":
        with torch.no_grad():
            real, prompts = _drawn_real(setting.real, batch, rows, path)
            noisy = noised(real, draw_noise(batch, rows, (*path, "real")), tau)
            real_logits = discriminator(noisy, tau, setting.table.rows(prompts))
        loss = relativistic_loss(logits, real_logits)
    else:
        loss = generator_loss(logits)
    return torch.autograd.grad(loss, leaf)[0]


@dataclass(frozen=True, slots=True)
class PolicyReport:
    """One RL update on this rank.

    Attributes:
        gradient: The trust region's figures.
        stale: Terms dropped for being too far from the policy that acted.
        fresh_deviation: Largest `|ratio - 1|` over groups of age 0, before this update; None if there was none.
    """

    gradient: PolicyGradientReport
    stale: int
    fresh_deviation: float | None


def policy_means(
    student: Denoiser, setting: Setting, batch: LearnerBatch, actions: Actions
) -> Float[Tensor, "g s m c h w"]:
    """The student's mean of every given action, through the same kernel that the rollout used."""
    x = actions.states
    groups, count, steps = x.shape[:3]
    conditioning = setting.table.rows(batch.prompt_ids.repeat_interleave(count * steps))
    t = batch.sigmas[:steps].repeat(groups * count)
    velocity = student(x.flatten(0, 2), t, conditioning).unflatten(0, (groups, count, steps))
    means = [
        transition(
            setting.kernel,
            x[:, :, step].flatten(0, 1),
            velocity[:, :, step].flatten(0, 1),
            batch.sigmas[step],
            batch.sigmas[step + 1],
        ).mean.unflatten(0, (groups, count))
        for step in range(steps)
    ]
    return torch.stack(means, dim=2)


def ratio_deviation(means: Float[Tensor, "g s m c h w"], batch: LearnerBatch, actions: Actions) -> float | None:
    """Largest `|ratio - 1|` of the groups whose policy has age 0; None if none has, nan if one is."""
    fresh = batch.policy_ages == 0
    if not bool(fresh.any()):
        return None
    new, reached, old = means[fresh].detach(), actions.reached[fresh], actions.means[fresh]
    worst = []
    for step in range(batch.stds.numel()):
        at = (new[:, :, step].flatten(0, 1), old[:, :, step].flatten(0, 1))
        ratio = log_ratio(reached[:, :, step].flatten(0, 1), *at, batch.stds[step])
        worst.append(ratio.expm1().abs().max())
    return float(torch.stack(worst).max())  # unlike the builtin max, this one keeps a nan


def policy_update_loss(
    student: Denoiser, setting: Setting, batch: LearnerBatch, actions: Actions
) -> tuple[Float[Tensor, ""], PolicyReport]:
    """The policy-gradient loss of the given actions."""
    config: PolicyGradientSection = setting.config.policy_gradient
    means = policy_means(student, setting, batch, actions)
    numel = means[0, 0, 0].numel()
    old, new = actions.means.flatten(0, 2), means.flatten(0, 2)
    rows = new.shape[0] // batch.stds.numel()
    std = batch.stds.repeat(rows)
    kappa = kl_per_element(new, old, std)
    stale = stale_mask(kappa.detach(), numel, config.stale_nats)
    weight = step_weights(batch.stds, config.step_weight_power).repeat(rows)
    terms = PolicyTerms(
        log_ratio=log_ratio(actions.reached.flatten(0, 2), new, old, std),
        kl_per_element=kappa,
        advantage=actions.advantages.flatten(0, 2),
        step_weight=torch.where(stale, torch.zeros_like(weight), weight),
        std=std,
    )
    loss, gradient = policy_gradient_loss(
        terms, numel=numel, trust_region=config.trust_region, kl_nats=config.kl_nats, clip_nats=config.clip_nats
    )
    return loss, PolicyReport(gradient, int(stale.sum()), ratio_deviation(means, batch, actions))

"""The generated states that the discriminator learns from: those of the rewards, and those of the direct GAN term."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from advdmd_ray.learner.batch import LearnerBatch, Path, draw_levels, draw_noise, draw_states
from advdmd_ray.learner.setting import Setting
from advdmd_ray.losses.fake_score import noised

Fakes = tuple[Float[Tensor, "b c h w"], Float[Tensor, " b"], Int64[Tensor, " b"]]


def drawn_fakes(
    setting: Setting, batch: LearnerBatch, clean: Float[Tensor, "g n k c h w"], rows: int, path: Path
) -> Fakes:
    """Generated states, their levels and the ids of their prompts, `rows` of each group.

    Each row is a step of a trajectory, late ones more often (`learner.late_steps`), and is shown either as the rewards
    judge it or as the direct GAN term does. For the rewards: the state reached as it is, of the last step the final
    latent noised to one of the final levels, as the reward workers do. For the GAN term with `dmd.gan_levels` uniform:
    the step's clean prediction, noised to a level drawn as for DMD. `Config.gan_share` of the rows are the latter.

    Args:
        setting: What the objectives share.
        batch: This rank's groups.
        clean: The student's clean prediction at every step.
        rows: Of each group.
        path: Names the draws.
    """
    config = setting.config
    final, inner = torch.tensor(config.reward.final_levels), batch.steps - 1
    draw = draw_states(batch, rows, inner + 1, path, config.learner.late_steps)
    prompts, eps = batch.prompt_ids[draw.group], draw_noise(batch, rows, (*path, "fake"))
    # Step k ends at level k + 1, the last step at one of the final noise levels.
    which_final = draw_levels(batch, rows, 0.0, float(final.numel()), (*path, "final")).long()
    is_last = draw.level == inner
    t = torch.where(is_last, final[which_final], batch.sigmas[draw.level + 1])
    reached = batch.latents[draw.group, draw.sample, draw.level + 1]
    fake = torch.where(is_last.reshape(-1, 1, 1, 1), noised(reached, eps, t), reached)
    if config.gan_share > 0:
        for_gan = draw_levels(batch, rows, 0.0, 1.0, (*path, "for the GAN term")) < config.gan_share
        t = torch.where(for_gan, draw_levels(batch, rows, config.dmd.t_min, config.dmd.t_max, (*path, "gan")), t)
        predicted = clean[draw.group, draw.sample, draw.level]
        fake = torch.where(for_gan.reshape(-1, 1, 1, 1), noised(predicted, eps, t), fake)
    return fake, t, prompts

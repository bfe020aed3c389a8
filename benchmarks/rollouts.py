"""Images per second of the rollout station, and of a loop written by hand around the same transformer."""

import itertools

import torch
from jaxtyping import Float
from torch import Tensor

from advdmd_ray.config import Config
from advdmd_ray.diffusion.denoiser import Conditioning
from advdmd_ray.diffusion.kernels import kernel_of
from advdmd_ray.models.families.base import TIMESTEPS, TransformerDenoiser
from advdmd_ray.runs.parts.networks import learning_copy
from advdmd_ray.stations.prompt_table import PromptTable
from advdmd_ray.stations.records import Lease, TrajectoryGroup
from advdmd_ray.stations.rollout import RolloutWorker
from advdmd_ray.stations.weights.snapshot import pack
from benchmarks.parts import Settings, config_of, sigmas_of
from benchmarks.timing import Stopwatch, Timing, timed

LEASE = Lease(ordinal=0, attempt=0, prompt_id=0, seed=1, policy_version=0)


@torch.no_grad()
def plain_loop(
    transformer: torch.nn.Module, prompts: Conditioning, x: Float[Tensor, "b c h w"], sigmas: list[float]
) -> Float[Tensor, "b c h w"]:
    """Draws images as a script around diffusers would: all on the device, no trajectory kept, no seed per sample.

    The update is that of `FlowMatchEulerDiscreteScheduler` with `stochastic_sampling=True`, which is our `renoise`.

    Args:
        transformer: diffusers' own, in bfloat16.
        prompts: In bfloat16, one row per image.
        x: Noise, float32.
        sigmas: K + 1 levels, the last 0.
    """
    for sigma, lower in itertools.pairwise(sigmas):
        velocity = transformer(
            hidden_states=x.to(prompts.embeds.dtype),
            timestep=torch.full((len(x),), sigma * TIMESTEPS, device=x.device),
            encoder_hidden_states=prompts.embeds,
            pooled_projections=prompts.pooled,
            return_dict=False,
        )[0].float()
        clean = x - sigma * velocity
        x = clean if lower == 0 else (1 - lower) * clean + lower * torch.randn_like(x)
    return x


def time_plain_loop(
    settings: Settings, teacher: TransformerDenoiser, table: PromptTable, stopwatch: Stopwatch
) -> Timing:
    """Times a group of images from `plain_loop`; the teacher's weights must be bfloat16."""
    size, device = settings.size, settings.device
    prompts = table.of(LEASE.prompt_id, size.group_size).to(device)
    noise = torch.randn(size.group_size, *size.latent, device=device)
    levels = sigmas_of(config_of(settings, "lora")).tolist()
    return timed(
        lambda: plain_loop(teacher.transformer, prompts, noise, levels),
        stopwatch,
        warm_up=settings.warm_up,
        repeats=settings.repeats,
    )


def time_rollouts(
    settings: Settings, config: Config, teacher: TransformerDenoiser, table: PromptTable, stopwatch: Stopwatch
) -> tuple[Timing, TrajectoryGroup]:
    """Times a whole group of the rollout worker, from a lease to arrays in host memory; gives the last one."""
    student = learning_copy(config, teacher, "student")
    learns = {name: weight for name, weight in student.named_parameters() if weight.requires_grad}
    worker = RolloutWorker(
        "rollout-0",
        student,
        table,
        kernel=kernel_of(config.diffusion),
        sigmas=sigmas_of(config),
        latent_shape=settings.size.latent,
        group_size_of=config.group_size_of,
    )
    worker.load(pack("student", LEASE.policy_version, learns))
    timing = timed(lambda: worker.generate(LEASE), stopwatch, warm_up=settings.warm_up, repeats=settings.repeats)
    return timing, worker.generate(LEASE)

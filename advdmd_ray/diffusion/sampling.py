"""Runs a denoiser down its noise levels, with or without keeping the trajectory."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from advdmd_ray.diffusion.denoiser import Conditioning, Denoiser
from advdmd_ray.diffusion.kernels import Kernel, Transition, log_prob, stochastic_steps, transition
from advdmd_ray.diffusion.seeds import group_noise
from advdmd_ray.diffusion.transfer import to_device


@dataclass(frozen=True, slots=True)
class Rollout:
    """Trajectories of a batch; m is `stochastic_steps` of the kernel (K - 1, or 0 for `ode`). All float32.

    Attributes:
        latents: `[b, K+1, c, h, w]` states from pure noise to the final latent.
        means: `[b, m, c, h, w]` mean of each stored stochastic transition.
        stds: `[m]` standard deviation of each, latent units, on the CPU.
        log_probs: `[b, m]` log-density of each action, nats, summed over elements.
    """

    latents: Float[Tensor, "b k1 c h w"]
    means: Float[Tensor, "b m c h w"]
    stds: Float[Tensor, " m"]
    log_probs: Float[Tensor, "b m"]


def _advance(
    x: Tensor,
    step: int,
    *,
    denoiser: Denoiser,
    conditioning: Conditioning,
    kernel: Kernel,
    sigmas: Tensor,
    seeds: Sequence[int] | None,
) -> tuple[Transition, Tensor]:
    """One step: its Gaussian, and the state drawn from it with the noise that belongs to (seed, step).

    Nothing here waits for an accelerator: the noise is drawn while it still runs the network.
    """
    t = torch.full((x.shape[0],), float(sigmas[step]), device=x.device)
    gaussian = transition(kernel, x, denoiser(x, t, conditioning), sigmas[step], sigmas[step + 1])
    if float(gaussian.std) == 0:
        return gaussian, gaussian.mean
    if seeds is None:
        raise ValueError(f"kernel {kernel.name} draws noise at step {step}: sample() needs seeds")
    fresh = to_device(group_noise(x.shape[1:], seeds, "step", step), x.device)
    return gaussian, gaussian.mean + gaussian.std * fresh


def _check_counts(conditioning: Conditioning, count: int, what: str) -> None:
    if len(conditioning) != count:
        raise ValueError(f"got {len(conditioning)} prompts and {count} {what}; give one for each sample")


@torch.no_grad()
def rollout(
    denoiser: Denoiser,
    conditioning: Conditioning,
    kernel: Kernel,
    sigmas: Float[Tensor, " k1"],
    *,
    shape: tuple[int, int, int],
    seeds: Sequence[int],
) -> Rollout:
    """Draws one trajectory per seed: `x_{k+1} = mean_k + std_k z_k` from pure noise down to level 0.

    A sample's draws depend on its seed only (`"initial"`, then `"step", k`), not on what else is in the batch; its
    latents then differ between batches by no more than the round-off of the network's batched arithmetic.

    Args:
        denoiser: The student.
        conditioning: b prompts, one per sample, on the device where the work is done.
        kernel: The transition kernel.
        sigmas: K + 1 levels from `student_sigmas`, on the CPU; the first is the level of pure noise, 1.
        shape: (c, h, w) of one latent.
        seeds: b seeds, one per sample.

    Raises:
        ValueError: if prompts and seeds differ in number or the levels are not a schedule from 1 to 0.
    """
    _check_counts(conditioning, len(seeds), "seeds")
    policy_steps = stochastic_steps(kernel, sigmas)
    if float(sigmas[0]) != 1:
        raise ValueError(f"a rollout starts from pure noise, level 1, got {float(sigmas[0])}")
    advance = partial(_advance, denoiser=denoiser, conditioning=conditioning, kernel=kernel, sigmas=sigmas, seeds=seeds)
    x = to_device(group_noise(shape, seeds, "initial"), conditioning.device)
    latents, means, stds, log_probs = [x], [], [], []
    for step in range(sigmas.numel() - 1):
        gaussian, x = advance(x, step)
        latents.append(x)
        if step < policy_steps:
            means.append(gaussian.mean)
            stds.append(gaussian.std)
            log_probs.append(log_prob(x, gaussian.mean, gaussian.std))
    if not policy_steps:
        none = x.new_zeros(len(seeds), 0)
        return Rollout(torch.stack(latents, 1), x.new_zeros(len(seeds), 0, *shape), torch.zeros(0), none)
    return Rollout(torch.stack(latents, 1), torch.stack(means, 1), torch.stack(stds), torch.stack(log_probs, 1))


@torch.no_grad()
def sample(
    denoiser: Denoiser,
    conditioning: Conditioning,
    kernel: Kernel,
    sigmas: Float[Tensor, " k1"],
    x: Float[Tensor, "b c h w"],
    seeds: Sequence[int] | None = None,
) -> Float[Tensor, "b c h w"]:
    """The final latents from states `x` at level `sigmas[0]`; with `Kernel.ode()` the teacher's sampler.

    With x = `group_noise(shape, seeds, "initial")` and the same seeds this ends where `rollout` ends.

    Args:
        denoiser: Student or (guided) teacher.
        conditioning: b prompts, one per sample, on the device of `x`.
        kernel: The transition kernel.
        sigmas: Levels on the CPU, the last 0.
        x: Starting states.
        seeds: b seeds of the step noise; needed by stochastic kernels only.

    Raises:
        ValueError: if the numbers of prompts, states and seeds differ, or seeds are needed and missing.
    """
    _check_counts(conditioning, x.shape[0], "states")
    if seeds is not None:
        _check_counts(conditioning, len(seeds), "seeds")
    stochastic_steps(kernel, sigmas)  # refuses levels that are no schedule
    advance = partial(_advance, denoiser=denoiser, conditioning=conditioning, kernel=kernel, sigmas=sigmas, seeds=seeds)
    x = x.float()
    for step in range(sigmas.numel() - 1):
        _, x = advance(x, step)
    return x

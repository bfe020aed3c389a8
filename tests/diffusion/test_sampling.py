"""Rollouts and samples."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from advdmd_ray.diffusion.denoiser import Conditioning
from advdmd_ray.diffusion.kernels import Kernel, log_prob, log_ratio, transition
from advdmd_ray.diffusion.sampling import rollout, sample
from advdmd_ray.diffusion.schedule import student_sigmas, teacher_sigmas
from advdmd_ray.diffusion.seeds import derive_seed, group_noise

SHAPE = (2, 4, 4)
SIGMAS = student_sigmas([1.0, 0.75, 0.5, 0.25], 3.0)
KERNELS = [Kernel.renoise(), Kernel.cps(0.9), Kernel.flow_sde(0.7), Kernel.ode()]
SEEDS = [derive_seed(0, "sample", n) for n in range(4)]


def _prompts(count: int) -> Conditioning:
    generator = torch.Generator().manual_seed(0)
    return Conditioning(torch.randn(count, 2, 3, generator=generator), torch.randn(count, 3, generator=generator))


def _network(x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
    """Elementwise, so that a batch of any size gives the same bits."""
    text = conditioning.pooled[:, 0].reshape(-1, 1, 1, 1)
    return torch.tanh(x * (1 + t.reshape(-1, 1, 1, 1)) + text)


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: k.name)
def test_a_rollout_holds_what_its_kernel_did(kernel: Kernel) -> None:
    prompts = _prompts(4)
    made = rollout(_network, prompts, kernel, SIGMAS, shape=SHAPE, seeds=SEEDS)
    actions = 0 if kernel.name == "ode" else 3
    assert made.latents.shape == (4, 5, *SHAPE)
    assert made.means.shape == (4, actions, *SHAPE)
    assert made.stds.shape == (actions,)
    assert made.log_probs.shape == (4, actions)
    assert made.latents.dtype == made.log_probs.dtype == torch.float32
    assert torch.equal(made.latents[:, 0], group_noise(SHAPE, SEEDS, "initial"))
    for k in range(actions):
        x = made.latents[:, k]
        again = transition(kernel, x, _network(x, SIGMAS[k].expand(4), prompts), SIGMAS[k], SIGMAS[k + 1])
        action = made.latents[:, k + 1]
        assert torch.equal(again.std, made.stds[k])
        assert torch.equal(log_ratio(action, again.mean, made.means[:, k], made.stds[k]).exp(), torch.ones(4))
        assert torch.equal(log_prob(action, again.mean, again.std), made.log_probs[:, k])
        drawn = (action - made.means[:, k]) / made.stds[k]
        torch.testing.assert_close(drawn, group_noise(SHAPE, SEEDS, "step", k), atol=1e-4, rtol=1e-4)


@given(st.permutations(range(4)), st.integers(1, 3), st.sampled_from(KERNELS))
def test_a_trajectory_does_not_depend_on_its_batch(order: list[int], split: int, kernel: Kernel) -> None:
    prompts = _prompts(4)
    whole = rollout(_network, prompts, kernel, SIGMAS, shape=SHAPE, seeds=SEEDS)
    for part in (order[:split], order[split:]):
        chosen, seeds = prompts.select(torch.tensor(part)), [SEEDS[i] for i in part]
        made = rollout(_network, chosen, kernel, SIGMAS, shape=SHAPE, seeds=seeds)
        torch.testing.assert_close(made.latents, whole.latents[part], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(made.log_probs, whole.log_probs[part], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: k.name)
def test_a_sample_from_the_same_seeds_is_the_end_of_the_rollout(kernel: Kernel) -> None:
    made = rollout(_network, _prompts(4), kernel, SIGMAS, shape=SHAPE, seeds=SEEDS)
    start = group_noise(SHAPE, SEEDS, "initial")
    final = sample(_network, _prompts(4), kernel, SIGMAS, start, seeds=SEEDS)
    assert torch.equal(final, made.latents[:, -1])


def test_a_network_that_knows_the_answer_is_followed_to_it() -> None:
    target = torch.full((3, *SHAPE), 0.7)

    def knows(x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        return (x - target) / t.reshape(-1, 1, 1, 1)

    for kernel in (Kernel.renoise(), Kernel.cps(0.5), Kernel.ode()):
        final = sample(knows, _prompts(3), kernel, teacher_sigmas(7, 3.0), torch.randn(3, *SHAPE), seeds=SEEDS[:3])
        torch.testing.assert_close(final, target, atol=1e-5, rtol=0)


def test_sampling_leaves_no_gradient() -> None:
    weight = torch.ones((), requires_grad=True)

    def network(x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        return x * weight

    made = rollout(network, _prompts(2), Kernel.renoise(), SIGMAS, shape=SHAPE, seeds=SEEDS[:2])
    assert not made.latents.requires_grad
    assert not made.means.requires_grad


def test_calls_that_cannot_be_meant_are_refused() -> None:
    x = torch.zeros(2, *SHAPE)
    with pytest.raises(ValueError, match="2 prompts and 4 seeds"):
        rollout(_network, _prompts(2), Kernel.renoise(), SIGMAS, shape=SHAPE, seeds=SEEDS)
    with pytest.raises(ValueError, match="needs seeds"):
        sample(_network, _prompts(2), Kernel.renoise(), SIGMAS, x)
    with pytest.raises(ValueError, match="3 prompts and 2 states"):
        sample(_network, _prompts(3), Kernel.ode(), SIGMAS, x)
    with pytest.raises(ValueError, match="level 1"):
        rollout(_network, _prompts(2), Kernel.ode(), SIGMAS[1:], shape=SHAPE, seeds=SEEDS[:2])
    with pytest.raises(ValueError, match="final 0"):
        sample(_network, _prompts(2), Kernel.ode(), SIGMAS[:-1], x)

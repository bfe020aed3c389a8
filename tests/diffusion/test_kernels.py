"""The transition kernels and their densities, against closed forms and the stock scheduler."""

import itertools
import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from advdmd_ray.diffusion.kernels import (
    Kernel,
    Level,
    clean_from_velocity,
    kl_per_element,
    log_prob,
    log_ratio,
    noise_from_velocity,
    stochastic_steps,
    transition,
)
from advdmd_ray.diffusion.schedule import student_sigmas, teacher_sigmas

ETAS = st.floats(0.0, 1.0)


def _draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@st.composite
def steps(draw: st.DrawFn) -> tuple[float, float]:
    t = draw(st.floats(0.05, 1.0))
    return t, t * draw(st.floats(0.0, 0.9))


@dataclass(frozen=True)
class GaussianData:
    """Data N(mean, variance) per element, whose optimal velocity is known."""

    mean: float
    variance: float

    def moments(self, t: float) -> tuple[float, float]:
        return (1 - t) * self.mean, (1 - t) ** 2 * self.variance + t**2

    def velocity(self, x: Tensor, t: float) -> Tensor:
        centre, spread = self.moments(t)
        gain = (t - (1 - t) * self.variance) / spread  # cov(eps - x0, x_t) / var(x_t)
        return -self.mean + gain * (x - centre)


def _push(
    kernel: Kernel, data: GaussianData, t: float, t_next: float, moments: tuple[float, float]
) -> tuple[float, float]:
    """Mean and variance after one step of the exact flow; the step is affine in x, so two states tell all."""
    x = torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1)
    step = transition(kernel, x, data.velocity(x, t), t, t_next)
    offset, at_one = step.mean.flatten().double().tolist()
    slope = at_one - offset
    return offset + slope * moments[0], slope**2 * moments[1] + float(step.std) ** 2


def test_velocity_splits_a_state_into_its_data_and_its_noise() -> None:
    x0, eps, t = _draw(3, 2, 4, 4), _draw(3, 2, 4, 4, seed=1), torch.tensor([0.1, 0.5, 1.0])
    level = t.reshape(-1, 1, 1, 1)
    x = (1 - level) * x0 + level * eps
    torch.testing.assert_close(clean_from_velocity(x, eps - x0, t), x0, atol=1e-5, rtol=0)
    torch.testing.assert_close(noise_from_velocity(x, eps - x0, t), eps, atol=1e-5, rtol=0)


@given(steps(), ETAS)
def test_cps_keeps_data_and_noise_level_exactly(step: tuple[float, float], eta: float) -> None:
    t, t_next = step
    x0, eps = _draw(1, 1, 2, 2).double(), _draw(1, 1, 2, 2, seed=1).double()
    x = ((1 - t) * x0 + t * eps).float()
    mean, std = transition(Kernel.cps(eta), x, (eps - x0).float(), t, t_next)
    kept = (mean.double() - (1 - t_next) * x0) / eps
    noise_level = (kept.square() + float(std) ** 2).sqrt()
    torch.testing.assert_close(noise_level, torch.full_like(eps, t_next), atol=2e-5, rtol=1e-5)


@given(steps(), ETAS, st.floats(-3, 3))
def test_cps_carries_the_marginal_of_known_data_to_the_next_level(
    step: tuple[float, float], eta: float, mean: float
) -> None:
    data = GaussianData(mean, 0.0)
    after = _push(Kernel.cps(eta), data, *step, data.moments(step[0]))
    assert after == pytest.approx(data.moments(step[1]), abs=1e-4)


@given(steps(), ETAS, st.floats(-3, 3), st.floats(0.1, 4.0))
def test_cps_on_gaussian_data_keeps_the_mean_and_loses_the_posterior_variance(
    step: tuple[float, float], eta: float, mean: float, variance: float
) -> None:
    data, (t, t_next) = GaussianData(mean, variance), step
    centre, spread = _push(Kernel.cps(eta), data, t, t_next, data.moments(t))
    assert centre == pytest.approx((1 - t_next) * mean, abs=1e-4)
    # x0_hat and eps_hat are conditional means: linear in x_t, with slopes cov / var.
    total = data.moments(t)[1]
    clean, noise = (1 - t) * variance / total, t / total
    slope = (1 - t_next) * clean + t_next * math.cos(eta * math.pi / 2) * noise
    expected = slope**2 * total + (t_next * math.sin(eta * math.pi / 2)) ** 2
    assert spread == pytest.approx(expected, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize(("kernel", "tolerance"), [(Kernel.ode(), 0.01), (Kernel.flow_sde(0.7), 0.02)])
def test_many_small_steps_carry_the_marginal_of_gaussian_data(kernel: Kernel, tolerance: float) -> None:
    data, levels = GaussianData(1.5, 0.4), torch.linspace(0.95, 0.05, 400).tolist()
    moments = data.moments(levels[0])
    for t, t_next in itertools.pairwise(levels):
        moments = _push(kernel, data, t, t_next, moments)
    assert moments == pytest.approx(data.moments(levels[-1]), rel=tolerance)


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize(("kernel", "stochastic"), [(Kernel.renoise(), True), (Kernel.ode(), False)])
def test_a_step_is_the_stock_schedulers_step_bit_for_bit(kernel: Kernel, stochastic: bool, shift: float) -> None:
    before = [1.0, 0.75, 0.5, 0.25]
    scheduler: Any = FlowMatchEulerDiscreteScheduler(shift=shift, stochastic_sampling=stochastic)
    scheduler.set_timesteps(sigmas=before)
    sigmas = student_sigmas(before, shift)
    x = theirs = _draw(2, 3, 4, 4)
    ours_noise, their_noise = (torch.Generator().manual_seed(5) for _ in range(2))
    for k, timestep in enumerate(scheduler.timesteps):
        velocity = _draw(2, 3, 4, 4, seed=k + 1)
        theirs = scheduler.step(velocity, timestep, theirs, generator=their_noise, return_dict=False)[0]
        mean, std = transition(kernel, x, velocity, sigmas[k], sigmas[k + 1])
        x = mean + std * torch.randn(x.shape, generator=ours_noise) if stochastic else mean
        assert torch.equal(x, theirs)


def test_renoise_is_cps_with_eta_one_and_ode_is_cps_with_eta_zero() -> None:
    x, velocity = _draw(2, 1, 4, 4), _draw(2, 1, 4, 4, seed=1)
    for named, eta in ((Kernel.renoise(), 1.0), (Kernel.ode(), 0.0)):
        ours, member = (transition(k, x, velocity, 0.75, 0.5) for k in (named, Kernel.cps(eta)))
        assert torch.equal(ours.mean, member.mean)
        assert torch.equal(ours.std, member.std)
    near_ode = transition(Kernel.cps(1e-7), x, velocity, 0.75, 0.5)
    torch.testing.assert_close(near_ode.mean, transition(Kernel.ode(), x, velocity, 0.75, 0.5).mean)


def test_flow_sde_follows_its_formula_and_at_level_one_the_next_level_stands_in() -> None:
    x, velocity = _draw(1, 1, 3, 3), _draw(1, 1, 3, 3, seed=1)
    mean, std = transition(Kernel.flow_sde(0.7), x, velocity, 0.6, 0.5)
    g_squared = 0.49 * 0.6 / 0.4
    # Flow-GRPO's own form: the drift v + g^2/(2t) (x + (1 - t) v) over a step of -D.
    drift = velocity + g_squared / 1.2 * (x + 0.4 * velocity)
    torch.testing.assert_close(mean, x - 0.1 * drift)
    assert float(std) == pytest.approx(math.sqrt(g_squared * 0.1), rel=1e-5)
    first = transition(Kernel.flow_sde(0.7), x, velocity, 1.0, 0.75)
    assert bool(first.mean.isfinite().all())
    assert float(first.std) == pytest.approx(0.7 * math.sqrt(1 / 0.25 * 0.25), rel=1e-4)


@pytest.mark.parametrize("levels", [(1.0, 0.75, 0.5, 0.25), (1.0, 0.6), (1.0, 0.9, 0.75, 0.5)])
@pytest.mark.parametrize("kernel", [Kernel.renoise(), Kernel.cps(0.9), Kernel.ode(), Kernel.flow_sde()])
def test_with_a_perfect_velocity_states_stay_near_their_noise_level(kernel: Kernel, levels: tuple[float, ...]) -> None:
    # All data is 0: the velocity of x at level t is x / t, and a state's std is its noise level.
    x = _draw(4096, 1, 2, 2)
    for step, (t, t_next) in enumerate(itertools.pairwise(levels)):
        mean, std = transition(kernel, x, x / t, t, t_next)
        x = mean + std * _draw(4096, 1, 2, 2, seed=step + 1)
        # The SDE holds its drift fixed over a step, so that few long ones leave too much noise.
        assert 0.97 <= float(x.std()) / t_next <= (1.6 if kernel.name == "flow_sde" else 1.03)


@pytest.mark.parametrize("kernel", [Kernel.renoise(), Kernel.cps(0.9), Kernel.ode()])
def test_the_last_step_of_the_cps_family_is_the_clean_prediction_without_noise(kernel: Kernel) -> None:
    x, velocity = _draw(2, 1, 2, 2), _draw(2, 1, 2, 2, seed=1)
    mean, std = transition(kernel, x, velocity, 0.25, 0.0)
    torch.testing.assert_close(mean, clean_from_velocity(x, velocity, 0.25))
    assert float(std) == 0


def test_a_bfloat16_velocity_is_stepped_in_float32() -> None:
    x, velocity = _draw(1, 1, 2, 2), _draw(1, 1, 2, 2, seed=1).bfloat16()
    for kernel in (Kernel.renoise(), Kernel.cps(0.5), Kernel.ode(), Kernel.flow_sde()):
        step = transition(kernel, x, velocity, 0.5, 0.25)
        assert step.mean.dtype == step.std.dtype == torch.float32
        assert torch.equal(step.mean, transition(kernel, x, velocity.float(), 0.5, 0.25).mean)


@pytest.mark.parametrize(("t", "t_next"), [(0.5, 0.5), (0.5, 0.6), (1.1, 0.5), (0.5, -0.1), (torch.tensor(0.2), 0.3)])
def test_a_step_that_does_not_go_down_is_refused(t: Level, t_next: float) -> None:
    with pytest.raises(ValueError, match="0 <= t_next < t <= 1"):
        transition(Kernel.renoise(), torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 1), t, t_next)


def test_a_kernel_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match="eta"):
        Kernel.cps(1.5)
    with pytest.raises(ValueError, match="noise"):
        Kernel.flow_sde(0.0)
    with pytest.raises(ValueError, match="has no eta"):
        _ = Kernel.flow_sde().freshness


@pytest.mark.parametrize(
    ("kernel", "expected"),
    [(Kernel.renoise(), 3), (Kernel.cps(0.9), 3), (Kernel.flow_sde(), 3), (Kernel.ode(), 0), (Kernel.cps(0.0), 0)],
)
def test_all_but_the_last_step_of_a_stochastic_kernel_are_actions(kernel: Kernel, expected: int) -> None:
    sigmas = teacher_sigmas(4, 3.0)
    assert stochastic_steps(kernel, sigmas) == expected
    x = _draw(1, 1, 2, 2)
    stds = [float(transition(kernel, x, x, sigmas[k], sigmas[k + 1]).std) for k in range(expected)]
    assert all(std > 0 for std in stds)


@pytest.mark.parametrize("sigmas", [[0.0], [1.0, 0.5]])
def test_levels_that_do_not_end_at_zero_have_no_steps(sigmas: list[float]) -> None:
    with pytest.raises(ValueError, match="final 0"):
        stochastic_steps(Kernel.renoise(), torch.tensor(sigmas))


@given(st.floats(0.01, 5.0), st.integers(0, 100))
def test_log_prob_is_the_gaussian_density(std: float, seed: int) -> None:
    action, mean = _draw(3, 2, 4, 4, seed=seed), _draw(3, 2, 4, 4, seed=seed + 1)
    expected = torch.distributions.Normal(mean.double(), std).log_prob(action.double()).flatten(1)
    total = log_prob(action, mean, torch.tensor(std))
    torch.testing.assert_close(total.double(), expected.sum(1), rtol=1e-5, atol=1e-3)


@given(st.floats(0.05, 5.0), st.integers(0, 100))
def test_log_ratio_is_the_difference_of_the_log_probs(std: float, seed: int) -> None:
    action, new, old = (_draw(3, 2, 4, 4, seed=seed + i) for i in range(3))
    density_new, density_old = (
        torch.distributions.Normal(m.double(), std).log_prob(action.double()).flatten(1).mean(1) for m in (new, old)
    )
    ratio = log_ratio(action, new, old, torch.tensor(std))
    torch.testing.assert_close(ratio.double(), density_new - density_old, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ratio, -log_ratio(action, old, new, torch.tensor(std)))


def test_equal_means_have_a_ratio_of_exactly_one_whatever_the_action() -> None:
    action, mean = 100 * _draw(4, 2, 4, 4), _draw(4, 2, 4, 4, seed=1)
    std = torch.tensor([1e-3, 0.1, 1.0, 10.0])
    assert torch.equal(log_ratio(action, mean, mean.clone(), std).exp(), torch.ones(4))
    assert torch.equal(kl_per_element(mean, mean.clone(), std), torch.zeros(4))


def test_the_gradient_of_the_log_ratio_at_equal_means_is_the_score_per_element() -> None:
    action, old, std = _draw(2, 1, 3, 3), _draw(2, 1, 3, 3, seed=1), torch.tensor([0.5, 2.0])
    new = old.clone().requires_grad_()
    log_ratio(action, new, old, std).sum().backward()
    torch.testing.assert_close(new.grad, (action - old) / std.reshape(-1, 1, 1, 1) ** 2 / 9)


def test_kl_is_that_of_two_gaussians_and_the_mean_log_ratio_under_the_behaviour_is_its_negative() -> None:
    old, new, std = _draw(1, 1, 4, 4), _draw(1, 1, 4, 4, seed=1), torch.tensor(0.7)
    gaussians = (torch.distributions.Normal(m, 0.7) for m in (new, old))
    expected = torch.distributions.kl_divergence(*gaussians).mean()
    kappa = kl_per_element(new, old, std)
    torch.testing.assert_close(kappa, expected.reshape(1))
    # The log-ratio is linear in the action, so its mean over actions is its value at the mean action.
    torch.testing.assert_close(log_ratio(old, new, old, std), -kappa)


@pytest.mark.parametrize("std", [0.0, float("nan"), -1.0])
def test_a_deterministic_step_has_no_density(std: float) -> None:
    x, scale = torch.zeros(1, 1, 2, 2), torch.tensor(std)
    for density in (
        lambda: log_prob(x, x, scale),
        lambda: log_ratio(x, x, x, scale),
        lambda: kl_per_element(x, x, scale),
    ):
        with pytest.raises(ValueError, match="no density"):
            density()

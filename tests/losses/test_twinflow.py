"""TwinFlow's losses on Gaussians and points, whose flows are known."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from advdmd_ray.diffusion.kernels import clean_from_velocity
from advdmd_ray.losses.fake_score import noised
from advdmd_ray.losses.twinflow import (
    RMS_FLOOR,
    consistency_residual,
    inverse_rms,
    steering_loss,
    time_gap_weight,
    velocity_gap,
)

FREE = 1e6
"""A bound that bounds nothing here."""


def _draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _times(rows: int, seed: int = 0) -> Tensor:
    return 1 - 0.99 * torch.rand(rows, generator=torch.Generator().manual_seed(seed))


def _flow_velocity(y: Tensor, t: Tensor, mean: float, std: float) -> Tensor:
    """E[eps - x0 | y] for data N(mean, std^2) per element: a perfect branch."""
    level = t.reshape(-1, 1, 1, 1)
    scale = (1 - level) ** 2 * std**2 + level**2
    return (level - (1 - level) * std**2) / scale * (y - (1 - level) * mean) - mean


# The gap between the branches ---------------------------------------------------------------------------------------


def test_branches_that_agree_give_no_rectification() -> None:
    velocity, jump = _draw(3, 1, 4, 4), _draw(3, 1, 4, 4, seed=1).requires_grad_()
    loss = steering_loss(jump, velocity_gap(velocity, velocity.clone(), 1.0))
    (gradient,) = torch.autograd.grad(loss, jump)
    assert float(loss.detach()) == 0
    assert torch.equal(gradient, torch.zeros_like(jump))


@given(st.floats(-3, 3), st.floats(-3, 3), st.floats(0.05, 0.95), st.integers(0, 20))
def test_a_rectified_sample_moves_from_the_twins_distribution_to_the_real_one(
    generated: float, real: float, level: float, seed: int
) -> None:
    t = torch.full((4,), level)
    z = _draw(4, 1, 3, 3, seed=seed)
    jump = (z - (generated + z)).requires_grad_()
    x0 = clean_from_velocity(z, jump, 1.0)
    y = noised(x0.detach(), _draw(4, 1, 3, 3, seed=seed + 1), t)
    gap = velocity_gap(_flow_velocity(y, t, generated, 1.0), _flow_velocity(y, t, real, 1.0), FREE)
    (gradient,) = torch.autograd.grad(steering_loss(jump, gap), jump)
    moved = clean_from_velocity(z, jump - gradient, 1.0) - x0
    # Of equal variances only the shift of the mean remains, as the velocity of a noised sample shows it.
    shown = level / ((1 - level) ** 2 + level**2)
    torch.testing.assert_close(
        moved * x0.numel() / 2, torch.full_like(x0, shown * (real - generated)), atol=1e-4, rtol=1e-4
    )


def _distilled(sign: float) -> tuple[float, float]:
    """Mean and standard deviation of a one-step student whose twin is perfect, after rectification alone."""
    mean, log_std = torch.tensor(-1.0, requires_grad=True), torch.tensor(0.4, requires_grad=True)
    optimizer = torch.optim.Adam([mean, log_std], lr=0.03)
    for step in range(250):
        z = _draw(64, 1, 4, 4, seed=3 * step)
        jump = z - (mean + log_std.exp() * z)
        t = _times(64, seed=step)
        y = noised((z - jump).detach(), _draw(64, 1, 4, 4, seed=3 * step + 1), t)
        twin = _flow_velocity(y, t, float(mean.detach()), float(log_std.detach().exp()))
        gap = velocity_gap(twin, _flow_velocity(y, t, 1.5, 0.5), 1.0)
        loss = steering_loss(jump, sign * gap)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return float(mean.detach()), float(log_std.detach().exp())


def test_rectification_moves_the_student_to_the_real_distribution_and_a_wrong_sign_moves_it_away() -> None:
    mean, std = _distilled(1.0)
    assert mean == pytest.approx(1.5, abs=0.05)
    assert std == pytest.approx(0.5, abs=0.05)
    assert _distilled(-1.0)[0] < -2


@given(st.floats(0.125, 3, width=32), st.integers(0, 20))
def test_no_element_of_the_gap_exceeds_the_bound_and_smaller_ones_are_kept(bound: float, seed: int) -> None:
    twin, real = 3 * _draw(2, 1, 4, 4, seed=seed), 3 * _draw(2, 1, 4, 4, seed=seed + 1)
    gap = velocity_gap(twin, real, bound)
    inside = (twin - real).abs() < bound
    assert float(gap.abs().max()) <= bound
    assert torch.equal(gap[inside], (twin - real)[inside])
    assert torch.equal(gap, -velocity_gap(real, twin, bound))


def test_the_gap_carries_no_graph() -> None:
    assert not velocity_gap(_draw(1, 1, 2, 2).requires_grad_(), _draw(1, 1, 2, 2, seed=1), 1.0).requires_grad


# The steering loss --------------------------------------------------------------------------------------------------


def test_the_gradient_of_the_steering_loss_is_twice_the_direction_over_the_number_of_elements() -> None:
    # Small against the velocity: F - direction would round it away.
    jump, direction = (1e3 * _draw(3, 2, 4, 4)).requires_grad_(), 1e-6 * _draw(3, 2, 4, 4, seed=1)
    direction.requires_grad_()
    loss = steering_loss(jump, direction)
    loss.backward()
    torch.testing.assert_close(jump.grad, 2 * direction.detach() / jump.numel(), rtol=1e-6, atol=0)
    torch.testing.assert_close(loss.detach(), direction.detach().square().mean())
    assert direction.grad is None


def test_the_steering_loss_of_a_batch_is_the_mean_over_its_parts() -> None:
    jump, direction = _draw(6, 1, 4, 4).requires_grad_(), _draw(6, 1, 4, 4, seed=1)
    whole = steering_loss(jump, direction)
    halves = (steering_loss(jump[:3], direction[:3]) + steering_loss(jump[3:], direction[3:])) / 2
    torch.testing.assert_close(whole, halves)
    torch.testing.assert_close(torch.autograd.grad(whole, jump), torch.autograd.grad(halves, jump))


# The weights of rows ------------------------------------------------------------------------------------------------


def test_the_weight_of_a_row_is_one_over_the_root_mean_square_of_its_difference() -> None:
    rows = torch.stack([torch.full((1, 2, 2), 0.5), torch.full((1, 2, 2), -4.0), torch.zeros(1, 2, 2)])
    torch.testing.assert_close(inverse_rms(rows), torch.tensor([2.0, 0.25, 1 / RMS_FLOOR]), rtol=1e-5, atol=0)
    single = torch.zeros(1, 1, 2, 2)
    single[0, 0, 0, 0] = 6.0  # a mean over the elements, not their largest
    torch.testing.assert_close(inverse_rms(single), torch.tensor([1 / 3]))


@given(st.floats(-3, 3), st.integers(0, 20))
def test_with_it_a_difference_draws_as_hard_whatever_its_size(power: float, seed: int) -> None:
    jump, direction = _draw(4, 1, 3, 3, seed=seed).requires_grad_(), _draw(4, 1, 3, 3, seed=seed + 1)
    sizes = 10**power * torch.tensor([1.0, 3.0, 10.0, 30.0]).reshape(-1, 1, 1, 1)
    gradients = [
        torch.autograd.grad(steering_loss(jump, given, inverse_rms(given)), jump)[0]
        for given in (direction, sizes * direction)
    ]
    torch.testing.assert_close(*gradients, rtol=0.6, atol=0)  # of 1e-3, the floor, a part is left
    if power > 0:
        torch.testing.assert_close(*gradients, rtol=1e-4, atol=0)
    norms = gradients[0].flatten(1).norm(dim=1)
    torch.testing.assert_close(norms, torch.full((4,), 2 / 4 / 3), rtol=1e-4, atol=0)  # 2 / (rows sqrt(elements))


def test_the_weights_and_the_targets_carry_no_gradient() -> None:
    difference = _draw(2, 1, 2, 2).requires_grad_()
    assert not inverse_rms(difference).requires_grad


def test_a_weight_of_rows_is_that_of_their_losses() -> None:
    jump, direction = _draw(2, 1, 3, 3), _draw(2, 1, 3, 3, seed=1)
    alone = [steering_loss(jump[row : row + 1], direction[row : row + 1]) for row in range(2)]
    weighted = steering_loss(jump, direction, torch.tensor([3.0, 0.5]))
    torch.testing.assert_close(weighted, (3 * alone[0] + 0.5 * alone[1]) / 2)


def test_a_jump_counts_the_less_the_longer_it_is() -> None:
    weights = time_gap_weight(torch.linspace(0, 1, 11))
    assert torch.equal(weights, weights.sort(descending=True).values)
    assert float(weights[-1]) == 1
    assert float(weights[0]) == pytest.approx(1 + math.tan(math.radians(72)), rel=1e-5)
    assert float(time_gap_weight(torch.tensor([0.375]))) == pytest.approx(2, rel=1e-5)  # tan 45 degrees is 1


# Consistency of jumps -----------------------------------------------------------------------------------------------


@given(st.floats(0.05, 1.0), st.floats(0.01, 1.0), st.integers(0, 20))
def test_jumps_to_a_single_picture_are_consistent_for_every_step(t: float, share: float, seed: int) -> None:
    picture, x = _draw(1, 1, 3, 3, seed=seed), _draw(4, 1, 3, 3, seed=seed + 1)
    level = torch.full((4,), t)
    stride = share * level
    jump = (x - picture) / t
    nearer = x - share * t * jump
    following = (nearer - picture) / max(t - share * t, 1e-6)
    residual = consistency_residual(jump, following, jump, level, stride, FREE)
    torch.testing.assert_close(residual, torch.zeros_like(residual), atol=2e-3, rtol=0)


def _gaussian_jump(x: Tensor, t: Tensor, std: float) -> Tensor:
    """The jump along the probability flow of data N(0, std^2): `x_t = x_0 scale(t) / std`."""
    level = t.reshape(-1, 1, 1, 1)
    scale = ((1 - level) ** 2 * std**2 + level**2).sqrt()
    return x * (1 - std / scale) / level


def test_jumps_along_a_gaussians_flow_are_consistent_and_others_are_steered_to_them() -> None:
    std, t = 0.4, torch.linspace(0.2, 1.0, 64)
    x, stride = 0.3 * _draw(64, 1, 3, 3), torch.full((64,), 0.01)
    velocity = _flow_velocity(x, t, 0.0, std)
    jump = _gaussian_jump(x, t, std)
    following = _gaussian_jump(x - 0.01 * velocity, t - 0.01, std)
    right = consistency_residual(jump, following, velocity, t, stride, FREE)
    wrong = consistency_residual(jump + 0.1, following, velocity, t, stride, FREE)
    assert float(right.abs().max()) < 0.05
    # One wrong jump shows t / step times its error; against the residual it moves back to the right one.
    shown = (10 * t).reshape(-1, 1, 1, 1).expand_as(right)
    torch.testing.assert_close(wrong - right, shown, atol=1e-3, rtol=1e-3)
    bounded = consistency_residual(jump + 0.1, following, velocity, t, stride, 1.0)
    assert torch.equal(bounded, torch.ones_like(bounded))


def test_a_step_of_the_whole_way_compares_the_jump_with_the_velocity_and_asks_nothing_beyond() -> None:
    jump, target, t = _draw(2, 1, 2, 2), _draw(2, 1, 2, 2, seed=1), torch.tensor([0.01, 0.5])
    residual = consistency_residual(jump, torch.full_like(jump, 7.0), target, t, t, FREE)
    torch.testing.assert_close(residual, jump - target)
    assert not residual.requires_grad
    assert math.isfinite(float(residual.sum()))

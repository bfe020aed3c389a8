"""Distribution matching on Gaussians, whose scores are known."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from advdmd_ray.losses.distribution_matching import dmd_gradient, dmd_loss
from advdmd_ray.losses.fake_score import noised


def _draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _posterior_mean(y: Tensor, t: Tensor, mean: Tensor | float, variance: float) -> Tensor:
    """E[x0 | y] of data N(mean, variance) per element: what a perfect score predicts."""
    level = t.reshape(-1, 1, 1, 1)
    gain = (1 - level) * variance / ((1 - level) ** 2 * variance + level**2)
    return mean + gain * (y - (1 - level) * mean)


@given(st.floats(-3, 3), st.floats(-3, 3), st.floats(0.05, 0.95), st.integers(0, 20))
def test_the_gradient_points_from_the_teacher_to_the_student(
    student: float, teacher: float, level: float, seed: int
) -> None:
    x0, t = student + _draw(4, 1, 3, 3, seed=seed), torch.full((4,), level)
    y = noised(x0, _draw(4, 1, 3, 3, seed=seed + 1), t)
    fake, real = (_posterior_mean(y, t, mean, 1.0) for mean in (student, teacher))
    gradient = dmd_gradient(x0, fake, real)
    # Of equal variances only the shift of the mean remains, shrunk by what the noisy state already says.
    shrink = 1 - (1 - level) ** 2 / ((1 - level) ** 2 + level**2)
    distance = (x0 - real).abs().mean(dim=(1, 2, 3), keepdim=True) + 1e-6
    torch.testing.assert_close(
        gradient * distance, torch.full_like(x0, shrink * (student - teacher)), atol=1e-5, rtol=1e-4
    )


def test_descending_the_loss_moves_the_student_to_the_teacher() -> None:
    teacher_mean, teacher_variance = 2.0, 0.25
    mean, log_std = torch.tensor(-1.0, requires_grad=True), torch.tensor(0.5, requires_grad=True)
    optimizer = torch.optim.Adam([mean, log_std], lr=0.05)
    for step in range(250):
        x0 = mean + log_std.exp() * _draw(64, 1, 4, 4, seed=2 * step)
        t = torch.rand(64, generator=torch.Generator().manual_seed(step)) * 0.96 + 0.02
        y = noised(x0.detach(), _draw(64, 1, 4, 4, seed=2 * step + 1), t)
        fake = _posterior_mean(y, t, mean.detach(), float(log_std.detach().exp()) ** 2)
        loss = dmd_loss(x0, dmd_gradient(x0, fake, _posterior_mean(y, t, teacher_mean, teacher_variance)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(mean.detach()) == pytest.approx(teacher_mean, abs=0.01)
    assert float(log_std.detach().exp()) ** 2 == pytest.approx(teacher_variance, abs=0.01)


def test_the_gradient_of_the_loss_is_the_given_gradient_over_the_number_of_elements() -> None:
    # Small against x0: x0 - g would round it away.
    x0, gradient = (1e3 * _draw(3, 2, 4, 4)).requires_grad_(), 1e-6 * _draw(3, 2, 4, 4, seed=1)
    loss = dmd_loss(x0, gradient)
    loss.backward()
    assert x0.grad is not None
    torch.testing.assert_close(x0.grad, gradient / x0.numel(), rtol=1e-6, atol=0)
    torch.testing.assert_close(loss.detach(), 0.5 * gradient.square().mean())


def test_the_gradient_does_not_know_the_unit_of_the_latents() -> None:
    x0, fake, real = (_draw(2, 1, 4, 4, seed=i) for i in range(3))
    torch.testing.assert_close(dmd_gradient(100 * x0, 100 * fake, 100 * real), dmd_gradient(x0, fake, real))


def test_each_sample_is_normalised_by_itself() -> None:
    x0, fake, real = (_draw(4, 1, 4, 4, seed=i) for i in range(3))
    whole = dmd_gradient(x0, fake, real)
    for i in range(4):
        torch.testing.assert_close(dmd_gradient(x0[i : i + 1], fake[i : i + 1], real[i : i + 1]), whole[i : i + 1])


def test_equal_scores_give_no_gradient_even_where_the_teacher_agrees_with_the_sample() -> None:
    x0, score = _draw(2, 1, 4, 4), _draw(2, 1, 4, 4, seed=1)
    assert torch.equal(dmd_gradient(x0, score, score), torch.zeros_like(x0))
    assert torch.equal(dmd_gradient(x0, x0, x0), torch.zeros_like(x0))


def test_the_gradient_carries_no_graph() -> None:
    x0 = _draw(2, 1, 4, 4).requires_grad_()
    assert not dmd_gradient(x0, 2 * x0, 3 * x0).requires_grad


def test_the_loss_of_a_batch_is_the_mean_over_its_ranks() -> None:
    x0, gradient = _draw(6, 1, 4, 4).requires_grad_(), _draw(6, 1, 4, 4, seed=1)
    whole = dmd_loss(x0, gradient)
    halves = (dmd_loss(x0[:3], gradient[:3]) + dmd_loss(x0[3:], gradient[3:])) / 2
    torch.testing.assert_close(whole, halves)
    torch.testing.assert_close(torch.autograd.grad(whole, x0), torch.autograd.grad(halves, x0))

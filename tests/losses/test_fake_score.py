"""Flow-matching regression."""

import pytest
import torch
from torch import Tensor

from advdmd_ray.losses.fake_score import flow_matching_loss, noised


def _draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_noising_goes_from_data_to_noise() -> None:
    x0, eps = _draw(3, 1, 2, 2), _draw(3, 1, 2, 2, seed=1)
    y = noised(x0, eps, torch.tensor([0.0, 0.25, 1.0]))
    assert torch.equal(y[0], x0[0])
    torch.testing.assert_close(y[1], 0.75 * x0[1] + 0.25 * eps[1])
    assert torch.equal(y[2], eps[2])


def test_the_change_of_the_state_per_unit_of_level_is_the_velocity_that_has_no_loss() -> None:
    x0, eps = _draw(2, 1, 2, 2), _draw(2, 1, 2, 2, seed=1)
    low, high = torch.tensor([0.25, 0.5]), torch.tensor([0.5, 1.0])
    velocity = (noised(x0, eps, high) - noised(x0, eps, low)) / (high - low).reshape(-1, 1, 1, 1)
    assert float(flow_matching_loss(velocity, x0, eps)) == pytest.approx(0, abs=1e-10)
    assert float(flow_matching_loss(-velocity, x0, eps)) > 1


def test_value_and_gradient_follow_the_formula() -> None:
    velocity, x0, eps = (_draw(3, 2, 2, 2, seed=i) for i in range(3))
    velocity.requires_grad_()
    weight = torch.tensor([1.0, 0.0, 3.0])
    loss = flow_matching_loss(velocity, x0, eps, weight)
    error = velocity.detach() - (eps - x0)
    scale = weight.reshape(-1, 1, 1, 1)
    torch.testing.assert_close(loss.detach(), (scale * error**2).sum() / velocity.numel())
    loss.backward()
    torch.testing.assert_close(velocity.grad, 2 * scale * error / velocity.numel())


def test_no_weight_is_a_weight_of_one() -> None:
    velocity, x0, eps = (_draw(3, 2, 2, 2, seed=i) for i in range(3))
    plain = flow_matching_loss(velocity, x0, eps)
    torch.testing.assert_close(plain, flow_matching_loss(velocity, x0, eps, torch.ones(3)))


def test_the_best_constant_velocity_of_gaussian_data_is_minus_its_mean() -> None:
    velocity = torch.zeros(1, requires_grad=True)
    x0, eps = 1.5 + _draw(512, 1, 4, 4), _draw(512, 1, 4, 4, seed=1)
    for _ in range(60):
        loss = flow_matching_loss(velocity.reshape(1, 1, 1, 1).expand_as(x0), x0, eps)
        (gradient,) = torch.autograd.grad(loss, velocity)
        velocity = (velocity - 0.2 * gradient).detach().requires_grad_()
    assert float(velocity.detach()) == pytest.approx(-1.5, abs=0.06)


def test_the_loss_of_a_batch_is_the_mean_over_its_ranks() -> None:
    velocity, x0, eps = (_draw(4, 2, 2, 2, seed=i) for i in range(3))
    halves = [flow_matching_loss(velocity[part], x0[part], eps[part]) for part in (slice(2), slice(2, 4))]
    torch.testing.assert_close(flow_matching_loss(velocity, x0, eps), (halves[0] + halves[1]) / 2)

"""The discriminator's losses, its AUC and the balance of gradients."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from advdmd_ray.losses.adversarial import (
    LEAST_STEEPNESS,
    auc,
    direct_gan_gradient,
    discriminator_loss,
    generator_loss,
    mismatch_loss,
    pair_agreement,
    r1_style_penalty,
    relativistic_loss,
)

LOGITS = st.lists(st.integers(-4, 4).map(float), min_size=1, max_size=12).map(torch.tensor)


def _draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_a_blind_discriminator_pays_two_log_two() -> None:
    assert float(discriminator_loss(torch.zeros(5), torch.zeros(3))) == pytest.approx(2 * math.log(2))


def test_gradients_are_the_probabilities_of_being_wrong() -> None:
    real, fake = _draw(6).requires_grad_(), _draw(6, seed=1).requires_grad_()
    on_real, on_fake = torch.autograd.grad(discriminator_loss(real, fake), (real, fake))
    torch.testing.assert_close(on_real, -torch.sigmoid(-real) / 6)
    torch.testing.assert_close(on_fake, torch.sigmoid(fake) / 6)
    (on_generated,) = torch.autograd.grad(generator_loss(fake), fake)
    torch.testing.assert_close(on_generated, -torch.sigmoid(-fake) / 6)
    (on_mismatched,) = torch.autograd.grad(mismatch_loss(fake), fake)
    torch.testing.assert_close(on_mismatched, torch.sigmoid(fake) / 6)
    on_real, on_fake = torch.autograd.grad(relativistic_loss(real, fake), (real, fake))
    torch.testing.assert_close(on_real, -torch.sigmoid(fake - real) / 6)
    torch.testing.assert_close(on_fake, -on_real)


def test_discriminator_and_generator_pull_generated_logits_apart() -> None:
    fake = torch.zeros(1, requires_grad=True)
    (discriminator,) = torch.autograd.grad(discriminator_loss(torch.zeros(1), fake), fake)
    (generator,) = torch.autograd.grad(generator_loss(fake), fake)
    assert float(discriminator) > 0 > float(generator)


def test_losses_stay_finite_at_extreme_logits() -> None:
    far = torch.tensor([1e4, -1e4])
    assert float(discriminator_loss(far, far)) == pytest.approx(1e4)
    assert float(generator_loss(far)) == pytest.approx(5e3)


@given(st.floats(-50, 50), st.integers(0, 20))
def test_the_relativistic_loss_knows_differences_only(offset: float, seed: int) -> None:
    real, fake = _draw(5, seed=seed), _draw(5, seed=seed + 1)
    moved = relativistic_loss(real + offset, fake + offset)
    torch.testing.assert_close(moved, relativistic_loss(real, fake), atol=1e-4, rtol=1e-4)


@given(LOGITS, LOGITS)
def test_auc_is_the_share_of_pairs_in_order(real: Tensor, fake: Tensor) -> None:
    difference = real[:, None] - fake[None, :]
    expected = ((difference > 0).double() + 0.5 * (difference == 0).double()).mean()
    assert float(auc(real, fake)) == pytest.approx(float(expected), abs=1e-6)
    assert float(auc(real, fake)) + float(auc(fake, real)) == pytest.approx(1, abs=1e-6)


@given(LOGITS, LOGITS)
def test_auc_knows_ranks_only(real: Tensor, fake: Tensor) -> None:
    assert float(auc(real.double().exp(), fake.double().exp())) == float(auc(real, fake))


def test_auc_is_one_for_perfect_and_half_for_constant_logits() -> None:
    assert float(auc(torch.tensor([2.0, 3.0]), torch.tensor([0.0, 1.0]))) == 1
    assert float(auc(torch.zeros(3), torch.zeros(7))) == 0.5


def test_an_auc_of_nan_logits_is_nan_and_one_of_nothing_is_refused() -> None:
    assert math.isnan(auc(torch.tensor([math.nan, 1.0]), torch.zeros(2)))
    with pytest.raises(ValueError, match="0 and 2"):
        auc(torch.zeros(0), torch.zeros(2))


# The direct GAN term ------------------------------------------------------------------------------------------------


def _term_norm(logits: Tensor, slope: Tensor, reference: Tensor) -> float:
    return float(direct_gan_gradient(slope, logits, reference).norm())


@given(st.integers(0, 20), st.floats(-3, 3))
def test_the_term_vanishes_steadily_as_the_critic_takes_all_samples_for_real(seed: int, base: float) -> None:
    slope, reference = _draw(3, 1, 4, 4, seed=seed), _draw(3, 1, 4, 4, seed=seed + 1)
    logits = base + _draw(3, seed=seed + 2)
    norms = [_term_norm(logits + shift, slope, reference) for shift in (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)]
    assert norms == sorted(norms, reverse=True)
    assert len(set(norms)) == len(norms)
    assert norms[-1] < 1e-9 * float(reference.norm())


@given(st.integers(0, 20), st.floats(-1e4, 1e4))
def test_the_term_is_never_more_than_twice_the_reference(seed: int, shift: float) -> None:
    slope, reference = _draw(3, 1, 4, 4, seed=seed), _draw(3, 1, 4, 4, seed=seed + 1)
    assert _term_norm(_draw(3, seed=seed + 2) + shift, slope, reference) <= 2.0001 * float(reference.norm())


@given(st.floats(1e2, 1e6), st.integers(0, 20))
def test_an_undecided_critic_has_the_norm_of_the_reference_whatever_its_slope(gain: float, seed: int) -> None:
    slope, reference = gain * _draw(4, 1, 4, 4, seed=seed), _draw(4, 1, 4, 4, seed=seed + 1)
    assert _term_norm(torch.zeros(4), slope, reference) == pytest.approx(float(reference.norm()), rel=1e-4)


def test_the_term_has_the_direction_of_the_generators_loss() -> None:
    x0, weight = _draw(5, 1, 3, 3).requires_grad_(), _draw(1, 3, 3, seed=1)

    def logits(x: Tensor) -> Tensor:
        return 2 * (torch.tanh(x) * weight).sum(dim=(1, 2, 3))

    (slope,) = torch.autograd.grad(logits(x0).sum(), x0)
    term = direct_gan_gradient(slope, logits(x0).detach(), _draw(5, 1, 3, 3, seed=2))
    (gradient,) = torch.autograd.grad(generator_loss(logits(x0)), x0)
    factor = float(term.norm() / gradient.norm())
    torch.testing.assert_close(term, factor * gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("slope", [torch.zeros(2, 1, 4, 4), 1e-7 * _draw(2, 1, 4, 4), 2e-5 * _draw(2, 1, 4, 4)])
@pytest.mark.parametrize("logit", [-20.0, 0.0, 20.0])
def test_a_critic_whose_slope_is_round_off_contributes_exactly_nothing(slope: Tensor, logit: float) -> None:
    term = direct_gan_gradient(slope, torch.full((2,), logit), _draw(2, 1, 4, 4, seed=1))
    assert torch.equal(term, torch.zeros_like(term))


def test_a_critic_is_heard_the_better_the_steeper_it_is_without_a_jump() -> None:
    slope, reference = _draw(2, 1, 4, 4), _draw(2, 1, 4, 4, seed=1)
    steepness = float(slope.norm()) * (16 / 2) ** 0.5
    gains = [LEAST_STEEPNESS / steepness * share for share in (0.99, 1.01, 2.0, 10.0, 1000.0)]
    heard = [_term_norm(torch.zeros(2), gain * slope, reference) / float(reference.norm()) for gain in gains]
    assert heard == pytest.approx([0.0, 0.01 / 1.01, 0.5, 0.9, 0.999], rel=1e-2)


def test_a_reference_of_zero_leaves_nothing_and_a_critic_that_is_no_number_is_not_hidden() -> None:
    assert _term_norm(torch.zeros(2), _draw(2, 1, 2, 2), torch.zeros(2, 1, 2, 2)) == 0
    slope = _draw(2, 1, 2, 2)
    slope[0, 0, 0, 0] = math.nan
    assert math.isnan(_term_norm(torch.zeros(2), slope, _draw(2, 1, 2, 2)))


def test_the_penalty_measures_the_slope_of_the_discriminator() -> None:
    slope, sigma = _draw(16), 0.01
    y, direction = _draw(20_000, 16, seed=1), _draw(20_000, 16, seed=2)
    penalty = r1_style_penalty(y @ slope, (y + sigma * direction) @ slope)
    assert float(penalty) == pytest.approx(sigma**2 * float(slope.square().sum()), rel=0.05)
    assert float(r1_style_penalty(torch.ones(4), torch.ones(4))) == 0


def test_the_losses_of_a_batch_are_the_means_over_its_ranks() -> None:
    real, fake = _draw(8), _draw(8, seed=1)
    for loss in (discriminator_loss, relativistic_loss, r1_style_penalty):
        halves = (loss(real[:4], fake[:4]) + loss(real[4:], fake[4:])) / 2
        torch.testing.assert_close(loss(real, fake), halves)
    torch.testing.assert_close(generator_loss(fake), (generator_loss(fake[:4]) + generator_loss(fake[4:])) / 2)


_GRADES = st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 2)), min_size=1, max_size=9)


@given(_GRADES)
def test_the_agreement_is_the_share_of_ordered_pairs_that_the_scores_order_alike(rows: list[tuple[int, int]]) -> None:
    scores, truth = (torch.tensor([float(row[side]) for row in rows]) for side in (0, 1))
    wins = [
        1.0 if rows[a][0] > rows[b][0] else 0.5 if rows[a][0] == rows[b][0] else 0.0
        for a in range(len(rows))
        for b in range(len(rows))
        if rows[a][1] > rows[b][1]
    ]
    both = pair_agreement(torch.stack([scores, -scores], dim=1), truth)
    if not wins:
        assert bool(both.isnan().all())
        return
    share = sum(wins) / len(wins)
    torch.testing.assert_close(both, torch.tensor([share, 1 - share]))


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=6), st.lists(st.floats(-5, 5), min_size=1, max_size=6))
def test_with_two_grades_the_agreement_is_the_auc(good: list[float], bad: list[float]) -> None:
    truth = torch.tensor([1.0] * len(good) + [0.0] * len(bad))
    share = pair_agreement(torch.tensor([*good, *bad]).unsqueeze(1), truth)
    torch.testing.assert_close(share, auc(torch.tensor(good), torch.tensor(bad)).reshape(1))


def test_the_agreement_of_a_score_that_is_not_a_number_is_none() -> None:
    scores = torch.tensor([[1.0, math.nan], [2.0, 0.0], [3.0, 1.0]])
    share = pair_agreement(scores, torch.tensor([0.0, 1.0, 2.0]))
    assert share[0] == 1
    assert math.isnan(float(share[1]))

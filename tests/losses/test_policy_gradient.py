"""The policy gradient and its trust regions."""

import math
from dataclasses import fields
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from advdmd_ray.diffusion.kernels import kl_per_element, log_prob, log_ratio
from advdmd_ray.losses.policy_gradient import (
    PolicyGradientReport,
    PolicyTerms,
    TrustRegion,
    policy_gradient_loss,
    stale_mask,
    step_weights,
)

REGIONS: tuple[TrustRegion, ...] = get_args(TrustRegion)
NUMEL = 8


def _draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _terms(log_ratios: Tensor, advantage: Tensor, kappa: Tensor | None = None, std: float = 1.0) -> PolicyTerms:
    kl = torch.zeros_like(advantage) if kappa is None else kappa
    return PolicyTerms(log_ratios, kl, advantage, torch.ones_like(advantage), torch.full_like(advantage, std))


def _loss(terms: PolicyTerms, region: TrustRegion, nats: float = 1.0) -> tuple[Tensor, PolicyGradientReport]:
    return policy_gradient_loss(terms, numel=NUMEL, trust_region=region, kl_nats=nats, clip_nats=nats)


def _gaussian_terms(new: Tensor, old: Tensor, action: Tensor, advantage: Tensor, std: Tensor) -> PolicyTerms:
    ratio, kappa = log_ratio(action, new, old, std), kl_per_element(new, old, std)
    return PolicyTerms(ratio, kappa, advantage, step_weights(std, 2), std)


@pytest.mark.parametrize("region", REGIONS)
def test_at_equal_weights_loss_and_gradient_are_those_of_reinforce_per_element(region: TrustRegion) -> None:
    old, advantage, std = _draw(5, 2, 2, 2), _draw(5, seed=1), torch.tensor([0.1, 0.3, 0.5, 1.0, 3.0])
    action = old + std.reshape(-1, 1, 1, 1) * _draw(5, 2, 2, 2, seed=2)
    new = old.clone().requires_grad_()
    loss, report = _loss(_gaussian_terms(new, old, action, advantage, std), region)
    (gradient,) = torch.autograd.grad(loss, new)
    reinforce = -(step_weights(std, 2) * advantage * log_prob(action, new, std)).mean() / NUMEL
    (expected,) = torch.autograd.grad(reinforce, new)
    torch.testing.assert_close(gradient, expected)
    torch.testing.assert_close(loss.detach(), -(std**2 * advantage).mean())
    assert float(report.mean_kl_nats) == 0
    assert float(report.clipped_fraction) == 0


@pytest.mark.parametrize("region", REGIONS)
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_descending_the_loss_raises_the_reward_and_with_the_sign_flipped_lowers_it(
    region: TrustRegion, sign: float
) -> None:
    goal, std = torch.tensor([1.0, -1.0]).reshape(1, 2, 1, 1), torch.tensor(0.5)
    weight = torch.zeros(1, 2, 1, 1, requires_grad=True)
    start = float((weight.detach() - goal).square().sum())
    for step in range(30):
        old = weight.detach().expand(256, 2, 1, 1)
        action = old + std * _draw(256, 2, 1, 1, seed=step)
        reward = -(action - goal).square().sum(dim=(1, 2, 3))
        advantage = sign * (reward - reward.mean()) / reward.std()
        for _ in range(2):
            terms = _gaussian_terms(weight.expand(256, 2, 1, 1), old, action, advantage, std.expand(256))
            loss, _ = policy_gradient_loss(terms, numel=2, trust_region=region, kl_nats=1.0, clip_nats=1.0)
            (gradient,) = torch.autograd.grad(loss, weight)
            weight = (weight - 0.2 * gradient).detach().requires_grad_()
    end = float((weight.detach() - goal).square().sum())
    if sign > 0:
        assert end < start / 4
    else:
        assert end > start * 2


@pytest.mark.parametrize(
    ("advantage", "ratio", "kappa", "dropped"),
    [
        (1.0, 0.1, 1.0, True),
        (-1.0, -0.1, 1.0, True),
        (1.0, -0.1, 1.0, False),
        (-1.0, 0.1, 1.0, False),
        (1.0, 0.1, 0.1, False),
        (-1.0, -0.1, 0.1, False),
        (0.0, 0.1, 1.0, False),
    ],
)
def test_flow_dppo_drops_what_moves_away_and_is_far(
    advantage: float, ratio: float, kappa: float, dropped: bool
) -> None:
    log_ratios = torch.tensor([ratio], requires_grad=True)
    terms = _terms(log_ratios, torch.tensor([advantage]), torch.tensor([kappa]))
    loss, report = _loss(terms, "flow_dppo")
    (gradient,) = torch.autograd.grad(loss, log_ratios)
    expected = 0.0 if dropped else -advantage * math.exp(ratio)
    assert float(gradient) == pytest.approx(expected)
    assert float(loss.detach()) == pytest.approx(expected)
    assert float(report.clipped_fraction) == float(dropped)


@pytest.mark.parametrize("nats", [0.5, 4.0])
def test_thresholds_are_nats_of_a_whole_latent(nats: float) -> None:
    edge = nats / NUMEL
    for scale, clipped in ((0.99, 0.0), (1.01, 1.0)):
        far = torch.tensor([scale * edge])
        one = torch.ones(1)
        assert float(_loss(_terms(far, one, far), "flow_dppo", nats)[1].clipped_fraction) == clipped
        assert float(_loss(_terms(far, one), "ppo_clip", nats)[1].clipped_fraction) == clipped
        assert float(_loss(_terms(far, one), "grpo_guard", nats)[1].clipped_fraction) == clipped


@given(st.floats(-1, 1), st.floats(-2, 2))
def test_ppo_clip_is_the_pessimistic_minimum(ratio: float, advantage: float) -> None:
    limit = 1 / NUMEL
    clamped = math.exp(min(max(ratio, -limit), limit))
    loss, _ = _loss(_terms(torch.tensor([ratio]), torch.tensor([advantage])), "ppo_clip")
    assert float(loss) == pytest.approx(-min(math.exp(ratio) * advantage, clamped * advantage), abs=1e-5)


@pytest.mark.parametrize("region", ["ppo_clip", "grpo_guard"])
def test_a_clipped_term_has_no_gradient_and_one_that_returns_has(region: TrustRegion) -> None:
    log_ratios = torch.tensor([1.0, -1.0, 1.0, -1.0], requires_grad=True)
    loss, report = _loss(_terms(log_ratios, torch.tensor([1.0, -1.0, -1.0, 1.0])), region)
    (gradient,) = torch.autograd.grad(loss, log_ratios)
    assert (gradient == 0).tolist() == [True, True, False, False]
    assert float(report.clipped_fraction) == 0.5


def test_grpo_guard_has_no_bias_and_one_spread_at_every_step() -> None:
    """Under the behaviour policy the normalised log-ratio is centred and its spread does not know the step's std."""
    old, shift = torch.zeros(20_000, 2, 2, 2), 0.3 * _draw(1, 2, 2, 2, seed=1)
    spreads = []
    for std in (0.2, 1.0):
        scale = torch.tensor(std)
        action = old + std * _draw(20_000, 2, 2, 2)
        new = old + shift
        ratio, kappa = log_ratio(action, new, old, scale), kl_per_element(new, old, scale)
        u = std * (ratio + kappa)
        assert float(u.mean()) == pytest.approx(0, abs=5 * float(u.std()) / 20_000**0.5)
        assert float(ratio.mean()) < 0
        spreads.append(float(u.std()))
        loss, _ = _loss(_terms(ratio, torch.ones(20_000), kappa, std), "grpo_guard", nats=100.0)
        torch.testing.assert_close(loss, -(1 + u.expm1() / std).mean())
    assert spreads[0] == pytest.approx(spreads[1], rel=1e-3)


@pytest.mark.parametrize("region", REGIONS)
def test_loss_and_gradient_of_a_batch_are_the_means_over_its_ranks(region: TrustRegion) -> None:
    log_ratios, kappa = (0.3 * _draw(8)).requires_grad_(), _draw(8, seed=3).abs()
    terms = PolicyTerms(log_ratios, kappa, _draw(8, seed=1), _draw(8, seed=2).abs(), _draw(8, seed=4).abs() + 0.1)
    whole, report = _loss(terms, region)
    parts = [
        PolicyTerms(*(getattr(terms, field.name)[part] for field in fields(PolicyTerms)))
        for part in (slice(4), slice(4, 8))
    ]
    (first, first_report), (second, second_report) = (_loss(part, region) for part in parts)
    torch.testing.assert_close(whole, (first + second) / 2)
    torch.testing.assert_close(
        torch.autograd.grad(whole, log_ratios), torch.autograd.grad((first + second) / 2, log_ratios)
    )
    assert 0 < float(report.clipped_fraction) < 1
    torch.testing.assert_close(
        report.clipped_fraction, (first_report.clipped_fraction + second_report.clipped_fraction) / 2
    )


@pytest.mark.parametrize("region", REGIONS)
def test_an_action_of_weight_zero_is_left_out(region: TrustRegion) -> None:
    log_ratios = torch.zeros(2, requires_grad=True)
    terms = PolicyTerms(log_ratios, torch.zeros(2), torch.ones(2), torch.tensor([0.0, 1.0]), torch.ones(2))
    (gradient,) = torch.autograd.grad(_loss(terms, region)[0], log_ratios)
    assert gradient.tolist() == [0, -0.5]


@pytest.mark.parametrize("dropped", ["stale", "clipped"])
@pytest.mark.parametrize("region", REGIONS)
def test_a_dropped_action_changes_no_other_whatever_its_ratio_is(region: TrustRegion, dropped: str) -> None:
    gradients = []
    for far in (1.0, 1e4):
        log_ratios = torch.tensor([far, 0.0], requires_grad=True)
        weights = torch.tensor([0.0 if dropped == "stale" else 1.0, 1.0])
        terms = PolicyTerms(log_ratios, torch.tensor([1e3, 0.0]), torch.ones(2), weights, torch.ones(2))
        loss = _loss(terms, region)[0]
        assert bool(loss.isfinite())
        gradients.append(torch.autograd.grad(loss, log_ratios)[0].tolist())
    assert gradients == [[0, -0.5]] * 2


@given(
    ratios=st.lists(st.floats(-3, 3), min_size=4, max_size=4),
    advantage=st.lists(st.sampled_from([-1.5, 0.0, 0.5]), min_size=4, max_size=4),
    kappa=st.lists(st.sampled_from([0.0, 0.05, 2.0]), min_size=4, max_size=4),
    weights=st.lists(st.sampled_from([0.0, 0.7]), min_size=4, max_size=4),
)
@pytest.mark.parametrize("region", REGIONS)
def test_the_report_counts_the_terms_that_have_a_gradient(
    region: TrustRegion, ratios: list[float], advantage: list[float], kappa: list[float], weights: list[float]
) -> None:
    log_ratios = torch.tensor(ratios, requires_grad=True)
    terms = PolicyTerms(
        log_ratios, torch.tensor(kappa), torch.tensor(advantage), torch.tensor(weights), torch.full((4,), 0.5)
    )
    loss, report = _loss(terms, region)
    (gradient,) = torch.autograd.grad(loss, log_ratios)
    assert float(report.learnt_terms) == int(gradient.count_nonzero())


def test_the_report_counts_in_nats() -> None:
    terms = _terms(torch.tensor([0.2, -0.4]), torch.ones(2), torch.tensor([0.5, 1.5]))
    _, report = _loss(terms, "flow_dppo")
    assert float(report.mean_kl_nats) == pytest.approx(NUMEL)


def test_a_loss_without_terms_or_thresholds_is_refused() -> None:
    empty = torch.zeros(0)
    with pytest.raises(ValueError, match="0 terms"):
        _loss(PolicyTerms(empty, empty, empty, empty, empty), "flow_dppo")
    with pytest.raises(ValueError, match="positive"):
        _loss(_terms(torch.zeros(1), torch.ones(1)), "flow_dppo", nats=0.0)


@pytest.mark.parametrize("region", REGIONS)
def test_what_is_dropped_as_stale_is_not_counted_as_clipped_too(region: TrustRegion) -> None:
    weights = torch.tensor([0.0, 1.0])
    terms = PolicyTerms(torch.full((2,), 50.0), torch.full((2,), 1e3), torch.ones(2), weights, torch.ones(2))
    assert float(_loss(terms, region)[1].clipped_fraction) == 0.5


def test_rows_far_from_their_policy_are_stale() -> None:
    kappa = torch.tensor([0.0, 0.99, 1.01, math.inf, math.nan])
    assert stale_mask(kappa, 50, 50.0).tolist() == [False, False, True, True, True]


def test_step_weights_of_power_two_cancel_the_variance_of_the_score() -> None:
    stds = torch.tensor([0.75, 0.5, 0.25])
    assert torch.equal(step_weights(stds, 0), torch.ones(3))
    assert torch.equal(step_weights(stds, 1), stds)
    torch.testing.assert_close(step_weights(stds, 2) / stds.square(), torch.ones(3))

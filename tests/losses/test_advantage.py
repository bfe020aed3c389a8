"""Rewards to advantages."""

import math
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from advdmd_ray.losses.advantage import (
    AdvantageForm,
    GroupSummary,
    advantages,
    group_summary,
    level_gate,
    level_z_scores,
    merge,
    nominal_scale,
    normalised,
    within_std,
)

FORMS: tuple[AdvantageForm, ...] = get_args(AdvantageForm)


def _draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@given(st.integers(1, 4), st.integers(1, 5), st.integers(0, 50), st.floats(-1e3, 1e3))
def test_merged_summaries_are_the_moments_of_all_samples(groups: int, n: int, seed: int, offset: float) -> None:
    rewards = (_draw(groups, n, 3, seed=seed) * torch.tensor([1.0, 10.0, 0.1]) + offset).float()
    merged = merge([group_summary(group) for group in rewards])
    everything = rewards.double().reshape(-1, 3)
    assert merged.count == groups * n
    assert merged.mean == pytest.approx(everything.mean(0).tolist(), rel=1e-9, abs=1e-9)
    assert [math.sqrt(m2 / merged.count) for m2 in merged.m2] == pytest.approx(
        everything.std(0, correction=0).tolist(), rel=1e-6, abs=1e-9
    )


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.integers(0, 50))
def test_the_std_inside_groups_is_that_of_all_deviations_from_their_groups_mean(sizes: list[int], seed: int) -> None:
    groups = [_draw(size, 2, seed=seed + i) + 10 * i for i, size in enumerate(sizes)]
    deviations = torch.cat([group - group.mean(0) for group in groups])
    expected = deviations.square().mean(0).sqrt()
    torch.testing.assert_close(within_std([group_summary(group) for group in groups]), expected, atol=1e-5, rtol=1e-4)


@given(st.permutations(range(6)), st.integers(0, 50))
def test_the_order_of_the_groups_changes_no_bit(order: list[int], seed: int) -> None:
    summaries = [group_summary(1e3 * _draw(5, 2, seed=seed + i)) for i in range(6)]
    assert merge([summaries[i] for i in order]) == merge(summaries)
    assert torch.equal(within_std([summaries[i] for i in order]), within_std(summaries))


def test_groups_of_different_size_and_merged_groups_merge() -> None:
    rewards = _draw(9, 2)
    parts = [group_summary(rewards[a:b]) for a, b in ((0, 2), (2, 3), (3, 9))]
    whole = group_summary(rewards)
    merged = merge([merge(parts[:2]), parts[2]])
    assert merged.count == 9
    assert merged.mean == pytest.approx(whole.mean)
    assert merged.m2 == pytest.approx(whole.m2)


@pytest.mark.parametrize("summaries", [[], [GroupSummary(1, (0.0,), (0.0,)), GroupSummary(1, (0.0, 0.0), (0.0, 0.0))]])
def test_summaries_that_do_not_fit_are_refused(summaries: list[GroupSummary]) -> None:
    for combine in (merge, within_std):
        with pytest.raises(ValueError, match="at least one summary"):
            combine(summaries)


@given(st.integers(0, 50), st.floats(-10, 10), st.floats(0.5, 20))
def test_z_scores_ignore_a_prompts_offset_and_the_rewards_unit(seed: int, offset: float, unit: float) -> None:
    def z_of(rewards: Tensor) -> Tensor:
        return level_z_scores(rewards, within_std([group_summary(group) for group in rewards]), 1e-3)

    rewards = _draw(3, 6, 2, seed=seed)
    z = z_of(rewards)
    torch.testing.assert_close(z.mean(1), torch.zeros(3, 2), atol=1e-5, rtol=0)
    torch.testing.assert_close(z.square().mean((0, 1)), torch.ones(2), atol=1e-4, rtol=0)
    torch.testing.assert_close(z_of(rewards + offset * torch.arange(3).reshape(3, 1, 1)), z, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(z_of(unit * rewards), z, atol=1e-4, rtol=1e-4)


def test_a_higher_reward_has_a_higher_score() -> None:
    rewards = torch.tensor([[[0.0], [1.0]]])
    z = level_z_scores(rewards, torch.tensor([0.5]), 0.1)
    torch.testing.assert_close(z, torch.tensor([[[-1.0], [1.0]]]))


def test_a_blind_discriminator_yields_no_signal() -> None:
    rewards = 1e-6 * _draw(4, 8, 3)
    z = level_z_scores(rewards, within_std([group_summary(group) for group in rewards]), torch.full((3,), 0.5))
    a = normalised(advantages(z, "reward_to_go", 1.0, torch.ones(3)), nominal_scale("reward_to_go", 1.0, torch.ones(3)))
    assert float(a.abs().max()) < 1e-4


def test_a_floor_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="floor"):
        level_z_scores(torch.zeros(1, 2, 1), torch.zeros(1), 0.0)


def test_reward_to_go_sums_what_an_action_can_still_change() -> None:
    z, w = torch.tensor([[[1.0, 2.0, 4.0, 8.0]]]), torch.tensor([1.0, 1.0, 1.0, 2.0])
    a = advantages(z, "reward_to_go", 0.5, w)
    assert a.tolist() == [[[1 + 1 + 1 + 2, 2 + 2 + 4, 4 + 8]]]


def test_the_other_forms_follow_their_formulas() -> None:
    z, w = torch.tensor([[[1.0, 2.0, 4.0, 8.0]]]), torch.tensor([1.0, 1.0, 1.0, 2.0])
    assert advantages(z, "own_step", 0.5, w).tolist() == [[[1, 2, 4]]]
    assert advantages(z, "final_only", 0.5, w).tolist() == [[[2, 4, 8]]]
    assert advantages(z, "potential", 1.0, w).tolist() == [[[16, 15, 14]]]
    assert advantages(z, "potential", 0.0, w).tolist() == [[[1, 1, 2]]]
    assert advantages(z, "potential", 0.5, w).tolist() == [[[1 + 0.5 + 0.5 + 1.5, 1 + 1 + 3, 2 + 6]]]


@given(st.integers(0, 50), st.integers(2, 5), st.sampled_from(FORMS), st.floats(0, 1))
def test_advantages_are_linear_and_blind_to_the_past(seed: int, k: int, form: AdvantageForm, gamma: float) -> None:
    first, second, w = _draw(2, 3, k, seed=seed), _draw(2, 3, k, seed=seed + 1), _draw(k, seed=seed).abs()
    together = advantages(first + 2 * second, form, gamma, w)
    apart = advantages(first, form, gamma, w) + 2 * advantages(second, form, gamma, w)
    torch.testing.assert_close(together, apart, atol=1e-4, rtol=1e-4)
    # An action's advantage may depend on levels before it only through a baseline that it cannot change.
    changed = first.clone()
    changed[..., 0] += 1
    difference = advantages(changed, form, gamma, w) - advantages(first, form, gamma, w)
    if form == "potential":
        torch.testing.assert_close(difference[..., 2:], torch.zeros(2, 3, max(k - 3, 0)))
    else:
        torch.testing.assert_close(difference[..., 1:], torch.zeros(2, 3, k - 2))


@given(st.integers(0, 50), st.floats(0, 1))
def test_reward_to_go_with_only_the_last_level_open_is_final_only(seed: int, gamma: float) -> None:
    z, w = _draw(2, 3, 4, seed=seed), torch.tensor([0.0, 0.0, 0.0, 1.5])
    torch.testing.assert_close(advantages(z, "reward_to_go", gamma, w), advantages(z, "final_only", gamma, w))


@pytest.mark.parametrize("form", FORMS)
def test_a_gated_level_is_not_read(form: AdvantageForm) -> None:
    z, w = _draw(1, 4, 4), torch.tensor([1.0, 0.0, 1.0, 0.0])
    poisoned = z.clone()
    poisoned[..., 1] = math.nan
    poisoned[..., 3] = math.inf
    a = advantages(z, form, 0.9, w)
    assert torch.equal(advantages(poisoned, form, 0.9, w), a)
    assert bool(a.isfinite().all())
    nothing_open = advantages(poisoned, form, 0.9, torch.zeros(4))
    assert torch.equal(nothing_open, torch.zeros(1, 4, 3))


def test_a_potential_spans_gated_levels_and_ends_at_the_last_open_one() -> None:
    z = torch.tensor([[[1.0, 9.0, 4.0, 9.0]]])
    a = advantages(z, "potential", 1.0, torch.tensor([1.0, 0.0, 1.0, 0.0]))
    assert a.tolist() == [[[4, 3, 3]]]


def test_one_step_has_no_action() -> None:
    assert advantages(torch.ones(2, 3, 1), "reward_to_go", 1.0, torch.ones(1)).shape == (2, 3, 0)
    assert float(nominal_scale("reward_to_go", 1.0, torch.ones(1))) == 1


@pytest.mark.parametrize("gamma", [-0.1, 1.1, math.nan])
def test_a_discount_out_of_range_is_refused(gamma: float) -> None:
    with pytest.raises(ValueError, match="gamma"):
        advantages(torch.ones(1, 1, 2), "own_step", gamma, torch.ones(2))


def test_closed_levels_weigh_nothing_and_open_ones_what_they_did() -> None:
    assert level_gate(torch.tensor([2.0, 3.0, 0.0]), (False, True, True)).tolist() == [0, 3, 0]


@pytest.mark.parametrize("form", FORMS)
def test_the_nominal_scale_is_the_spread_of_independent_unit_scores(form: AdvantageForm) -> None:
    w = torch.tensor([1.0, 0.5, 0.0, 2.0])
    a = advantages(_draw(1, 40_000, 4), form, 0.8, w)
    assert float(a.square().mean().sqrt()) == pytest.approx(float(nominal_scale(form, 0.8, w)), rel=0.02)


def test_normalising_divides_and_clips() -> None:
    a = torch.tensor([-100.0, -1.0, 0.0, 4.0, 100.0])
    assert normalised(a, 2.0).tolist() == [-5, -0.5, 0, 2, 5]
    assert normalised(a, torch.tensor(2.0), clip=1.0).tolist() == [-1, -0.5, 0, 1, 1]


@pytest.mark.parametrize(("scale", "clip"), [(0.0, 5.0), (math.nan, 5.0), (1.0, 0.0)])
def test_a_scale_or_clip_that_is_not_positive_is_refused(scale: float, clip: float) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        normalised(torch.ones(1), scale, clip)

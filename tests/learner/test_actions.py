"""Which stored actions an RL update learns from."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from advdmd_ray.learner.actions import Actions, minibatch_slices, strongest
from small_parts import Judge, Mixer, batch_of, config, normal, policy_update, setting


def _gap(values: Tensor) -> float:
    """Distance between the means of the upper and the lower half."""
    low, high = values.sort().values.chunk(2)
    return float(high.mean() - low.mean())


@given(seed=st.integers(0, 1000), rows=st.sampled_from([2, 4, 6]))
def test_no_other_rows_have_their_halves_farther_apart(seed: int, rows: int) -> None:
    advantages = normal(2, 6, 3, seed=seed)
    chosen = strongest(advantages, rows)
    assert chosen.shape == (2, rows, 3)
    for group, action in itertools.product(range(2), range(3)):
        values, own = advantages[group, :, action], chosen[group, :, action]
        assert len(set(own.tolist())) == rows
        best = max(_gap(values[list(other)]) for other in itertools.combinations(range(6), rows))
        assert _gap(values[own]) == pytest.approx(best, rel=1e-6)


@given(seed=st.integers(0, 1000))
def test_a_share_of_two_or_more_rows_has_high_and_low_ones(seed: int) -> None:
    advantages = normal(1, 12, 1, seed=seed)
    values = advantages[0, strongest(advantages, 8)[0, :, 0], 0]
    for part in minibatch_slices(8, 4):
        low, high = values[part]
        assert low < advantages.median() <= high
    odd = advantages[0, strongest(advantages, 6)[0, :, 0], 0]
    assert all(odd[part].min() < advantages.median() <= odd[part].max() for part in minibatch_slices(6, 2))


@pytest.mark.parametrize("count", [0, 3, 14])
def test_a_number_of_rows_that_cannot_be_halved_or_found_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match="even number of at most 12"):
        strongest(normal(1, 12, 1, seed=0), count)


def test_a_chosen_row_keeps_state_result_mean_and_advantage_of_one_trajectory_in_each_action() -> None:
    batch = batch_of(Mixer(1), Judge(2))
    advantages = normal(4, 4, 2, seed=8)
    rows = strongest(advantages, 2)
    chosen = Actions.of(batch, advantages).chosen(rows)
    for group, row, action in itertools.product(range(4), range(2), range(2)):
        sample = int(rows[group, row, action])
        assert torch.equal(chosen.states[group, row, action], batch.latents[group, sample, action])
        assert torch.equal(chosen.reached[group, row, action], batch.latents[group, sample, action + 1])
        assert torch.equal(chosen.means[group, row, action], batch.means[group, sample, action])
        assert torch.equal(chosen.ends[group, row, action], batch.latents[group, sample, -1])
        assert chosen.advantages[group, row, action] == advantages[group, sample, action]


@pytest.mark.parametrize("direction", ["noise", "end"])
@pytest.mark.parametrize("count", [1, 2])
def test_the_last_actions_alone_are_learnt_from_as_among_all_of_which_the_others_earned_nothing(
    count: int, direction: str
) -> None:
    student = Mixer(1)
    batch = batch_of(Mixer(3), Judge(2))
    fixed = setting(config(policy_gradient={"direction": direction}), Mixer(9))
    advantages = normal(4, 4, 2, seed=8)
    earned = torch.where(torch.arange(2) >= 2 - count, advantages, torch.zeros(()))
    everything, _ = policy_update(student, fixed, batch, Actions.of(batch, earned))
    alone, _ = policy_update(student, fixed, batch, Actions.of(batch, advantages[..., 2 - count :]))
    torch.testing.assert_close(everything * 2 / count, alone)
    gradients = [torch.autograd.grad(loss, list(student.parameters())) for loss in (everything * 2 / count, alone)]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_the_loss_of_all_rows_does_not_depend_on_their_order() -> None:
    student = Mixer(1)
    batch, fixed = batch_of(student, Judge(2)), setting(config(), Mixer(9))
    actions = Actions.of(batch, normal(4, 4, 2, seed=8))
    whole, _ = policy_update(student, fixed, batch, actions)
    ordered, report = policy_update(student, fixed, batch, actions.chosen(strongest(actions.advantages, 4)))
    torch.testing.assert_close(ordered, whole)
    assert report.fresh_deviation is not None
    assert report.fresh_deviation <= 1e-6

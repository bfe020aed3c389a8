"""The tensors of a cycle, and draws that belong to the group and not to the rank."""

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from advdmd_ray.learner.batch import LearnerBatch, collate, draw_levels, draw_noise, draw_states, shuffled
from advdmd_ray.stations.records import ScoredGroup
from small_parts import SHAPE, Judge, Mixer, scored_groups

GROUPS = scored_groups(Mixer(1), Judge(2), group_size=5)
BATCH = collate(GROUPS, 0)


def test_a_batch_holds_every_group_in_its_place() -> None:
    assert BATCH.latents.shape == (4, 5, 4, *SHAPE)
    assert BATCH.means.shape == (4, 5, 2, *SHAPE)
    assert BATCH.rewards.shape == (4, 5, 3)
    assert (BATCH.steps, BATCH.samples, BATCH.latent_shape) == (3, 5, SHAPE)
    for index, scored in enumerate(GROUPS):
        torch.testing.assert_close(BATCH.latents[index], torch.tensor(scored.group.latents), rtol=0, atol=0)
        torch.testing.assert_close(BATCH.means[index], torch.tensor(scored.group.means), rtol=0, atol=0)
        torch.testing.assert_close(BATCH.rewards[index], torch.tensor(scored.rewards), rtol=0, atol=0)
        assert int(BATCH.prompt_ids[index]) == scored.group.prompt_id
        assert BATCH.group_seeds[index] == int(scored.group.seeds[0])


def test_one_group_is_read_where_it_lies_and_several_are_copied_once() -> None:
    one, two = collate(GROUPS[:1], 0), collate(GROUPS[:2], 0)
    for name in ("latents", "means"):
        where = torch.from_dlpack(getattr(GROUPS[0].group, name)).data_ptr()
        assert getattr(one, name).data_ptr() == where
        assert getattr(two, name).data_ptr() != where
        torch.testing.assert_close(getattr(one, name)[0], getattr(two, name)[0], rtol=0, atol=0)


def test_the_policy_age_is_the_learners_version_minus_the_groups() -> None:
    groups = [*scored_groups(Mixer(1), Judge(2), [0], version=3), *scored_groups(Mixer(1), Judge(2), [1], version=5)]
    assert collate(groups, 5).policy_ages.tolist() == [2, 0]


def test_an_empty_cycle_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one group"):
        collate([], 0)


def test_groups_with_other_noise_levels_are_refused() -> None:
    group = dataclasses.replace(GROUPS[1].group, sigmas=GROUPS[1].group.sigmas * 0.9)
    with pytest.raises(ValueError, match="share their noise levels"):
        collate([GROUPS[0], ScoredGroup(group, GROUPS[1].rewards, 0)], 0)


@given(rows=st.integers(1, 6), levels=st.integers(1, 4), update=st.integers(0, 3))
def test_what_a_group_draws_does_not_depend_on_its_rank(rows: int, levels: int, update: int) -> None:
    path = ("dmd", 3, update)
    whole = draw_states(BATCH, rows, levels, path)
    for offset, half in ((0, collate(GROUPS[:2], 0)), (2, collate(GROUPS[2:], 0))):
        own = (whole.group >= offset) & (whole.group < offset + 2)
        part = draw_states(half, rows, levels, path)
        assert torch.equal(part.group + offset, whole.group[own])
        assert torch.equal(part.sample, whole.sample[own])
        assert torch.equal(part.level, whole.level[own])
        assert torch.equal(draw_noise(half, rows, path), draw_noise(BATCH, rows, path)[own])
        assert torch.equal(draw_levels(half, rows, 0.1, 0.7, path), draw_levels(BATCH, rows, 0.1, 0.7, path)[own])


@given(rows=st.integers(1, 40), levels=st.integers(1, 4), version=st.integers(0, 9))
def test_draws_stay_in_range_and_every_group_has_its_rows(rows: int, levels: int, version: int) -> None:
    draw = draw_states(BATCH, rows, levels, ("x", version))
    assert draw.group.tolist() == [group for group in range(4) for _ in range(rows)]
    assert 0 <= int(draw.sample.min()) <= int(draw.sample.max()) < 5
    assert 0 <= int(draw.level.min()) <= int(draw.level.max()) < levels
    t = draw_levels(BATCH, rows, 0.02, 0.98, ("x", version))
    assert 0.02 <= float(t.min()) <= float(t.max()) < 0.98


def test_all_samples_and_levels_are_drawn_about_equally_often() -> None:
    draw = draw_states(BATCH, 1000, 3, ("x",))
    for values, count in ((draw.sample, 5), (draw.level, 3)):
        share = torch.bincount(values, minlength=count) / len(values)
        assert float((share - 1 / count).abs().max()) < 0.03


def test_other_updates_versions_and_objectives_draw_anew() -> None:
    def drawn(batch: LearnerBatch, *path: int | str) -> torch.Tensor:
        return draw_noise(batch, 2, path)

    first = drawn(BATCH, "dmd", 0, 0)
    for path in (("dmd", 0, 1), ("dmd", 1, 0), ("rl", 0, 0)):
        assert not torch.isclose(first, drawn(BATCH, *path)).any()


@pytest.mark.parametrize("emphasis", [1.0, 2.0, 3.0])
def test_late_steps_are_drawn_with_the_stated_emphasis(emphasis: float) -> None:
    levels, rows = 4, 4000
    draw = draw_states(BATCH, rows, levels, ("x",), emphasis)
    for level in range(1, levels):
        share = float((draw.level < level).float().mean())
        assert share == pytest.approx((level / levels) ** emphasis, abs=0.02)
    assert int(draw.level.max()) == levels - 1


def test_shuffled_rewards_are_the_groups_own_rows_in_an_order_of_its_own() -> None:
    mixed = shuffled(BATCH, BATCH.rewards)
    assert not torch.equal(mixed, BATCH.rewards)
    for before, after in zip(BATCH.rewards, mixed, strict=True):
        assert sorted(map(tuple, before.tolist())) == sorted(map(tuple, after.tolist()))
    half = dataclasses.replace(
        BATCH, group_seeds=BATCH.group_seeds[2:], rewards=BATCH.rewards[2:], prompt_ids=BATCH.prompt_ids[2:]
    )
    assert torch.equal(shuffled(half, half.rewards), mixed[2:])
    own = BATCH.rewards[..., -1]
    assert torch.equal(shuffled(BATCH, own), mixed[..., -1]), "all rewards of a trajectory stay together"


def test_over_many_groups_a_shuffled_reward_says_nothing_of_its_trajectory() -> None:
    groups, samples = 2000, BATCH.samples
    rewards = torch.arange(samples, dtype=torch.float32).reshape(1, samples, 1).expand(groups, -1, -1)
    batch = dataclasses.replace(BATCH, group_seeds=tuple(range(groups)), rewards=rewards)
    torch.testing.assert_close(shuffled(batch, rewards).mean(dim=0), torch.full((samples, 1), 2.0), rtol=0, atol=0.12)

"""One learner rank over analytic networks: the ratio assertion, the gate, what each cycle trains, and resuming."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from advdmd_ray.config import Config
from advdmd_ray.diffusion.kernels import Kernel
from advdmd_ray.errors import CheckpointError, RatioError
from advdmd_ray.learner.checkpoint import Checkpoint, open_checkpoint, save_checkpoint
from advdmd_ray.learner.learner import Learner
from advdmd_ray.stations.records import ScoredGroup
from advdmd_ray.stations.weights.snapshot import digest_of, unpack
from small_parts import (
    SHAPE,
    Brightness,
    Constant,
    Judge,
    Mixer,
    Painter,
    config,
    infos_of,
    learner,
    normal,
    scored_groups,
)

WARM = config(cadence={"warm_dmd_updates": 1000})
STILL = 1e-12


def _cycle(taught: Learner, groups: Sequence[ScoredGroup]) -> None:
    taught.cycle(groups, infos_of(groups))


def _rl_config(**sections: dict[str, object]) -> Config:
    """RL in every cycle, and nothing else moves."""
    still: dict[str, dict[str, object]] = {
        "dmd": {"learning_rate": STILL, "batch_size": 4},
        "fake_score": {"learning_rate": STILL, "batch_size": 4},
        "discriminator": {"learning_rate": STILL, "batch_size": 4, "text_errors": None, "auc_high": 1.0},
        "policy_gradient": {"learning_rate": 0.05},
    }
    for name, values in sections.items():
        still[name] = still.get(name, {}) | values
    return config(**still)


# The student's average ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("minibatches", [1, 4])
def test_the_average_moves_once_a_cycle_however_many_updates_it_makes(minibatches: int) -> None:
    settings = _rl_config(learner={"ema_decay": 0.75}, policy_gradient={"minibatches": minibatches})
    taught = learner(settings, student=Mixer(1), critic=Judge(2))
    before = taught.ema()
    groups = scored_groups(Mixer(1), Judge(2))
    report = taught.cycle(groups, infos_of(groups))
    assert report.updates["rl"].updates == minibatches
    for name, weight in taught._engines["student"].state_dict().items():
        torch.testing.assert_close(taught.ema()[name], 0.1 * before[name] + 0.9 * weight, rtol=0, atol=1e-6)
        assert not torch.allclose(weight, before[name], atol=1e-3)


# The importance ratio -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [WARM, config()], ids=["without an RL turn", "with an RL turn"])
def test_the_ratio_is_one_before_the_first_update_through_the_arrow_bytes(settings: Config) -> None:
    student, critic = Mixer(1), Judge(2)
    groups = scored_groups(student, critic)
    report = learner(settings, student=student, critic=critic).cycle(groups, infos_of(groups))
    assert 0 <= report.fresh_deviation <= 1e-6
    assert (report.policy is None) == (settings is WARM)


def _other_weights() -> list[ScoredGroup]:
    student = Mixer(1)
    with torch.no_grad():
        student.spatial[0, 0, 1, 1] += 1e-3
    return scored_groups(student, Judge(2))


def _other_kernel() -> list[ScoredGroup]:
    return scored_groups(Mixer(1), Judge(2), kernel=Kernel.cps(0.9))


def _rounded() -> list[ScoredGroup]:
    def low_precision(latents: np.ndarray) -> np.ndarray:
        return torch.tensor(latents).to(torch.bfloat16).float().numpy()

    return [
        dataclasses.replace(
            scored, group=dataclasses.replace(scored.group, latents=low_precision(scored.group.latents))
        )
        for scored in scored_groups(Mixer(1), Judge(2))
    ]


def _other_prompt() -> list[ScoredGroup]:
    return [
        dataclasses.replace(scored, group=dataclasses.replace(scored.group, prompt_id=(scored.group.prompt_id + 1) % 3))
        for scored in scored_groups(Mixer(1), Judge(2))
    ]


@pytest.mark.parametrize("settings", [WARM, config()], ids=["without an RL turn", "with an RL turn"])
@pytest.mark.parametrize("made", [_other_weights, _other_kernel, _rounded, _other_prompt])
def test_groups_that_the_learners_student_did_not_make_stop_it(
    made: Callable[[], list[ScoredGroup]], settings: Config
) -> None:
    taught = learner(settings, student=Mixer(1), critic=Judge(2))
    groups = made()
    before = digest_of(taught._engines["student"].state_dict())
    with pytest.raises(RatioError, match=r"learner rank 0: importance ratio differs from 1"):
        _cycle(taught, groups)
    assert digest_of(taught._engines["student"].state_dict()) == before
    assert taught.version == 0


@pytest.mark.parametrize("settings", [WARM, config()], ids=["without an RL turn", "with an RL turn"])
def test_old_groups_are_not_asked_for_ratio_one(settings: Config) -> None:
    taught = learner(settings, student=Mixer(1), critic=Judge(2))
    taught.version = 1
    older = scored_groups(Mixer(7), Judge(2), version=0)
    report = taught.cycle(older, infos_of(older))
    assert math.isnan(report.fresh_deviation)


# Rewards, gate and policy gradient ----------------------------------------------------------------------------------


def _play(critic: nn.Module, cycles: int, *, shuffled: bool, group_rows: int | None = None) -> list[float]:
    """Mean reward of fresh rollouts before each of `cycles` RL updates, and after the last."""
    student = Painter(torch.zeros(SHAPE))
    settings = _rl_config(
        rollout={"group_size": 16, "groups_per_cycle": 4},
        policy_gradient={"shuffle_rewards": shuffled, "group_rows": group_rows},
    )
    taught = learner(settings, student=student, critic=critic)
    rewards = []
    for cycle in range(cycles + 1):
        groups = scored_groups(
            Painter(student.picture.detach()),
            critic,
            range(4 * cycle, 4 * cycle + 4),
            version=taught.version,
            group_size=16,
        )
        rewards.append(float(np.mean([scored.rewards for scored in groups])))
        _cycle(taught, groups)
    return rewards


@pytest.mark.parametrize("group_rows", [None, 4])
@pytest.mark.parametrize("gain", [1.0, -1.0])
def test_rl_raises_the_reward_of_a_known_preference(gain: float, group_rows: int | None) -> None:
    rewards = _play(Brightness(gain), 8, shuffled=False, group_rows=group_rows)
    assert rewards[-1] > rewards[0] + 0.2


def test_rl_on_rewards_shuffled_inside_their_groups_goes_nowhere() -> None:
    true = _play(Brightness(), 8, shuffled=False)
    shuffled = _play(Brightness(), 8, shuffled=True)
    assert abs(shuffled[-1] - shuffled[0]) < 0.3 * (true[-1] - true[0])


@pytest.mark.parametrize(
    ("rows", "minibatches", "actions"),
    [(None, 1, 4 * 24 * 2), (None, 4, 4 * 6 * 2), (6, 3, 4 * 2 * 2), (6, 1, 4 * 6 * 2)],
)
def test_an_update_has_its_share_of_the_chosen_rows_of_every_group_and_action(
    rows: int | None, minibatches: int, actions: int
) -> None:
    settings = _rl_config(rollout={"group_size": 24}, policy_gradient={"group_rows": rows, "minibatches": minibatches})
    groups = scored_groups(Mixer(1), Judge(2), group_size=24)
    report = learner(settings, student=Mixer(1), critic=Judge(2)).cycle(groups, infos_of(groups))
    assert report.policy is not None
    assert (report.updates["rl"].updates, report.policy.actions) == (minibatches, actions)
    samples = {sample.name: sample.value for sample in report.samples()}
    assert samples["advdmd_learner_rl_actions"] == actions


def test_rl_on_the_last_action_learns_from_as_many_fewer_and_its_ratio_is_checked() -> None:
    settings = _rl_config(policy_gradient={"last_actions": 1})
    groups = scored_groups(Mixer(1), Judge(2))
    report = learner(settings, student=Mixer(1), critic=Judge(2)).cycle(groups, infos_of(groups))
    assert report.policy is not None
    assert report.policy.actions == 4 * 4
    assert report.fresh_deviation <= 1e-6


@pytest.mark.parametrize("group_size", [3, 4, 7])
@pytest.mark.parametrize("form", ["reward_to_go", "own_step", "final_only", "potential"])
def test_a_blind_discriminator_gives_no_rl_update_at_all(form: str, group_size: int) -> None:
    settings = _rl_config(policy_gradient={"advantage": form}, rollout={"group_size": group_size})
    student = Mixer(1)
    groups = scored_groups(student, Constant(0.1), group_size=group_size)
    report = learner(settings, student=student, critic=Constant(0.1)).cycle(groups, infos_of(groups))
    assert (report.plan.policy_gradient, report.plan.silent) == (0, True)
    assert "rl" not in report.updates
    assert report.policy is None


def _open(taught: Learner) -> Learner:
    """The same with every level open, as if it had been measured."""
    taught._health = dataclasses.replace(taught._health, auc=(0.7,) * 3)
    return taught


def _advantages(taught: Learner, groups: Sequence[ScoredGroup]) -> torch.Tensor:
    from advdmd_ray.learner.batch import collate  # noqa: PLC0415 - only here
    from advdmd_ray.losses.advantage import GroupSummary, within_std  # noqa: PLC0415 - only here

    std = within_std([GroupSummary(info.samples, info.reward_mean, info.reward_m2) for info in infos_of(groups)])
    taught._signal.follow(std, taught._health.open_levels)
    return taught._signal.advantages(collate(groups, 0), std, taught._health.open_levels)[0]


def test_shuffled_rewards_give_each_trajectory_the_advantages_of_another_one() -> None:
    groups = scored_groups(Mixer(1), Judge(2), group_size=8)
    plain, shuffled = (
        _advantages(
            _open(learner(config(policy_gradient={"shuffle_rewards": on}), student=Mixer(1), critic=Judge(2))), groups
        )
        for on in (False, True)
    )
    assert not torch.equal(plain, shuffled)
    for own, others in zip(plain, shuffled, strict=True):
        torch.testing.assert_close(own[own[:, 0].argsort()], others[others[:, 0].argsort()])


@pytest.mark.parametrize("form", ["reward_to_go", "own_step", "final_only", "potential"])
@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1), (0, 1, 2)])
def test_rewards_of_closed_levels_do_not_reach_the_advantages(form: str, closed: tuple[int, ...]) -> None:
    settings = config(policy_gradient={"advantage": form})
    groups = scored_groups(Mixer(1), Judge(2))
    changed = []
    for scored in groups:
        rewards = scored.rewards.copy()
        rewards[:, list(closed)] = normal(4, len(closed), seed=scored.group.ordinal, scale=100.0).numpy()
        changed.append(dataclasses.replace(scored, rewards=rewards))
    both = []
    for rewarded in (groups, changed):
        taught = learner(settings, student=Mixer(1), critic=Judge(2))
        auc = tuple((math.nan, 0.99)[level % 2] if level in closed else 0.7 for level in range(3))
        taught._health = dataclasses.replace(taught._health, auc=auc, high=0.98)
        both.append(_advantages(taught, rewarded))
    torch.testing.assert_close(*both)
    if len(closed) == 3:
        assert float(both[0].abs().max()) == 0


def test_each_level_has_the_weight_that_the_configuration_gives_it() -> None:
    groups = scored_groups(Mixer(1), Judge(2))

    def of(**weights: object) -> torch.Tensor:
        settings = config(policy_gradient={"advantage": "own_step", "clip": 1e6, **weights})
        taught = learner(settings, student=Mixer(1), critic=Judge(2))
        return _advantages(_open(taught), groups)

    torch.testing.assert_close(of(intermediate_weight=(0.7, 0.7)), of(intermediate_weight=0.7))
    even, uneven = of(intermediate_weight=1.0), of(intermediate_weight=(2.0, 0.5))
    # own_step: action k has level k + 1's weight, up to one common scale.
    scale = uneven[..., 0].norm() / even[..., 0].norm() / 2.0
    torch.testing.assert_close(uneven, even * scale * torch.tensor([2.0, 0.5]))
    assert float(of(intermediate_weight=(1.0, 0.0))[..., 1].abs().max()) == 0


def test_the_final_weight_counts_against_the_intermediate_ones() -> None:
    groups = scored_groups(Mixer(1), Judge(2))

    def of(final: float, intermediate: float) -> torch.Tensor:
        weights = {"final_weight": final, "intermediate_weight": intermediate, "clip": 1e6}
        taught = learner(config(policy_gradient=weights), student=Mixer(1), critic=Judge(2))
        return _advantages(_open(taught), groups)

    torch.testing.assert_close(of(2.0, 2.0), of(1.0, 1.0))
    final_only = learner(
        config(policy_gradient={"advantage": "final_only", "clip": 1e6}), student=Mixer(1), critic=Judge(2)
    )
    torch.testing.assert_close(of(1.0, 0.0), _advantages(_open(final_only), groups))


def test_a_turn_waits_for_an_open_level() -> None:
    settings = _rl_config(discriminator={"text_errors": 3.0})
    student, critic = Mixer(1), Judge(2)
    groups = scored_groups(student, critic)
    report = learner(settings, student=student, critic=critic).cycle(groups, infos_of(groups))
    assert "rl" not in report.updates
    assert report.open_levels == (False, False, False)
    assert report.plan.policy_gradient == 0


def test_advantages_are_bounded_and_centred_in_every_group() -> None:
    taught = learner(config(policy_gradient={"clip": 1.5}), student=Mixer(1), critic=Judge(2))
    groups = scored_groups(Mixer(1), Judge(2), group_size=8)
    bounded = _advantages(_open(taught), groups)
    assert float(bounded.abs().max()) <= 1.5
    free = learner(config(policy_gradient={"clip": 1e6}), student=Mixer(1), critic=Judge(2))
    torch.testing.assert_close(_advantages(_open(free), groups).mean(dim=1), torch.zeros(4, 2), rtol=0, atol=1e-5)


@given(st.lists(st.floats(0.01, 10.0), min_size=1, max_size=8), st.floats(0.0, 0.999))
def test_the_running_reward_std_is_an_exponential_average(stds: list[float], decay: float) -> None:
    taught = learner(config(policy_gradient={"std_decay": decay}), student=Painter(torch.zeros(SHAPE)), critic=Judge(2))
    expected = stds[0]
    for index, std in enumerate(stds):
        taught._signal.follow(torch.tensor([std, 2 * std, 3 * std]), (True, True, False))
        expected = std if index == 0 else decay * expected + (1 - decay) * std
    known = torch.tensor([expected, 2 * expected, 0.0])
    torch.testing.assert_close(taught._signal.running_std, known, rtol=1e-4, atol=1e-5)


def test_rewards_that_fade_fade_in_the_advantages_too() -> None:
    taught = learner(config(), student=Mixer(1), critic=Judge(2))
    groups = scored_groups(Mixer(1), Judge(2))
    loud = _advantages(_open(taught), groups)
    faint = [dataclasses.replace(scored, rewards=scored.rewards * np.float32(1e-4)) for scored in groups]
    assert float(_advantages(taught, faint).abs().max()) < 1e-3 * float(loud.abs().max())


# What a cycle trains ------------------------------------------------------------------------------------------------


def test_a_cycle_makes_the_planned_updates_and_the_next_version() -> None:
    settings = config(cadence={"fake_score_updates": 3, "discriminator_updates": 2, "dmd_updates": 2})
    student, critic = Mixer(1), Judge(2)
    taught = learner(settings, student=student, critic=critic)
    groups = scored_groups(student, critic)
    report = taught.cycle(groups, infos_of(groups))
    assert {name: update.updates for name, update in report.updates.items()} == {
        "fake_score": 6,
        "discriminator": 4,
        "rl": 1,
        "dmd": 2,
    }
    assert report.version == taught.version == 1
    assert report.trajectories == 16
    snapshots = taught.snapshots()
    assert [snapshot.manifest.version for snapshot in snapshots] == [1, 1]
    assert [snapshot.manifest.stream for snapshot in snapshots] == ["student", "discriminator"]
    assert snapshots[0].manifest.digest == digest_of(dict(student.named_parameters()))
    assert {sample.name for sample in report.samples()} >= {"advdmd_reward_mean", "advdmd_learner_ratio_deviation"}


def test_the_student_is_gathered_once_a_cycle_for_its_average_and_for_what_is_published() -> None:
    taught = learner(WARM, student=Mixer(1), critic=Judge(2))
    engine, gathered = taught._engines["student"], list[str]()
    made = engine.weights
    engine.weights = lambda: gathered.append("student") or made()  # pyright: ignore[reportAttributeAccessIssue]
    _cycle(taught, scored_groups(Mixer(1), Judge(2)))
    published, _ = taught.published()
    assert gathered == ["student"]
    again, _ = taught.published()
    assert gathered == ["student"] * 2
    for weights in (published, again):
        assert all(torch.equal(weights[name], weight) for name, weight in engine.state_dict().items())


def test_a_snapshot_stays_what_was_published_while_the_learner_goes_on() -> None:
    groups = scored_groups(Mixer(1), Judge(2))
    taught = learner(config(), student=Mixer(1), critic=Judge(2))
    published = taught.snapshots()
    taught.cycle(groups, infos_of(groups))
    for before, after in zip(published, taught.snapshots(), strict=True):
        assert digest_of(unpack(before)) == before.manifest.digest != after.manifest.digest


def test_a_discriminator_whose_auc_nobody_needs_learns_without_it() -> None:
    without = {"policy_gradient": {"enabled": False}, "discriminator": {"auc_rows": 0}}
    groups = scored_groups(Mixer(1), Judge(2))
    report = learner(config(**without), student=Mixer(1), critic=Judge(2)).cycle(groups, infos_of(groups))
    assert report.updates["discriminator"].updates == 1
    assert all(math.isnan(value) for value in (*report.auc, *report.smoothed_auc))


def test_between_two_measurements_of_the_discriminator_its_health_stays() -> None:
    seldom = {"policy_gradient": {"enabled": False}, "cadence": {"measure_cycles": 2}}
    groups, taught = scored_groups(Mixer(1), Judge(2)), learner(config(**seldom), student=Mixer(1), critic=Judge(2))
    reports = [taught.cycle(groups, infos_of(groups)) for _ in range(4)]
    assert [math.isfinite(report.auc[0]) for report in reports] == [False, True, False, True]
    assert math.isnan(reports[0].smoothed_auc[0])
    assert reports[1].smoothed_auc == reports[1].auc == reports[2].smoothed_auc
    assert reports[1].open_levels == reports[2].open_levels


def test_the_report_has_the_rewards_moments() -> None:
    student, critic = Mixer(1), Judge(2)
    groups = scored_groups(student, critic)
    report = learner(WARM, student=student, critic=critic).cycle(groups, infos_of(groups))
    rewards = np.stack([scored.rewards for scored in groups]).astype(np.float64)
    np.testing.assert_allclose(report.reward_mean, rewards.mean(axis=(0, 1)), rtol=1e-6)
    np.testing.assert_allclose(report.reward_spread, np.sqrt(rewards.var(axis=1).mean(axis=0)), rtol=1e-6)


def test_the_teacher_never_learns() -> None:
    teacher, student, critic = Mixer(9), Mixer(1), Judge(2)
    before = digest_of(dict(teacher.named_parameters()))
    _cycle(learner(config(), student=student, critic=critic, teacher=teacher), scored_groups(student, critic))
    assert digest_of(dict(teacher.named_parameters())) == before


def test_the_rl_step_is_as_long_as_its_learning_rate_says() -> None:
    student, critic = Painter(torch.zeros(SHAPE)), Brightness()
    taught = learner(_rl_config(), student=student, critic=critic)
    _cycle(taught, scored_groups(Painter(torch.zeros(SHAPE)), critic))
    moved = student.picture.detach().abs()
    # Adam's first step is the learning rate in every element, whatever the gradient's size.
    assert float((moved - 0.05).abs().max()) < 0.005


# Checkpoints --------------------------------------------------------------------------------------------------------


def _saved(taught: Learner, folder: Path) -> Checkpoint:
    return open_checkpoint(save_checkpoint(folder, taught.version, taught.tensors(), {"learner": taught.facts()}, 1))


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("teacher", r"a teacher of other weights than those of model\.path; give it back the old ones"),
        ("data", r"other prompts or real images than data\.source has now; give it back the old ones"),
    ],
)
def test_a_checkpoint_of_another_teacher_or_of_other_data_is_refused(what: str, says: str, tmp_path: Path) -> None:
    before, after = (learner(config(), student=Mixer(1), critic=Judge(2)) for _ in range(2))
    assert before._origin == after._origin
    own = dict(after._origin)
    after._origin[what] = "cd" * 32
    with pytest.raises(CheckpointError, match=says):
        after.restore(_saved(before, tmp_path))
    after._origin = own
    after.restore(_saved(before, tmp_path))
    del before._origin[what]  # an older checkpoint does not say
    after.restore(_saved(before, tmp_path))


def test_a_discriminator_that_is_measured_no_longer_does_not_rest_on_what_was_measured_before(tmp_path: Path) -> None:
    student, critic = Mixer(1), Judge(2)
    before = learner(config(), student=Mixer(1), critic=Judge(2))
    before._health = dataclasses.replace(before._health, auc=(0.999,) * 3)
    without = {"policy_gradient": {"enabled": False}, "discriminator": {"auc_rows": 0, "auc_high": 0.98}}
    after = learner(config(**without), student=student, critic=critic)
    after.restore(_saved(before, tmp_path))
    groups = scored_groups(student, critic)
    assert after.cycle(groups, infos_of(groups)).updates["discriminator"].updates == 1


def _everything(taught: Learner) -> dict[str, str]:
    return {name: digest_of(dict(state)) for name, state in taught.tensors().items()}


@pytest.mark.parametrize("cycles", [0, 2])
def test_a_restored_learner_goes_on_as_if_nothing_had_happened(cycles: int, tmp_path: Path) -> None:
    settings = config(run={"cycles": 4}, learner={"final_rate": 0.2}, policy_gradient={"final_rate": 0.1})

    def fresh() -> Learner:
        return learner(settings, student=Mixer(1), critic=Judge(2))

    def advance(taught: Learner, count: int) -> None:
        for _ in range(count):
            student = Mixer(1)
            student.load_state_dict(taught._engines["student"].state_dict())
            ordinals = range(4 * taught.version, 4 * taught.version + 4)
            _cycle(taught, scored_groups(student, Judge(2), ordinals, version=taught.version))

    whole = fresh()
    advance(whole, cycles)
    second = fresh()
    second.restore(_saved(whole, tmp_path))
    assert second.version == cycles
    advance(whole, 2)
    advance(second, 2)
    assert _everything(second) == _everything(whole)
    assert second.facts() == whole.facts()


def test_rl_runs_at_its_whole_rate_however_late_it_begins_and_then_falls_to_its_own_share() -> None:
    settings = _rl_config(
        run={"cycles": 4},
        learner={"final_rate": 0.25},
        policy_gradient={"final_rate": 0.5},
        cadence={"warm_dmd_updates": 2, "ramp_interval": 1},
    )
    taught, rates, moves = learner(settings, student=Mixer(1), critic=Judge(2)), [], []
    for version in range(4):
        student = Mixer(1)
        student.load_state_dict(taught._engines["student"].state_dict())
        groups = scored_groups(student, Judge(2), range(4 * version, 4 * version + 4), version=version)
        before = taught._engines["student"].state_dict()
        report = taught.cycle(groups, infos_of(groups))
        after = taught._engines["student"].state_dict()
        moves.append(max(float((after[name] - weight).abs().max()) for name, weight in before.items()))
        rates.append({name: round(each.rate, 6) for name, each in report.updates.items() if each.updates})
    assert [each["dmd"] for each in rates] == [1.0, 0.75, 0.5, 0.25]
    assert [each.get("rl") for each in rates] == [None, None, 1.0, 0.5]
    # Adam's first step is the learning rate in every element, whatever the gradient's size.
    assert moves[2] == pytest.approx(0.05, rel=1e-3)

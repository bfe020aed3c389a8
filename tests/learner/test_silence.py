"""A discriminator that says nothing moves nothing: no RL step, no moment, no count, for as long as it says nothing."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from advdmd_ray.config import Config
from advdmd_ray.diffusion.denoiser import Conditioning
from advdmd_ray.learner.batch import collate
from advdmd_ray.learner.engine import Engine
from advdmd_ray.learner.engine_state import StepReport
from advdmd_ray.learner.gang import SoloGang
from advdmd_ray.learner.learner import Learner
from advdmd_ray.learner.outcome import CycleReport
from advdmd_ray.learner.parts import LossPart
from advdmd_ray.learner.signal import SMALLEST_STD, RewardSignal
from advdmd_ray.learner.updates import Updates
from advdmd_ray.losses.advantage import GroupSummary, within_std
from advdmd_ray.stations.records import ScoredGroup
from small_parts import Brightness, Constant, Judge, Mixer, config, infos_of, learner, normal, scored_groups

STILL = 1e-12


def _config(**sections: dict[str, object]) -> Config:
    """RL in every cycle; the discriminator stays as it is."""
    still: dict[str, dict[str, object]] = {
        "dmd": {"learning_rate": STILL, "batch_size": 4},
        "fake_score": {"learning_rate": STILL, "batch_size": 4},
        "discriminator": {"learning_rate": STILL, "batch_size": 4, "text_errors": 3.0, "auc_high": 1.0},
        "policy_gradient": {"learning_rate": 0.05},
    }
    for name, values in sections.items():
        still[name] = still.get(name, {}) | values
    return config(**still)


class Guesser(nn.Module):
    """A critic whose logits are noise of one scale: they hang on the state and the text, and mean nothing."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.unused = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        mixed = 1e3 * (x.double().mean(dim=(1, 2, 3)) + t + conditioning.pooled.double().mean(dim=1))
        return (self.scale * torch.sin(mixed * 7919)).float() + self.unused


def _rl_state(taught: Learner) -> dict[str, Tensor]:
    """What belongs to RL in the student's optimizer."""
    state = taught._engines["student"].optimizer_state()
    return {name: value for name, value in state.items() if name.startswith("rl.")}


def _cycle(taught: Learner, student: nn.Module, critic: nn.Module) -> CycleReport:
    """One cycle on fresh groups."""
    actor = Mixer(1)
    actor.load_state_dict(student.state_dict())
    first = 4 * taught.version
    groups = scored_groups(actor, critic, range(first, first + 4), version=taught.version)
    return taught.cycle(groups, infos_of(groups))


def _same(before: dict[str, Tensor], after: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, after[name]) for name, value in before.items())


@pytest.mark.parametrize("scale", [1.0, 1e-2])
def test_a_discriminator_that_guesses_makes_no_rl_step(scale: float) -> None:
    student, critic = Mixer(1), Guesser(scale)
    taught = learner(_config(), student=student, critic=critic)
    before = _rl_state(taught)
    for _ in range(8):
        assert _cycle(taught, student, critic).plan.gated
    assert _same(before, _rl_state(taught))
    assert (taught._cadence.state.rl_turns, taught._cadence.state.phase) == (0, "warm")


@pytest.mark.parametrize("critic", [Guesser(1.0), Brightness()], ids=["guesses", "tells states alone apart"])
def test_a_reader_that_reads_no_more_is_shut_and_silent_for_ever(critic: nn.Module) -> None:
    """Levels are open by what they showed; the moment that they are shut, momentum does not go on either."""
    student = Mixer(1)
    taught = learner(_config(discriminator={"auc_decay": 0.6}), student=student, critic=critic)
    reads = dataclasses.replace(
        taught._health,
        texts=tuple(
            dataclasses.replace(side, weight=(80.0,) * 3, lead=(30.0,) * 3, square=(10.0,) * 3)
            for side in taught._health.texts
        ),
    )
    taught._health = reads
    turns, states = [], []
    for _ in range(14):
        turns.append(_cycle(taught, student, critic).plan.policy_gradient)
        states.append(_rl_state(taught))
    shut = turns.index(0)
    assert turns == [1] * shut + [0] * (14 - shut)
    assert 0 < shut < 10
    assert any(bool(value.any()) for name, value in states[0].items() if "exp_avg/" in name)
    assert all(_same(state, states[-1]) for state in states[shut - 1 :])
    assert taught._cadence.state.rl_turns == int(states[-1]["rl.steps"]) == shut


def test_a_discriminator_without_a_number_makes_no_rl_step_whatever_the_thresholds_are() -> None:
    for errors in (3.0, None):
        student, critic = Mixer(1), Constant(math.nan)
        settings = _config(discriminator={"text_errors": errors})
        taught = learner(settings, student=student, critic=critic)
        groups = scored_groups(Mixer(1), Constant(0.1))
        report = taught.cycle(groups, infos_of(groups))
        assert report.open_levels == (False,) * 3
        assert report.plan.gated
        assert "rl" not in report.updates


def _rewarded(rewards: Sequence[Sequence[float]]) -> list[ScoredGroup]:
    """Groups with these rewards at every level."""
    table = np.repeat(np.array(rewards, dtype=np.float32)[:, :, None], 3, axis=2)
    groups = scored_groups(Mixer(1), Judge(2))
    return [dataclasses.replace(scored, rewards=own) for scored, own in zip(groups, table, strict=True)]


def test_without_any_advantage_nothing_of_rl_moves_and_the_metrics_say_so() -> None:
    taught = learner(_config(discriminator={"text_errors": None}), student=Mixer(1), critic=Judge(2))
    before = _rl_state(taught)
    groups = _rewarded([[0.3] * 4] * 4)
    report = taught.cycle(groups, infos_of(groups))
    assert report.open_levels == (True,) * 3
    assert (report.plan.gated, report.plan.silent) == (False, True)
    assert _same(before, _rl_state(taught))
    assert taught._cadence.state.rl_turns == 0
    said = {sample.name: sample.value for sample in report.samples()}
    assert said["advdmd_learner_silent_turns_total"] == 1
    assert said["advdmd_learner_gated_turns_total"] == 0


def test_a_share_of_a_turn_in_which_all_advantages_are_zero_makes_no_update() -> None:
    settings = _config(discriminator={"text_errors": None}, policy_gradient={"minibatches": 2})
    taught = learner(settings, student=Mixer(1), critic=Judge(2))
    groups = _rewarded([[1.0, -1.0, 0.0, 0.0]] * 4)  # the second share has the mean
    report = taught.cycle(groups, infos_of(groups))
    assert report.updates["rl"].updates == 1
    assert int(_rl_state(taught)["rl.steps"]) == 1


@pytest.mark.parametrize("minibatches", [1, 2])
def test_a_turn_whose_rows_are_all_stale_moves_nothing_and_is_told_of(minibatches: int) -> None:
    student, critic = Mixer(1), Judge(2)
    settings = _config(
        discriminator={"text_errors": None}, policy_gradient={"stale_nats": 1e-6, "minibatches": minibatches}
    )
    taught = learner(settings, student=student, critic=critic)
    assert _cycle(taught, student, critic).updates["rl"].updates > 0
    before, weights = _rl_state(taught), [parameter.detach().clone() for parameter in student.parameters()]
    assert any(bool(value.any()) for name, value in before.items() if "exp_avg/" in name)
    late = scored_groups(Mixer(9), critic, range(4, 8), version=0)
    report = taught.cycle(late, infos_of(late))
    assert (report.plan.policy_gradient, report.plan.silent) == (1, True)
    assert taught._cadence.state.rl_turns == 1
    assert report.policy is not None
    assert report.policy.stale_terms == report.policy.actions * minibatches
    assert (report.updates["rl"].updates, report.updates["rl"].skipped) == (0, 0)
    assert _same(before, _rl_state(taught))
    for old, new in zip(weights, student.parameters(), strict=True):
        torch.testing.assert_close(new.detach(), old, rtol=0, atol=1e-9)  # DMD's rate is not quite 0


class Scripted:
    """An engine whose steps are what they are told to be; it makes every part and asks whether it is wanted."""

    def __init__(self, *steps: StepReport) -> None:
        self._steps = list(steps)

    def step(self, parts: Sequence[LossPart], objective: str, factor: float, wanted: Callable[[], bool]) -> StepReport:
        assert (objective, factor) == ("rl", 0.5)
        for part in parts:
            part()
        step = self._steps.pop(0)
        assert wanted() is not step.idle
        return step


def test_an_update_that_is_not_made_does_not_hide_what_the_one_before_it_did() -> None:
    """A policy that an update has thrown far away leaves the next one only stale rows."""
    steps = [StepReport(1e9, skipped=False), StepReport(math.inf, skipped=True), StepReport(0.0, False, idle=True)]
    for count, expected in ((1, 1e9), (2, math.inf), (3, math.inf)):
        updates = Updates(cast("Engine", Scripted(*steps)), "rl", count, version=0, rate=0.5)
        for _, step in zip(updates, steps, strict=False):
            updates.step([lambda: torch.zeros(())], lambda step=step: not step.idle)
        report = updates.report(SoloGang())
        assert report.gradient_norm == expected
        assert (report.updates, report.skipped) == (1, min(count - 1, 1))
        assert not updates.idle


# The floor of the rewards' scale ------------------------------------------------------------------------------------


def _spread(groups: Sequence[ScoredGroup]) -> Tensor:
    return within_std([GroupSummary(info.samples, info.reward_mean, info.reward_m2) for info in infos_of(groups)])


def _scaled(groups: Sequence[ScoredGroup], factor: float) -> list[ScoredGroup]:
    return [dataclasses.replace(scored, rewards=scored.rewards * np.float32(factor)) for scored in groups]


@pytest.mark.parametrize("cycles", [1, 100, 1000])
def test_noise_of_a_level_that_was_shut_is_never_taken_for_its_scale(cycles: int) -> None:
    groups = _rewarded(normal(4, 4, seed=3).tolist())
    signal, loud = RewardSignal(config()), _spread(groups)
    signal.follow(loud, (True,) * 3)
    before = signal.running_std
    noise = _scaled(groups, 0.01)
    for _ in range(cycles):
        signal.follow(_spread(noise), (False,) * 3)
    torch.testing.assert_close(signal.running_std, before)
    full, _ = signal.advantages(collate(groups, 0), loud, (True,) * 3)
    faint, _ = signal.advantages(collate(noise, 0), _spread(noise), (True,) * 3)
    assert float(faint.abs().max()) < 0.03 * float(full.abs().max())


@pytest.mark.parametrize("cycles", [1, 100, 1000])
def test_nor_is_that_of_an_open_level_that_says_nothing(cycles: int) -> None:
    groups = _rewarded(normal(4, 4, seed=3).tolist())
    signal, faint = RewardSignal(config()), _scaled(groups, 0.002)
    blind = _scaled(groups, 0.5 * SMALLEST_STD / float(_spread(groups).max()))
    signal.follow(_spread(groups), (True,) * 3)
    before = signal.running_std
    for _ in range(cycles):
        signal.follow(_spread(blind), (True,) * 3)
    torch.testing.assert_close(signal.running_std, before)
    advantages, _ = signal.advantages(collate(faint, 0), _spread(faint), (True,) * 3)
    assert 0 < float(advantages.abs().max()) < 0.03


def test_a_spread_below_the_smallest_is_no_signal_at_all() -> None:
    groups = _rewarded(normal(4, 4, seed=3).tolist())
    faint = _scaled(groups, 0.5 * SMALLEST_STD / float(_spread(groups).max()))
    signal = RewardSignal(config())
    signal.follow(_spread(faint), (True,) * 3)
    advantages, spread = signal.advantages(collate(faint, 0), _spread(faint), (True,) * 3)
    assert float(advantages.abs().max()) == 0
    assert spread == 0

"""The cadence automaton decides alone who learns when."""

from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advdmd_ray.config import Config
from advdmd_ray.config.objectives import CadenceSection
from advdmd_ray.learner.cadence import Cadence, Every, Phase, measures
from advdmd_ray.learner.health import Health, TextEvidence, initial_health, smoothed_health
from advdmd_ray.metrics.catalogue import PHASES


def _health(*leads: float, auc: float = 0.7) -> Health:
    """By 100 groups on either side, which lead so far over chance at each level."""
    evidence = TextEvidence((100.0,) * len(leads), leads, (25.0,) * len(leads))
    return Health(auc=(auc,) * len(leads), high=0.98, texts=(evidence, evidence), errors=3.0)


HEALTHY = _health(30.0, 30.0)
BLIND = _health(5.0, -5.0)
OVERPOWERING = _health(30.0, 30.0, auc=0.99)


def run(config: CadenceSection, health: Health, cycles: int) -> list[int]:
    cadence = Cadence(config, policy_gradient=True)
    return [cadence.plan(health).policy_gradient for _ in range(cycles)]


def test_the_curves_know_every_phase_in_its_order() -> None:
    assert get_args(Phase) == PHASES


def test_rl_waits_for_the_minimum_of_dmd_updates() -> None:
    turns = run(CadenceSection(warm_dmd_updates=5, ramp_interval=1), HEALTHY, 8)
    assert turns == [0, 0, 0, 0, 0, 1, 1, 1]


@given(every=st.integers(1, 9), rl=st.booleans())
def test_the_discriminator_is_measured_in_every_nth_cycle(every: int, rl: bool) -> None:
    tree = {"policy_gradient": {"enabled": rl}, "cadence": {"measure_cycles": every}}
    seen = [measures(Config.model_validate(tree), version) for version in range(30)]
    assert seen == [cycle % every == 0 for cycle in range(1, 31)]


def test_a_discriminator_rests_only_where_its_health_is_of_the_cycle() -> None:
    cadence = Cadence(CadenceSection(), policy_gradient=False)
    rests = [cadence.plan(OVERPOWERING, measured=measured).discriminator == 0 for measured in (True, False, True)]
    assert rests == [True, False, True]


def test_a_discriminator_that_is_not_measured_is_not_measured_at_all() -> None:
    without = {"policy_gradient": {"enabled": False}, "discriminator": {"auc_rows": 0}}
    assert not any(measures(Config.model_validate(without), version) for version in range(30))


@given(warm=st.integers(0, 9), dmd=st.integers(1, 4))
def test_the_gan_term_begins_in_the_cycle_that_has_so_many_dmd_updates_before_it(warm: int, dmd: int) -> None:
    cadence = Cadence(CadenceSection(warm_gan_updates=warm, dmd_updates=dmd), policy_gradient=False)
    begun = [cadence.plan(HEALTHY).gan for _ in range(12)]
    assert begun == [cycle * dmd >= warm for cycle in range(12)]


@given(warm=st.integers(0, 9), dmd=st.integers(1, 4), interval=st.sampled_from([1, 2, 8]), blind=st.integers(0, 4))
def test_groups_are_small_exactly_in_the_cycles_before_rl_can_begin(
    warm: int, dmd: int, interval: int, blind: int
) -> None:
    config = Config.model_validate(
        {
            "rollout": {"group_size": 16, "warm_group_size": 4, "groups_per_cycle": 8},
            "cadence": {"warm_dmd_updates": warm, "dmd_updates": dmd, "ramp_interval": interval},
        }
    )
    sizes = [config.group_size_at(cycle) for cycle in range(20)]
    first = run(config.cadence, HEALTHY, 20).index(1)
    assert sizes == [4] * first + [16] * (20 - first)
    assert [config.group_size_of(8 * cycle + place) for cycle in range(20) for place in (0, 7)] == [
        size for size in sizes for _ in range(2)
    ]
    # A discriminator that is blind at first puts RL off, and no turn has a small group.
    cadence = Cadence(config.cadence, policy_gradient=True)
    turns = [cadence.plan(BLIND if cycle < blind else HEALTHY).policy_gradient for cycle in range(20)]
    assert all(size == 16 for size, turn in zip(sizes, turns, strict=True) if turn)


def test_without_rl_all_groups_are_small_and_without_a_small_size_all_are_alike() -> None:
    sizes = {"group_size": 16, "warm_group_size": 4}
    without = Config.model_validate({"rollout": sizes, "policy_gradient": {"enabled": False}})
    assert {without.group_size_at(cycle) for cycle in (0, 1, 1000)} == {4}
    plain = Config.model_validate({"rollout": {"group_size": 16}})
    assert {plain.group_size_at(cycle) for cycle in (0, 1, 1000)} == {16}


def test_rl_waits_for_a_discriminator_that_sees() -> None:
    cadence = Cadence(CadenceSection(warm_dmd_updates=2, ramp_interval=1), policy_gradient=True)
    assert all(cadence.plan(BLIND).policy_gradient == 0 for _ in range(10))
    assert cadence.state.phase == "warm"
    assert cadence.plan(HEALTHY).policy_gradient == 1


def test_the_ramp_halves_its_interval_to_one_and_ends() -> None:
    config = CadenceSection(warm_dmd_updates=0, ramp_interval=4, ramp_rl_turns=2)
    turns = run(config, HEALTHY, 14)
    assert turns == [1, 0, 0, 0, 1, 0, 1, 0, 1, 1, 1, 1, 1, 1]


def test_the_phase_is_full_once_rl_runs_in_every_cycle() -> None:
    cadence = Cadence(CadenceSection(warm_dmd_updates=0, ramp_interval=2, ramp_rl_turns=1), policy_gradient=True)
    assert [cadence.plan(HEALTHY).phase for _ in range(3)] == ["full", "full", "full"]


def test_without_policy_gradient_the_run_stays_warm() -> None:
    cadence = Cadence(CadenceSection(warm_dmd_updates=0), policy_gradient=False)
    assert all(cadence.plan(HEALTHY).policy_gradient == 0 for _ in range(20))
    assert cadence.state.phase == "warm"


def test_a_run_that_goes_on_without_policy_gradient_makes_no_more_turns() -> None:
    before = Cadence(CadenceSection(warm_dmd_updates=0, ramp_interval=1), policy_gradient=True)
    before.plan(HEALTHY)
    after = Cadence(CadenceSection(warm_dmd_updates=0, ramp_interval=1), policy_gradient=False)
    after.state = before.state
    assert [after.plan(HEALTHY).policy_gradient for _ in range(3)] == [0, 0, 0]


def test_a_run_that_goes_on_with_a_longer_warm_phase_makes_no_turn_before_its_end() -> None:
    before = Cadence(CadenceSection(warm_dmd_updates=2, ramp_interval=1), policy_gradient=True)
    assert [before.plan(HEALTHY).policy_gradient for _ in range(5)] == [0, 0, 1, 1, 1]
    after = Cadence(CadenceSection(warm_dmd_updates=8, ramp_interval=1), policy_gradient=True)
    after.restore(before.to_facts())
    assert [after.plan(HEALTHY).policy_gradient for _ in range(5)] == [0, 0, 0, 1, 1]


def test_a_due_turn_without_an_open_level_is_gated_and_stays_due() -> None:
    cadence = Cadence(CadenceSection(warm_dmd_updates=0, ramp_interval=1), policy_gradient=True)
    cadence.plan(HEALTHY)
    assert cadence.plan(BLIND).policy_gradient == 0
    assert cadence.plan(BLIND).gated
    plan = cadence.plan(HEALTHY)
    assert (plan.policy_gradient, plan.gated) == (1, False)


def test_a_run_that_is_stuck_in_warm_says_that_its_turns_are_gated() -> None:
    cadence = Cadence(CadenceSection(warm_dmd_updates=2), policy_gradient=True)
    plans = [cadence.plan(BLIND) for _ in range(4)]
    assert [plan.gated for plan in plans] == [False, False, True, True]
    assert {plan.phase for plan in plans} == {"warm"}
    never = Cadence(CadenceSection(warm_dmd_updates=0), policy_gradient=False)
    assert not never.plan(BLIND).gated


def test_an_overpowering_discriminator_rests() -> None:
    cadence = Cadence(CadenceSection(), policy_gradient=True)
    assert cadence.plan(OVERPOWERING).discriminator == 0
    assert cadence.plan(HEALTHY).discriminator > 0


@given(cut=st.integers(0, 30), warm=st.integers(0, 5), interval=st.sampled_from([1, 2, 3, 8]), dmd=st.integers(1, 3))
def test_a_restored_automaton_continues_as_if_never_stopped(cut: int, warm: int, interval: int, dmd: int) -> None:
    config = CadenceSection(warm_dmd_updates=warm, ramp_interval=interval, dmd_updates=dmd)
    healths = [HEALTHY if i % 5 else BLIND for i in range(40)]
    straight = Cadence(config, policy_gradient=True)
    expected = [straight.plan(health) for health in healths]
    before = Cadence(config, policy_gradient=True)
    plans = [before.plan(health) for health in healths[:cut]]
    after = Cadence(config, policy_gradient=True)
    after.restore(before.to_facts())
    assert plans + [after.plan(health) for health in healths[cut:]] == expected


def test_every_is_due_at_its_multiples_only() -> None:
    every = Every(3)
    assert [every.due(version) for version in range(7)] == [False, False, False, True, False, False, True]


def test_every_0_cycles_is_never() -> None:
    assert not any(Every(0).due(version) for version in range(7))


@pytest.mark.parametrize("auc", [0.0, 0.5, 0.7, 1.0])
def test_an_oracles_last_level_is_open_and_the_others_shut_whatever_the_auc(auc: float) -> None:
    health = initial_health(Config.model_validate({"reward": {"kind": "oracle"}, "data": {"source": "shapes"}}))
    measured = smoothed_health(health, (auc,) * 4, [], decay=0.0)
    assert measured.open_levels == (False, False, False, True)
    cadence = Cadence(CadenceSection(warm_dmd_updates=0, ramp_interval=1), policy_gradient=True)
    assert cadence.plan(measured).policy_gradient == 1


def test_a_discriminator_that_is_not_used_is_never_updated() -> None:
    cadence = Cadence(CadenceSection(discriminator_updates=0, dmd_updates=3), policy_gradient=False)
    assert {cadence.plan(HEALTHY).discriminator for _ in range(5)} == {0}


def test_a_level_that_no_advantage_reads_does_not_start_rl() -> None:
    cadence = Cadence(CadenceSection(warm_dmd_updates=0, ramp_interval=1), policy_gradient=True)
    only_first_open = _health(30.0, 5.0)
    assert cadence.plan(only_first_open, used=(False, True)).policy_gradient == 0
    assert cadence.plan(only_first_open, used=(True, False)).policy_gradient == 1


@given(
    before=st.integers(0, 20), nothing=st.integers(1, 4), warm=st.integers(0, 3), interval=st.sampled_from([1, 2, 8])
)
def test_a_turn_that_came_to_nothing_counts_for_nothing_and_stays_due(
    before: int, nothing: int, warm: int, interval: int
) -> None:
    """The automaton goes on as if no advantage had been heard in those cycles, but says that the work was done."""
    section = CadenceSection(warm_dmd_updates=warm, ramp_interval=interval, ramp_rl_turns=2)
    withdrawn, unheard = (Cadence(section, policy_gradient=True) for _ in range(2))
    for _ in range(before):
        assert withdrawn.plan(HEALTHY) == unheard.plan(HEALTHY)
    for _ in range(nothing):
        plan, other = withdrawn.plan(HEALTHY), unheard.plan(HEALTHY, heard=False)
        if plan.policy_gradient:
            assert withdrawn.withdraw(plan) == replace(other, policy_gradient=1)
        assert withdrawn.state == unheard.state
    assert withdrawn.plan(HEALTHY) == unheard.plan(HEALTHY)


def test_a_cycle_without_any_advantage_is_no_turn_counts_for_nothing_and_stays_due() -> None:
    cadence = Cadence(CadenceSection(warm_dmd_updates=0, ramp_interval=2), policy_gradient=True)
    silent = [cadence.plan(HEALTHY, heard=False) for _ in range(3)]
    assert [(plan.policy_gradient, plan.gated, plan.silent, plan.phase) for plan in silent] == [
        (0, False, True, "warm")
    ] * 3
    assert (cadence.state.rl_turns, cadence.state.dmd_since_rl) == (0, 3)
    shut = cadence.plan(BLIND, heard=False)
    assert (shut.gated, shut.silent) == (True, False)
    assert cadence.plan(HEALTHY).policy_gradient == 1
    assert cadence.state.rl_turns == 1

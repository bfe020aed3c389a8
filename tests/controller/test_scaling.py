"""Workers that are added and removed while a run trains: nothing is lost or made twice on account of it."""

from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advdmd_ray.config import Config
from advdmd_ray.controller.staff import Staff, number_of, role_of
from fake_shell import RESIDENT, Stage

randoms = st.integers(0, 2**32).map(Random)
counts = st.fixed_dictionaries({}, optional={"rollout": st.integers(1, 6), "reward": st.integers(1, 3)})
plans = st.lists(st.tuples(st.floats(0, 12), counts), max_size=5).map(
    lambda plan: sorted(plan, key=lambda wish: wish[0])
)


def config(cycles: int = 8, **sections: dict[str, Any]) -> Config:
    tree: dict[str, dict[str, Any]] = {
        "run": {"cycles": cycles},
        "rollout": {"actors": 2, "group_size": 4, "groups_per_cycle": 4, "max_policy_age": 1, "lease_s": 1e6},
        "reward": {"workers": 1},
        "buffer": {"take_timeout_s": 1e3},
        "learner": {"engine": "torch", "cycle_timeout_s": 100.0, "checkpoint_cycles": 50},
        "evaluation": {"grid_cycles": 0},
        "quarantine": {"processes": 100},
    }
    for name, values in sections.items():
        tree[name] = tree.get(name, {}) | values
    return Config.model_validate(tree)


def made(stage: Stage) -> dict[int, set[tuple[int, int, int]]]:
    """Prompt, seed and student's version of every lease, by ordinal."""
    found: dict[int, set[tuple[int, int, int]]] = {}
    for lease in stage.shell.leases:
        found.setdefault(lease.ordinal, set()).add((lease.prompt_id, lease.seed, lease.policy_version))
    return found


# Laws ---------------------------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(
    random=randoms,
    plan=plans,
    lose=st.sampled_from([0.0, 0.2]),
    hand_over_s=st.sampled_from([None, 0.5, 3.0]),
    bring_s=st.sampled_from([0.0, 1.0, 7.0]),
    lease_s=st.sampled_from([6.0, 1e6]),
)
def test_every_ordinal_settles_once_however_the_workers_come_and_go(
    random: Random, plan: list[Any], lose: float, hand_over_s: float | None, bring_s: float, lease_s: float
) -> None:
    stage = Stage(
        config(rollout={"lease_s": lease_s}),
        wishes=plan,
        random=random,
        lose=lose,
        hand_over_s=hand_over_s,
        bring_s=bring_s,
    )
    assert stage.run() == 8
    assert stage.shell.cycles == [tuple(range(first, first + 4)) for first in range(0, 32, 4)]
    assert max(stage.shell.ages) <= 1
    assert stage.hub.total("advdmd_buffer_commits_total") == 32
    assert stage.hub.total("advdmd_run_workers_lost_total") == stage.shell.deaths
    if lose == 0 and lease_s == 1e6:
        assert len(stage.shell.leases) == 32, "who leaves finishes what it has at hand"
        assert stage.hub.total("advdmd_buffer_duplicates_total") == 0
        assert stage.shell.replaced == []


@settings(max_examples=20)
@given(random=randoms, plan=plans)
def test_the_run_comes_to_what_was_asked_for_last_under_the_lowest_names(random: Random, plan: list[Any]) -> None:
    stage = Stage(config(cycles=25), wishes=plan, random=random)
    stage.run()
    asked = {"rollout": 2, "reward": 1} | stage.wishes.wanted()
    _, staff = stage.wishes.told[-1]
    assert staff == {role: Staff(count, count, 0, 0) for role, count in asked.items()}
    for role, names in (("rollout", stage.shell.rollout_workers), ("reward", stage.shell.reward_workers)):
        assert len(names) == asked[role]
        most = max(sum(each.leaving + each.asked for each in [told[role]]) for _, told in stage.wishes.told)
        assert all(number_of(name) < most for name in names)
    up = {sample.labels[0][1]: sample.value for sample in stage.hub.samples if sample.name == "advdmd_run_workers"}
    assert up == {**asked, "learner": 1}


@settings(max_examples=20)
@given(random=randoms, plan=plans)
def test_at_age_0_the_same_is_made_and_learned_as_by_a_fixed_number_of_workers(random: Random, plan: list[Any]) -> None:
    run = config(rollout={"max_policy_age": 0})
    scaled, fixed = Stage(run, wishes=plan, random=random, hand_over_s=0.5), Stage(run)
    assert scaled.run() == fixed.run()
    assert scaled.shell.cycles == fixed.shell.cycles
    assert made(scaled) == made(fixed)
    assert all(len(of_an_ordinal) == 1 for of_an_ordinal in made(fixed).values())


# More ---------------------------------------------------------------------------------------------------------------


def test_a_new_worker_gets_work_once_it_is_up_and_nobody_waits_for_it() -> None:
    stage = Stage(config(cycles=20), wishes=[(5.0, {"rollout": 3})], bring_s=15.0)
    stage.run()
    first = min(at for at, worker in stage.shell.given if worker == "rollout-2")
    assert 20.0 <= first < 23.0
    others = [at for at, worker in stage.shell.given if worker != "rollout-2" and 5.0 <= at < 20.0]
    assert len(others) > 10
    told = [staff["rollout"] for at, staff in stage.wishes.told if 6.0 <= at < 19.0]
    assert set(told) == {Staff(asked=3, up=2, coming=1, leaving=0)}


def test_a_worker_without_room_is_told_of_and_the_run_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    run = config(cycles=20, ray={"start_timeout_s": 10.0})
    stage = Stage(run, wishes=[(2.0, {"rollout": 9})], bring_s=1e6)
    assert stage.run() == 20
    assert {worker for _, worker in stage.shell.given} == {"rollout-0", "rollout-1"}
    assert "rollout-8 is not up after 10 s (no room?) and is started anew; the others go on" in caplog.messages


def test_workers_that_are_not_up_when_the_loops_begin_are_taken_in_as_they_come() -> None:
    late = {"rollout-1": 12.0, "rollout-2": 1e6, "reward-1": 5.0}
    stage = Stage(config(cycles=20, rollout={"actors": 3}, reward={"workers": 2}), late=late)
    assert stage.run() == 20
    began = {worker: at for at, worker in reversed(stage.shell.given)}
    assert began["rollout-0"] < 1.0
    assert 12.0 <= began["rollout-1"] < 14.0
    assert "rollout-2" not in began
    assert stage.wishes.told[0][1] == {"rollout": Staff(3, 1, 2, 0), "reward": Staff(2, 1, 1, 0)}
    assert stage.wishes.told[-1][1] == {"rollout": Staff(3, 2, 1, 0), "reward": Staff(2, 2, 0, 0)}
    assert stage.hub.total("advdmd_run_role_seconds_total", role="rollout", state="down") > 12.0
    assert stage.shell.replaced == []


# Fewer --------------------------------------------------------------------------------------------------------------


def test_who_leaves_gets_no_more_work_finishes_what_it_has_and_is_dismissed() -> None:
    stage = Stage(config(cycles=20), wishes=[(5.1, {"rollout": 1})], rollout_s=4.0, hand_over_s=3.0)
    assert stage.run() == 20
    assert max(at for at, worker in stage.shell.given if worker == "rollout-1") < 6.0
    ((dismissed, worker),) = stage.shell.dismissed
    assert worker == "rollout-1"
    leaving = [at for at, staff in stage.wishes.told if staff["rollout"].leaving]
    assert leaving
    assert dismissed - 1.0 <= leaving[-1] <= dismissed
    assert stage.shell.deaths == 0
    assert len(stage.shell.leases) == 80
    assert stage.hub.total("advdmd_run_workers_lost_total") == 0
    assert stage.shell.rollout_workers == ("rollout-0",)


def test_an_idle_worker_is_dismissed_at_once() -> None:
    stage = Stage(config(rollout={"max_policy_age": 0}), wishes=[(10.0, {"rollout": 1})], cycle_s=30.0)
    stage.run()
    ((dismissed, worker),) = stage.shell.dismissed
    assert worker == "rollout-1"
    assert dismissed <= 11.0


def test_those_that_are_not_up_leave_first_and_then_the_highest_numbers() -> None:
    wishes = [(1.0, {"rollout": 6}), (3.0, {"rollout": 4}), (5.0, {"rollout": 2})]
    stage = Stage(config(cycles=20, rollout={"actors": 4}), wishes=wishes, bring_s=1e6, late={"rollout-1": 1e6})
    stage.run()
    assert {worker for at, worker in stage.shell.dismissed if at < 4.0} == {"rollout-4", "rollout-5"}
    assert {worker for at, worker in stage.shell.dismissed if at >= 4.0} == {"rollout-1", "rollout-3"}


def test_who_was_to_leave_is_kept_when_more_are_asked_for_again() -> None:
    wishes = [(5.1, {"rollout": 1, "reward": 1}), (6.1, {"rollout": 3, "reward": 2})]
    stage = Stage(
        config(cycles=20, rollout={"actors": 3}, reward={"workers": 2}), wishes=wishes, rollout_s=6.0, hand_over_s=1.0
    )
    assert stage.run() == 20
    assert [worker for _, worker in stage.shell.dismissed if role_of(worker) == "rollout"] == []
    assert {worker for at, worker in stage.shell.given if at > 12.0} == {"rollout-0", "rollout-1", "rollout-2"}


def test_a_worker_that_dies_while_it_leaves_is_not_replaced_and_its_work_is_made_by_others() -> None:
    stage = Stage(config(cycles=20), wishes=[(5.1, {"rollout": 1})], rollout_s=8.0, dead=["rollout-1"])
    assert stage.run() == 20
    assert [worker for _, worker in stage.shell.dismissed] == ["rollout-1"]
    assert stage.shell.replaced == []
    assert stage.hub.total("advdmd_run_workers_lost_total", role="rollout") == 1
    assert stage.hub.total("advdmd_rollout_leases_reissued_total", reason="lost") == 1


@pytest.mark.parametrize(("role", "worker"), [("rollout", "rollout-1"), ("reward", "reward-1")])
def test_a_worker_that_does_not_finish_within_a_lease_is_ended_as_one_that_is_lost(role: str, worker: str) -> None:
    at = 2.0 if role == "rollout" else 8.0
    run = config(cycles=20, rollout={"lease_s": 12.0}, reward={"workers": 2})
    # Work of 6 seconds is unusual after 18 of them, which is later than the lease that a worker has to leave.
    stage = Stage(run, wishes=[(at, {role: 1})], stuck=[worker], rollout_s=6.0)
    assert stage.run() == 20
    ((dismissed, name),) = stage.shell.dismissed
    assert name == worker
    assert 14.0 <= dismissed < at + 12.0 + 2.0
    assert stage.shell.replaced == []
    assert stage.hub.total("advdmd_run_workers_lost_total", role=role) == 1
    assert stage.hub.total("advdmd_buffer_commits_total") == 80


def test_a_name_is_free_again_and_what_its_last_process_had_does_not_count() -> None:
    stage = Stage(config(cycles=30), wishes=[(4.0, {"rollout": 1}), (12.0, {"rollout": 2})])
    assert stage.run() == 30
    assert [worker for _, worker in stage.shell.dismissed] == ["rollout-1"]
    given = [at for at, worker in stage.shell.given if worker == "rollout-1"]
    assert any(at < 4.0 for at in given)
    assert any(at > 13.0 for at in given)
    assert not any(6.0 < at < 13.0 for at in given)
    sizes = [
        sample.value
        for sample in stage.hub.samples
        if (sample.name, *sample.labels) == ("advdmd_run_resident_memory_bytes", ("role", "rollout"))
    ]
    assert set(sizes) == {RESIDENT, 2 * RESIDENT}
    assert sizes[-1] == 2 * RESIDENT


def test_time_counts_for_those_who_are_there() -> None:
    fixed = Stage(config(cycles=20))
    fixed.run()
    stage = Stage(config(cycles=20), wishes=[(2.0, {"rollout": 1, "reward": 3})])
    stage.run()

    def seconds(of: Stage, role: str) -> float:
        return of.hub.total("advdmd_run_role_seconds_total", role=role) / of.clock.now

    assert seconds(fixed, "rollout") == pytest.approx(2.0, rel=0.05)
    assert seconds(stage, "rollout") == pytest.approx(1.0, rel=0.1)
    assert seconds(stage, "reward") == pytest.approx(3.0, rel=0.1)

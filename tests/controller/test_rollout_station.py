"""An actor's network has its next lease while its hands have the last group, and nothing ages or is lost by that."""

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advdmd_ray.config import Config
from advdmd_ray.controller.protocols import Task
from advdmd_ray.errors import WorkerLostError
from advdmd_ray.planning.virtual import Costs
from advdmd_ray.stations.records import Lease
from advdmd_ray.stations.weights.store import Published
from fake_shell import FakeShell, Stage
from virtual_stage import VirtualStage


def stage_of(
    *, actors: int = 1, leases: int = 2, lease_s: float = 1e6, age: int = 3, cycles: int = 4, **shell: Any
) -> Stage:
    return Stage(
        Config.model_validate(
            {
                "run": {"cycles": cycles},
                "rollout": {
                    "actors": actors,
                    "leases": leases,
                    "group_size": 4,
                    "groups_per_cycle": 2,
                    "max_policy_age": age,
                    "lease_s": lease_s,
                },
                "reward": {"workers": 2},
                "buffer": {"take_timeout_s": 1e5},
                "learner": {"engine": "torch", "cycle_timeout_s": 1e5, "checkpoint_cycles": 50},
                "evaluation": {"grid_cycles": 50},
            }
        ),
        **shell,
    )


@given(
    leases=st.integers(1, 4),
    hand_over=st.sampled_from([0.25, 1.0, 2.5, 9.0]),
    groups=st.integers(3, 6),
)
@settings(max_examples=20)
def test_an_actors_pace_is_that_of_its_network_or_of_its_hands(leases: int, hand_over: float, groups: int) -> None:
    costs = Costs(generate=1.0, hand_over=hand_over, score=0.0, cycle=0.0)
    stage = VirtualStage(costs, actors=1, groups=groups, cycles=25, age=2, leases=leases)
    pace = stage.run() / (25 * groups)
    assert pace == pytest.approx(max(1.0, (1.0 + hand_over) / leases), rel=0.05)


@given(leases=st.integers(2, 4), actors=st.integers(1, 5), generate=st.floats(0.2, 5.0))
@settings(max_examples=20)
def test_groups_that_are_handed_over_at_once_have_the_ages_of_one_lease(
    leases: int, actors: int, generate: float
) -> None:
    def ages(leases: int) -> list[float]:
        stage = VirtualStage(
            Costs(generate=generate, score=0.1, cycle=1.0), actors=actors, groups=4, cycles=8, age=3, leases=leases
        )
        stage.run()
        return [sample.value for sample in stage.hub.samples if sample.name == "advdmd_buffer_policy_age"]

    assert ages(leases) == ages(1)


def test_the_time_of_a_lease_begins_with_its_work_and_not_behind_another() -> None:
    # Two groups at hand take 5 + 4 and 5 + 4 seconds, one behind the other 14; each has its own 9 and a little.
    stage = stage_of(rollout_s=5.0, hand_over_s=4.0, lease_s=10.0)
    most = 0
    wait = stage.shell.wait

    def watched(timeout_s: float) -> list[Task]:
        nonlocal most
        most = max(most, len(stage.shell.at_hand["rollout-0"]))
        return wait(timeout_s)

    stage.shell.wait = watched  # pyright: ignore[reportAttributeAccessIssue]
    assert stage.run() == 4
    assert most == 2
    assert stage.hub.total("advdmd_rollout_leases_reissued_total") == 0


class _DiesOnce(FakeShell):
    """The only actor dies while its network and its hands have a group each."""

    died_with: frozenset[Lease] = frozenset()

    def wait(self, timeout_s: float) -> list[Task]:
        at_hand = self.at_hand["rollout-0"]
        if not self.died_with and len(at_hand) == 2 and self._handing_over:
            self.died_with = frozenset(at_hand)
            self.ends("rollout-0", self._processes["rollout-0"])
        return super().wait(timeout_s)


def test_an_actor_that_dies_loses_all_that_it_has_at_hand_and_all_of_it_is_issued_again() -> None:
    stage = stage_of(hand_over_s=0.9)
    shell = _DiesOnce(stage.config, stage.clock, hand_over_s=0.9)
    assert stage.over(shell).run() == 4
    again = [lease for lease in shell.leases if lease.attempt]
    assert {lease.ordinal for lease in again} == {lease.ordinal for lease in shell.died_with}
    assert {lease.seed for lease in again} == {lease.seed for lease in shell.died_with}
    assert len(again) == 2
    assert stage.hub.total("advdmd_run_workers_lost_total", role="rollout") == 1
    assert stage.hub.total("advdmd_rollout_leases_reissued_total", reason="lost") == 2


class _BreaksHands(FakeShell):
    """Every hand-over of the first actor ends with its loss, its rollouts do not."""

    def outcome(self, task: Task) -> Any:
        process, handing = task.process, task in self._handing_over
        value = super().outcome(task)
        if handing and task.worker == "rollout-0":
            self.ends(task.worker, process)
            raise WorkerLostError(f"{task.worker}: its process ended")
        return value


def test_an_actor_that_never_hands_anything_over_costs_only_its_share() -> None:
    stage = stage_of(actors=2, hand_over_s=0.5)
    shell = _BreaksHands(stage.config, stage.clock, hand_over_s=0.5)
    assert stage.over(shell).run() == 4
    assert stage.frontier.first_unsettled == 8


class _HangsOnce(FakeShell):
    """The first hand-over never ends."""

    hangs: Task | None = None

    def hand_over(self, generated: Task, lease: Lease) -> Task:
        task = super().hand_over(generated, lease)
        if self.hangs is None:
            self.hangs = task
            self._ready_at[task] = float("inf")
        return task


def test_a_hand_over_that_hangs_costs_one_lease_and_its_actor_is_replaced() -> None:
    stage = stage_of(lease_s=10.0)
    shell = _HangsOnce(stage.config, stage.clock, hand_over_s=0.5)
    assert stage.over(shell).run() == 4
    assert {lease.ordinal for lease in shell.leases if lease.attempt} <= {0, 1, 2}
    assert stage.hub.total("advdmd_rollout_leases_reissued_total", reason="expired") == 1
    assert shell.replaced == ["rollout-0"]


def test_hands_that_are_slower_than_a_lease_are_no_reason_to_give_an_actor_up_for_ever() -> None:
    # Its network is quick, and says nothing of how long its hands may take.
    stage = stage_of(leases=1, rollout_s=0.5, hand_over_s=9.0, lease_s=2.0)
    assert stage.run() == 4
    assert len(stage.shell.replaced) <= 3


class _GrowsAtFour(FakeShell):
    """The groups from ordinal 4 on take long."""

    def generate(self, worker: str, lease: Lease, student: Published) -> Task:
        task = super().generate(worker, lease, student)
        self._ready_at[task] += 20.0 * (lease.ordinal >= 4)
        return task


def test_groups_that_grow_beyond_a_lease_and_all_that_was_usual_are_made_at_last() -> None:
    stage = stage_of(actors=2, lease_s=2.0)
    shell = _GrowsAtFour(stage.config, stage.clock)
    assert stage.over(shell).run() == 4
    assert shell.cycles == [(0, 1), (2, 3), (4, 5), (6, 7)]


class _StuckOnAnOldGroup(FakeShell):
    """The first attempt at ordinal 0 is only slow, and the second never ends."""

    def generate(self, worker: str, lease: Lease, student: Published) -> Task:
        task = super().generate(worker, lease, student)
        if not lease.ordinal:
            self._ready_at[task] += math.inf if lease.attempt else 2.5
        return task


def test_an_actor_that_is_stuck_at_a_group_that_another_has_made_is_replaced() -> None:
    # Nobody waits for its group any more, and yet it must get work again.
    stage = stage_of(actors=2, lease_s=4.0, age=0, cycles=20)
    shell = _StuckOnAnOldGroup(stage.config, stage.clock, rollout_s=3.0)
    assert stage.over(shell).run() == 20
    assert [lease.attempt for lease in shell.leases if not lease.ordinal] == [0, 1]
    assert shell.replaced == ["rollout-1"]


def test_seconds_are_told_of_the_network_and_of_the_hands() -> None:
    stage = stage_of(rollout_s=2.0, hand_over_s=0.5)
    stage.run()
    assert stage.hub.total("advdmd_rollout_hand_over_seconds") == pytest.approx(0.5 * len(stage.shell.leases))


def test_an_actor_is_busy_while_it_cannot_take_a_lease() -> None:
    # Its hands are slower than its network: with both at work or all hands full it is as busy as it can be.
    stage = stage_of(rollout_s=1.0, hand_over_s=8.0)
    stage.run()
    busy, waiting = (
        stage.hub.total("advdmd_run_role_seconds_total", role="rollout", state=state) for state in ("busy", "waiting")
    )
    assert busy > 10 * waiting

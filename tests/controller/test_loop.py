"""The controller in single cases: workers that finish in any order, die and hang. `test_schedules.py` has its laws."""

import math
from collections.abc import Sequence
from itertools import pairwise
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advdmd_ray.config import Config
from advdmd_ray.controller.protocols import Reference, Task
from advdmd_ray.errors import BytesLostError, DeadlineError, GangLostError, WeightsMismatchError, WorkerLostError
from advdmd_ray.metrics.series import Sample
from advdmd_ray.stations.records import GroupInfo, Lease, WorkReport
from advdmd_ray.stations.weights.store import Published
from fake_shell import GROUP_BYTES, FakeShell, RecordingHub, Stage

randoms = st.integers(0, 2**32).map(Random)


def config(**sections: dict[str, Any]) -> Config:
    tree: dict[str, dict[str, Any]] = {
        "run": {"cycles": 4},
        "rollout": {"actors": 3, "group_size": 4, "groups_per_cycle": 2, "max_policy_age": 1, "lease_s": 1e6},
        "reward": {"workers": 2},
        "buffer": {"take_timeout_s": 60.0},
        "learner": {"engine": "torch", "cycle_timeout_s": 100.0, "checkpoint_cycles": 50},
        "evaluation": {"grid_cycles": 50},
    }
    for name, values in sections.items():
        tree[name] = tree.get(name, {}) | values
    return Config.model_validate(tree)


# Pace ---------------------------------------------------------------------------------------------------------------


def test_a_run_in_which_nothing_can_move_ends_at_once() -> None:
    stage = Stage(config())
    stage.buffer._max_bytes = GROUP_BYTES  # half of what a cycle takes
    with pytest.raises(DeadlineError, match=r"nothing can begin after version 0: the buffer holds 1 groups"):
        stage.run()
    assert stage.clock.now < 10


def test_idle_actors_count_as_blocked_while_the_age_cap_holds_them_back() -> None:
    stage = Stage(config(rollout={"actors": 8, "max_policy_age": 0}), cycle_s=50.0)
    stage.run()
    seconds = {
        state: stage.hub.total("advdmd_run_role_seconds_total", role="rollout", state=state)
        for state in ("busy", "waiting", "blocked")
    }
    assert seconds["blocked"] > 10 * seconds["busy"] > 0


# Loss ---------------------------------------------------------------------------------------------------------------


class _LoseOnce(FakeShell):
    """Loses the worker of its `at`-th outcome of a kind."""

    kind, at = "rollout", 1
    error: type[WorkerLostError] = WorkerLostError

    def outcome(self, task: Task) -> Any:
        value = super().outcome(task)
        if task.worker.startswith(self.kind):
            self.at -= 1
            if self.at == 0:
                raise self.error(f"{task.worker}: its process ended")
        return value


@pytest.mark.parametrize("kind", ["rollout", "reward"])
@pytest.mark.parametrize("at", [1, 2, 5])
def test_the_work_of_a_lost_worker_is_done_again_with_the_same_seeds(kind: str, at: int) -> None:
    stage = Stage(config(rollout={"actors": 1}, reward={"workers": 1}))
    shell = _LoseOnce(stage.config, stage.clock)
    shell.kind, shell.at = kind, at
    assert stage.over(shell).run() == 4
    again = [lease for lease in shell.leases if lease.attempt == 1]
    assert len(again) == 1
    first = next(lease for lease in shell.leases if lease.ordinal == again[0].ordinal and lease.attempt == 0)
    assert (first.prompt_id, first.seed) == (again[0].prompt_id, again[0].seed)
    assert stage.hub.total("advdmd_run_workers_lost_total", role=kind) == 1
    assert stage.hub.total("advdmd_rollout_leases_reissued_total", reason="lost") == 1


def test_a_lost_worker_does_not_count_as_busy_while_it_has_no_work() -> None:
    stage = Stage(config(rollout={"max_policy_age": 0}))
    shell = _LoseOnce(stage.config, stage.clock, cycle_s=50.0)
    # The second worker is lost; the first does its work again, and the second idles through a long cycle.
    shell.kind, shell.at = "reward", 2
    stage.over(shell).run()
    busy = stage.hub.total("advdmd_run_role_seconds_total", role="reward", state="busy")
    assert busy <= shell.scored * 2.0


@pytest.mark.parametrize("at", [1, 3])
def test_the_loss_of_the_learner_ends_the_run(at: int) -> None:
    stage = Stage(config())
    shell = _LoseOnce(stage.config, stage.clock)
    shell.kind, shell.at = "learner", at
    with pytest.raises(WorkerLostError, match=r"learner: its process ended; the learner's gang cannot go on"):
        stage.over(shell).run()


class _StandsStillAfterTheFetch(FakeShell):
    """The driver does, once, for longer than a cycle may take; the gang waits for it."""

    stood = False

    def outcome(self, task: Task) -> Any:
        if task.worker == "learner" and self._outcomes[task] == () and not self.stood:
            self.stood = True
            self.clock.now += 2 * self.config.learner.cycle_timeout_s
        return super().outcome(task)


def test_a_gang_that_waits_for_a_driver_that_stood_still_is_not_lost() -> None:
    stage = Stage(config())
    shell = _StandsStillAfterTheFetch(stage.config, stage.clock)
    assert stage.over(shell).run() == 4
    assert shell.stood


class _LoseBytesOnce(_LoseOnce):
    kind = "reward"
    error = BytesLostError


def test_bytes_that_are_gone_before_they_are_scored_are_made_again_and_no_worker_counts_as_dead() -> None:
    stage = Stage(config(rollout={"actors": 1}, reward={"workers": 1}))
    assert stage.over(_LoseBytesOnce(stage.config, stage.clock)).run() == 4
    assert stage.hub.total("advdmd_run_workers_lost_total") == 0
    assert stage.hub.total("advdmd_rollout_leases_reissued_total", reason="lost") == 1


class _NothingLasts(FakeShell):
    def fetch(self, groups: Sequence[tuple[GroupInfo, Reference]]) -> Task:
        self.gone.append(groups[0][0].ordinal)
        return self._start("learner", (self.gone[-1],), seconds=0.0)


def test_groups_that_are_gone_at_every_fetch_end_the_run() -> None:
    stage = Stage(config())
    shell = _NothingLasts(stage.config, stage.clock)
    with pytest.raises(WorkerLostError, match=r"gone 5 times in a row; see the nodes"):
        stage.over(shell).run()
    assert shell.gone == [0] * 5
    assert shell.cycles == []


@given(random=randoms)
def test_ages_are_those_of_the_groups_that_are_trained_on(random: Random) -> None:
    stage = Stage(config(rollout={"max_policy_age": 0}), random=random, gone=1.0)
    stage.run()
    assert sorted(stage.shell.gone) == list(range(8))
    ages = [sample for sample in stage.hub.samples if sample.name == "advdmd_buffer_policy_age"]
    assert len(ages) == 8


# Deadlines ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lease_s", [5.0, 1e6])
def test_an_actor_that_hangs_however_often_it_is_replaced_ends_the_run_with_its_name(lease_s: float) -> None:
    stage = Stage(config(rollout={"actors": 1, "lease_s": lease_s}), hang=["rollout-0"])
    with pytest.raises(WorkerLostError, match=r"rollout-0 was lost 5 times in a row.*every rollout worker"):
        stage.run()
    assert stage.shell.replaced == ["rollout-0"] * 4


def test_a_stuck_actor_that_answers_ends_the_run_with_its_name_and_ordinal() -> None:
    stage = Stage(config(rollout={"actors": 1}), stuck=["rollout-0"])
    with pytest.raises(DeadlineError, match=r"6\d s: .*ordinal 0 .*rollout-0"):
        stage.run()
    assert stage.shell.replaced == []
    assert set(stage.shell.pinged) >= {"rollout-0", "reward-0", "reward-1", "learner"}, "idle workers are asked, too"


@pytest.mark.parametrize("lease_s", [5.0, 1e6])
def test_a_reward_worker_that_always_hangs_ends_the_run_though_rollouts_go_on(lease_s: float) -> None:
    stage = Stage(config(rollout={"lease_s": lease_s}, reward={"workers": 1}), hang=["reward-0"])
    with pytest.raises(WorkerLostError, match=r"reward-0 was lost 5 times in a row.*every reward worker"):
        stage.run()
    assert stage.clock.now < 120.0


@pytest.mark.parametrize("worker", ["rollout-0", "reward-0"])
def test_a_worker_that_dies_at_every_task_ends_the_run(worker: str) -> None:
    stage = Stage(config(rollout={"actors": 1}, reward={"workers": 1}), dead=[worker])
    with pytest.raises(WorkerLostError, match=rf"{worker} was lost 5 times in a row"):
        stage.run()


def test_a_cycle_that_takes_too_long_ends_the_run() -> None:
    stage = Stage(config(rollout={"max_policy_age": 3}), stuck=["learner"])
    with pytest.raises(GangLostError, match=r"10\d s: the learner.* version 0"):
        stage.run()


def test_a_gang_that_says_nothing_is_lost_long_before_its_work_takes_too_long() -> None:
    run = config(rollout={"max_policy_age": 3}, learner={"cycle_timeout_s": 3600.0, "hang_s": 30.0})
    stage = Stage(run, hang=["learner"])
    with pytest.raises(GangLostError, match=r"a learner rank has not answered for 30 s; .*cannot go on"):
        stage.run()
    assert 25.0 <= stage.clock.now <= 40.0


def test_a_gang_that_answers_is_left_to_its_work() -> None:
    stage = Stage(config(run={"cycles": 2}, learner={"hang_s": 1.0, "cycle_timeout_s": 3600.0}), cycle_s=200.0)
    assert stage.run() == 2


def test_the_cycles_deadline_is_not_moved_by_rollouts() -> None:
    run = config(rollout={"actors": 1, "max_policy_age": 3, "lease_s": 3.0}, learner={"cycle_timeout_s": 20.0})
    stage = Stage(run, stuck=["learner"])
    with pytest.raises(GangLostError, match=r"2\d s: the learner"):
        stage.run()


def test_a_cycle_may_last_longer_than_the_wait_for_groups() -> None:
    assert Stage(config(), cycle_s=90.0).run() == 4


def test_slow_groups_are_no_standstill_as_long_as_they_come() -> None:
    stage = Stage(config(rollout={"actors": 1, "max_policy_age": 0}), rollout_s=40.0)
    assert stage.run() == 4


def test_one_hanging_actor_of_several_only_costs_its_share() -> None:
    stage = Stage(config(run={"cycles": 80}), hang=["rollout-1"])
    assert stage.run() == 80
    assert stage.shell.replaced == ["rollout-1"] * 4, "then it rests"
    assert stage.hub.total("advdmd_rollout_leases_reissued_total", reason="lost") == 5
    assert stage.hub.total("advdmd_run_workers_lost_total") == 5


def test_a_worker_that_rests_is_tried_again() -> None:
    stage = Stage(config(run={"cycles": 400}), hang=["rollout-1"])
    assert stage.run() == 400
    assert stage.shell.replaced.count("rollout-1") > 5


def test_an_actor_that_stands_still_is_replaced_long_before_its_lease_is_overdue_and_does_its_share_again() -> None:
    stage = Stage(config(run={"cycles": 60}), stopped=("rollout-1", 5.0, 1e6))
    assert stage.run() == 60
    assert stage.shell.replaced == ["rollout-1"]
    given = [at for at, worker in stage.shell.given if worker == "rollout-1"]
    gap, replaced = max((b - a, b) for a, b in pairwise(given))
    assert 5.0 < gap < 10.0 + 3.0
    later = [worker for at, worker in stage.shell.given if at >= replaced]
    assert later.count("rollout-1") == pytest.approx(len(later) / 3, abs=3)


@given(random=randoms, role=st.sampled_from(["rollout", "reward"]), bring_s=st.sampled_from([1.0, 50.0, 2000.0]))
def test_work_is_given_to_a_replacement_when_it_is_up_and_not_before(random: Random, role: str, bring_s: float) -> None:
    # The fake shell refuses work for a process that is not up.
    stage = Stage(
        config(run={"cycles": 20}, rollout={"actors": 2}),
        random=random,
        stopped=(f"{role}-1", 3.0, 1e6),
        bring_s=bring_s,
    )
    assert stage.run() == 20
    assert stage.hub.total("advdmd_rollout_leases_reissued_total", reason="expired") == 0
    down = stage.hub.total("advdmd_run_role_seconds_total", role=role, state="down")
    assert (down > 0) == (f"{role}-1" in stage.shell.replaced)


class _HangsAsItComes(FakeShell):
    """The first replacement is never up, and says nothing either."""

    def bring(self, worker: str) -> Task:
        task = super().bring(worker)
        if len(self.replaced) == 1:
            self._ready_at[task] = math.inf
        return task


@pytest.mark.parametrize("role", ["rollout", "reward"])
def test_a_replacement_that_hangs_while_it_comes_up_is_replaced_in_its_turn(role: str) -> None:
    run = config(
        rollout={"actors": 1}, reward={"workers": 1}, buffer={"take_timeout_s": 1e6}, ray={"start_timeout_s": 60.0}
    )
    stage = Stage(run)
    shell = _HangsAsItComes(run, stage.clock, stopped=(role, 3.0, 1e6))
    assert stage.over(shell).run() == 4
    assert shell.replaced == [f"{role}-0"] * 2
    assert stage.hub.total("advdmd_run_workers_lost_total") == 1, "one that never came is no loss"
    assert stage.clock.now < 100.0


def test_a_driver_that_stood_still_itself_takes_nobody_for_dead() -> None:
    stage = Stage(config(run={"cycles": 30}, rollout={"actors": 2}), rollout_s=7.0)
    wait, stands = stage.shell.wait, [20.0, 300.0, 600.0]

    def late(timeout_s: float) -> list[Task]:
        if stands and stage.clock.now > stands[0]:
            stage.clock.now += 200.0
            stands.pop(0)
            return []
        return wait(timeout_s)

    stage.shell.wait = late  # pyright: ignore[reportAttributeAccessIssue]
    stage.controller._deadlines.check = lambda *_: None  # pyright: ignore[reportAttributeAccessIssue]
    assert stage.run() == 30
    assert stage.shell.replaced == []


def test_an_idle_learner_that_dies_is_noticed_before_it_gets_work() -> None:
    stage = Stage(config(buffer={"take_timeout_s": 1e4}), stuck=["rollout-0", "rollout-1", "rollout-2"])
    shell = stage.shell
    ping = shell.ping

    def dead(worker: str) -> Task:
        task = ping(worker)
        if worker == "learner":
            shell._ended.add(task.process)
        return task

    shell.ping = dead  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(WorkerLostError, match=r"learner: its process ended; .*cannot go on"):
        stage.run()
    assert stage.clock.now < 10.0


# Time limit, checkpoints and grids ----------------------------------------------------------------------------------


def test_the_time_limit_ends_the_run_between_cycles_with_a_checkpoint() -> None:
    stage = Stage(config(run={"cycles": 1000, "time_limit_s": 30.0}))
    version = stage.run()
    assert 1 < version < 1000
    assert stage.shell.checkpoints == [version]
    assert len(stage.shell.cycles) == version
    assert "learner" not in stage.shell.busy


def test_a_time_limit_before_the_first_cycle_still_leaves_a_checkpoint() -> None:
    stage = Stage(config(run={"cycles": 10, "time_limit_s": 0.1}))
    assert stage.run() == 0
    assert stage.shell.checkpoints == [0]


def test_checkpoints_and_grids_come_when_they_are_due_and_once_at_the_end() -> None:
    run = config(run={"cycles": 7}, learner={"checkpoint_cycles": 3}, evaluation={"grid_cycles": 2})
    stage = Stage(run)
    stage.run()
    assert stage.shell.checkpoints == [3, 6, 7]
    assert stage.shell.grids == [2, 4, 6]


def test_a_checkpoint_due_at_the_end_is_not_made_twice() -> None:
    stage = Stage(config(run={"cycles": 6}, learner={"checkpoint_cycles": 3}))
    stage.run()
    assert stage.shell.checkpoints == [3, 6]


def test_a_checkpoint_lists_exactly_the_ordinals_that_are_leased_and_not_settled() -> None:
    stage = Stage(config(run={"cycles": 4}, learner={"checkpoint_cycles": 1}))
    stage.run()
    for version, facts in zip(stage.shell.checkpoints, stage.shell.facts, strict=True):
        state = facts["frontier"]
        assert [ordinal for ordinal, _ in state["unsettled"]] == list(range(2 * version, state["next_ordinal"]))
        assert facts["updates"] == {"dmd": version}


# Weights and figures ------------------------------------------------------------------------------------------------


class _WrongBytes(FakeShell):
    def generate(self, worker: str, lease: Lease, student: Published) -> Task:
        task = super().generate(worker, lease, student)
        report, handed_over = self._outcomes[task]
        if lease.ordinal == 2 and report.load is not None:
            load = type(report.load)(worker, "student", report.load.version, "0" * 64)
            self._outcomes[task] = WorkReport(worker, 1.0, load, 1), handed_over
        return task


def test_a_worker_that_loaded_other_bytes_stops_the_run_and_is_counted() -> None:
    stage = Stage(config(rollout={"actors": 1, "max_policy_age": 0}))
    with pytest.raises(WeightsMismatchError, match=r"rollout-0: student version 1"):
        stage.over(_WrongBytes(stage.config, stage.clock)).run()
    assert stage.hub.total("advdmd_weights_mismatched_total", stream="student") == 1
    assert stage.hub.total("advdmd_weights_mismatched_total", stream="discriminator") == 0


def test_every_load_is_verified_and_the_totals_agree() -> None:
    stage = Stage(config())
    stage.run()
    for stream in ("student", "discriminator"):
        loads = stage.hub.total("advdmd_weights_loaded_total", stream=stream)
        assert loads == stage.hub.total("advdmd_weights_verified_total", stream=stream) > 0
        assert stage.hub.total("advdmd_weights_published_total", stream=stream) == 5
    assert stage.hub.total("advdmd_weights_mismatched_total") == 0
    assert stage.hub.total("advdmd_rollout_trajectories_total") == 4 * len(stage.shell.leases)


def test_the_workers_seconds_add_up_to_the_whole_run() -> None:
    stage = Stage(config())
    stage.run()
    for role, count in (("rollout", 3), ("reward", 2), ("learner", 1)):
        total = stage.hub.total("advdmd_run_role_seconds_total", role=role)
        assert total == pytest.approx(count * stage.clock.now)


def test_the_display_sees_the_run_move_and_what_it_waits_for() -> None:
    stage = Stage(config(run={"cycles": 3}))
    stage.run()
    statuses = list(stage.statuses)
    assert statuses[0].version == 0
    assert statuses[-1].version == 3
    assert statuses[-1].updates == {"dmd": 3}
    assert all(a.elapsed_s <= b.elapsed_s for a, b in pairwise(statuses))
    assert any(status.waiting_for.startswith("ordinal 0") for status in statuses)
    assert statuses[-1].remaining_s == 0
    assert [status.over for status in statuses] == [False] * (len(statuses) - 1) + [True]
    assert [status.waiting_for for status in statuses if status.over or not status.waiting_for] == [""]


def test_what_is_waited_for_is_not_a_worker_whose_ordinal_others_have_made() -> None:
    stage = Stage(config(rollout={"lease_s": 8.0}, run={"cycles": 8}), stuck=("rollout-1",), bring_s=1e6)
    stage.run()
    assert any(status.waiting_for.startswith("ordinal 1 at rollout-1") for status in stage.statuses)
    later = [status.waiting_for for status in stage.statuses if status.version >= 2]
    assert any(text.startswith("ordinal") for text in later)
    assert not any("rollout-1" in text for text in later)


def test_a_deadline_names_the_setting_that_would_wait_longer() -> None:
    with pytest.raises(DeadlineError, match=r"ordinal 0 at reward-\d for \d+ s; .* raise buffer\.take_timeout_s"):
        Stage(config(), stuck=("reward-0", "reward-1")).run()
    with pytest.raises(GangLostError, match=r"raise learner\.cycle_timeout_s"):
        Stage(config(), cycle_s=1000.0).run()


def test_a_slow_reward_worker_scores_every_group_once_however_short_the_lease() -> None:
    settings = config(rollout={"lease_s": 3.0, "actors": 4}, run={"cycles": 4})
    stage = Stage(settings)
    stage.run()
    per_cycle = settings.rollout.groups_per_cycle
    assert stage.hub.total("advdmd_reward_groups_total") <= (4 + settings.rollout.max_policy_age + 1) * per_cycle
    assert stage.hub.total("advdmd_rollout_leases_reissued_total") == 0


class _CountingHub(RecordingHub):
    """Knows how often it was called, and the cycle that each call named."""

    def __init__(self) -> None:
        super().__init__()
        self.cycles: list[int | None] = []

    def record(self, samples: Sequence[Sample], cycle: int | None = None) -> None:
        assert samples
        super().record(samples, cycle)
        self.cycles.append(cycle)


def _heard_by(stage: Stage, hub: RecordingHub) -> Stage:
    stage.hub = stage.controller._telemetry._hub = hub
    return stage


def test_the_hub_hears_of_a_cycle_at_most_twice_and_else_twice_a_second_however_many_groups_there_are() -> None:
    hub = _CountingHub()
    stage = _heard_by(Stage(config(rollout={"actors": 8, "groups_per_cycle": 32}, reward={"workers": 8})), hub)
    stage.run()
    assert hub.total("advdmd_rollout_groups_total") == 4 * 32
    assert len(hub.cycles) <= 2 * 4 + 2 * stage.clock.now + 2
    assert hub.cycles == sorted(hub.cycles, key=lambda cycle: cycle or 0)


def test_what_was_measured_before_a_cycle_ended_is_recorded_under_the_cycle_before() -> None:
    hub = _CountingHub()
    stage = _heard_by(Stage(config(rollout={"max_policy_age": 0})), hub)
    heard: list[tuple[int | None, str]] = []
    record = hub.record
    hub.record = lambda samples, cycle=None: (record(samples, cycle), heard.extend((cycle, s.name) for s in samples))[0]
    stage.run()
    assert [cycle for cycle, name in heard if name == "advdmd_buffer_policy_age_last"] == [0, 1, 2, 3]
    assert [cycle for cycle, name in heard if name == "advdmd_learner_cycle_seconds"] == [1, 2, 3, 4]


@pytest.mark.parametrize("end", [KeyboardInterrupt, WorkerLostError, WeightsMismatchError])
def test_whatever_ends_a_run_what_was_measured_until_then_is_kept(end: type[BaseException]) -> None:
    class Ends(FakeShell):
        def outcome(self, task: Task) -> Any:
            if task.worker == "learner" and self.cycles:
                raise end("learner: its end")
            return super().outcome(task)

    stage = Stage(config())
    shell = Ends(stage.config, stage.clock)
    with pytest.raises(end):
        stage.over(shell).run()
    assert stage.hub.total("advdmd_rollout_leases_issued_total") == len(shell.leases) > 0
    assert stage.hub.total("advdmd_reward_groups_total") > 0


# The judge ----------------------------------------------------------------------------------------------------------


def judged(stage: Stage) -> list[float]:
    """Value of the alarm at each judgement."""
    return [sample.value for sample in stage.hub.samples if sample.name == "advdmd_run_reward_hack_alarm"]


def test_the_student_is_judged_when_it_is_due_and_every_figure_is_recorded() -> None:
    stage = Stage(config(run={"cycles": 7}, evaluation={"judge_cycles": 3}), judge=lambda version: version / 10)
    stage.run()
    assert stage.shell.judged == [3, 6]
    figures = [sample for sample in stage.hub.samples if sample.name == "advdmd_run_judge"]
    assert [(sample.value, dict(sample.labels)) for sample in figures] == [
        (0.6, {"figure": "quality"}),
        (1.2, {"figure": "quality"}),
    ]


def test_without_judge_cycles_nobody_is_asked() -> None:
    stage = Stage(config())
    stage.run()
    assert stage.shell.judged == []
    assert judged(stage) == []


@pytest.mark.parametrize(
    ("reward", "quality", "alarms"),
    [(1.0, -1.0, [0, 0, 0, 1, 1]), (1.0, 1.0, [0] * 5), (-1.0, -1.0, [0] * 5), (-1.0, 1.0, [0] * 5)],
)
def test_the_alarm_fires_where_the_reward_rises_and_the_judge_falls_and_nowhere_else(
    reward: float, quality: float, alarms: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    stage = Stage(
        config(run={"cycles": 10}, evaluation={"judge_cycles": 2, "alarm_window": 4}),
        judge=lambda version: quality * version,
        reward=lambda version: reward * version,
        rl_from=1,
    )
    stage.run()
    assert judged(stage) == alarms
    assert stage.statuses[-1].reward_hacking == bool(alarms[-1])
    assert caplog.text.count("reward hacking?") == sum(alarms)


@pytest.mark.parametrize(
    ("rl_from", "open_from", "sections", "alarms"),
    [
        (math.inf, 1, {}, [0] * 6),
        (5, 1, {}, [0, 0, 0, 0, 0, 1]),
        (1, 5, {}, [0, 0, 0, 0, 0, 1]),
        (1, math.inf, {}, [0] * 6),
        (1, 1, {"reward": {"extra": "toy:brightness"}}, [0, 0, 0, 1, 1, 1]),
        (1, 1, {"reward": {"extra": "toy:brightness"}, "discriminator": {"auc_rows": 0}}, [0] * 6),
        (1, 1, {"policy_gradient": {"advantage": "own_step"}}, [0] * 6),
        (1, 1, {"policy_gradient": {"final_weight": 0.0}}, [0] * 6),
    ],
)
def test_a_reward_that_nothing_has_learnt_from_raises_no_alarm(
    rl_from: float, open_from: float, sections: dict[str, dict[str, object]], alarms: list[int]
) -> None:
    stage = Stage(
        config(run={"cycles": 12}, evaluation={"judge_cycles": 2, "alarm_window": 4}, **sections),
        judge=lambda version: -float(version),
        reward=float,
        rl_from=rl_from,
        open_from=open_from,
    )
    stage.run()
    assert judged(stage) == alarms


def test_the_alarm_looks_at_the_mean_reward_since_the_judgement_before() -> None:
    # Rewards of the judged cycles alone would fall.
    stage = Stage(
        config(run={"cycles": 8}, evaluation={"judge_cycles": 2}),
        judge=lambda version: -float(version),
        reward=lambda version: -version if version % 2 == 0 else 3.0 * version,
        rl_from=1,
    )
    stage.run()
    assert judged(stage) == [0, 0, 0, 1]


@pytest.mark.parametrize(("judged_too", "alarms"), [(False, [0, 0, 0, 1]), (True, [0, 0, 0, 1])])
def test_validation_prompts_are_drawn_when_due_and_an_alarm_that_watches_a_scorer_hears_no_judge(
    judged_too: bool, alarms: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    stage = Stage(
        config(
            run={"cycles": 8},
            evaluation={"judge_cycles": int(judged_too)},
            validation={"prompts": "prompts.txt", "cycles": 2},
            scorers={"names": ("toy:falls", "toy:other"), "alarm": "toy:falls"},
        ),
        judge=lambda version: -float(version),
        reward=float,
        rl_from=1,
    )
    stage.run()
    assert stage.shell.validated == [2, 4, 6, 8]
    scores = [sample for sample in stage.hub.samples if sample.name == "advdmd_run_validation_score"]
    assert [sample.key for sample in scores[:2]] == [
        "advdmd_run_validation_score{scorer=falls}",
        "advdmd_run_validation_score{scorer=other}",
    ]
    assert judged(stage) == alarms
    assert "the reward rises while falls falls (reward hacking?) at version 8" in caplog.text


def test_without_validation_prompts_nothing_is_drawn_for_them() -> None:
    stage = Stage(config(validation={"cycles": 1}))
    stage.run()
    assert stage.shell.validated == []


def test_without_validation_prompts_the_judge_scores_for_an_alarm_that_watches_a_scorer(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stage = Stage(
        config(
            run={"cycles": 8},
            evaluation={"judge_cycles": 2},
            scorers={"names": ("toy:falls",), "alarm": "toy:falls"},
        ),
        judge=lambda version: -float(version),
        reward=float,
        rl_from=1,
    )
    stage.run()
    assert judged(stage) == [0, 0, 0, 1]
    assert "the reward rises while falls falls (reward hacking?) at version 8" in caplog.text

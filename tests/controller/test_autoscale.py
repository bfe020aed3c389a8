"""The rule that says how many workers a run should have, over plants whose pace is fixed."""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from advdmd_ray.config import Config
from advdmd_ray.controller.autoscale import BUSY, Load, Role, advised, fewer, more
from fake_shell import Stage

BOTH = ("rollout", "reward")
paces = st.floats(-2.5, 2.5).map(math.exp)


def config(rollout: int = 1, reward: int = 1, *, age: int = 1, groups: int = 16, **autoscale: Any) -> Config:
    return Config.model_validate(
        {
            "rollout": {"actors": rollout, "max_policy_age": age, "groups_per_cycle": groups, "group_size": 4},
            "reward": {"workers": reward},
            "learner": {"engine": "torch"},
            "autoscale": {"enabled": True, "rollout_max": 12, "reward_max": 6, **autoscale},
            **{name: {"batch_size": groups} for name in ("dmd", "fake_score", "discriminator")},
        }
    )


class Plant(Protocol):
    """What a number of workers does with its time."""

    def load(self, rollout: int, reward: int) -> Load: ...


@dataclass(frozen=True)
class Pipeline:
    """Stations that work side by side: groups a second of an actor, a reward worker, the learner."""

    actor: float
    judge: float
    learner: float

    def load(self, rollout: int, reward: int) -> Load:
        pace = min(rollout * self.actor, reward * self.judge, self.learner)
        queue = reward * self.judge < min(rollout * self.actor, self.learner)
        return Load(
            1 - pace / self.learner,
            Role(rollout, pace / (rollout * self.actor)),
            Role(reward, pace / (reward * self.judge)),
            20.0 if queue else 0.0,
        )


@dataclass(frozen=True)
class Turns:
    """Actors and learner by turns, as at age 0; groups are scored while others are made. Seconds of a whole turn."""

    actor: float
    judge: float
    learner: float

    def load(self, rollout: int, reward: int) -> Load:
        made, scored = self.actor / rollout, self.judge / reward
        wait = max(made, scored)
        turn = wait + self.learner
        return Load(wait / turn, Role(rollout, made / turn), Role(reward, scored / turn), 8.0 if scored > made else 0.0)


plants = st.one_of(st.builds(Pipeline, paces, paces, paces), st.builds(Turns, paces, paces, paces))


def course(run: Config, plant: Plant, counts: dict[str, int]) -> list[dict[str, int]]:
    """The numbers of workers, one change after the other, until there is none."""
    seen = [dict(counts)]
    while (advice := advised(run, plant.load(**counts), BOTH)) is not None:
        role, count = advice
        assert count != counts[role]
        counts = {**counts, role: count}
        seen.append(counts)
        assert len(seen) < 30, seen
    return seen


@given(plant=plants, rollout=st.integers(1, 12), reward=st.integers(1, 6), age=st.integers(0, 2))
def test_at_a_fixed_pace_it_comes_to_rest_and_no_role_turns_back(
    plant: Plant, rollout: int, reward: int, age: int
) -> None:
    steps = course(config(rollout, reward, age=age), plant, {"rollout": rollout, "reward": reward})
    for role in BOTH:
        counts = [step[role] for step in steps]
        assert counts in (sorted(counts), sorted(counts, reverse=True))


@given(
    plant=plants,
    start=st.tuples(st.integers(2, 8), st.integers(2, 4)),
    least=st.integers(1, 2),
    most=st.tuples(st.integers(8, 12), st.integers(4, 6)),
)
def test_no_step_leaves_the_bounds_or_is_more_than_twice_or_less_than_half(
    plant: Plant, start: tuple[int, int], least: int, most: tuple[int, int]
) -> None:
    run = config(*start, rollout_min=least, rollout_max=most[0], reward_min=least, reward_max=most[1])
    steps = course(run, plant, {"rollout": start[0], "reward": start[1]})
    for before, after in pairwise(steps):
        assert sum(before[role] != after[role] for role in BOTH) == 1
        for role, bound in zip(BOTH, most, strict=True):
            assert least <= after[role] <= bound
            assert before[role] / 2 <= after[role] <= 2 * before[role]


@given(plant=plants, rollout=st.integers(1, 12), reward=st.integers(1, 6))
def test_where_it_rests_nobody_is_short_who_could_be_more_and_few_idle_who_could_be_fewer(
    plant: Plant, rollout: int, reward: int
) -> None:
    run = config(rollout, reward)
    counts = course(run, plant, {"rollout": rollout, "reward": reward})[-1]
    load = plant.load(**counts)
    if load.waits > run.autoscale.learner_waits:
        short = "reward" if load.queued else "rollout"
        assert counts[short] == {"rollout": 12, "reward": 6}[short]
    elif load.waits == 0:
        for role, of in (("rollout", load.rollout), ("reward", load.reward)):
            assert of.busy >= 1 - run.autoscale.workers_idle or counts[role] * of.busy / BUSY > counts[role] - 1


@given(plant=st.builds(Pipeline, paces, paces, paces), rollout=st.integers(1, 12), reward=st.integers(1, 6))
def test_a_learner_that_had_all_it_takes_still_has_it_with_fewer_workers(
    plant: Pipeline, rollout: int, reward: int
) -> None:
    load = plant.load(rollout, reward)
    assume(load.waits == 0)
    assert plant.load(**course(config(rollout, reward), plant, {"rollout": rollout, "reward": reward})[-1]).waits == 0


@pytest.mark.parametrize(
    ("load", "advice"),
    [
        (Load(0.6, Role(2, 1.0), Role(1, 0.4), 0.0), ("rollout", 4)),
        (Load(0.5, Role(2, 1.0), Role(1, 0.9), 0.4), ("rollout", 4)),
        (Load(0.5, Role(2, 0.5), Role(1, 1.0), 3.0), ("reward", 2)),
        (Load(0.25, Role(6, 1.0), Role(1, 0.4), 0.0), ("rollout", 8)),
        (Load(0.2, Role(6, 1.0), Role(1, 0.4), 0.0), None),
        (Load(0.15, Role(6, 0.2), Role(1, 0.4), 0.0), None),
        (Load(0.0, Role(6, 0.4), Role(1, 0.9), 0.0), ("rollout", 3)),
        (Load(0.0, Role(6, 0.1), Role(1, 0.9), 0.0), ("rollout", 3)),
        (Load(0.0, Role(6, 0.9), Role(4, 0.3), 0.0), ("reward", 2)),
        (Load(0.1, Role(6, 0.4), Role(1, 0.9), 0.0), ("rollout", 4)),
        (Load(0.0, Role(1, 0.1), Role(1, 0.1), 0.0), None),
    ],
)
def test_the_rule_by_example(load: Load, advice: tuple[str, int] | None) -> None:
    assert advised(config(), load, BOTH) == advice


def test_a_role_that_may_not_change_does_not_and_none_changes_in_its_place() -> None:
    short = Load(0.6, Role(2, 1.0), Role(1, 0.4), 0.0)
    assert advised(config(), short, ("reward",)) is None
    idle = Load(0.0, Role(6, 0.4), Role(4, 0.3), 0.0)
    assert advised(config(), idle, ("reward",)) == ("reward", 2)


def test_there_are_never_more_actors_than_leases() -> None:
    starved = Load(0.9, Role(3, 1.0), Role(1, 0.1), 0.0)
    assert advised(config(age=0, groups=4), starved, BOTH) == ("rollout", 4)
    assert advised(config(age=1, groups=4), starved, BOTH) == ("rollout", 6)
    assert advised(config(age=0, groups=2), starved, BOTH) is None


@given(st.floats(1, 100), st.floats(0, 1), st.integers(1, 200))
def test_more_and_fewer_are_whole_numbers_within_their_bounds(workers: float, share: float, bound: int) -> None:
    assert workers <= more(workers, share, 10**6) <= 2 * workers + 1
    assert more(workers, share, bound) <= bound
    assert fewer(Role(workers, share), 0.0, 0.2, bound) >= max(bound, workers / 2)


def test_time_of_workers_that_are_down_is_nobodys() -> None:
    seconds = {
        ("rollout", "busy"): 30.0,
        ("rollout", "blocked"): 10.0,
        ("rollout", "waiting"): 20.0,
        ("rollout", "down"): 500.0,
        ("reward", "down"): 20.0,
        ("learner", "waiting"): 5.0,
        ("learner", "busy"): 15.0,
    }
    load = Load.of(seconds, 20.0, 1.5)
    assert load == Load(0.25, Role(3.0, 0.5), Role(0.0, 0.0), 1.5)


# In a run -----------------------------------------------------------------------------------------------------------


def stage(cycles: int, actors: int, *, age: int = 1, wishes: Any = (), **shell: Any) -> Stage:
    run = Config.model_validate(
        {
            "run": {"cycles": cycles},
            "rollout": {"actors": actors, "group_size": 4, "groups_per_cycle": 4, "max_policy_age": age},
            "buffer": {"take_timeout_s": 1e3},
            "learner": {"engine": "torch", "checkpoint_cycles": 10**6},
            "evaluation": {"grid_cycles": 0},
            "autoscale": {"enabled": True, "rollout_max": 8, "window_s": 30.0, "cool_down_s": 10.0},
        }
    )
    return Stage(run, wishes=wishes, **shell)


def asked(of: Stage, role: str = "rollout") -> list[int]:
    """The numbers that were asked for, one after the other."""
    counts = [staff[role].asked for _, staff in of.wishes.told]
    return [count for place, count in enumerate(counts) if not place or counts[place - 1] != count]


def test_a_run_whose_learner_waits_for_one_actor_gets_more_until_it_does_not() -> None:
    running = stage(60, 1, rollout_s=6.0, cycle_s=5.0)
    assert running.run() == 60
    counts = asked(running)
    assert counts == sorted(counts)
    assert 4 <= counts[-1] <= 8
    changes = [
        at
        for (_, before), (at, staff) in pairwise(running.wishes.told)
        if staff["rollout"].asked != before["rollout"].asked
    ]
    assert changes[0] >= 30.0
    assert all(later - earlier >= 40.0 for earlier, later in pairwise(changes))


def test_a_run_whose_actors_wait_for_the_learner_keeps_as_many_as_it_needs() -> None:
    running = stage(40, 8, rollout_s=2.0, cycle_s=20.0)
    assert running.run() == 40
    counts = asked(running)
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] == 1
    assert running.hub.total("advdmd_run_workers_lost_total") == 0


def test_what_was_asked_for_by_hand_holds() -> None:
    running = stage(40, 8, rollout_s=2.0, cycle_s=20.0, wishes=[(5.0, {"rollout": 6})])
    assert running.run() == 40
    assert asked(running) == [8, 6]


def test_workers_for_which_there_is_no_room_do_not_call_for_more() -> None:
    running = stage(30, 1, rollout_s=6.0, cycle_s=5.0, bring_s=1e6)
    assert running.run() == 30
    assert asked(running) == [1, 2]


def test_a_run_that_does_not_scale_itself_keeps_its_workers() -> None:
    running = stage(20, 8)
    off = running.config.model_copy(
        update={"autoscale": running.config.autoscale.model_copy(update={"enabled": False})}
    )
    fixed = Stage(off, rollout_s=2.0, cycle_s=20.0)
    fixed.run()
    assert asked(fixed) == [8]

"""The real controller in virtual time keeps its laws, takes the time that its workers cost, and costs little itself."""

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advdmd_ray.planning.virtual import Costs
from virtual_stage import VirtualStage as Stage


def test_without_overlap_the_seconds_are_those_of_the_work_one_after_the_other() -> None:
    # Age cap 0: a cycle's 4 groups need 2 turns of 2 actors, the last group is scored, then the learner works.
    costs = Costs(generate=3.0, score=0.5, cycle=10.0, fetch=1.0, checkpoint=2.0)
    stage = Stage(costs, actors=2, groups=4, cycles=5, age=0, reward=2)
    assert stage.run() == pytest.approx(5 * (2 * 3.0 + 0.5 + 1.0 + 10.0) + 2.0)


@given(actors=st.integers(1, 6), cycle=st.floats(0.5, 30.0))
def test_with_overlap_the_slower_side_sets_the_pace(actors: int, cycle: float) -> None:
    groups, cycles = 6, 12
    stage = Stage(Costs(generate=4.0, score=0.01, cycle=cycle), actors=actors, groups=groups, cycles=cycles, reward=4)
    rollouts = math.ceil(groups / actors) * 4.0
    pace = max(rollouts, cycle)
    assert pace * (cycles - 1) * 0.66 <= stage.run() <= (cycles + 2) * (pace + 4.1)


def test_a_load_takes_its_time_once_for_each_version_on_each_worker() -> None:
    plain = Stage(Costs(generate=1.0, score=1.0, cycle=1.0), actors=1, groups=1, cycles=4, age=0)
    loading = Stage(Costs(generate=1.0, score=1.0, cycle=1.0, load=5.0), actors=1, groups=1, cycles=4, age=0)
    assert loading.run() - plain.run() == pytest.approx(4 * (5.0 + 5.0))
    assert loading.hub.total("advdmd_weights_verified_total") == 8


def test_equal_seeds_give_equal_seconds_and_the_mean_of_a_spread_is_its_cost() -> None:
    costs = Costs(generate=2.0, score=0.0, cycle=0.0, spread=0.5)
    runs = [Stage(costs, actors=1, groups=8, cycles=100).run() for _ in range(2)]
    assert runs[0] == runs[1]
    assert runs[0] / 800 == pytest.approx(2.0, rel=0.05)


@pytest.mark.parametrize("wrong", [{"generate": -1.0}, {"spread": 1.0}, {"spread": -0.1}])
def test_costs_that_no_work_can_have_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="costs are seconds"):
        replace(Costs(generate=1.0, score=1.0, cycle=1.0), **wrong)

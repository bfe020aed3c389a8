"""A run that is asked to stop: what the learner is at is waited for and saved, and nothing else begins."""

from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advdmd_ray.config import Config
from advdmd_ray.controller.protocols import Task
from fake_shell import Stage

CYCLES = 8


def config(checkpoint_cycles: int = 50, **evaluation: int) -> Config:
    return Config.model_validate(
        {
            "run": {"cycles": CYCLES},
            "rollout": {"actors": 3, "group_size": 4, "groups_per_cycle": 2, "max_policy_age": 1},
            "reward": {"workers": 2},
            "learner": {"engine": "torch", "checkpoint_cycles": checkpoint_cycles},
            "evaluation": {"grid_cycles": 0, **evaluation},
        }
    )


def begun_after(stage: Stage, at: float) -> list[str]:
    """Whom the shell is asked to give work from a time on, as it comes; a group that is handed over is no new work."""
    begun: list[str] = []
    start = stage.shell._start

    def noted(worker: str, *work: Any, **more: Any) -> Task:
        if stage.clock.now >= at:
            begun.append(worker)
        return start(worker, *work, **more)

    stage.shell._start = noted  # pyright: ignore[reportAttributeAccessIssue]
    return begun


@settings(max_examples=60)
@given(
    random=st.one_of(st.none(), st.integers(0, 2**32).map(Random)),
    at=st.floats(0, 40),
    checkpoint_cycles=st.integers(1, 4),
    chores=st.booleans(),
    hand_over_s=st.sampled_from([None, 0.5]),
    cycle_s=st.sampled_from([1.0, 7.0]),
)
def test_whenever_it_is_asked_every_cycle_is_saved_and_nothing_but_the_checkpoint_begins(
    random: Random | None, at: float, checkpoint_cycles: int, chores: bool, hand_over_s: float | None, cycle_s: float
) -> None:
    run = config(checkpoint_cycles, **({"grid_cycles": 1, "judge_cycles": 2} if chores else {}))
    stage = Stage(run, stop_at=at, random=random, hand_over_s=hand_over_s, cycle_s=cycle_s)
    begun = begun_after(stage, at)
    version = stage.run()
    assert version == stage.controller.version == len(stage.shell.cycles)
    assert stage.shell.checkpoints[-1:] == ([version] if version else []), "what was learned is saved, and once"
    assert len(set(stage.shell.checkpoints)) == len(stage.shell.checkpoints)
    if version < CYCLES:
        assert begun in ([], ["learner"])
        assert "learner" not in stage.shell.busy
    if version:
        state = stage.shell.facts[-1]["frontier"]
        assert [ordinal for ordinal, _ in state["unsettled"]] == list(range(2 * version, state["next_ordinal"]))


@pytest.mark.parametrize("learning", [True, False])
def test_a_cycle_that_is_under_way_is_ended_and_one_whose_groups_are_only_fetched_is_not_begun(learning: bool) -> None:
    # The learner's first cycle of 60 s begins 2 to 3 s after the start.
    stage = Stage(config(), stop_at=30.0 if learning else 2.0, cycle_s=60.0)
    assert stage.run() == int(learning)
    assert stage.shell.checkpoints == ([1] if learning else [])
    assert stage.clock.now < (75 if learning else 5)


def test_chores_that_are_due_wait_for_the_run_to_go_on() -> None:
    stage = Stage(config(1, grid_cycles=1, judge_cycles=1), stop_at=4.0, cycle_s=10.0)
    assert stage.run() == 1
    assert (stage.shell.checkpoints, stage.shell.grids, stage.shell.judged) == ([1], [], [])

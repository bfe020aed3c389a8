"""Checkpoints that the disk refuses: the run goes on, tries again, and at its end for a while."""

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advdmd_ray.config import Config
from advdmd_ray.controller.loop import SAVE_PAUSE_S, SAVES
from advdmd_ray.errors import CheckpointError
from fake_shell import Stage

REFUSED = "advdmd_learner_checkpoints_refused_total"


def stage_of(cycles: int, checkpoint_cycles: int, refusals: int, stop_at: float = 1e9) -> Stage:
    return Stage(
        Config.model_validate(
            {
                "run": {"cycles": cycles},
                "rollout": {"group_size": 4, "groups_per_cycle": 2},
                "learner": {"engine": "torch", "checkpoint_cycles": checkpoint_cycles},
                "evaluation": {"grid_cycles": 0},
            }
        ),
        refusals=refusals,
        stop_at=stop_at,
    )


@given(cycles=st.integers(1, 8), checkpoint_cycles=st.integers(1, 5), refusals=st.integers(0, SAVES - 1))
def test_a_refused_checkpoint_is_tried_after_the_next_cycle_and_the_last_one_for_a_while(
    cycles: int, checkpoint_cycles: int, refusals: int
) -> None:
    stage = stage_of(cycles, checkpoint_cycles, refusals)
    assert stage.run() == cycles
    expected, owed, refused = list[int](), False, refusals
    for version in range(1, cycles + 1):
        if owed or version % checkpoint_cycles == 0:
            owed = refused > 0
            refused -= owed
            expected += [] if owed else [version]
    assert stage.shell.checkpoints == (expected if expected[-1:] == [cycles] else [*expected, cycles])
    assert stage.hub.total(REFUSED) == refusals


def test_a_disk_that_refuses_the_last_checkpoint_for_a_minute_ends_the_run_and_says_why(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stage = stage_of(2, 50, SAVES)
    line = r"^cycle 2 could not be saved, 7 times in 60 s: step-2 could not be saved: disk full$"
    with caplog.at_level(logging.WARNING), pytest.raises(CheckpointError, match=line):
        stage.run()
    assert stage.shell.checkpoints == []
    assert len(caplog.records) == SAVES
    assert stage.hub.total(REFUSED) == SAVES
    assert stage.clock.now >= (SAVES - 1) * SAVE_PAUSE_S


def test_a_run_that_is_asked_to_stop_tries_its_checkpoint_again_too() -> None:
    stage = stage_of(50, 50, 2, stop_at=10.0)
    version = stage.run()
    assert 0 < version < 50
    assert stage.shell.checkpoints == [version]
    assert stage.hub.total(REFUSED) == 2

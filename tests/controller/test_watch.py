"""A run that diverges ends with an error that names the last good checkpoint, and that checkpoint is there."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advdmd_ray.config import Config
from advdmd_ray.controller.guard import Guard
from advdmd_ray.controller.watch import Saved, Watch
from advdmd_ray.errors import FAILURES, DivergedError
from advdmd_ray.learner.checkpoint import Checkpoint, save_checkpoint
from advdmd_ray.runs.parts.controller import build_controller
from fake_shell import Clock, FakeShell, RecordingHub, Stage, cycle_report

LOSS = "advdmd_learner_loss{objective=dmd}"


def config(cycles: int = 20, age: int = 1, **learner: Any) -> Config:
    return Config.model_validate(
        {
            "run": {"cycles": cycles},
            "rollout": {"group_size": 4, "groups_per_cycle": 2, "max_policy_age": age},
            "learner": {"engine": "torch", "checkpoint_cycles": 2} | learner,
            "evaluation": {"grid_cycles": 0},
        }
    )


def stage(loss: Callable[[int], float], **changed: Any) -> Stage:
    return Stage(config(**changed), loss=loss)


def out_of_range(stage: Stage) -> list[float]:
    return [sample.value for sample in stage.hub.samples if sample.name == "advdmd_run_series_out"]


def test_a_run_that_diverges_stops_with_the_evidence_and_the_last_good_checkpoint(
    caplog: pytest.LogCaptureFixture,
) -> None:
    run = stage(lambda version: 0.5 if version < 9 else 1e15)
    with pytest.raises(DivergedError) as error:
        run.run()
    line = str(error.value)
    assert f"{LOSS} is 1e+15 in cycle 11 (0.5 to 0.5 before, at most 100 is in range), out since cycle 9" in line
    # Of a departure in cycle 9 with groups of age 1, version 7 may have been broken; versions below are innocent.
    assert "the last good checkpoint is step-6: go on from it by --resume step-6" in line
    assert "\n" not in line
    assert run.shell.checkpoints == [2, 4, 6, 8], "none is made while the loss is out"
    assert caplog.text.count("is the run diverging?") == 1
    assert out_of_range(run) == [0.0] * 8 + [1.0] * 3
    assert run.frontier.first_unsettled == 22, "the cycles that were made are settled"
    assert DivergedError in FAILURES, "so the command ends with one line and exit code 1"


def test_a_loss_that_is_no_number_stops_the_run_at_once() -> None:
    run = stage(lambda version: 0.5 if version < 4 else math.nan)
    with pytest.raises(DivergedError, match=r"is nan in cycle 4.*no checkpoint is older than that.*--fresh"):
        run.run()


def test_a_spike_is_warned_of_and_its_checkpoint_is_made_once_it_is_over(caplog: pytest.LogCaptureFixture) -> None:
    run = stage(lambda version: 1e9 if version in {8, 9} else 0.5, cycles=13, checkpoint_cycles=4)
    assert run.run() == 13
    assert run.shell.checkpoints == [4, 10, 12, 13]
    assert caplog.text.count("is the run diverging?") == 1
    assert [facts["last_good"] for facts in run.shell.facts] == [None] * 4


def test_a_run_that_ends_while_a_series_is_out_keeps_the_last_good_checkpoint_beside_its_own() -> None:
    run = stage(lambda version: 1e9 if version >= 9 else 0.5, cycles=10, keep_checkpoints=1, checkpoint_cycles=3)
    assert run.run() == 10
    assert run.shell.checkpoints == [3, 6, 10]
    assert run.shell.facts[-1]["last_good"] == 6


def test_a_run_without_a_guard_goes_on() -> None:
    run = Stage(
        config().model_copy(update={"guard": config().guard.model_copy(update={"enabled": False})}),
        loss=lambda version: 10.0**version,
    )
    assert run.run() == 20


@given(
    versions=st.lists(st.integers(0, 40), unique=True),
    since=st.integers(1, 40),
    age=st.integers(0, 4),
    keep=st.integers(1, 5),
)
def test_the_last_good_checkpoint_is_the_newest_that_no_broken_student_can_have_made(
    versions: list[int], since: int, age: int, keep: int
) -> None:
    watch = Watch(config(age=age), Guard(config().guard), [Saved(version, f"step-{version}") for version in versions])
    assert watch.last_good is None
    watch.cycled(cycle_report(since, loss=1e9))
    innocent = [version for version in versions if version + age + 1 < since]
    assert watch.last_good == (Saved(max(innocent), f"step-{max(innocent)}") if innocent else None)


@given(st.lists(st.integers(0, 60), unique=True, max_size=12), st.integers(1, 4))
def test_only_checkpoints_that_are_kept_are_named(versions: list[int], keep: int) -> None:
    watch = Watch(config(keep_checkpoints=keep), Guard(config().guard), ())
    kept: list[int] = []
    for version in versions:
        watch.saved(Saved(version, str(version)))
        kept = sorted([*(each for each in kept if each < version), version])[-keep:]  # what `save_checkpoint` does
    assert [each.version for each in watch.checkpoints] == kept[::-1]
    watch.cycled(cycle_report(100, loss=1e9))
    good = watch.last_good
    assert (good is None) == (not kept)
    assert good is None or good.version == kept[-1]


def test_a_resumed_run_goes_on_with_the_past_and_the_checkpoints_of_the_run(tmp_path: Path) -> None:
    first = stage(lambda version: 0.001 * version, cycles=8)
    first.run()
    facts = {"controller": first.shell.facts[-1], "learner": {"version": 8}}
    for step in (4, 6, 8, 12):
        save_checkpoint(tmp_path, step, {}, facts, keep=9)
    checkpoint = Checkpoint(tmp_path / "step-00000008", 8, facts, ())
    again = config(cycles=20)
    shell = FakeShell(again, Clock(), loss=lambda _: 1e9)
    controller = build_controller(again, shell, RecordingHub(), checkpoint)
    assert controller.saved == [tmp_path / f"step-0000000{step}" for step in (8, 6, 4)]
    watch = controller._learner._watch
    assert watch.guard.past[LOSS] == tuple(0.001 * version for version in range(1, 9))
    for cycle in (9, 10):
        watch.cycled(cycle_report(cycle, loss=1e9))
    with pytest.raises(DivergedError, match=r"at most 100 is in range.*step-00000006"):
        watch.cycled(cycle_report(11, loss=1e9))

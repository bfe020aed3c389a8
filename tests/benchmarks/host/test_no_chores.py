"""Runs whose controller is what counts."""

from pathlib import Path

from benchmarks.host.rows import controller, lease
from benchmarks.host.rows.no_chores import without_chores


def test_no_cycle_of_such_a_run_has_a_checkpoint_a_grid_or_a_judgement() -> None:
    config = without_chores(4, 8, 500, age=1)
    assert config.learner.checkpoint_cycles > config.run.cycles
    assert config.evaluation.grid_cycles == config.evaluation.judge_cycles == 0
    assert config.buffer.max_bytes == 2**40


def test_rows_differ_in_size_and_age_alone(tmp_path: Path) -> None:
    size = lease.Size(100, 256, cycles=12, generate=1.0)
    waits, computes = lease.settings(size, tmp_path), controller.settings(100, 256)
    assert (waits.rollout.max_policy_age, computes.rollout.max_policy_age) == (3, 1)
    assert (waits.run.cycles, computes.run.cycles) == (16, 16)
    same = {"run": computes.run, "rollout": waits.rollout.model_copy(update={"max_policy_age": 1})}
    assert waits.model_copy(update=same) == computes

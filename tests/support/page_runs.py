"""A run folder for the page, written by hand: figures, configuration, summary and pictures, without a run."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from advdmd_ray.config import Config, dump_config
from advdmd_ray.evaluation.pictures.grids import comparison_grid
from advdmd_ray.evaluation.summary import write_summary
from advdmd_ray.runs.folder import RunFolder
from summaries import scored, summary_with

SHARES = {
    "headline": "seen",
    "labels": (
        {"key": "seen", "label": "seen prompts", "better": "higher", "share": True},
        {"key": "diversity", "label": "diversity", "better": "higher", "share": False},
    ),
    "teacher": {40: scored(seen=0.63, diversity=0.9), 4: scored(seen=0.201, diversity=0.8)},
    "student": {**scored(seen=0.7123, diversity=0.7), "steps": 4},
    "real": scored(seen=1.0, diversity=1.0),
}

START = 1_790_000_000.0
"""Unix seconds of a run's first line."""


def line_of(cycle: int, cycles: int = 40, levels: int = 4) -> dict[str, Any]:
    """What is recorded of a cycle."""
    phase = 0 if cycle < cycles / 4 else 1 if cycle < cycles / 2 else 2
    values: dict[str, float | list[float]] = {
        "advdmd_run_cycle": cycle,
        "advdmd_run_cycles_planned": cycles,
        "advdmd_run_phase": phase,
        "advdmd_run_elapsed_seconds": 2.0 * cycle,
        "advdmd_rollout_trajectories_total": 64.0 * cycle,
        "advdmd_rollout_groups_total": 8.0 * cycle,
        "advdmd_rollout_trajectories_per_second": 30 + cycle % 5,
        "advdmd_reward_groups_total": 8.0 * cycle,
        "advdmd_buffer_policy_age_last": cycle % 2,
        "advdmd_buffer_reward_age_last": 1,
        "advdmd_buffer_bytes": 2.5e5,
        "advdmd_buffer_capacity_bytes": 2.56e8,
        "advdmd_learner_cycle_seconds": [1.0, 3.0],
        "advdmd_learner_trajectories_trained_total": 64.0 * cycle,
        "advdmd_weights_published_version{stream=student}": cycle,
        "advdmd_weights_worker_version{stream=student,worker=rollout-0}": cycle - 1,
        "advdmd_run_role_seconds_total{role=rollout,state=busy}": 1.5 * cycle,
        "advdmd_run_role_seconds_total{role=rollout,state=waiting}": 0.5 * cycle,
    }
    for level in range(1, levels + 1):
        values[f"advdmd_reward_mean{{level={level}}}"] = level + cycle / 7
        values[f"advdmd_learner_discriminator_auc{{level={level}}}"] = 0.5 + level / 20
        values[f"advdmd_learner_rl_gate_open{{level={level}}}"] = float(cycle % 10 > level)
    for objective in ("dmd", "fake_score", "discriminator"):
        values[f"advdmd_learner_loss{{objective={objective}}}"] = 1 / cycle
        values[f"advdmd_learner_updates_total{{objective={objective}}}"] = float(cycle)
    if cycle % 10 == 0:
        values["advdmd_run_judge{figure=frechet}"] = 50.0 - cycle
        values["advdmd_run_judge{figure=accuracy}"] = 0.9
    return {"time": START + 2.0 * cycle, "cycle": cycle, "record": cycle, "values": values}


def write_lines(folder: Path, lines: list[dict[str, Any]]) -> RunFolder:
    """Writes a metrics.jsonl."""
    run = RunFolder(folder)
    run.path.mkdir(parents=True, exist_ok=True)
    run.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return run


def write_run(folder: Path, cycles: int = 40, **changes: Any) -> RunFolder:
    """Writes a whole run that ended.

    Args:
        folder: Where.
        cycles: How many it made.
        changes: Of its summary.
    """
    run = write_lines(folder, [line_of(cycle, cycles) for cycle in range(1, cycles + 1)])
    run.config.write_text(dump_config(Config()), encoding="utf-8")
    write_summary(run.summary, summary_with(**{"run": folder.name, "cycles": cycles, **changes}))
    images = np.linspace(-1, 1, 64, dtype=np.float32).reshape(1, 1, 8, 8).repeat(6, axis=0)
    comparison_grid(run.comparison, {"teacher, 40 steps": images, "student, 4 steps": -images}, ["one", "two", "three"])
    for cycle in (cycles // 2, cycles):
        comparison_grid(run.grid(cycle), {f"cycle {cycle}": images[:3]}, ["one", "two", "three"])
    return run

"""A run on the shapes with validation prompts, a reward of the user's own and scorers from a toy module."""

from pathlib import Path

import numpy as np
import pytest

from advdmd_ray.config import Config, dump_config
from advdmd_ray.learner.checkpoint import latest_checkpoint
from advdmd_ray.metrics.history import entries_of
from advdmd_ray.runs import preflight
from advdmd_ray.runs.folder import RunFolder
from advdmd_ray.runs.page.page import sections
from advdmd_ray.runs.page.record import read_record
from advdmd_ray.runs.page.samples import InPage, samples
from advdmd_ray.runs.sinks import DrawnPictures
from local_runs import train_here
from toy_scorers import FALLING, REDNESS, REWARD

CYCLES = 5
PROMPTS = ("a red circle", "a blue square", "two green triangles")


def _gauges(run: Config, name: str) -> list[float]:
    entries = entries_of(RunFolder(run.folder).metrics)
    return [entry["values"][name] for entry in entries if name in entry["values"]]


def test_it_is_all_in_the_series_the_pictures_the_page_and_the_alarm(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    prompts = tmp_path / "validation.txt"
    prompts.write_text("\n".join(PROMPTS))
    run = Config.model_validate(
        {
            "run": {"name": "run", "output": str(tmp_path), "cycles": CYCLES},
            "model": {"path": "builtin:shapes", "max_sequence_length": 1},
            "data": {"source": "shapes", "prompt_rows": 28, "images_per_prompt": 2},
            "diffusion": {"sigmas": (1.0, 0.5)},
            "rollout": {"actors": 1, "group_size": 4, "groups_per_cycle": 2},
            "reward": {"extra": REWARD, "extra_weight": 0.5},
            "learner": {"engine": "torch"},
            "dmd": {"batch_size": 4},
            "fake_score": {"batch_size": 4},
            "discriminator": {"batch_size": 4, "auc_rows": 1},
            "cadence": {
                "warm_dmd_updates": 0,
                "ramp_interval": 1,
                "fake_score_updates": 1,
                "discriminator_updates": 1,
            },
            "evaluation": {"grid_cycles": 0, "alarm_window": 4, "keep_grids": 3},
            "scorers": {"names": (FALLING, REDNESS), "alarm": FALLING},
            "validation": {"prompts": str(prompts), "cycles": 1, "images": 2},
            "metrics": {"port": 0},
        }
    )
    preflight.check(run, local=True)
    assert train_here(run) == CYCLES
    # Series: the scorers', the own reward's, and the alarm that one of them feeds.
    assert _gauges(run, "advdmd_run_validation_score{scorer=falling}") == [-1, -2, -3, -4, -5]
    red = _gauges(run, "advdmd_run_validation_score{scorer=redness}")
    assert len(red) == len({*red}) == CYCLES, "each version is another student"
    assert np.isfinite(red).all()
    assert _gauges(run, "advdmd_reward_extra_mean") == sorted(_gauges(run, "advdmd_reward_extra_mean"))
    assert all(spread > 0 for spread in _gauges(run, "advdmd_reward_extra_spread"))
    assert _gauges(run, "advdmd_run_reward_hack_alarm") == [0, 0, 0, 1, 1]
    assert "rises while falling falls (reward hacking?) at version 4" in caplog.text
    # RL learned from it, though no level of so young a discriminator is open.
    assert _gauges(run, "advdmd_learner_updates_total{objective=rl}")[-1] == CYCLES
    assert not any(_gauges(run, "advdmd_learner_rl_gate_open{level=2}"))
    assert float(latest_checkpoint(RunFolder(run.folder).checkpoints).load("reward_statistics")["own"]) > 0
    # Pictures, in the folder, the sinks and the page.
    folder = RunFolder(run.folder)
    assert [version for version, _ in folder.validations()] == [1, 3, 5]
    assert set(DrawnPictures(folder).of(3)) == {"samples/validation/1"}
    folder.config.write_text(dump_config(run))
    record, pictures = read_record(run.folder, "run"), InPage(folder.report)
    shown = samples(folder, pictures)
    (strip,) = shown.validation[-1][1][0].strips
    assert (shown.validation[-1][0], strip.label, len(strip.tiles)) == (5, "student, 2 steps, cycle 5", 6)
    assert shown.validation[-1][1][0].prompts == PROMPTS
    assert "Validation prompts through time" in sections([record], pictures)["samples"]

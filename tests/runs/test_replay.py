"""A lease of the quarantine is run again with its own weights, and the first values that are not finite are named."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from advdmd_ray import cli
from advdmd_ray.config import Config, dump_config
from advdmd_ray.errors import UserError
from advdmd_ray.learner.checkpoint import save_checkpoint
from advdmd_ray.runs.folder import RunFolder
from advdmd_ray.runs.parts.inputs import encode_table
from advdmd_ray.runs.parts.workers import build_rollout_worker
from advdmd_ray.runs.replay import described, replay
from advdmd_ray.stations.buffer.quarantined import Quarantined, write_quarantined
from advdmd_ray.stations.buffer.record_batch import encode_group
from advdmd_ray.stations.records import Lease

pytestmark = pytest.mark.usefixtures("encoders_once")


@pytest.fixture
def config(tmp_path: Path, tiny_pipeline: Path) -> Config:
    tree: dict[str, Any] = {
        "run": {"name": "run", "output": str(tmp_path)},
        "model": {"path": str(tiny_pipeline)},
        "diffusion": {"sigmas": (1.0, 0.6, 0.3)},
        "rollout": {"group_size": 4},
    }
    return Config.model_validate(tree)


def quarantined(version: int, *, prompt: int = 2, fault: str = "latents: contains NaN") -> Quarantined:
    return Quarantined(Lease(5, 1, prompt, 77, version), fault, "rollout-0")


def save(config: Config, version: int, change: Callable[[Tensor], Tensor]) -> None:
    """A checkpoint whose student has changed weights."""
    held = build_rollout_worker(config, "w", encode_table(config)).weights()
    student = {name: change(weight.clone()) for name, weight in held.items()}
    facts = {"config": config.model_dump(mode="json")}
    save_checkpoint(RunFolder(config.folder).checkpoints, version, {"student": student}, facts, keep=9)


def test_a_lease_of_version_0_is_run_with_the_teachers_weights_and_gives_the_same_bits(config: Config) -> None:
    first = replay(config, quarantined(0))
    assert first.finite
    assert first.text.endswith("all values are finite here")
    assert "with the teacher's weights, with which version 0 began" in first.text
    worker = build_rollout_worker(config, "w", encode_table(config))
    worker._network.version = 0
    group = worker.generate(quarantined(0).lease)
    again = replay(config, replace(quarantined(0), batches=(encode_group(group),)))
    lines = [line for line in again.text.splitlines() if line.startswith("  ")]
    assert [line.split(":")[0].strip().split(",")[0] for line in lines] == [
        "the state of level 0",
        "the mean of action 0",
        "the state of level 1",
        "the mean of action 1",
        "the state of level 2",
        "the state of level 3",
    ]
    assert all(line.endswith("; the same in the file") for line in lines)
    state = group.latents[:, 1]
    assert f"noise level 0.6: all finite, from {state.min():.4g} to {state.max():.4g}" in lines[2]


def test_weights_that_overflow_are_found_at_the_first_value_that_they_make(config: Config) -> None:
    save(config, 3, lambda weight: torch.full_like(weight, float("nan")))
    done = replay(config, quarantined(3))
    assert not done.finite
    assert done.text.endswith("values stop being finite at the mean of action 0")
    assert "the state of level 0, noise level 1: all finite" in done.text
    assert "the mean of action 0: none is finite" in done.text
    assert f"with the weights of {RunFolder(config.folder).checkpoints / 'step-00000003'}" in done.text


@pytest.mark.parametrize(
    ("saved", "version", "used"),
    [
        ((2, 6), 6, "step-00000006\n"),
        ((2, 6), 5, "step-00000002, as it has none of version 5"),
        ((6, 8), 5, "step-00000006, as it has none of version 5"),
        ((), 5, "the run has no checkpoint of version 5"),
    ],
)
def test_without_a_checkpoint_of_its_version_it_says_which_weights_it_took(
    config: Config, saved: tuple[int, ...], version: int, used: str
) -> None:
    for step in saved:
        save(config, step, lambda weight: weight)
    assert used in replay(config, quarantined(version)).text


def test_some_values_that_are_not_finite_are_a_share_and_leave_the_range_of_the_others() -> None:
    assert described(np.array([1.0, np.nan, -3.0, np.inf])) == "50 % finite, from -3 to 1"
    assert described(np.array([np.nan])) == "none is finite"


def test_rewards_that_were_not_finite_are_not_scored_again_and_it_says_so(config: Config) -> None:
    assert "not scored again" in replay(config, quarantined(0, fault="rewards: contains NaN")).text


def test_a_lease_of_another_run_is_one_line(config: Config) -> None:
    with pytest.raises(UserError, match=r"the lease is of prompt 5000, this configuration has \d+"):
        replay(config, quarantined(0, prompt=5000))
    save(config, 3, lambda weight: weight)
    other = config.model_copy(update={"model": config.model.model_copy(update={"guidance": 3.0})})
    with pytest.raises(UserError, match=r"model\.guidance is 3\.0"):
        replay(other, quarantined(3))


def test_the_command_takes_the_runs_own_configuration_and_ends_with_1_where_it_is_not_finite_here(
    config: Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("advdmd_ray.runs.alone.in_its_own_process", lambda work: work())
    folder = RunFolder(config.folder)
    folder.quarantine.mkdir(parents=True)
    folder.config.write_text(dump_config(config))
    file = folder.quarantine / "ordinal-00000005-attempt-1.arrow"
    write_quarantined(file, quarantined(3))
    assert cli.main(["replay", str(file)]) == cli.DONE
    assert capsys.readouterr().out.endswith("all values are finite here\n")
    save(config, 3, lambda weight: torch.full_like(weight, float("inf")))
    assert cli.main(["replay", str(file), "--config", str(folder.config)]) == cli.FAILED
    assert "values stop being finite" in capsys.readouterr().out

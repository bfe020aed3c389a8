"""Room on the disk of the run folder, told before a run."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from advdmd_ray.config import Config
from advdmd_ray.errors import UserError
from advdmd_ray.models.folder import inspect_pipeline
from advdmd_ray.runs import doctor, preflight
from advdmd_ray.runs.folder import RunFolder
from advdmd_ray.runs.needs.disk import check_disk, disk_need
from pipeline_folder import WEIGHTS, write_pipeline


class Usage(NamedTuple):
    """What the system says of a disk."""

    total: int
    used: int
    free: int


def config_in(folder: Path, **sections: Mapping[str, object]) -> Config:
    if not (folder / "teacher").exists():
        write_pipeline(folder / "teacher")
    tree: dict[str, object] = {
        "model": {"path": str(folder / "teacher")},
        "run": {"output": str(folder / "runs"), "name": "r"},
        "metrics": {"port": 0},
    }
    return Config.model_validate(tree | sections)


def test_whole_networks_are_what_a_calculation_by_hand_says(tmp_path: Path) -> None:
    config = config_in(tmp_path, learner={"keep_checkpoints": 3}, discriminator={"backbone": "own", "blocks": (1,)})
    need = disk_need(config, inspect_pipeline(config.model.path))
    # Weights of 3 networks, 2 moments of each and of RL's set, averages of student and discriminator.
    assert need.checkpoint == (3 + 2 * 4 + 2) * WEIGHTS * 4
    assert need.checkpoints == 4
    # A student has files like its teacher's, in the same numbers.
    assert need.student == sum(file.stat().st_size for file in (tmp_path / "teacher").rglob("*.safetensors"))
    assert need.total == 4 * need.checkpoint + need.student


def test_adapters_alone_are_in_the_checkpoints_of_a_run_that_learns_them(tmp_path: Path) -> None:
    config = config_in(tmp_path, lora={"rank": 2})
    need = disk_need(config, inspect_pipeline(config.model.path))
    adapters = 2 * (5 + 5) * 4  # of four layers
    assert need.checkpoint == (2 + 2 * 3 + 1) * adapters * 4


def test_a_full_disk_is_refused_before_a_run_and_found_by_the_doctor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    free: dict[str, object] = {"num_cpus": 0.0}
    config = config_in(tmp_path, rollout=free, learner=free)
    need = disk_need(config, inspect_pipeline(config.model.path)).total
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: Usage(10**12, 0, need))
    preflight.check(config)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: Usage(10**12, 0, need - 1))
    with pytest.raises(UserError, match=r"3 checkpoints of .* are free; lower learner\.keep_checkpoints, or choose"):
        preflight.check(config)
    preflight.check(config, here=False)
    (change,) = [finding for finding in doctor.examine(config) if finding.state == "change"]
    assert change.subject == "disk"


def test_what_a_run_has_written_already_is_not_asked_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_in(tmp_path)
    need = disk_need(config, inspect_pipeline(config.model.path)).total
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: Usage(10**12, 0, 0))
    with pytest.raises(UserError, match="0 MiB are free"):
        check_disk(config)
    RunFolder(config.folder).checkpoints.mkdir(parents=True)
    (RunFolder(config.folder).checkpoints / "old").write_bytes(bytes(need))
    assert "are free" in check_disk(config)

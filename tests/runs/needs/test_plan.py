"""The plan of a run as text."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from advdmd_ray.config import Config
from advdmd_ray.runs.needs.memory import MIB, memory, sizes_of
from advdmd_ray.runs.needs.plan import plan_text
from pipeline_folder import write_pipeline


def config_in(folder: Path, **sections: Mapping[str, object]) -> Config:
    return Config.model_validate({"model": {"path": str(write_pipeline(folder / "teacher"))}, **sections})


def numbers(text: str, name: str) -> list[float]:
    """The columns of the row of memory with this name."""
    (row,) = (
        line for line in text.partition("\nmemory")[2].splitlines() if f"  {name} " in line or f" {name} " in line
    )
    return [float(part.replace(",", "")) for part in row.partition(f"{name} ")[2].split()[:2]]


def test_the_plan_names_every_role_and_its_memory(tmp_path: Path) -> None:
    text = plan_text(config_in(tmp_path))
    for role in ("driver", "rollout", "reward", "learner", "buffer", "weights", "metrics", "store", "total"):
        assert f" {role} " in text


def test_a_role_has_its_memory_of_a_gpu_beside_that_of_its_host_and_the_total_is_of_all(tmp_path: Path) -> None:
    config = config_in(tmp_path, learner={"num_gpus": 1.0, "ranks": 2}, rollout={"actors": 3})
    text, rows = plan_text(config), memory(config, sizes_of(config))
    for row in rows:
        assert numbers(text, row.role) == pytest.approx([row.gpu / MIB, row.host / MIB], abs=0.06), row.role
    whole = [sum(row.workers * row.gpu for row in rows) / MIB, sum(row.host_of_all for row in rows) / MIB]
    whole[1] += config.ray.object_store_bytes / MIB
    assert numbers(text, "total") == pytest.approx(whole, abs=0.06)
    assert whole[0] > 0

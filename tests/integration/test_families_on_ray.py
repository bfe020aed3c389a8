"""The main job on a local Ray with tiny pipelines of the newest families, whole and with adapters."""

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors import safe_open

from advdmd_ray.models.families.registry import FAMILIES
from family_jobs import GROUP_SIZE, GROUPS, family_settings
from ray_runs import workplace

# Imported by name: a type checker finds few of its classes exported.
diffusers: Any = importlib.import_module("diffusers")
pytestmark = [pytest.mark.slow, pytest.mark.wide, pytest.mark.timeout(1200)]
CYCLES = 4
PIPELINES = {family.name: family.pipeline for family in FAMILIES}


@pytest.mark.parametrize("rank", [0, 2])
@pytest.mark.parametrize("family", ["flux2", "krea2", "sana"])
def test_a_familys_student_learns_on_ray_by_every_objective_and_is_exported(family: str, rank: int) -> None:
    with workplace() as place:
        file, out = place.folder / "run.yaml", place.folder / "learnt"
        settings = family_settings(family, place.folder, rank=rank)
        file.write_text(yaml.safe_dump(settings | {"run": {"name": out.name, "output": str(place.folder)}}))
        # Ratios are compared where actor and learner have one version: at any cap above 0 that may be the first alone.
        job = place.run(file, f"run.cycles={CYCLES}", "rollout.max_policy_age=0")
        assert job.ended(900) == 0, job.log()
        assert place.left_after(15) == []
        assert "Traceback" not in job.log()
        learnt_by_every_objective(out)
        every_group_settles_once(out)
        kept_what_learns(out, adapters=rank > 0)
        plain_diffusers_loads(out / "student", place.folder / "teacher", PIPELINES[family])


def learnt_by_every_objective(out: Path) -> None:
    summary = json.loads((out / "summary.json").read_text())
    assert summary["cycles"] == CYCLES
    updates = summary["updates"]
    assert updates["dmd"] == updates["fake_score"] == updates["discriminator"] == CYCLES
    assert 0 < updates["rl"] < CYCLES
    assert 0 <= summary["ratio_deviation"] <= 1e-6
    weights = summary["weights"]
    assert weights["mismatched"] == {"student": 0, "discriminator": 0}
    assert min(weights["verified"].values()) > 0
    used = {version for streams in weights["workers"].values() for version in streams.values()}
    assert used == {CYCLES - 1}
    assert weights["published"] == {"student": CYCLES + 1, "discriminator": CYCLES + 1}
    assert summary["trajectories"]["trained"] == CYCLES * GROUPS * GROUP_SIZE


def every_group_settles_once(out: Path) -> None:
    manifest = json.loads((newest(out) / "manifest.json").read_text())
    frontier = manifest["body"]["facts"]["controller"]["frontier"]
    assert (frontier["next_ordinal"], frontier["unsettled"]) == (CYCLES * GROUPS, [])


def kept_what_learns(out: Path, *, adapters: bool) -> None:
    """A checkpoint has the adapters alone, or all weights of the network and no adapter."""
    with safe_open(newest(out) / "student.safetensors", "pt") as student:
        names = list(student.keys())
    assert names
    assert {".lora_" in name for name in names} == {adapters}


def plain_diffusers_loads(student: Path, teacher: Path, pipeline: str) -> None:
    """The student is another network than the teacher, in a folder that diffusers makes a whole pipeline of."""
    taught, learnt = (weights(folder) for folder in (teacher, student))
    assert taught.keys() == learnt.keys()
    assert all(tensor.isfinite().all() for tensor in learnt.values())
    assert any(not torch.equal(taught[name], learnt[name]) for name in taught)
    made = diffusers.DiffusionPipeline.from_pretrained(student)
    assert type(made).__name__ == pipeline


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Of the transformer of a pipeline's folder, by name."""
    with safe_open(folder / "transformer" / "diffusion_pytorch_model.safetensors", "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping


def newest(out: Path) -> Path:
    """The newest checkpoint of a run."""
    return max((out / "checkpoints").glob("step-*"))

"""The smallest run that goes through all of the product: its teacher and its configuration."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from advdmd_ray.data.digits.prompts import DIGIT_WORDS
from advdmd_ray.models.codec import PixelCodec
from advdmd_ray.models.pipeline import save_pipeline
from advdmd_ray.models.tiny import DIGITS, build_tiny_pipeline

GROUP_SIZE, PER_CYCLE = 2, 32


def write_teacher(folder: Path) -> Path:
    """Writes an untrained pipeline of the digits with 2 blocks of width 32, and returns its folder."""
    architecture = replace(DIGITS, layers=2, head_width=8)
    save_pipeline(build_tiny_pipeline(DIGIT_WORDS, PixelCodec(), architecture, seed=3), folder)
    return folder


def tiny_settings(folder: Path, groups: int, limit_s: float | None = None) -> dict[str, Any]:
    """The configuration of a run of so many groups, in which every network learns and every station works.

    Args:
        folder: Holds the teacher, which `write_teacher` wrote to `folder/teacher`, and takes the run `folder/run`.
        groups: A multiple of 32.
        limit_s: Seconds of training after which it ends before that, unless None.

    Raises:
        ValueError: if it is none.
    """
    if groups < PER_CYCLE or groups % PER_CYCLE:
        raise ValueError(f"the groups of a run are a multiple of {PER_CYCLE}, got {groups}")
    batch = {"batch_size": PER_CYCLE}
    return {
        "run": {"name": "run", "output": str(folder), "cycles": groups // PER_CYCLE, "time_limit_s": limit_s},
        "model": {"path": str(folder / "teacher")},
        "diffusion": {"sigmas": [1.0, 0.5]},
        "rollout": {"actors": 1, "group_size": GROUP_SIZE, "groups_per_cycle": PER_CYCLE},
        "reward": {"final_levels": [0.1]},
        "dmd": batch,
        "fake_score": batch,
        "discriminator": {**batch, "blocks": [1], "text_errors": None, "auc_high": 1.0, "auc_rows": 1},
        "policy_gradient": {"group_rows": 2},
        "cadence": {"fake_score_updates": 1, "discriminator_updates": 1, "warm_dmd_updates": 4, "ramp_interval": 8},
        "learner": {"checkpoint_cycles": 50},
        "evaluation": {"samples": 20, "grid_cycles": 0},
        "metrics": {"port": 0},
    }

"""The main job of a tiny pipeline of any family: few prompts, images of their own teacher, every objective at work."""

from pathlib import Path
from typing import Any

from ray_runs import SMALL
from tiny_families import write_family

GROUPS, GROUP_SIZE = 2, 4
PIXELS = (32, 48)
"""Height and width."""


def family_settings(name: str, folder: Path, *, rank: int) -> dict[str, Any]:
    """The settings of such a run, whose teacher and prompts are written to `folder`.

    Args:
        name: Of the family.
        folder: One that exists.
        rank: Of adapters; 0: all weights learn.
    """
    prompts = folder / "prompts.txt"
    prompts.write_text("a red fox above the boat\na fox\n")
    return {
        **SMALL,
        "model": {
            "path": str(write_family(name, folder / "teacher")),
            "height": PIXELS[0],
            "width": PIXELS[1],
            "guidance": 2.0,
            "max_sequence_length": 300,
        },
        "lora": {"rank": rank},
        "data": {"source": "teacher_samples", "prompts": str(prompts), "teacher_samples": 20, "teacher_steps": 2},
        "diffusion": {"sigmas": [1.0, 0.6]},
        "rollout": {"group_size": GROUP_SIZE, "groups_per_cycle": GROUPS},
        "dmd": {"batch_size": 2},
        "fake_score": {"batch_size": 2},
        "discriminator": {"backbone": "own", "batch_size": 2, "blocks": [0, 1], "text_errors": None, "auc_high": 1.0},
    }

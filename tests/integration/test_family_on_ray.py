"""A real model's family on Ray: adapters of a tiny Qwen-Image that learn beside images of their own teacher."""

import json
import re
from pathlib import Path

import pytest
import yaml
from safetensors import safe_open

from ray_runs import SMALL, workplace
from tiny_families import write_family

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def _written(folder: Path) -> Path:
    """The configuration of the run, in `folder/run.yaml`."""
    prompts = folder / "prompts.txt"
    prompts.write_text("a red fox above the boat\na fox\n")
    settings = {
        **SMALL,
        "run": {"name": "qwen", "output": str(folder), "cycles": 2},
        "model": {
            "path": str(write_family("qwen_image", folder / "teacher")),
            "height": 32,
            "width": 48,
            "guidance": 2.0,
            "max_sequence_length": 300,
        },
        "lora": {"rank": 2},
        "data": {
            "source": "teacher_samples",
            "prompts": str(prompts),
            "teacher_samples": 24,
            "teacher_steps": 2,
        },
        "diffusion": {"sigmas": [1.0, 0.6]},
        "rollout": {"group_size": 4, "groups_per_cycle": 2},
        "dmd": {"batch_size": 2},
        "fake_score": {"batch_size": 2},
        "discriminator": {"backbone": "own", "batch_size": 2, "blocks": [0, 1], "auc_low": 0.0, "auc_high": 1.0},
    }
    file = folder / "run.yaml"
    file.write_text(yaml.safe_dump(settings))
    return file


def test_adapters_are_learned_on_ray_beside_the_teachers_own_images() -> None:
    with workplace() as place:
        config = _written(place.folder)
        started = place.run(config)
        assert started.ended(400) == 0, started.log()
        log, folder = started.log(), place.folder / "qwen"
        assert re.search(r"images of the teacher: 48 of 48", log), log
        shards = [file.name for file in sorted((place.folder / "latents").rglob("*.arrow"))]
        assert shards == ["00000000-00000032.arrow", "00000032-00000048.arrow"]
        summary = json.loads((folder / "summary.json").read_text())
        assert summary["updates"] == {"dmd": 2, "rl": 1, "fake_score": 2, "discriminator": 2}
        newest = max((folder / "checkpoints").glob("step-*"))
        with safe_open(newest / "student.safetensors", "pt") as student:
            assert all(".lora_" in name for name in student.keys()), "a LoRA run keeps adapters alone"  # noqa: SIM118 - no mapping
        # Its student is a whole folder of the family, the adapters merged.
        assert json.loads((folder / "student" / "model_index.json").read_text())["_class_name"] == "QwenImagePipeline"
        assert place.left_after(15) == []

"""A comparison in miniature over a tiny pipeline: two groups of four a cycle, three steps."""

from pathlib import Path
from typing import Any

import yaml

CONFIGS = Path(__file__).parents[2] / "configs" / "compare"
"""The comparisons that ship."""
RESULTS = Path(__file__).parents[2] / "docs" / "results"
"""Their results that ship."""
BASE: dict[str, dict[str, Any]] = {
    "diffusion": {"sigmas": [1.0, 0.6, 0.3]},
    "rollout": {"actors": 1, "group_size": 4, "groups_per_cycle": 2},
    "dmd": {"batch_size": 4},
    "fake_score": {"batch_size": 4},
    "discriminator": {"batch_size": 4, "text_errors": None, "auc_high": 1.0, "auc_rows": 2},
    "cadence": {"warm_dmd_updates": 1, "ramp_interval": 1, "fake_score_updates": 1, "discriminator_updates": 1},
}
DMD = {"name": "dmd", "overrides": {"policy_gradient.enabled": False, "cadence.discriminator_updates": 0}}
ADVDMD = {"name": "advdmd", "label": "AdvDMD"}
TWINFLOW = {
    "name": "twinflow",
    "trainer": "twinflow",
    "settings": {"batch_size": 4},
    "overrides": {"diffusion.sigmas": [1.0], "policy_gradient.enabled": False},
}


def write_comparison(folder: Path, pipeline: Path, **values: Any) -> Path:
    """Writes `folder/base.yaml` and `folder/small.yaml` and returns the path of the second."""
    (folder / "base.yaml").write_text(yaml.safe_dump({**BASE, "model": {"path": str(pipeline)}}))
    tree: dict[str, Any] = {
        "name": "small",
        "base": "base.yaml",
        "seeds": [0, 1],
        "budget": 200,
        "points": 2,
        "judge_samples": 20,
        "teacher_steps": [2, 1],
        "rivals": [DMD, ADVDMD],
    }
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(tree | values))
    return path

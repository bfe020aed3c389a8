"""The plan of a run as text."""

from pathlib import Path

from advdmd_ray.config import Config
from advdmd_ray.runs.needs.plan import plan_text
from pipeline_folder import write_pipeline


def test_the_plan_names_every_role_and_its_memory(tmp_path: Path) -> None:
    text = plan_text(Config.model_validate({"model": {"path": str(write_pipeline(tmp_path / "teacher"))}}))
    for role in ("driver", "rollout", "reward", "learner", "buffer", "weights", "metrics", "store", "total"):
        assert f"  {role} " in text

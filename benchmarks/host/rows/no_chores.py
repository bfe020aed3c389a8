"""Runs whose controller is what counts: their workers take time and do nothing else."""

from pathlib import Path

from advdmd_ray.config import Config


def without_chores(actors: int, groups: int, cycles: int, *, age: int, output: Path = Path("runs")) -> Config:
    """A run without checkpoints and grids, in which a tenth of the workers score and the buffer has room.

    Args:
        actors: Rollout actors.
        groups: Groups a cycle.
        cycles: Cycles of the run.
        age: Most versions that a group may lag behind.
        output: Where the run's folder would be.
    """
    return Config.model_validate(
        {
            "run": {"name": "run", "output": str(output), "cycles": cycles},
            "rollout": {"actors": actors, "group_size": 4, "groups_per_cycle": groups, "max_policy_age": age},
            "reward": {"workers": max(1, actors // 10)},
            "buffer": {"max_bytes": 2**40},
            "learner": {"engine": "torch", "checkpoint_cycles": 10**9},
            "evaluation": {"grid_cycles": 0},
            **{name: {"batch_size": groups} for name in ("dmd", "fake_score", "discriminator")},
        }
    )

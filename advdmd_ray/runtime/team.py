"""The workers that work before a run's own are up, or once they have ended: they take the room that those have."""

import math
from dataclasses import dataclass

from advdmd_ray.config import Config
from advdmd_ray.runs.needs.memory import placement, reserved


@dataclass(frozen=True, slots=True)
class Team:
    """Workers with equal shares.

    Attributes:
        actors: Their number.
        num_cpus: Logical CPUs reserved by each.
        num_gpus: GPUs reserved by each.
    """

    actors: int
    num_cpus: float
    num_gpus: float


def team_of(config: Config, pieces: int) -> Team:
    """A worker for each GPU that the run's workers held, or where they held none for each CPU; at most one a piece."""
    cpus, gpus = reserved(placement(config))
    if not gpus:
        return Team(min(pieces, max(1, math.floor(cpus + 1e-6))), min(1.0, cpus), 0.0)
    return Team(min(pieces, max(1, math.floor(gpus + 1e-6))), config.rollout.num_cpus, min(1.0, gpus))

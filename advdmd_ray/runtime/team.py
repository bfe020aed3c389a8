"""The workers of work that is cut into pieces.

Those that work before a run's own are up, or once they have ended, take the room that those have; those of a command
take what Ray has.
"""

import math
from dataclasses import dataclass

import ray

from advdmd_ray.config import Config
from advdmd_ray.errors import UserError
from advdmd_ray.runs.needs.memory import placement, reserved

CPU_SHARE = 0.25
"""Of a logical CPU, reserved by a worker of a command; its threads are no reservation."""


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


def team_that_fits(pieces: int, *, gpus: float, nodes: int, actors: int | None, gpus_each: float | None) -> Team:
    """A worker for each GPU that there is, or where there is none for each node; or as many as are asked for.

    Args:
        pieces: Pieces of work; nobody is hired for nothing.
        gpus: GPUs that Ray has.
        nodes: Its nodes.
        actors: `--actors`; None leaves it to this.
        gpus_each: `--gpus-each`, >= 0; None: one where there is one.

    Raises:
        UserError: if there are too few GPUs for what is asked.
    """
    each = min(1.0, float(gpus >= 1)) if gpus_each is None else gpus_each
    room = math.floor(gpus / each + 1e-6) if each else None
    wanted = actors or (nodes if room is None else max(1, room))
    if room is not None and wanted > room:
        raise UserError(
            f"{wanted} actors of {each:g} GPUs: Ray has {gpus:g} GPUs; lower --actors or --gpus-each, or join a cluster"
        )
    return Team(max(1, min(pieces, wanted)), CPU_SHARE, each)


def team_here(pieces: int, actors: int | None, gpus_each: float | None) -> Team:
    """`team_that_fits` of the Ray that this process has joined.

    Raises:
        UserError: if there are too few GPUs for what is asked.
    """
    nodes = sum(node["Alive"] and node["Resources"].get("CPU", 0.0) >= CPU_SHARE for node in ray.nodes())
    gpus = ray.cluster_resources().get("GPU", 0.0)
    return team_that_fits(pieces, gpus=gpus, nodes=max(1, nodes), actors=actors, gpus_each=gpus_each)

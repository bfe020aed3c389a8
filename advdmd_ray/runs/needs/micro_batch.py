"""What `micro_batch=auto` comes to in a given memory, by the estimate of what a worker holds."""

import itertools

from advdmd_ray.config import Config
from advdmd_ray.runs.needs.activations import Activations, settled
from advdmd_ray.runs.needs.memory import ACTIVATIONS, RoleMemory, Sizes, memory

HEADROOM = 0.85
"""Share of a worker's GPU memory that the estimate may fill. The rest is for what it leaves out: buckets, heads, what
an allocator leaves unused."""


def role_memory(config: Config, sizes: Sizes, role: str, rows: int | None) -> RoleMemory:
    """Of one worker of a role whose calls have so many rows at most, if `micro_batch` leaves it open."""
    return next(row for row in memory(settled(config, lambda _: rows), sizes) if row.role == role)


def held_without_activations(config: Config, sizes: Sizes, role: str) -> int:
    """Bytes in GPU memory of one worker of a role between two calls of a network."""
    row = role_memory(config, sizes, role, 1)
    return row.gpu - sum(size for name, size in row.parts if name.startswith(ACTIVATIONS))


def rows_at_once(config: Config, sizes: Sizes, role: str) -> int:
    """Most rows that a role has to do together if nothing is parted."""
    return Activations(config, sizes.backbone, sizes.network, sizes.transformer).rows_at_once(role)


def fitting_rows(config: Config, sizes: Sizes, role: str, available: float) -> int | None:
    """Most rows of a call that fit; None: all of them at once.

    Args:
        config: The run's; `micro_batch` of the role is auto.
        sizes: Of the teacher's folder.
        role: rollout, reward or learner.
        available: GPU memory of one worker, bytes.

    Returns:
        At least 1, even if that is estimated not to fit.
    """

    def fits(rows: int | None) -> bool:
        return role_memory(config, sizes, role, rows).gpu <= HEADROOM * available

    if fits(None):
        return None
    too_many = next(rows for rows in (2**power for power in itertools.count(1)) if not fits(rows))
    fewest, most = too_many // 2, too_many  # the first of them fits, or is 1
    while most - fewest > 1:
        middle = (fewest + most) // 2
        fewest, most = (middle, most) if fits(middle) else (fewest, middle)
    return fewest

"""What the workers make: groups, without a byte of them, and what a cycle says."""

from dataclasses import dataclass

from advdmd_ray.config import Config
from advdmd_ray.learner.cadence import CyclePlan
from advdmd_ray.learner.outcome import CycleReport, UpdateReport
from advdmd_ray.stations.records import Lease
from schedules.drawn import GROUP_BYTES
from schedules.processes import Node


@dataclass(frozen=True, slots=True)
class Bytes:
    """A group, or one with its scores.

    Attributes:
        lease: What it was made of.
        nodes: Where the parts of it lie.
        scored: Whether there are scores.
    """

    lease: Lease
    nodes: tuple[Node, ...]
    scored: bool = False

    @property
    def gone(self) -> bool:
        return any(node.gone for node in self.nodes)


def size_of(config: Config, ordinal: int) -> int:
    """Bytes of a scored group."""
    return GROUP_BYTES * config.group_size_of(ordinal) // config.last_group_size


def cycle_report(version: int, groups: int) -> CycleReport:
    """What a cycle with one DMD update says."""
    return CycleReport(
        version=version,
        plan=CyclePlan("warm", 1, 1, 1, 0),
        updates={"dmd": UpdateReport(1, 0, 0.5, 1.0)},
        auc=(0.6,),
        smoothed_auc=(0.6,),
        open_levels=(True,),
        reward_mean=(0.0,),
        reward_spread=(1.0,),
        policy=None,
        fresh_deviation=0.0,
        trajectories=4 * groups,
        seconds=1.0,
    )

"""What the workers make: groups, without a byte of them."""

from dataclasses import dataclass

from advdmd_ray.config import Config
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

"""What the workers make: groups and weights, without a byte of them."""

from dataclasses import dataclass
from functools import lru_cache

import torch

from advdmd_ray.config import Config
from advdmd_ray.stations.records import Lease, Stream
from advdmd_ray.stations.weights.snapshot import Manifest, pack
from schedules.drawn import GROUP_BYTES
from schedules.processes import Node


@lru_cache(maxsize=2048)
def manifest(stream: Stream, version: int, made: int) -> Manifest:
    """That of a version; `made` stands for its bytes."""
    return pack(stream, version, {"w": torch.tensor(float(made))}).manifest


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Bytes:
    """A group, or one with its scores.

    Attributes:
        lease: What it was made of.
        nodes: Where the parts of it lie.
        student: Weights that made it.
        discriminator: Those that scored it; None: nobody did.
    """

    lease: Lease
    nodes: tuple[Node, ...]
    student: Manifest
    discriminator: Manifest | None = None

    @property
    def gone(self) -> bool:
        return any(node.gone for node in self.nodes)


def size_of(config: Config, ordinal: int) -> int:
    """Bytes of a scored group."""
    return GROUP_BYTES * config.group_size_of(ordinal) // config.last_group_size

"""What Ray's object store cannot hold: how much it is, where Ray keeps it, and whether there is room."""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from advdmd_ray.config import Config
from advdmd_ray.files import disk_of
from advdmd_ray.runs.needs.amounts import amount
from advdmd_ray.runs.needs.memory import Sizes, object_store_demand

FULLEST = 0.95
"""Share of a disk that is not free above which Ray writes no more to it (its RAY_local_fs_capacity_threshold)."""


@dataclass(frozen=True, slots=True)
class Disk:
    """Where a local Ray writes what its store cannot hold.

    Attributes:
        folder: Its folder of temporary files.
        room: Bytes that it may write there.
    """

    folder: Path
    room: int


def ray_disk() -> Disk:
    """That of a local Ray that this process starts."""
    temporary = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or tempfile.gettempdir()
    folder = Path(temporary) / "ray"
    total, free = disk_of(folder)
    return Disk(folder, max(0, free - int((1 - FULLEST) * total)))


@dataclass(frozen=True, slots=True)
class Spilling:
    """The groups that may be waiting, the snapshots and the encoded texts against the object store.

    Attributes:
        demand: Bytes that they fill at most.
        offered: Bytes of the store.
        disk: Of a local Ray; None for the nodes of a cluster, which cannot be seen from here.
    """

    demand: int
    offered: float
    disk: Disk | None

    @property
    def spills(self) -> bool:
        """Whether Ray may have to write to disk. It does that with an object larger than the store, too (Ray 2.60)."""
        return self.demand > self.offered

    @property
    def fits(self) -> bool:
        """Whether what it may have to write has room."""
        return self.disk is None or self.demand - self.offered <= self.disk.room

    @property
    def text(self) -> str:
        """In words, with what to do where it spills."""
        said = f"groups, snapshots and texts fill {amount(self.demand)} of {amount(self.offered)}"
        if not self.spills:
            return said
        key = "ray.object_store_bytes" if self.disk else "ray start --object-store-memory of the nodes"
        where, room = "disk", ""
        if self.disk is not None:
            where = str(self.disk.folder)
            room = "" if self.fits else f", and only {amount(self.disk.room)} may be written there"
        remedy = f"raise {key} to {self.demand}, or lower rollout.max_policy_age or buffer.max_bytes"
        return f"{said}: Ray writes the rest to {where}, which is slow{room}; {remedy}"


def spilling(config: Config, sizes: Sizes, offered: float, disk: Disk | None, texts: int = 0) -> Spilling:
    """What a run with this configuration may have Ray write to disk.

    Args:
        config: The configuration.
        sizes: Of the teacher's folder.
        offered: Bytes of all object stores together.
        disk: Of a local Ray.
        texts: Bytes of encoded texts in all object stores together.
    """
    return Spilling(object_store_demand(config, sizes) + texts, offered, disk)

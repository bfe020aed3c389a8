"""The teacher's images of several sizes: those of each size are drawn and kept as if they were the only ones."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from advdmd_ray.data.files.encoding import ArrowLatents
from advdmd_ray.data.source import Tools
from advdmd_ray.data.teacher_samples.plan import SamplePlan


@dataclass(frozen=True, slots=True)
class SizedSamples:
    """Which images there are to be of each size; the shards of a size are numbered behind those of the one before.

    Attributes:
        plans: Of every size.
    """

    plans: tuple[SamplePlan, ...]

    @property
    def images(self) -> int:
        """How many images, of all sizes."""
        return sum(plan.images for plan in self.plans)

    def missing(self) -> list[int]:
        """The shards that are not there yet."""
        found, first = list[int](), 0
        for plan in self.plans:
            found += [first + shard for shard in plan.missing()]
            first += plan.shards
        return found

    def rows(self, shard: int) -> range:
        """The images of a shard, among those of its size."""
        plan, own = self._at(shard)
        return plan.rows(own)

    def opened(self) -> "SizedLatents":
        """The teacher's images; raises as `SamplePlan.opened`."""
        return SizedLatents([plan.opened() for plan in self.plans])

    def make(self, shard: int, tools: Tools) -> int:
        """Draws one shard, unless it is there; raises as `SamplePlan.make`.

        Returns:
            Number of its images.
        """
        plan, own = self._at(shard)
        return plan.make(own, tools)

    def _at(self, shard: int) -> tuple[SamplePlan, int]:
        """The size that a shard is of, and its number among those of this size."""
        own = shard
        for plan in self.plans:
            if own < plan.shards:
                return plan, own
            own -= plan.shards
        raise IndexError(f"there are {shard - own} shards, got number {shard}")


class SizedLatents:
    """Latents of several sizes, those of a size behind those of the one before.

    Args:
        parts: Of every size.

    Attributes:
        captions: Of every row.
        thumbnails: `[n, 3, 8, 8]`, in [-1, 1].
        sizes: `[n]` number of each row's size.
    """

    def __init__(self, parts: Sequence[ArrowLatents]) -> None:
        self._parts = tuple(parts)
        counts = torch.tensor([len(part) for part in parts])
        self._firsts = counts.cumsum(0) - counts
        self.captions = [caption for part in parts for caption in part.captions]
        self.thumbnails = torch.cat([part.thumbnails for part in parts])
        self.sizes: Int64[Tensor, " n"] = torch.arange(len(parts)).repeat_interleave(counts)

    def __len__(self) -> int:
        return len(self.captions)

    def __getitem__(self, rows: Tensor) -> Float[Tensor, "n c h w"]:
        """The latents of some rows of one size, copied.

        Raises:
            ValueError: if they are of several sizes.
        """
        sizes = self.sizes[rows].unique().tolist()
        if len(sizes) > 1:
            raise ValueError(f"rows of sizes {sizes} cannot stand in one tensor")
        size = sizes[0] if sizes else 0
        return self._parts[size][rows - self._firsts[size]]

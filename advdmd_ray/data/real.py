"""Real images as a data set that can be asked for images of given prompts."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor


class LatentRows(Protocol):
    """Latents that are read by row, `[n, c, h, w]` float32: a tensor, or files."""

    def __len__(self) -> int:
        """Number of rows."""
        ...

    def __getitem__(self, rows: Tensor, /) -> Tensor:
        """A copy of some rows."""
        ...


@dataclass(frozen=True, slots=True)
class RealImages:
    """Real latents with the prompt that describes each.

    Attributes:
        latents: Row by row, float32, in the units the denoiser works in.
        prompt_ids: `[n]` int64, row of the prompt table.
        images: `[n]` int64, which image it is: rows with one number are the same image in two rows of the table;
            default: all are different.
        rows: `[m]` int64, the rows that are in this part of the data set; default: all.
        sizes: `[n]` int64, number of each row's size among those of the run; default: all are of the first.

    Raises:
        ValueError: The lengths differ, or there is no image.
    """

    latents: LatentRows
    prompt_ids: Int[Tensor, " n"]
    images: Int[Tensor, " n"] = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    rows: Int[Tensor, " m"] = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    sizes: Int[Tensor, " n"] = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    _rows: dict[int, Tensor] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        count = len(self.latents)
        if count != len(self.prompt_ids) or not count:
            raise ValueError(f"need as many prompt ids as latents, got {len(self.prompt_ids)} and {count}")
        if not len(self.images):
            object.__setattr__(self, "images", torch.arange(count))
        if not len(self.rows):
            object.__setattr__(self, "rows", torch.arange(count))
        if not len(self.sizes):
            object.__setattr__(self, "sizes", torch.zeros(count, dtype=torch.int64))
        order = self.prompt_ids[self.rows].argsort(stable=True)
        ids, counts = self.prompt_ids[self.rows].unique(return_counts=True)
        parts = self.rows[order].split(counts.tolist())
        object.__setattr__(self, "_rows", dict(zip(ids.tolist(), parts, strict=True)))

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """(c, h, w), of a part whose images are of one size."""
        return tuple(self.latents[self.rows[:1]].shape[1:])

    def of_size(self, size: int) -> "RealImages":
        """The part whose images are of one size.

        Raises:
            ValueError: There is none.
        """
        rows = self.rows[self.sizes[self.rows] == size]
        if not len(rows):
            raise ValueError(f"no real image is of size {size}")
        return self._part(rows)

    def _part(self, rows: Int[Tensor, " m"]) -> "RealImages":
        return RealImages(self.latents, self.prompt_ids, self.images, rows, self.sizes)

    def digest(self, texts: Sequence[str]) -> str:
        """Of the texts, and of which image of which size stands in which row of them; pixels are not looked at."""
        found = hashlib.sha256(json.dumps([*texts]).encode())
        for column in (self.prompt_ids, self.images, self.sizes, self.rows):
            found.update(column.to(torch.int64).numpy().tobytes())
        return found.hexdigest()

    def all(self) -> Float[Tensor, "m c h w"]:
        """A copy of all latents of this part."""
        return self.latents[self.rows]

    def drawn(self, prompt_ids: Int[Tensor, " b"], seed: int) -> tuple[Float[Tensor, "b c h w"], Int[Tensor, " b"]]:
        """Draw a real latent for each prompt id, uniformly and with replacement, and say which prompt describes it.

        That is the id that was asked for, or, where this part has no image of it, that of an image drawn from all.

        Args:
            prompt_ids: Prompts to match.
            seed: The same ids and seed give the same latents, whatever was drawn before.
        """
        draws = torch.rand(len(prompt_ids), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        chosen = []
        for prompt_id, draw in zip(prompt_ids.tolist(), draws.tolist(), strict=True):
            rows = self._rows.get(prompt_id, self.rows)
            chosen.append(rows[int(draw * len(rows))])
        found = torch.stack(chosen) if chosen else self.rows[:0]
        return self.latents[found], self.prompt_ids[found]

    def split(self, heldout_fraction: float, seed: int) -> tuple["RealImages", "RealImages"]:
        """Split into a part to learn from and a part to measure on; no image is in both.

        Of a prompt with several images a share goes to either part, at least one, as far as the prompts before it leave
        the choice; of prompts with one image that share goes to the second part as they are.

        Args:
            heldout_fraction: Share of each prompt's images in the second part, in (0, 1).
            seed: Seeds the draw.

        Raises:
            ValueError: There is one image only.
        """
        generator = torch.Generator().manual_seed(seed)
        held: dict[int, bool] = {}
        alone = list[int]()
        for _, rows in sorted(self._rows.items()):
            own = list(dict.fromkeys(self.images[rows].tolist()))
            if len(own) == 1:
                alone += own
                continue
            cut = min(max(round(heldout_fraction * len(own)), 1), len(own) - 1)
            left = cut - sum(held.get(image, False) for image in own)
            free = [image for image in own if image not in held]
            if free:
                order = torch.randperm(len(free), generator=generator).tolist()
                held |= {free[index]: place < left for place, index in enumerate(order)}
        kinds = sorted({*alone} - held.keys())
        if kinds:
            if len(kinds) + len(held) < 2:  # noqa: PLR2004 - one for either part
                raise ValueError("there is one real image only; a split needs two")
            # With other images in the second part, it needs none of these.
            least = 0 if held else 1
            cut = min(max(round(heldout_fraction * len(kinds)), least), len(kinds) - least)
            order = torch.randperm(len(kinds), generator=generator).tolist()
            held |= {kinds[index]: place < cut for place, index in enumerate(order)}
        out = torch.tensor([held[image] for image in self.images[self.rows].tolist()])
        return self._part(self.rows[~out].sort().values), self._part(self.rows[out].sort().values)

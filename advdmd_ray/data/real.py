"""Real images as a data set that can be asked for images of given prompts."""

import hashlib
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import Dataset


@dataclass(frozen=True, slots=True)
class RealImages(Dataset[tuple[Tensor, Tensor]]):
    """Real latents with the prompt that describes each.

    Attributes:
        latents: `[N, c, h, w]` float32, in the units the denoiser works in.
        prompt_ids: `[N]` int64, row of the prompt table.

    Raises:
        ValueError: The lengths differ, or there is no image.
    """

    latents: Float[Tensor, "n c h w"]
    prompt_ids: Int[Tensor, " n"]
    _rows: dict[int, Tensor] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if len(self.latents) != len(self.prompt_ids) or not len(self.latents):
            raise ValueError(f"need as many prompt ids as latents, got {len(self.prompt_ids)} and {len(self.latents)}")
        rows = {int(i): torch.nonzero(self.prompt_ids == i).flatten() for i in self.prompt_ids.unique()}
        object.__setattr__(self, "_rows", rows)

    def __len__(self) -> int:
        return len(self.latents)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return one latent `[c, h, w]` and its prompt id `[]`."""
        return self.latents[index], self.prompt_ids[index]

    def matched(self, prompt_ids: Int[Tensor, " b"], seed: int) -> Float[Tensor, "b c h w"]:
        """Draw, for each prompt id, a real latent of that prompt, uniformly and with replacement.

        Args:
            prompt_ids: Prompts to match.
            seed: The same ids and seed give the same latents, whatever was drawn before.

        Raises:
            ValueError: No real image has one of the prompts.
        """
        missing = sorted({int(i) for i in prompt_ids} - set(self._rows))
        if missing:
            raise ValueError(f"no real image has prompt id {missing[0]}; ids with images: {sorted(self._rows)}")
        draws = torch.rand(len(prompt_ids), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        chosen = [
            self._rows[int(i)][int(draw * len(self._rows[int(i)]))] for i, draw in zip(prompt_ids, draws, strict=True)
        ]
        return self.latents[torch.stack(chosen)] if chosen else self.latents[:0]

    def split(self, heldout_fraction: float, seed: int) -> tuple["RealImages", "RealImages"]:
        """Split every prompt's images into a part to learn from and a part to measure on.

        Rows with the same images (a prompt that stands twice in the table) are cut alike: no image of the first part is
        in the second.

        Args:
            heldout_fraction: Share of each prompt's images in the second part, in (0, 1); at least one image of each
                prompt goes to either part.
            seed: Seeds the draw.

        Raises:
            ValueError: A prompt has fewer than two images.
        """
        generator = torch.Generator().manual_seed(seed)
        learn, measure = [], []
        orders: dict[bytes, Tensor] = {}
        for prompt_id, rows in sorted(self._rows.items()):
            if len(rows) < 2:  # noqa: PLR2004 - one image for either part
                raise ValueError(f"prompt id {prompt_id} has one image; a split needs two")
            cut = min(max(round(heldout_fraction * len(rows)), 1), len(rows) - 1)
            images = hashlib.sha256(self.latents[rows].numpy(force=True).tobytes()).digest()
            if images not in orders:
                orders[images] = torch.randperm(len(rows), generator=generator)
            order = rows[orders[images]]
            measure.append(order[:cut])
            learn.append(order[cut:])
        first, second = torch.cat(learn).sort().values, torch.cat(measure).sort().values
        return (
            RealImages(self.latents[first], self.prompt_ids[first]),
            RealImages(self.latents[second], self.prompt_ids[second]),
        )

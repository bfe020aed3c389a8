"""The prompt table: every prompt encoded once, shared by all workers, never stored beside a trajectory."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

import torch
from jaxtyping import Int64
from torch import Tensor

from advdmd_ray.diffusion.denoiser import Conditioning


@dataclass(frozen=True, slots=True)
class PromptTable:
    """Encoded prompts, row i for prompt_id i, and the encoded empty prompt for classifier-free guidance.

    Attributes:
        texts: The prompts.
        conditioning: One row per prompt.
        unconditional: One row, the empty prompt.
        rollouts: Rollouts draw from so many first rows; the others are captions of real images. 0: from all.
    """

    texts: tuple[str, ...]
    conditioning: Conditioning
    unconditional: Conditioning
    rollouts: int = 0
    _rows_of: dict[str, list[int]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        rows_of: dict[str, list[int]] = {}
        for row, text in enumerate(self.texts):
            rows_of.setdefault(text, []).append(row)
        object.__setattr__(self, "_rows_of", rows_of)
        object.__setattr__(self, "rollouts", self.rollouts or len(self.texts))
        if len(self.texts) != len(self.conditioning) or len(self.unconditional) != 1:
            raise ValueError(
                f"{len(self.texts)} prompts came with {len(self.conditioning)} embeddings and "
                f"{len(self.unconditional)} empty prompts; expected as many as prompts, and 1"
            )

    def of(self, prompt_id: int, count: int) -> Conditioning:
        """The conditioning of one prompt, repeated `count` times."""
        return self.rows(torch.full((count,), prompt_id, dtype=torch.int64))

    def rows(self, prompt_ids: Int64[Tensor, " b"]) -> Conditioning:
        """The conditioning of a batch of prompt ids."""
        return self.conditioning.select(prompt_ids)

    def other(self, prompt_id: int, u: float) -> int:
        """A row whose text is another one than this row's, the k-th of them with `k = floor(u x their number)`.

        Args:
            prompt_id: The row; its text may stand in several.
            u: In [0, 1).

        Raises:
            ValueError: if every row has the same text.
        """
        own = self._rows_of[self.texts[prompt_id]]
        count = len(self.texts) - len(own)
        if not count:
            raise ValueError(f"every prompt of the table is {self.texts[prompt_id]!r}; there is no other to draw")
        # float32, as the draw itself: in float64 the product may fall on the other side of a whole number.
        row = int(torch.tensor(u, dtype=torch.float32) * count)
        for taken in own:
            row += row >= taken
        return row

    def state(self) -> dict[str, Tensor]:
        """The embeddings as named tensors; the texts travel beside them."""
        return {
            "embeds": self.conditioning.embeds,
            "pooled": self.conditioning.pooled,
            "unconditional.embeds": self.unconditional.embeds,
            "unconditional.pooled": self.unconditional.pooled,
            "rollouts": torch.tensor(self.rollouts),
            **{name: mask for name, mask in self._masks().items() if mask is not None},
        }

    def _masks(self) -> dict[str, Tensor | None]:
        return {"mask": self.conditioning.mask, "unconditional.mask": self.unconditional.mask}

    @classmethod
    def from_state(cls, texts: tuple[str, ...], state: Mapping[str, Tensor]) -> Self:
        """The table of `state()`."""
        return cls(
            texts,
            Conditioning(state["embeds"], state["pooled"], state.get("mask")),
            Conditioning(state["unconditional.embeds"], state["unconditional.pooled"], state.get("unconditional.mask")),
            int(state["rollouts"]),
        )

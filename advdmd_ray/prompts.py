"""The prompt table: every prompt encoded once, shared by all workers, never stored beside a trajectory."""

from collections.abc import Mapping
from dataclasses import dataclass
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
    """

    texts: tuple[str, ...]
    conditioning: Conditioning
    unconditional: Conditioning

    def __post_init__(self) -> None:
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

    def others(self, prompt_id: int) -> Int64[Tensor, " m"]:
        """The prompt ids whose text is another one than this id's; a text may stand in several rows."""
        own = self.texts[prompt_id]
        return torch.tensor([row for row, text in enumerate(self.texts) if text != own], dtype=torch.int64)

    def state(self) -> dict[str, Tensor]:
        """The embeddings as named tensors; the texts travel beside them."""
        return {
            "embeds": self.conditioning.embeds,
            "pooled": self.conditioning.pooled,
            "unconditional.embeds": self.unconditional.embeds,
            "unconditional.pooled": self.unconditional.pooled,
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
        )

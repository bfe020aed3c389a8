"""What a flow-matching network looks like to everything outside `models/`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Conditioning:
    """The encoded prompts of a batch.

    Attributes:
        embeds: `[b, l, d]` one embedding per text token.
        pooled: `[b, p]` one embedding per prompt.
    """

    embeds: Float[Tensor, "b l d"]
    pooled: Float[Tensor, "b p"]

    def __len__(self) -> int:
        """Number of prompts, b."""
        return self.embeds.shape[0]

    @property
    def device(self) -> torch.device:
        """The device that holds the embeddings."""
        return self.embeds.device

    def select(self, index: Int[Tensor, " n"]) -> "Conditioning":
        """The rows named by `index`, in its order; a row may be named many times."""
        index = index.to(self.device)
        return Conditioning(self.embeds.index_select(0, index), self.pooled.index_select(0, index))

    def to(self, device: torch.device | str) -> "Conditioning":
        """The same prompts on `device`."""
        return Conditioning(self.embeds.to(device), self.pooled.to(device))

    @classmethod
    def concatenate(cls, parts: Sequence["Conditioning"]) -> "Conditioning":
        """The prompts of all parts, one after the other; l, d and p must agree.

        Raises:
            ValueError: if `parts` is empty.
        """
        if not parts:
            raise ValueError("Conditioning.concatenate needs at least one part")
        return cls(torch.cat([p.embeds for p in parts]), torch.cat([p.pooled for p in parts]))


@runtime_checkable
class Denoiser(Protocol):
    """A network that predicts the velocity of `x_t = (1 - t) x0 + t eps`."""

    def __call__(
        self, x: Float[Tensor, "b c h w"], t: Float[Tensor, " b"], conditioning: Conditioning
    ) -> Float[Tensor, "b c h w"]:
        """The velocity `eps - x0` at states `x` and noise levels `t` in [0, 1]."""
        ...


def guided(denoiser: Denoiser, unconditional: Conditioning | None, guidance: float) -> Denoiser:
    """Classifier-free guidance: `v = v_u + w (v_c - v_u)` (Ho and Salimans, arXiv 2207.12598).

    Both halves go through the network in one batch of 2b. With w = 1 the network itself is returned: no forward
    is spent on the half that would cancel.

    Args:
        denoiser: The network.
        unconditional: The encoded empty prompt, a batch of 1 with the same l, d and p as the prompts.
        guidance: w, dimensionless; 1 is the plain conditional velocity.

    Raises:
        ValueError: if w is not 1 and `unconditional` is missing or not a batch of 1.
    """
    if guidance == 1:
        return denoiser
    if unconditional is None or len(unconditional) != 1:
        came = "none" if unconditional is None else f"a batch of {len(unconditional)}"
        raise ValueError(f"guidance {guidance} needs one unconditional embedding, got {came}")
    empty = unconditional

    def velocity(
        x: Float[Tensor, "b c h w"], t: Float[Tensor, " b"], conditioning: Conditioning
    ) -> Float[Tensor, "b c h w"]:
        repeated = empty.to(x.device).select(torch.zeros(x.shape[0], dtype=torch.int64))
        both = Conditioning.concatenate([repeated, conditioning])
        # The difference is scaled by w, so it is taken in float32 even where the network runs in bfloat16.
        without, with_text = denoiser(torch.cat([x, x]), torch.cat([t, t]), both).float().chunk(2)
        return without + guidance * (with_text - without)

    return velocity

"""What a flow-matching network looks like to everything outside `models/`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from advdmd_ray.diffusion.transfer import to_device


@dataclass(frozen=True, slots=True)
class Conditioning:
    """The encoded prompts of a batch.

    Attributes:
        embeds: `[b, l, d]` one embedding per text token.
        pooled: `[b, p]` one embedding per prompt; p is 0 in families whose networks take none.
        mask: `[b, l]` which tokens are the prompt's and not the padding behind them; None where the network takes all.
    """

    embeds: Float[Tensor, "b l d"]
    pooled: Float[Tensor, "b p"]
    mask: Bool[Tensor, "b l"] | None = None

    def __len__(self) -> int:
        """Number of prompts, b."""
        return self.embeds.shape[0]

    @property
    def device(self) -> torch.device:
        """The device that holds the embeddings."""
        return self.embeds.device

    def summary(self) -> Float[Tensor, "b s"]:
        """One vector per prompt: the pooled embedding, or the normalised mean of the prompt's own tokens.

        Normalised to mean 0 and variance 1 over channels: a language model's hidden states have a few channels that
        are hundreds of times larger than the others.
        """
        if self.pooled.shape[1]:
            return self.pooled
        tokens = self.embeds.float()
        own = torch.ones(tokens.shape[:2], device=tokens.device) if self.mask is None else self.mask.float()
        mean = (tokens * own.unsqueeze(2)).sum(dim=1) / own.sum(dim=1, keepdim=True)
        return nn.functional.layer_norm(mean, mean.shape[1:])

    def select(self, index: Int[Tensor, " n"]) -> "Conditioning":
        """The rows named by `index`, in its order; a row may be named many times."""
        index = index.to(self.device)
        return self._each(lambda part: part.index_select(0, index))

    def part(self, rows: slice) -> "Conditioning":
        """Consecutive rows, as views."""
        return self._each(lambda part: part[rows])

    def on(self, device: torch.device) -> "Conditioning":
        """The same prompts on another device; see `to_device`."""
        return self._each(lambda part: to_device(part, device))

    def trimmed(self) -> "Conditioning":
        """The same prompts without what is padding in every row, and without a mask where that leaves no padding.

        Attention without a mask may be a fused kernel, which takes none; a network must answer the same but for
        rounding.
        """
        if self.mask is None:
            return self
        columns = self.mask.any(dim=0).nonzero()
        longest = int(columns.max()) + 1 if len(columns) else 1
        mask = self.mask[:, :longest]
        return Conditioning(self.embeds[:, :longest], self.pooled, None if bool(mask.all()) else mask)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "Conditioning":
        """The same prompts on another device, their embeddings in another precision."""
        return self._each(lambda part: part.to(device=device, dtype=part.dtype if part.dtype == torch.bool else dtype))

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Conditioning":
        mask = None if self.mask is None else change(self.mask)
        return Conditioning(change(self.embeds), change(self.pooled), mask)

    @classmethod
    def concatenate(cls, parts: Sequence["Conditioning"]) -> "Conditioning":
        """The prompts of all parts, one after the other; d and p must agree, and l where there is no mask.

        Raises:
            ValueError: if `parts` is empty, or some have a mask and others not.
        """
        if not parts:
            raise ValueError("Conditioning.concatenate needs at least one part")
        masks = [part.mask for part in parts if part.mask is not None]
        if len(masks) not in {0, len(parts)}:
            raise ValueError("some of the prompts have a mask and others not")
        embeds = [part.embeds for part in parts]
        if masks:
            longest = max(mask.shape[1] for mask in masks)
            embeds = [nn.functional.pad(rows, (0, 0, 0, longest - rows.shape[1])) for rows in embeds]
            masks = [nn.functional.pad(mask, (0, longest - mask.shape[1])) for mask in masks]
        pooled = torch.cat([part.pooled for part in parts])
        return cls(torch.cat(embeds), pooled, torch.cat(masks) if masks else None)


@runtime_checkable
class Denoiser(Protocol):
    """A network that predicts the velocity of `x_t = (1 - t) x0 + t eps`."""

    def __call__(
        self, x: Float[Tensor, "b c h w"], t: Float[Tensor, " b"], conditioning: Conditioning
    ) -> Float[Tensor, "b c h w"]:
        """The velocity `eps - x0` at states `x` and noise levels `t` in [0, 1]."""
        ...


# From the velocities without and with the prompt and the guidance scale to one velocity.
GuidanceRule: TypeAlias = Callable[[Tensor, Tensor, float], Tensor]


def classifier_free(
    without: Float[Tensor, "b c h w"], with_text: Float[Tensor, "b c h w"], guidance: float
) -> Float[Tensor, "b c h w"]:
    """`v = v_u + w (v_c - v_u)` (Ho and Salimans, arXiv 2207.12598)."""
    return without + guidance * (with_text - without)


def guided(
    denoiser: Denoiser, unconditional: Conditioning | None, guidance: float, rule: GuidanceRule = classifier_free
) -> Denoiser:
    """A denoiser with classifier-free guidance.

    Both halves go through the network in one batch of 2b. With w = 1 the network itself is returned: no forward
    is spent on the half that would cancel.

    Args:
        denoiser: The network.
        unconditional: The encoded empty prompt, a batch of 1 with the same d and p as the prompts.
        guidance: w, dimensionless; 1 is the plain conditional velocity.
        rule: How the halves become one velocity; each family has its own.

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
        return rule(without, with_text, guidance)

    return velocity

"""FLUX.1: packed latents, rotary positions by row and column, a CLIP vector beside T5 tokens, embedded guidance.

FLUX.1-dev takes the guidance scale as an input and is called once a step; FLUX.1-schnell knows no guidance.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from advdmd_ray.diffusion.denoiser import Conditioning, Denoiser
from advdmd_ray.models.families.base import TIMESTEPS, Adapter, Pipeline, TransformerDenoiser, packed, unpacked


def grid_ids(height: int, width: int, like: Tensor) -> Float[Tensor, "n 3"]:
    """Positions of the tokens of a grid, row by row: 0, row, column."""
    rows, columns = torch.arange(height).repeat_interleave(width), torch.arange(width).repeat(height)
    return torch.stack([torch.zeros_like(rows), rows, columns], dim=1).to(like)


class FluxDenoiser(TransformerDenoiser):
    """`FluxTransformer2DModel`."""

    block_lists = ("transformer_blocks", "single_transformer_blocks")

    def velocity(
        self, x: Float[Tensor, "b c h w"], t: Float[Tensor, " b"], conditioning: Conditioning
    ) -> Float[Tensor, "b c h w"]:
        """See `TransformerDenoiser`."""
        height, width = x.shape[2:]
        embedded = self.transformer.config["guidance_embeds"]
        tokens = self.transformer(
            hidden_states=packed(x),
            encoder_hidden_states=conditioning.embeds,
            pooled_projections=conditioning.pooled,
            timestep=t * TIMESTEPS / TIMESTEPS,
            guidance=torch.full_like(t, self.guidance) if embedded else None,
            img_ids=grid_ids(height // 2, width // 2, x),
            txt_ids=x.new_zeros(conditioning.embeds.shape[1], 3),
            return_dict=False,
        )[0]
        return unpacked(tokens, height, width)

    def image_tokens(self, output: Any, size: tuple[int, int]) -> Float[Tensor, "b n d"]:
        """See `TransformerDenoiser`; blocks of both kinds return text tokens, then image tokens."""
        del size
        return output[1]


class Flux(Adapter):
    """The guidance scale goes to the transformer."""

    denoiser = FluxDenoiser
    fixed_tokenizers = ("tokenizer",)

    def encode(self, pipeline: Pipeline, prompts: Sequence[str], max_tokens: int) -> Conditioning:
        """See `Adapter`: embeds are T5 tokens, padding and all; pooled is CLIP's."""
        embeds, pooled, _ = pipeline.encode_prompt(prompt=list(prompts), prompt_2=None, max_sequence_length=max_tokens)
        return Conditioning(embeds, pooled)

    def guided(self, denoiser: Denoiser, empty: Conditioning, guidance: float) -> Denoiser:
        """See `Adapter`: the same transformer, told another scale."""
        del empty
        if not isinstance(denoiser, FluxDenoiser):
            raise TypeError(f"expected a FluxDenoiser, got {type(denoiser).__name__}")
        return FluxDenoiser(denoiser.transformer, guidance, denoiser.execution)

    def unguided(self, guidance: float) -> dict[str, Any]:
        """See `Adapter`."""
        return {"guidance_scale": guidance, "true_cfg_scale": 1.0}


ADAPTER = Flux()

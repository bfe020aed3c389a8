"""Stable Diffusion 3 and 3.5: unpacked latents, time to 1000, two CLIP encoders and a T5 that may be missing."""

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

from advdmd_ray.diffusion.denoiser import Conditioning
from advdmd_ray.models.families.base import TIMESTEPS, Adapter, Pipeline, TransformerDenoiser


class SD3Denoiser(TransformerDenoiser):
    """`SD3Transformer2DModel`."""

    def velocity(
        self, x: Float[Tensor, "b c h w"], t: Float[Tensor, " b"], conditioning: Conditioning
    ) -> Float[Tensor, "b c h w"]:
        """See `TransformerDenoiser`."""
        return self.transformer(
            hidden_states=x,
            encoder_hidden_states=conditioning.embeds,
            pooled_projections=conditioning.pooled,
            timestep=t * TIMESTEPS,
            return_dict=False,
        )[0]

    def image_tokens(self, output: Any, size: tuple[int, int]) -> Float[Tensor, "b n d"]:
        """See `TransformerDenoiser`; a block returns text tokens, then image tokens."""
        del size
        return output[1]


class SD3(Adapter):
    """Without a T5 encoder the pipeline fills its slot with as many zero tokens as it may hold.

    The transformer attends to them, so sampling must use the number that training used.
    """

    denoiser = SD3Denoiser
    fixed_tokenizers = ("tokenizer", "tokenizer_2")

    def encode(self, pipeline: Pipeline, prompts: Sequence[str], max_tokens: int) -> Conditioning:
        """See `Adapter`: embeds are CLIP tokens, then the T5 slot; pooled are both CLIP projections."""
        embeds, _, pooled, _ = pipeline.encode_prompt(
            prompt=list(prompts),
            prompt_2=None,
            prompt_3=None,
            do_classifier_free_guidance=False,
            max_sequence_length=max_tokens,
        )
        return Conditioning(embeds, pooled)


ADAPTER = SD3()

"""SANA: a codec of 32 pixels a side, attention across to the text, an instruction before each prompt."""

import inspect
import itertools
from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

from advdmd_ray.diffusion.denoiser import Conditioning
from advdmd_ray.models.families.base import TIMESTEPS, Adapter, ImageCodec, Pipeline, TransformerDenoiser, to_longest

OWN_SIZE = {"use_resolution_binning": False}
"""Without this the pipeline draws another size, of a table, and scales it."""


class SanaDenoiser(TransformerDenoiser):
    """`SanaTransformer2DModel`."""

    def velocity(
        self, x: Float[Tensor, "b c h w"], t: Float[Tensor, " b"], conditioning: Conditioning
    ) -> Float[Tensor, "b c h w"]:
        """See `TransformerDenoiser`; what a network says of the variance, behind the velocity, is not used."""
        said = self.transformer(
            x,
            encoder_hidden_states=conditioning.embeds,
            encoder_attention_mask=conditioning.mask,
            timestep=t * TIMESTEPS * self.transformer.config["timestep_scale"],
            return_dict=False,
        )[0]
        return said[:, : x.shape[1]]

    def image_tokens(self, output: Any, size: tuple[int, int]) -> Float[Tensor, "b n d"]:
        """See `TransformerDenoiser`; there are no others."""
        del size
        return output

    @property
    def token_width(self) -> int:
        """See `TransformerDenoiser`."""
        config = self.transformer.config
        return config["num_attention_heads"] * config["attention_head_dim"]

    @property
    def summary_width(self) -> int:
        """See `TransformerDenoiser`."""
        return self.transformer.config["caption_channels"]


class Sana(Adapter):
    """The pipeline writes an instruction before a prompt, and none before the empty one of guidance."""

    denoiser = SanaDenoiser

    def encode(self, pipeline: Pipeline, prompts: Sequence[str], max_tokens: int) -> Conditioning:
        """See `Adapter`; a prompt that is `empty_prompt` is that of guidance."""
        instruction, parts = _instruction(pipeline), []
        for empty, group in itertools.groupby(prompts, key=self.empty_prompt.__eq__):
            embeds, mask, _, _ = pipeline.encode_prompt(
                list(group),
                do_classifier_free_guidance=False,
                max_sequence_length=max_tokens,
                complex_human_instruction=None if empty else instruction,
            )
            embeds, own = to_longest(embeds, mask.bool())
            parts.append(Conditioning(embeds, embeds.new_zeros(len(embeds), 0), own))
        return Conditioning.concatenate(parts)

    def wrapped(self, pipeline: Pipeline, prompts: Sequence[str]) -> list[str]:
        """See `Adapter`."""
        before = "\n".join(_instruction(pipeline))
        return [before + prompt.lower().strip() for prompt in prompts]

    def dropped_tokens(self, pipeline: Pipeline) -> int:
        """See `Adapter`: the instruction is encoded, and all but two of its tokens are dropped then."""
        return len(pipeline.tokenizer.encode("\n".join(_instruction(pipeline)))) - 2

    def guided_call(self, guidance: float, prompts: int) -> dict[str, Any]:
        """See `Adapter`."""
        return super().guided_call(guidance, prompts) | OWN_SIZE

    def unguided(self, guidance: float) -> dict[str, Any]:
        """See `Adapter`."""
        return super().unguided(guidance) | OWN_SIZE

    def to_latents(self, codec: ImageCodec, images: Float[Tensor, "b i H W"]) -> Float[Tensor, "b c h w"]:
        """See `Adapter`; the codec, an `AutoencoderDC`, gives the latents themselves."""
        return codec.encode(images, return_dict=False)[0] * codec.config.scaling_factor

    def to_images(self, codec: ImageCodec, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b i H W"]:
        """See `Adapter`."""
        return codec.decode(latents / codec.config.scaling_factor, return_dict=False)[0]


def _instruction(pipeline: Pipeline) -> list[str]:
    """The lines that the pipeline writes before a prompt, its own default."""
    return inspect.signature(type(pipeline).__call__).parameters["complex_human_instruction"].default


ADAPTER = Sana()

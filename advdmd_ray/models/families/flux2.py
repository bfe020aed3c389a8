"""FLUX.2 klein: packed latents, positions on four axes, three layers of a language model, a codec with its own scale.

The base models are guided without a classifier. The distilled ones know no guidance, and their pipeline gives none.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from advdmd_ray.diffusion.denoiser import Conditioning
from advdmd_ray.models.families.base import (
    TIMESTEPS,
    Adapter,
    ImageCodec,
    Pipeline,
    TransformerDenoiser,
    packed,
    unpacked,
)

PATCH = 2


def axis_ids(height: int, width: int, length: int, device: torch.device) -> Tensor:
    """Positions of tokens, `[height x width x length, 4]`: 0, row, column and word, of which the last runs fastest."""
    axes = [torch.arange(size, device=device) for size in (1, height, width, length)]
    return torch.cartesian_prod(*axes)


class Flux2Denoiser(TransformerDenoiser):
    """`Flux2Transformer2DModel` as klein uses it, without an embedding of guidance."""

    block_lists = ("transformer_blocks", "single_transformer_blocks")

    def velocity(
        self, x: Float[Tensor, "b c h w"], t: Float[Tensor, " b"], conditioning: Conditioning
    ) -> Float[Tensor, "b c h w"]:
        """See `TransformerDenoiser`."""
        height, width = x.shape[2:]
        tokens = self.transformer(
            hidden_states=packed(x),
            encoder_hidden_states=conditioning.embeds,
            timestep=t * TIMESTEPS / TIMESTEPS,
            img_ids=axis_ids(height // PATCH, width // PATCH, 1, x.device),
            txt_ids=axis_ids(1, 1, conditioning.embeds.shape[1], x.device),
            return_dict=False,
        )[0]
        return unpacked(tokens, height, width)

    def image_tokens(self, output: Any, size: tuple[int, int]) -> Float[Tensor, "b n d"]:
        """See `TransformerDenoiser`; joint blocks return text and image tokens, single ones text, then image tokens."""
        if isinstance(output, tuple):
            return output[1]
        return output[:, -(size[0] // PATCH) * (size[1] // PATCH) :]

    @property
    def summary_width(self) -> int:
        """See `TransformerDenoiser`."""
        return self.transformer.config["joint_attention_dim"]


class Flux2(Adapter):
    """The codec's latents are normalised by the running mean and variance of each channel of a 2 x 2 patch."""

    denoiser = Flux2Denoiser

    def encode(self, pipeline: Pipeline, prompts: Sequence[str], max_tokens: int) -> Conditioning:
        """See `Adapter`: embeds are three layers of the language model side by side, padding and all."""
        embeds, _ = pipeline.encode_prompt(prompt=list(prompts), max_sequence_length=max_tokens)
        return Conditioning(embeds, embeds.new_zeros(len(embeds), 0))

    def wrapped(self, pipeline: Pipeline, prompts: Sequence[str]) -> list[str]:
        """See `Adapter`."""
        chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
        template = pipeline.tokenizer.apply_chat_template
        return [template(chat, tokenize=False, add_generation_prompt=True, enable_thinking=False) for chat in chats]

    def to_latents(self, codec: ImageCodec, images: Float[Tensor, "b i H W"]) -> Float[Tensor, "b c h w"]:
        """See `Adapter`."""
        mean, std = _patch_scales(codec, images)
        patches = nn.functional.pixel_unshuffle(codec.encode(images, return_dict=False)[0].mode(), PATCH)
        return nn.functional.pixel_shuffle((patches - mean) / std, PATCH)

    def to_images(self, codec: ImageCodec, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b i H W"]:
        """See `Adapter`."""
        mean, std = _patch_scales(codec, latents)
        patches = nn.functional.pixel_unshuffle(latents, PATCH) * std + mean
        return codec.decode(nn.functional.pixel_shuffle(patches, PATCH), return_dict=False)[0]


def _patch_scales(codec: ImageCodec, like: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each channel of a patch, `[4 c, 1, 1]`."""
    variance = codec.bn.running_var.to(like) + codec.config.batch_norm_eps
    return codec.bn.running_mean.to(like).reshape(-1, 1, 1), variance.sqrt().reshape(-1, 1, 1)


ADAPTER = Flux2()

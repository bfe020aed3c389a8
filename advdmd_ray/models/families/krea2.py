"""Krea 2: packed latents, one stream of text and image, many layers of a language model, the codec of Qwen-Image."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from advdmd_ray.diffusion.denoiser import Conditioning
from advdmd_ray.models.families.base import (
    TIMESTEPS,
    Blank,
    FrameCodecAdapter,
    Pipeline,
    TransformerDenoiser,
    packed,
    to_longest,
    unpacked,
)

PATCH = 2


class Krea2Denoiser(TransformerDenoiser):
    """`Krea2Transformer2DModel`; the layers of a token of text lie side by side in its embedding."""

    def velocity(
        self, x: Float[Tensor, "b c h w"], t: Float[Tensor, " b"], conditioning: Conditioning
    ) -> Float[Tensor, "b c h w"]:
        """See `TransformerDenoiser`."""
        height, width = x.shape[2:]
        words = torch.zeros(conditioning.embeds.shape[1], 3, device=x.device)
        axes = [torch.arange(size, device=x.device) for size in (1, height // PATCH, width // PATCH)]
        tokens = self.transformer(
            hidden_states=packed(x),
            encoder_hidden_states=conditioning.embeds.unflatten(2, (self.transformer.config["num_text_layers"], -1)),
            timestep=t * TIMESTEPS / TIMESTEPS,
            position_ids=torch.cat([words, torch.cartesian_prod(*axes).to(words)]),
            encoder_attention_mask=conditioning.mask,
            return_dict=False,
        )[0]
        return unpacked(tokens, height, width)

    def image_tokens(self, output: Any, size: tuple[int, int]) -> Float[Tensor, "b n d"]:
        """See `TransformerDenoiser`; image tokens come last in the one stream."""
        return output[:, -(size[0] // PATCH) * (size[1] // PATCH) :]

    def blank_output(self) -> dict[str, nn.Module]:
        """See `TransformerDenoiser`."""
        return {"final_layer": Blank(self.transformer.out_channels)}

    @property
    def token_width(self) -> int:
        """See `TransformerDenoiser`."""
        return self.transformer.hidden_size

    @property
    def summary_width(self) -> int:
        """See `TransformerDenoiser`."""
        config = self.transformer.config
        return config["num_text_layers"] * config["text_hidden_dim"]


class Krea2(FrameCodecAdapter):
    """The pipeline pads between prompt and template."""

    denoiser = Krea2Denoiser
    unguided_scale = 0.0

    def encode(self, pipeline: Pipeline, prompts: Sequence[str], max_tokens: int) -> Conditioning:
        """See `Adapter`: padding is moved to the end, as the network gives every token of text the same position."""
        layers, own = pipeline.encode_prompt(prompt=list(prompts), max_sequence_length=max_tokens)
        order = own.logical_not().long().argsort(dim=1, stable=True)
        embeds = layers.flatten(2)
        embeds, own = to_longest(embeds.gather(1, order.unsqueeze(2).expand_as(embeds)), own.gather(1, order))
        return Conditioning(embeds, embeds.new_zeros(len(embeds), 0), own)

    def wrapped(self, pipeline: Pipeline, prompts: Sequence[str]) -> list[str]:
        """See `Adapter`; what stands behind a prompt is added to what is left of it."""
        return [pipeline.prompt_template_encode_prefix + prompt for prompt in prompts]

    def dropped_tokens(self, pipeline: Pipeline) -> int:
        """See `Adapter`."""
        return pipeline.prompt_template_encode_start_idx - pipeline.prompt_template_encode_num_suffix_tokens


ADAPTER = Krea2()

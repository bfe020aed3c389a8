"""Z-Image: one stream of image and text tokens, time that runs from noise to data, a velocity of the other sign."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from advdmd_ray.diffusion.denoiser import Conditioning
from advdmd_ray.models.families.base import TIMESTEPS, Adapter, Blank, Pipeline, TransformerDenoiser, padded

PATCH = 2


class ZImageDenoiser(TransformerDenoiser):
    """`ZImageTransformer2DModel`."""

    block_lists = ("layers",)

    def velocity(
        self, x: Float[Tensor, "b c h w"], t: Float[Tensor, " b"], conditioning: Conditioning
    ) -> Float[Tensor, "b c h w"]:
        """See `TransformerDenoiser`; the transformer takes lists, each prompt with tokens of its own number."""
        embeds, mask = conditioning.embeds, conditioning.mask
        # Rows alike in length come without a mask.
        prompts = list(embeds) if mask is None else [row[own] for row, own in zip(embeds, mask, strict=True)]
        towards_data = self.transformer(
            list(x.unsqueeze(2).unbind()),
            (TIMESTEPS - t * TIMESTEPS) / TIMESTEPS,
            prompts,
            patch_size=PATCH,
            return_dict=False,
        )[0]
        return -torch.stack(towards_data).squeeze(2)

    def image_tokens(self, output: Any, size: tuple[int, int]) -> Float[Tensor, "b n d"]:
        """See `TransformerDenoiser`; image tokens come first in the one stream."""
        return output[:, : (size[0] // PATCH) * (size[1] // PATCH)]

    def blank_output(self) -> dict[str, nn.Module]:
        """See `TransformerDenoiser`; there is an output layer for each size of patch."""
        layers = self.transformer.all_final_layer.items()
        blank = {
            size: Blank(layer.out_features if isinstance(layer, Blank) else layer.linear.out_features)
            for size, layer in layers
        }
        return {"all_final_layer": nn.ModuleDict(blank)}

    @property
    def token_width(self) -> int:
        """See `TransformerDenoiser`."""
        return self.transformer.config["dim"]

    @property
    def summary_width(self) -> int:
        """See `TransformerDenoiser`."""
        return self.transformer.config["cap_feat_dim"]


class ZImage(Adapter):
    """The prompts are chats, as the pipeline has them."""

    denoiser = ZImageDenoiser
    unguided_scale = 0.0

    def encode(self, pipeline: Pipeline, prompts: Sequence[str], max_tokens: int) -> Conditioning:
        """See `Adapter`."""
        rows, _ = pipeline.encode_prompt(
            list(prompts), do_classifier_free_guidance=False, max_sequence_length=max_tokens
        )
        embeds, mask = padded(rows)
        return Conditioning(embeds, embeds.new_zeros(len(embeds), 0), mask)

    def wrapped(self, pipeline: Pipeline, prompts: Sequence[str]) -> list[str]:
        """See `Adapter`."""
        chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
        template = pipeline.tokenizer.apply_chat_template
        return [template(chat, tokenize=False, add_generation_prompt=True, enable_thinking=True) for chat in chats]


ADAPTER = ZImage()

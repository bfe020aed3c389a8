"""Text conditioning: every prompt goes through the pipeline's own tokenizers and text encoders once."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from advdmd_ray.diffusion.denoiser import Conditioning
from advdmd_ray.models.diffusers_classes import StableDiffusion3Pipeline


@torch.no_grad()
def encode_prompts(
    pipeline: StableDiffusion3Pipeline, prompts: Sequence[str], max_sequence_length: int
) -> Conditioning:
    """Encode a prompt table as the pipeline itself does.

    Args:
        pipeline: Its text encoders are used where they are.
        prompts: One or more prompts.
        max_sequence_length: Tokens of the T5 slot. Without a T5 encoder the pipeline fills the slot with this many
            zero tokens, which the transformer attends to, so sampling must use the number that training used.

    Returns:
        One row per prompt: embeds `[b, l, d]` (CLIP tokens, then the T5 slot) and pooled `[b, p]` (both CLIP
        projections, concatenated).
    """
    embeds, _, pooled, _ = cast(
        "tuple[Tensor, None, Tensor, None]",
        pipeline.encode_prompt(
            prompt=list(prompts),
            prompt_2=None,  # pyright: ignore[reportArgumentType] - None is documented: the first prompt is used
            prompt_3=None,  # pyright: ignore[reportArgumentType]
            do_classifier_free_guidance=False,
            max_sequence_length=max_sequence_length,
        ),
    )
    return Conditioning(embeds=embeds, pooled=pooled)


def unconditional(pipeline: StableDiffusion3Pipeline, max_sequence_length: int) -> Conditioning:
    """Encode the empty prompt, the unconditional half of classifier-free guidance, as a batch of one."""
    return encode_prompts(pipeline, [""], max_sequence_length)

"""Text conditioning: every prompt goes through the pipeline's own tokenizers and text encoders once."""

from collections.abc import Sequence

import torch

from advdmd_ray.diffusion.denoiser import Conditioning
from advdmd_ray.models.families import adapter_of
from advdmd_ray.models.families.base import Pipeline


@torch.no_grad()
def encode_prompts(pipeline: Pipeline, prompts: Sequence[str], max_sequence_length: int) -> Conditioning:
    """Encode a prompt table as the pipeline itself does, one row per prompt.

    Args:
        pipeline: Its text encoders are used where they are.
        prompts: One or more prompts.
        max_sequence_length: Most text tokens. Without a T5 encoder an SD3 pipeline fills its slot with this many zero
            tokens, which the transformer attends to, so sampling must use the number that training used.
    """
    return adapter_of(pipeline).encode(pipeline, prompts, max_sequence_length)


def unconditional(pipeline: Pipeline, max_sequence_length: int) -> Conditioning:
    """Encode the family's empty prompt, the unconditional half of classifier-free guidance, as a batch of one."""
    return encode_prompts(pipeline, [adapter_of(pipeline).empty_prompt], max_sequence_length)

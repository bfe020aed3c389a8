"""Text conditioning: every prompt goes through the pipeline's own tokenizers and text encoders once."""

from collections.abc import Sequence

import torch

from advdmd_ray.diffusion.denoiser import Conditioning
from advdmd_ray.models.families import adapter_of
from advdmd_ray.models.families.base import Pipeline

ENCODED_AT_ONCE = 32
"""Prompts that go through the text encoders in one call."""


def encoder_batches(prompts: Sequence[str]) -> list[Sequence[str]]:
    """The prompts in their order, `ENCODED_AT_ONCE` at a time."""
    return [prompts[first : first + ENCODED_AT_ONCE] for first in range(0, len(prompts), ENCODED_AT_ONCE)]


@torch.no_grad()
def encode_prompts(pipeline: Pipeline, prompts: Sequence[str], max_sequence_length: int) -> Conditioning:
    """Encode a prompt table as the pipeline itself does, one row per prompt; embeddings wait on the CPU.

    Args:
        pipeline: Its text encoders are used where they are.
        prompts: One or more prompts.
        max_sequence_length: Most text tokens. Without a T5 encoder an SD3 pipeline fills its slot with this many zero
            tokens, which the transformer attends to, so sampling must use the number that training used.
    """
    family = adapter_of(pipeline)
    batches = encoder_batches(prompts)
    return Conditioning.concatenate([family.encode(pipeline, part, max_sequence_length).to("cpu") for part in batches])


def unconditional(pipeline: Pipeline, max_sequence_length: int) -> Conditioning:
    """Encode the family's empty prompt, the unconditional half of classifier-free guidance, as a batch of one."""
    return encode_prompts(pipeline, [adapter_of(pipeline).empty_prompt], max_sequence_length)

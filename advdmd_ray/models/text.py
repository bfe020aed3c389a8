"""Text conditioning: every prompt goes through the pipeline's own tokenizers and text encoders once."""

from collections.abc import Sequence

import torch

from advdmd_ray.console import warn
from advdmd_ray.diffusion.denoiser import Conditioning
from advdmd_ray.models.families import adapter_of
from advdmd_ray.models.families.base import Pipeline
from advdmd_ray.models.pipeline import quiet
from advdmd_ray.stations.prompt_table import CutTexts

NAMED = 3
"""Texts that are told as examples."""
TOLD = 60
"""Characters of one."""
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
    with quiet():  # of what is cut some pipelines say all, others nothing: see `cut_texts`
        rows = [family.encode(pipeline, part, max_sequence_length).to("cpu") for part in batches]
    return Conditioning.concatenate(rows)


def cut_texts(pipeline: Pipeline, texts: Sequence[str], max_sequence_length: int) -> tuple[CutTexts, ...]:
    """The texts of which the pipeline encodes a part only, by its tokenizers; most pipelines say nothing of them.

    Args:
        pipeline: Its tokenizers are used, and nothing else.
        texts: All texts.
        max_sequence_length: As of `encode_prompts`.
    """
    family = adapter_of(pipeline)
    wrapped, found = family.wrapped(pipeline, texts), []
    names = [name for name, part in pipeline.components.items() if name.startswith("tokenizer") and part is not None]
    for name in names:
        tokenizer, fixed = pipeline.components[name], name in family.fixed_tokenizers
        most = tokenizer.model_max_length if fixed else max_sequence_length
        # Not the whole list at once: of hundreds of thousands of captions only the numbers of tokens are kept.
        with quiet():
            counts = [
                len(tokens) - family.dropped_tokens(pipeline)
                for batch in encoder_batches(wrapped)
                for tokens in tokenizer(list(batch), truncation=False, padding=False).input_ids
            ]
        cut = [text for text, count in zip(texts, counts, strict=True) if count > most]
        if cut:
            found.append(CutTexts(name, most, fixed, len(cut), tuple(cut[:NAMED])))
    return tuple(found)


def tell_cut(cut: Sequence[CutTexts], of: int, setting: str) -> None:
    """Warns of texts that are encoded in part.

    Args:
        cut: By tokenizer.
        of: How many texts there are.
        setting: What says the tokens of tokenizers without a limit of their own.
    """
    for each in cut:
        few = ", ".join(repr(f"{text[:TOLD]}...") for text in each.first)
        limit = "which is its own limit" if each.fixed else f"as {setting} says"
        warn(
            f"{each.count} of {of} prompts and captions are cut by {each.tokenizer}, which hands on {each.most} "
            f"tokens, {limit}: {few}"
        )


def unconditional(pipeline: Pipeline, max_sequence_length: int, negative_prompt: str | None = None) -> Conditioning:
    """Encode the other half of classifier-free guidance, as a batch of one: by default the family's empty prompt."""
    text = adapter_of(pipeline).empty_prompt if negative_prompt is None else negative_prompt
    return encode_prompts(pipeline, [text], max_sequence_length)

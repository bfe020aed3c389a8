"""SANA's prompts: an instruction stands before each but the empty one of guidance."""

from collections.abc import Callable

import torch

from advdmd_ray.models.families.base import Pipeline
from advdmd_ray.models.text import encode_prompts, unconditional


def test_an_empty_prompt_is_that_of_guidance_beside_others_too(pipeline_of: Callable[[str], Pipeline]) -> None:
    pipeline, length = pipeline_of("sana"), 64
    rows, empty = encode_prompts(pipeline, ["a fox", "", "the fox", "a fox"], length), unconditional(pipeline, length)
    assert rows.mask is not None
    assert empty.mask is not None
    torch.testing.assert_close(rows.embeds[1][rows.mask[1]], empty.embeds[0][empty.mask[0]])
    first, other, same = (rows.embeds[row][rows.mask[row]] for row in (0, 2, 3))
    torch.testing.assert_close(first, same)
    assert first.shape != other.shape

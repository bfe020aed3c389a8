"""Latents as tokens, and prompts of unequal length as one tensor."""

import torch

from advdmd_ray.models.families.base import packed, padded, unpacked
from tiny_families import diffusers


def test_packing_is_the_pipelines_and_is_undone() -> None:
    x = torch.randn(2, 3, 4, 6)
    for theirs in (diffusers.FluxPipeline, diffusers.QwenImagePipeline):
        assert torch.equal(packed(x), theirs._pack_latents(x, 2, 3, 4, 6))
    klein = diffusers.Flux2KleinPipeline
    assert torch.equal(packed(x), klein._pack_latents(klein._patchify_latents(x)))
    assert torch.equal(unpacked(packed(x), 4, 6), x)


def test_padded_rows_say_which_tokens_are_theirs() -> None:
    rows = [torch.randn(3, 2), torch.randn(1, 2)]
    embeds, mask = padded(rows)
    assert [torch.equal(embeds[i][mask[i]], row) for i, row in enumerate(rows)] == [True, True]
    assert mask.sum() == 4
    assert float(embeds[~mask].abs().max()) == 0

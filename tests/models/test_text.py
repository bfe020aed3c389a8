"""Text conditioning."""

import torch
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import StableDiffusion3Pipeline

from advdmd_ray.models.text import encode_prompts, unconditional


def test_conditioning_is_what_the_pipeline_feeds_its_transformer(tiny: StableDiffusion3Pipeline) -> None:
    seen: dict[str, torch.Tensor] = {}

    def look(_module: object, _args: object, kwargs: dict[str, torch.Tensor]) -> None:
        seen.update(embeds=kwargs["encoder_hidden_states"], pooled=kwargs["pooled_projections"])

    handle = tiny.transformer.register_forward_pre_hook(look, with_kwargs=True)
    tiny(
        "a handwritten two", num_inference_steps=1, guidance_scale=2.0, max_sequence_length=8, height=8, width=8,
        output_type="latent",
    )  # fmt: skip
    handle.remove()
    with_text, without = encode_prompts(tiny, ["a handwritten two"], 8), unconditional(tiny, 8)
    assert torch.allclose(seen["embeds"], torch.cat([without.embeds, with_text.embeds]), atol=1e-6)
    assert torch.allclose(seen["pooled"], torch.cat([without.pooled, with_text.pooled]), atol=1e-6)


def test_the_slot_of_the_missing_t5_is_zeros_of_the_stated_length(tiny: StableDiffusion3Pipeline) -> None:
    short, long = (encode_prompts(tiny, ["a handwritten two"], length) for length in (3, 8))
    assert long.embeds.shape[1] - short.embeds.shape[1] == 5
    assert (long.embeds[:, -8:] == 0).all()
    assert (long.embeds[:, :-8] != 0).any(dim=-1).all()


def test_a_prompt_is_encoded_the_same_in_any_company(tiny: StableDiffusion3Pipeline) -> None:
    alone = encode_prompts(tiny, ["a handwritten six"], 8)
    together = encode_prompts(tiny, ["a handwritten one", "a handwritten six"], 8)
    assert torch.allclose(alone.embeds[0], together.embeds[1], atol=1e-5)
    assert torch.allclose(alone.pooled[0], together.pooled[1], atol=1e-5)

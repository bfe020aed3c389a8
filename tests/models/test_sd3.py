"""The SD3 denoiser against diffusers' own loop."""

from typing import Any

import pytest
import torch
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import StableDiffusion3Pipeline

from advdmd_ray.diffusion.denoiser import guided
from advdmd_ray.models.families.sd3 import SD3Denoiser
from advdmd_ray.models.text import encode_prompts, unconditional

PROMPTS = ["a handwritten two", "a handwritten nine"]
SIGMAS = [1.0, 0.6, 0.2]


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_velocities_equal_those_of_the_pipelines_own_loop(tiny: Any, guidance: float) -> None:
    """The latents before and after each Euler step give the guided velocity that the pipeline used."""
    states: list[torch.Tensor] = []
    calls: list[dict[str, Any]] = []

    def look(_module: object, _args: object, kwargs: dict[str, Any]) -> None:
        calls.append(kwargs)

    def keep(_pipeline: object, _step: int, _time: object, tensors: dict[str, Any]) -> dict[str, Any]:
        states.append(tensors["latents"].clone())
        return tensors

    start = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    handle = tiny.transformer.register_forward_pre_hook(look, with_kwargs=True)
    tiny(
        PROMPTS, sigmas=SIGMAS, guidance_scale=guidance, max_sequence_length=8, height=8, width=8, latents=start,
        output_type="latent", callback_on_step_end=keep,
    )  # fmt: skip
    handle.remove()
    denoiser = guided(SD3Denoiser(tiny.transformer), unconditional(tiny, 8), guidance)
    conditioning = encode_prompts(tiny, PROMPTS, 8)
    assert calls[0]["hidden_states"].shape[0] == (2 if guidance == 1 else 4)
    before = start
    for after, sigma, following in zip(states, SIGMAS, [*SIGMAS[1:], 0.0], strict=True):
        with torch.no_grad():
            velocity = denoiser(before, torch.full((2,), sigma), conditioning)
        assert velocity.abs().max() > 0.05
        assert torch.allclose((after - before) / (following - sigma), velocity, atol=1e-5)
        before = after


def test_the_velocity_depends_on_time_and_prompt(tiny: StableDiffusion3Pipeline) -> None:
    denoiser, conditioning = SD3Denoiser(tiny.transformer), encode_prompts(tiny, PROMPTS, 8)
    x = torch.randn(1, 1, 8, 8).expand(2, -1, -1, -1)
    with torch.no_grad():
        same = denoiser(x, torch.tensor([0.3, 0.3]), conditioning.select(torch.tensor([0, 0])))
        other_time = denoiser(x, torch.tensor([0.3, 0.9]), conditioning.select(torch.tensor([0, 0])))
        other_prompt = denoiser(x, torch.tensor([0.3, 0.3]), conditioning)
    assert torch.allclose(same[0], same[1], atol=1e-6)
    assert (other_time[0] - other_time[1]).abs().max() > 1e-4
    assert (other_prompt[0] - other_prompt[1]).abs().max() > 1e-4

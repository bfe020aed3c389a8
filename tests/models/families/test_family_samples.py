"""A teacher's images against those of its own pipeline, from the same noise."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from advdmd_ray.diffusion.seeds import group_noise
from advdmd_ray.errors import UserError
from advdmd_ray.evaluation.folder_sampler import FolderSampler
from advdmd_ray.evaluation.place import place_of
from advdmd_ray.models.families import adapter
from advdmd_ray.models.folder import inspect_pipeline
from advdmd_ray.models.pipeline import load_pipeline
from tiny_families import starting_latents, with_euler

PROMPTS, SEEDS, STEPS, SIZE = ["a red fox above the boat", "a fox"], [1, 2], 4, (32, 64)


@pytest.mark.parametrize(("guidance", "negative"), [(1.0, None), (3.0, None), (3.0, "the blue boat")])
def test_a_teachers_images_are_those_of_its_pipeline(
    family: str, family_folder: Path, family_pipeline: Any, guidance: float, negative: str | None
) -> None:
    info, pipeline = inspect_pipeline(family_folder, SIZE), family_pipeline
    ways, noise = adapter(info.family), group_noise(info.latent.shape, SEEDS, "initial")
    if negative is not None and family in {"flux", "sana"}:
        with pytest.raises(UserError, match=f"--negative-prompt: none is read with a {info.family.pipeline}"):
            FolderSampler(str(family_folder), place_of("cpu"), guidance=guidance, negative_prompt=negative)
        return
    ours = FolderSampler(
        str(family_folder),
        place_of("cpu"),
        steps=STEPS,
        guidance=guidance,
        negative_prompt=negative,
        pixels=SIZE,
    )
    levels = (
        {"sigmas": [1 - k / STEPS for k in range(STEPS)]}
        if family in {"sd3", "sana"}
        else {"num_inference_steps": STEPS}
    )
    unguided = guidance == 1 or info.embedded_guidance
    called = ways.unguided(guidance) if unguided else ways.guided_call(guidance, len(PROMPTS))
    if negative is not None:
        called["negative_prompt"] = texts = [negative] * len(PROMPTS)
        if family == "flux2":  # which takes it as embeddings alone
            del called["negative_prompt"]
            called["negative_prompt_embeds"] = pipeline.encode_prompt(texts, max_sequence_length=256)[0]
    (theirs,) = pipeline(
        prompt=list(PROMPTS), max_sequence_length=256, height=SIZE[0], width=SIZE[1], output_type="np",
        return_dict=False, latents=starting_latents(family, noise), generator=torch.Generator(), **levels,
        **called,
    )  # fmt: skip
    theirs = np.rint(np.asarray(theirs) * 255).astype(np.int64)
    assert theirs.std() > 2
    assert np.abs(ours.images(PROMPTS, SEEDS).astype(np.int64) - theirs).max() <= 1


def test_a_students_steps_draw_from_the_generators_of_the_call_once_they_are_bound_to_its_scheduler(
    family: str, family_folder: Path
) -> None:
    info = inspect_pipeline(family_folder, SIZE)
    pipeline = with_euler(load_pipeline(family_folder), family_folder)
    pipeline.scheduler.register_to_config(stochastic_sampling=True)
    generators = [torch.Generator() for _ in PROMPTS]
    pipeline.scheduler.step = partial(pipeline.scheduler.step, generator=generators)

    def latents(first: int) -> torch.Tensor:
        return pipeline(
            prompt=list(PROMPTS), sigmas=[1.0, 0.6], max_sequence_length=64, height=SIZE[0], width=SIZE[1],
            generator=[each.manual_seed(first + row) for row, each in enumerate(generators)], output_type="latent",
            **adapter(info.family).unguided(1.0),
        ).images  # fmt: skip

    once = latents(0)
    assert torch.equal(latents(0), once)
    assert (latents(2) - once).abs().max() > 0.1

"""One untrained tiny pipeline for all tests of the models, in memory and as a folder."""

from pathlib import Path

import pytest
import torch
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import StableDiffusion3Pipeline

from advdmd_ray.data.digits.prompts import DIGIT_WORDS
from advdmd_ray.models.codec import PixelCodec
from advdmd_ray.models.pipeline import load_pipeline, save_pipeline
from advdmd_ray.models.tiny import DIGITS, build_tiny_pipeline


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pipelines") / "tiny"
    pipeline = build_tiny_pipeline(DIGIT_WORDS, PixelCodec(), DIGITS, seed=3)
    # An untrained network answers almost the same everywhere; larger weights make a comparison mean something.
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in pipeline.transformer.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    save_pipeline(pipeline, folder)
    return folder


@pytest.fixture(scope="session")
def tiny(tiny_folder: Path) -> StableDiffusion3Pipeline:
    return load_pipeline(tiny_folder)

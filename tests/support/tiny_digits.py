"""An untrained pipeline of the digits; its larger weights make a comparison mean something."""

from dataclasses import replace
from pathlib import Path

import torch

from advdmd_ray.data.digits.prompts import DIGIT_WORDS
from advdmd_ray.models.codec import PixelCodec
from advdmd_ray.models.pipeline import save_pipeline
from advdmd_ray.models.tiny import DIGITS, build_tiny_pipeline


def write_tiny_digits(folder: Path, layers: int = DIGITS.layers) -> Path:
    """Writes the pipeline folder, and returns it."""
    pipeline = build_tiny_pipeline(DIGIT_WORDS, PixelCodec(), replace(DIGITS, layers=layers), seed=3)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in pipeline.transformer.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    save_pipeline(pipeline, folder)
    return folder

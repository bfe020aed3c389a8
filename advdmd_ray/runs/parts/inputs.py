"""What the stations work on: shapes and levels, and the prompt table."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from advdmd_ray.config import Config
from advdmd_ray.data.registry import source_of
from advdmd_ray.data.source import mismatchable
from advdmd_ray.diffusion.denoiser import Conditioning
from advdmd_ray.diffusion.kernels import Kernel, kernel_of
from advdmd_ray.diffusion.schedule import student_sigmas
from advdmd_ray.models.embeddings import EmbeddingStore, Encode, encoder_identity
from advdmd_ray.models.families import adapter
from advdmd_ray.models.families.base import Pipeline
from advdmd_ray.models.folder import inspect_pipeline
from advdmd_ray.models.pipeline import load_pipeline
from advdmd_ray.models.text import encode_prompts
from advdmd_ray.runs.needs.memory import group_bytes
from advdmd_ray.runs.parts.networks import device_of
from advdmd_ray.stations.prompt_table import PromptTable


@dataclass(frozen=True, slots=True)
class Geometry:
    """Shapes and levels that follow from the configuration and the pipeline folder's headers.

    Attributes:
        latent_shape: (C, H, W).
        sigmas: `[K+1]` student levels after the shift, the last 0.
        kernel: The student's kernel.
        group_bytes: Size of one scored group's record batch.
    """

    latent_shape: tuple[int, int, int]
    sigmas: Float[Tensor, " k1"]
    kernel: Kernel
    group_bytes: int


def geometry(config: Config) -> Geometry:
    """Reads the pipeline folder's headers; loads no weights."""
    info = inspect_pipeline(config.model.path, config.model.pixels)
    sigmas = student_sigmas(config.diffusion.sigmas, info.scheduler_shift)
    return Geometry(info.latent.shape, sigmas, kernel_of(config.diffusion), group_bytes(config, info.latent))


def encode_table(config: Config) -> PromptTable:
    """Encodes every prompt once, and behind them the captions of real images; the text encoders are released.

    Raises:
        UserError: as `Source.prompts`, or if no two texts differ where the discriminator needs another.
    """
    source = source_of(config)
    prompts = source.prompts()
    known = set(prompts)
    texts = mismatchable((*prompts, *(caption for caption in source.captions() if caption not in known)), config)
    empty = adapter(inspect_pipeline(config.model.path).family).empty_prompt
    encode = prompt_encoder(config)
    return PromptTable(texts, encode(texts), encode([empty]), len(prompts))


def prompt_encoder(config: Config) -> Encode:
    """From prompts to embeddings, on the CPU, out of the store where there is one."""
    length, half = config.model.max_sequence_length, config.model.precision == "bfloat16"
    dtype = torch.bfloat16 if half else torch.float32

    @functools.cache
    def encoders() -> Pipeline:  # loaded only if a prompt is not encoded yet
        return load_pipeline(config.model.path, dtype, "text").to(device_of(config.rollout))

    def encode(texts: Sequence[str]) -> Conditioning:
        return encode_prompts(encoders(), texts, length)

    if config.model.embeddings is None:
        return encode
    identity = encoder_identity(inspect_pipeline(config.model.path), length, dtype)
    return functools.partial(EmbeddingStore(Path(config.model.embeddings), identity).conditioning, encode=encode)

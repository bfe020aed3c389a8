"""What the stations work on: shapes and levels, the prompt table, and the real images."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from advdmd_ray.config import Config
from advdmd_ray.data.files.dataset import files_data
from advdmd_ray.data.prompt_file import load_prompts
from advdmd_ray.data.real import RealImages
from advdmd_ray.data.sources import build_source
from advdmd_ray.data.teacher_samples import open_samples, plan_samples, sampled_prompts
from advdmd_ray.diffusion.denoiser import Conditioning
from advdmd_ray.diffusion.kernels import Kernel, kernel_of
from advdmd_ray.diffusion.schedule import student_sigmas
from advdmd_ray.errors import UserError
from advdmd_ray.models.embeddings import EmbeddingStore, Encode, encoder_identity
from advdmd_ray.models.families import adapter
from advdmd_ray.models.families.base import Pipeline
from advdmd_ray.models.folder import inspect_pipeline
from advdmd_ray.models.pipeline import image_encoder, load_pipeline
from advdmd_ray.models.text import encode_prompts
from advdmd_ray.runs.parts.networks import device_of
from advdmd_ray.stations.buffer.record_batch import encoded_bytes
from advdmd_ray.stations.buffer.schema import GroupShape
from advdmd_ray.stations.prompt_table import PromptTable

ENCODED_AT_ONCE = 1024
"""Images that go through the codec in one call."""


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
    latent_shape = info.latent.shape
    sigmas = student_sigmas(config.diffusion.sigmas, info.scheduler_shift)
    kernel = kernel_of(config.diffusion)
    shape = GroupShape(config.steps, *latent_shape, stochastic=kernel.is_stochastic)
    return Geometry(latent_shape, sigmas, kernel, encoded_bytes(shape, config.last_group_size))


def prompts_of(config: Config) -> tuple[str, ...]:
    """The prompts that rollouts draw from, by prompt_id.

    Raises:
        UserError: if built-in data has no real image for a prompt, or no two texts differ where the discriminator
            needs another for its mismatched texts; of `data.source=files` only `encode_table` knows them all.
    """
    if config.data.source == "teacher_samples":
        return _mismatchable(sampled_prompts(config), config)
    if config.data.source == "files":
        given = config.data.prompts
        return tuple(dict.fromkeys(files_data(config).captions)) if given is None else load_prompts(given)
    source = build_source(config.data)
    if config.data.prompts is None:
        return source.prompts
    prompts = load_prompts(config.data.prompts)
    unknown = [text for text in prompts if text not in source.known]
    if unknown:
        raise UserError(
            f"{config.data.prompts}: no real image has the prompt {unknown[0]!r}; data.source={source.name} has "
            f"{source.known[0]!r} to {source.known[-1]!r}"
        )
    return _mismatchable(prompts, config)


def _mismatchable(texts: tuple[str, ...], config: Config) -> tuple[str, ...]:
    """The same texts, once two of them differ or the discriminator needs no other.

    Raises:
        UserError: if it does.
    """
    if config.discriminator.mismatched_text > 0 and len(set(texts)) == 1:
        raise UserError(
            f"{config.data.prompts or config.data.path}: has one prompt only, and discriminator.mismatched_text needs "
            "another; add one or set it to 0"
        )
    return texts


def encode_table(config: Config) -> PromptTable:
    """Encodes every prompt once, and behind them the captions of real images; the text encoders are released.

    Raises:
        UserError: as `prompts_of`.
    """
    prompts = prompts_of(config)
    captions = files_data(config).captions if config.data.source == "files" else ()
    known = set(prompts)
    texts = (*prompts, *(caption for caption in dict.fromkeys(captions) if caption not in known))
    texts = _mismatchable(texts, config)
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


@torch.no_grad()
def real_images(config: Config, texts: tuple[str, ...]) -> RealImages:
    """Real latents of every row of this run's prompt table; a prompt that stands there twice has its images twice."""
    if config.data.is_captioned:
        latents = files_data(config) if config.data.source == "files" else open_samples(plan_samples(config))
        row_of = {text: row for row, text in reversed(list(enumerate(texts)))}
        return RealImages(latents, torch.tensor([row_of[caption] for caption in latents.captions]))
    part = build_source(config.data).images(texts)
    encode = image_encoder(load_pipeline(config.model.path, parts="codec"))
    encoded = torch.cat([encode(pixels) for pixels in part.pixels.split(ENCODED_AT_ONCE)])
    return RealImages(encoded, part.rows, part.images)

"""A pipeline folder that draws images for given prompts and seeds, the same in any batch and on any worker."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from advdmd_ray.diffusion.kernels import Kernel
from advdmd_ray.diffusion.sampling import sample
from advdmd_ray.diffusion.schedule import student_sigmas, teacher_sigmas
from advdmd_ray.diffusion.seeds import group_noise
from advdmd_ray.evaluation.judges.thumbnails import coloured
from advdmd_ray.models.families import adapter
from advdmd_ray.models.families.base import Execution
from advdmd_ray.models.folder import inspect_pipeline
from advdmd_ray.models.pipeline import image_decoder, load_pipeline
from advdmd_ray.models.sampling_settings import SamplingSettings
from advdmd_ray.models.text import encode_prompts, unconditional

DEFAULT_LENGTH, DEFAULT_STEPS = 256, 40
"""Text tokens and steps where neither the folder nor the caller says."""


class FolderSampler:
    """A teacher, or a student with the levels, the kernel and the guidance of its folder.

    Args:
        path: A pipeline folder, or `builtin:NAME`.
        steps: Uniform levels; None: the folder's own, or 40.
        guidance: None: the folder's own, or 1 for none.
        pixels: Height and width; None: the folder's.
        half: Whether to hold and multiply in bfloat16.
        device: Where the networks are.
        micro_batch: Most rows in one call of the network; None: all.
    """

    def __init__(
        self,
        path: str,
        *,
        steps: int | None = None,
        guidance: float | None = None,
        pixels: tuple[int, int] | None = None,
        half: bool = False,
        device: torch.device | str = "cpu",
        micro_batch: int | None = None,
    ) -> None:
        info = inspect_pipeline(path, pixels)
        said = info.sampling or SamplingSettings(DEFAULT_LENGTH)
        pipeline = load_pipeline(path, torch.bfloat16 if half else torch.float32).to(device)
        ways, scale = adapter(info.family), (said.guidance or 1.0) if guidance is None else guidance
        denoiser = ways.denoiser(pipeline.transformer, scale, Execution(autocast=half, micro_batch=micro_batch))
        self._length, self._pipeline = said.max_sequence_length, pipeline
        empty = unconditional(pipeline, self._length)
        self._denoiser = denoiser if info.embedded_guidance else ways.guided(denoiser, empty, scale)
        own = None if steps is not None else said.sigmas
        levels = teacher_sigmas(steps or DEFAULT_STEPS, info.scheduler_shift, info.scheduler_terminal)
        self._sigmas = levels if own is None else student_sigmas(own, info.scheduler_shift)
        self._kernel = Kernel.renoise() if pipeline.scheduler.config.get("stochastic_sampling") else Kernel.ode()
        self._shape, self._decode = info.latent.shape, image_decoder(pipeline)

    @torch.no_grad()
    def images(self, prompts: Sequence[str], seeds: Sequence[int]) -> UInt8[np.ndarray, "n h w c"]:
        """One image for each prompt and seed, as files hold it."""
        conditioning = encode_prompts(self._pipeline, list(prompts), self._length)
        start = group_noise(self._shape, seeds, "initial")
        latents = sample(self._denoiser, conditioning, self._kernel, self._sigmas, start, seeds)
        return as_files(self._decode(latents.float()))


def as_files(images: Float[Tensor, "n c h w"]) -> UInt8[np.ndarray, "n h w 3"]:
    """Images in [-1, 1] as bytes; grey ones get three channels."""
    return ((coloured(images).clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()

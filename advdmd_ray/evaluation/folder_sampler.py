"""A pipeline folder that draws images for given prompts and seeds, the same in any batch and on any worker."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from advdmd_ray.diffusion.kernels import Kernel
from advdmd_ray.diffusion.sampling import sample
from advdmd_ray.diffusion.schedule import student_sigmas, teacher_sigmas
from advdmd_ray.diffusion.seeds import group_noise
from advdmd_ray.errors import UserError
from advdmd_ray.evaluation.judges.thumbnails import coloured
from advdmd_ray.evaluation.place import Place, check_room
from advdmd_ray.models.families import adapter
from advdmd_ray.models.families.base import Execution
from advdmd_ray.models.folder import PipelineInfo, at_size, inspect_pipeline
from advdmd_ray.models.pipeline import image_decoder, load_pipeline
from advdmd_ray.models.sampling_settings import SamplingSettings
from advdmd_ray.models.text import cut_texts, encode_prompts, tell_cut, unconditional

LENGTH_SAID = "max_sequence_length of the folder's sampling.json"
DEFAULT_LENGTH, DEFAULT_STEPS = 256, 40
"""Text tokens, which diffusers takes for the T5 slot too, and steps where neither the folder nor the caller says."""
TOKENS_AT_ONCE = 2**15
"""Image tokens in one call of the network: 8 images of 1024 x 1024 or hundreds of small ones; twice as many rows with
classifier-free guidance."""


def settings_of(info: PipelineInfo) -> SamplingSettings:
    """What a folder says of sampling, or what holds where it says nothing."""
    return info.sampling or SamplingSettings(DEFAULT_LENGTH)


class FolderSampler:
    """A teacher, or a student with the levels, the kernel and the guidance of its folder.

    Args:
        path: A pipeline folder, or `builtin:NAME`.
        place: Where the networks are and what they compute in.
        steps: Uniform levels; None: the folder's own, or `default_steps`.
        default_steps: Uniform levels of a folder that names none, such as a teacher's.
        guidance: None: the folder's own, or 1 for none.
        negative_prompt: What guidance leads away from; None: the family's empty prompt.
        pixels: Height and width; None: the folder's.

    Attributes:
        steps: Calls of the network for an image.
        guidance: The guidance scale.
        sizes: Height and width of each size that the folder's student was trained at, or else of its images.

    Raises:
        UserError: if the folder is not whole, has no such size, has more weights than the place has memory, or reads no
            negative prompt.
    """

    def __init__(
        self,
        path: str,
        place: Place,
        *,
        steps: int | None = None,
        default_steps: int = DEFAULT_STEPS,
        guidance: float | None = None,
        negative_prompt: str | None = None,
        pixels: tuple[int, int] | None = None,
    ) -> None:
        info = inspect_pipeline(path, pixels)
        check_room(info, place)
        said = settings_of(info)
        scale = (said.guidance or 1.0) if guidance is None else guidance
        if negative_prompt is not None and (info.embedded_guidance or not info.family.takes_negative):
            raise UserError(f"--negative-prompt: none is read with a {info.family.pipeline}; leave it out")
        if negative_prompt is not None and scale == 1:
            raise UserError("--negative-prompt: is not read with guidance 1; give --guidance above 1, or leave it out")
        self.sizes = said.sizes or (info.pixels,)
        pipeline = load_pipeline(path, place.dtype).to(place.device)
        ways = adapter(info.family)
        denoiser = ways.denoiser(pipeline.transformer, scale, Execution(autocast=place.half))
        self._length, self._pipeline = said.max_sequence_length, pipeline
        empty = unconditional(pipeline, self._length, negative_prompt)
        self._denoiser = denoiser if info.embedded_guidance else ways.guided(denoiser, empty, scale)
        self._own = None if steps is not None else said.sigmas
        self._kernel = Kernel.renoise() if pipeline.scheduler.config.get("stochastic_sampling") else Kernel.ode()
        self._info, self._decode = info, image_decoder(pipeline)
        self.steps = (steps or default_steps) if self._own is None else len(self._own)
        self.guidance = scale

    def tell_cut(self, prompts: Sequence[str]) -> None:
        """Warns of prompts that are encoded in part."""
        tell_cut(cut_texts(self._pipeline, prompts, self._length), len(prompts), LENGTH_SAID)

    @torch.no_grad()
    def images(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        progress: Callable[[int, int], None] = lambda _done, _of: None,
        pixels: tuple[int, int] | None = None,
    ) -> UInt8[np.ndarray, "n h w c"]:
        """One image for each prompt and seed, as files hold it.

        Args:
            prompts: n prompts.
            seeds: n seeds.
            progress: Told how many of the images are drawn.
            pixels: Height and width; None: those of the constructor.

        Raises:
            UserError: if the model has no such size.
        """
        info = self._info
        if pixels is not None and pixels != info.pixels:
            info = at_size(info, pixels, "--size")
        at_once, shape, sigmas = max(1, TOKENS_AT_ONCE // info.image_tokens), info.latent.shape, self._levels(info)
        drawn: list[UInt8[np.ndarray, "_ h w c"]] = []
        progress(0, len(seeds))
        for first in range(0, len(seeds), at_once):
            rows = slice(first, first + at_once)
            conditioning = encode_prompts(self._pipeline, list(prompts[rows]), self._length)
            start = group_noise(shape, seeds[rows], "initial")
            latents = sample(self._denoiser, conditioning, self._kernel, sigmas, start, seeds[rows])
            drawn.append(as_files(self._decode(latents.float())))
            progress(min(rows.stop, len(seeds)), len(seeds))
        return np.concatenate(drawn)

    def _levels(self, info: PipelineInfo) -> Float[Tensor, " k1"]:
        if self._own is not None:
            return student_sigmas(self._own, info.scheduler_shift)
        return teacher_sigmas(self.steps, info.teacher_shift(self.steps), info.scheduler_terminal)


def as_files(images: Float[Tensor, "n c h w"]) -> UInt8[np.ndarray, "n h w 3"]:
    """Images in [-1, 1] as bytes; grey ones get three channels."""
    return ((coloured(images).clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()

"""`advdmd sample`: plain diffusers sampling of a pipeline folder into one PNG."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from advdmd_ray.errors import UserError
from advdmd_ray.evaluation.pictures.grids import save_grid
from advdmd_ray.models.families import adapter
from advdmd_ray.models.folder import inspect_pipeline
from advdmd_ray.models.pipeline import load_pipeline
from advdmd_ray.models.sampling_settings import SamplingSettings

DEFAULT_SEQUENCE_LENGTH = 256
"""What diffusers takes as the length of the T5 slot if it is told none."""


DEFAULT_STEPS = (1.0, 0.75, 0.5, 0.25)
"""Levels of a folder that names none, and of a call that asks for no number of steps."""


def uniform_levels(steps: int) -> list[float]:
    """The noise levels `1, 1 - 1/K, ..., 1/K` of K steps, before the scheduler's shift."""
    return [1.0 - index / steps for index in range(steps)]


def sample_grid(
    pipeline: str,
    prompts: Sequence[str],
    *,
    steps: int | None,
    guidance: float | None,
    images: int,
    seed: int,
    out: Path,
) -> Path:
    """Sample with the folder's own scheduler and write a grid, one row of images a prompt.

    No configuration is read: size, text length, levels and guidance are those of the folder's `sampling.json`, where it
    has one, and else the model's own size, 256 text tokens, 4 uniform levels and no guidance.

    Args:
        pipeline: A diffusers folder of a teacher or a student, or `builtin:NAME`.
        prompts: One row each.
        steps: Network calls an image, at uniform noise levels; None: the folder's levels.
        guidance: CFG scale, or what a network that takes it as input is given; None: the folder's.
        images: Images a prompt.
        seed: Seed of the noise of the whole grid.
        out: The PNG to write.

    Raises:
        UserError: if the folder is not a whole pipeline, its `sampling.json` is damaged, or `out` is not a PNG that
            can be written.
    """
    if out.suffix.lower() != ".png" or not out.absolute().parent.is_dir():
        raise UserError(f"--out {out}: expected a .png in a folder that exists")
    info, loaded = inspect_pipeline(pipeline), load_pipeline(pipeline)
    sampling = info.sampling or SamplingSettings(DEFAULT_SEQUENCE_LENGTH)
    own_levels = DEFAULT_STEPS if sampling.sigmas is None else sampling.sigmas
    levels = list(own_levels) if steps is None else uniform_levels(steps)
    scale = (sampling.guidance or 1.0) if guidance is None else guidance
    asked, ways = [prompt for prompt in prompts for _ in range(images)], adapter(info.family)
    (drawn,) = loaded(
        prompt=asked,
        sigmas=levels,
        max_sequence_length=sampling.max_sequence_length,
        height=info.pixels[0],
        width=info.pixels[1],
        generator=torch.Generator().manual_seed(seed),
        output_type="np",
        return_dict=False,
        **(ways.unguided(scale) if scale == 1 or info.embedded_guidance else ways.guided_call(scale, len(asked))),
    )
    # diffusers gives [n, h, w, c] in [0, 1]; grids are [n, c, h, w] in [-1, 1].
    array = np.asarray(drawn, dtype=np.float32).transpose(0, 3, 1, 2) * 2 - 1
    caption = f"{Path(pipeline).name}, {len(levels)} steps, guidance {scale:g}, seed {seed}: " + "; ".join(prompts)
    try:
        return save_grid(out, array, columns=images, caption=caption)
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written ({error.strerror or error})") from None
